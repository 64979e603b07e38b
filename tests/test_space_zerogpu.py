"""The way of ZeroGPU: `spaces.GPU` runs a request in a forked process that asks for GPU time.

All of it is real but who lends the GPU, and where the machine has none, the GPU.
"""

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

# It patches torch and so comes before it, as in space/segmenter.py.
spaces = pytest.importorskip("spaces", reason="spaces is not installed")

import gradio_client  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from modeling_findtrack.cli import load_model  # noqa: E402
from modeling_findtrack.results import Candidate, MaskSequence, Track, encode_mask  # noqa: E402
from space.background import Result, Step  # noqa: E402
from space.segmenter import Segmenter, estimated_seconds  # noqa: E402
from tests.space_server import (  # noqa: E402
    MODEL,
    PATIENCE,
    ROOT,
    SpaceServer,
    needs_space,
    write_clip,
)
from tests.zerogpu_programs import MANY, PART, TEXTS, ask  # noqa: E402

needs_fork = pytest.mark.skipif(
    sys.platform != "linux", reason="ZeroGPU is a Linux, and its package forks"
)

FRAMES = 6  # of `PART`
GPU = torch.cuda.is_available()
PROGRAMS = "tests.zerogpu_programs"


class Lender(ThreadingHTTPServer):
    """Lends a GPU to whoever asks; the process that had it last may still be there.

    Attributes:
        used_up: The visitors have had their share.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), LenderHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.used_up = False
        self.asked: list[tuple[str, dict[str, str]]] = []  # path, query

    def queries(self, path: str) -> list[dict[str, str]]:
        return [query for other, query in self.asked if other == path]


class LenderHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        address = urlsplit(self.path)
        lent_before = bool(self.server.queries("/schedule"))
        self.server.asked.append((address.path, dict(parse_qsl(address.query))))
        gpu = {"idle": lent_before, "nvidiaIndex": 0, "nvidiaUUID": "0", "allowToken": "token"}
        told = {"left": 3, "wait": 3600} if self.server.used_up else gpu
        body = json.dumps(told).encode() if address.path == "/schedule" else b""
        self.send_response(429 if body and self.server.used_up else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Silent."""


@pytest.fixture
def lender():
    server = Lender()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def environment(tmp_path, lender) -> dict[str, str]:
    """What such a Space is told."""
    (tmp_path / "cgroup").write_text("0::/space\n")
    return {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": lender.url,
        "ZEROGPU_PROC_SELF_CGROUP_PATH": str(tmp_path / "cgroup"),
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "ZEROGPU_OFFLOAD_DIR": str(tmp_path / "tensors"),
        "OMP_NUM_THREADS": "1",  # a forked process has none of the threads of its parent
    }


def run_requests(clip: Path, folder: Path, environment: dict[str, str]) -> dict:
    """What came."""
    ours = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    program = "requests" if GPU else "requests-without-gpu"
    command = [sys.executable, "-m", PROGRAMS, program, str(clip), str(folder)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=ours | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        status = process.wait(PATIENCE)
    finally:
        with suppress(ProcessLookupError):  # its own processes, too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert status == 0, (folder / "log").read_text()
    return pickle.loads((folder / "answers").read_bytes())


def assert_same_tracks(tracks: list[Track], others: list[Track]) -> None:
    assert len(tracks) == len(others)
    for track, other in zip(tracks, others, strict=True):
        np.testing.assert_array_equal(track.presence, other.presence)
        assert track.masks.to_rle() == other.masks.to_rle()
        for name in ("expression", "found", "score", "key_frame", "candidates"):
            assert getattr(track, name) == getattr(other, name)


@pytest.fixture
def one_thread():
    """Sums depend on the number of threads, and so may masks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@needs_space
@needs_fork
def test_requests_run_in_a_process_that_asked_for_the_gpu(
    tmp_path, lender, environment, one_thread
):
    clip = write_clip(tmp_path / "clip.mp4", FRAMES + 2)
    said = run_requests(clip, tmp_path, environment)

    segmenter = Segmenter(MODEL, "cpu")
    device = "cuda" if GPU else "cpu"
    segmenter.model, _ = load_model(MODEL, device, "bfloat16")  # as on any new GPU
    assert said["shared"] and not segmenter.shared_gpu
    *_, expected = ask(segmenter, str(clip), TEXTS)
    assert all(track.found and track.masks.areas().any() for track in expected.value)
    for *steps, result in said["answers"]:
        assert all(isinstance(step, Step) for step in steps) and isinstance(result, Result)
        assert_same_tracks(result.value, expected.value)

    # One process did it all, and it is not the one that asked; closing stopped the work in it.
    (allowed,) = lender.queries("/allow")
    assert int(allowed["pid"]) != said["pid"]
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert [event for _, event in calls] == ["done", "done", "Stopped", "done"]
    assert {pid for pid, _ in calls} == {allowed["pid"]}
    assert isinstance(said["first"], Step)

    # It asked for as long as it was to take, and gave the GPU back.
    parameters = segmenter.model.num_parameters()
    seconds = [
        estimated_seconds(FRAMES, texts, PART.key_frames, parameters) for texts in (2, 2, MANY, 2)
    ]
    assert seconds[1] < seconds[2]
    seconds = [round(s * said["factor"]) for s in seconds]  # `spaces` has one per kind of GPU
    assert [int(query["durationSeconds"]) for query in lender.queries("/schedule")] == seconds
    released = [query["fail"] for query in lender.queries("/release")]
    assert released == ["false"] * 4


@needs_space
@needs_fork
def test_the_app_asks_in_the_name_of_its_visitor(tmp_path, lender, environment):
    """With the server that Gradio launches, from which the process is forked."""
    clip = write_clip(tmp_path / "clip.mp4", FRAMES)
    payload = base64.urlsafe_b64encode(json.dumps({"user": "me"}).encode()).decode().strip("=")
    token = f"e30.{payload}.signature"
    server = SpaceServer(
        tmp_path,
        command=("-m", "space.app") if GPU else ("-m", PROGRAMS, "app-without-gpu"),
        device="auto",
        environment=environment,
        own_session=True,
    )
    try:
        server.wait_until_ready()
        client = server.client(tmp_path / "downloads", headers={"X-IP-Token": token})
        ask_app = partial(
            client.predict, gradio_client.handle_file(clip), TEXTS[0], api_name="/segment"
        )
        for _ in range(2):
            _, _, result = ask_app()
            assert [e["found"] for e in result["expressions"]] == [True]
        lender.used_up = True
        with pytest.raises(gradio_client.exceptions.AppError) as refusal:
            ask_app()
        client.close()
        log = server.log.read_text()
    finally:
        server.stop()
    assert "exceeded your ZeroGPU quota" in str(refusal.value) and "3s left" in str(refusal.value)
    assert [query["token"] for query in lender.queries("/schedule")] == [token] * 3
    assert [query["fail"] for query in lender.queries("/release")] == ["false"] * 2
    assert "Traceback" not in log


def test_what_goes_there_and_back_stays_what_it_is():
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:3, 2:5] = True
    track = Track(
        expression="das Mädchen",
        found=True,
        score=0.5,
        key_frame=1,
        candidates=(Candidate(1, 0.5, None, 0.9, 0.5, encode_mask(mask)),),
        masks=MaskSequence.from_masks([mask, ~mask]),
        presence=np.array([0.25, 1.0], dtype=np.float32),
    )
    assert_same_tracks(pickle.loads(pickle.dumps([track])), [track])
    for value in (PART, Step("find", 1, 2)):
        assert pickle.loads(pickle.dumps(value)) == value
