"""The way of ZeroGPU: `spaces.GPU` runs a request in a forked process that asks for GPU time.

All of it is real but the GPU and who lends it. This file is also the program that sends the
requests: `python -m tests.test_space_zerogpu CLIP FOLDER`, with the environment of such a Space.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

# It patches torch and so comes before it, as in space/segmenter.py.
spaces = pytest.importorskip("spaces", reason="spaces is not installed")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from modeling_findtrack.cli import DEFAULT_MODEL  # noqa: E402
from modeling_findtrack.results import Candidate, MaskSequence, Track, encode_mask  # noqa: E402
from space.background import Result, Step  # noqa: E402
from space.intake import Options, open_upload  # noqa: E402
from space.limits import Limits  # noqa: E402
from space.segmenter import Segmenter, estimated_seconds  # noqa: E402
from tests.space_server import PATIENCE, ROOT, needs_space, write_clip  # noqa: E402

TEXTS, ENDLESS = ["the leftmost swan", "the sheep"], "a swan for ever"
PART = Options(key_frames=2, threshold=0.4, start=0.125, end=0, opacity=0.5)
FRAMES = 6  # of the part
MANY = 8  # expressions, to take longer than two


def ask(segmenter: Segmenter, clip: str, texts: list[str]):
    """Steps of a request, as the page sends it."""
    with open_upload(clip, PART, Limits()) as video:
        yield from segmenter.segment(video, texts, PART.key_frames, PART.threshold)


def program(clip: str, folder: Path) -> None:
    """Two requests, one that is closed in the middle, and another; `answers` says what came.

    `calls` gets a line from the process that the model runs in: its id, and what became of a call.
    """
    spaces.zero.torch.init = spaces.zero.torch.move = lambda *_, **__: None  # there is no GPU
    segmenter = Segmenter(DEFAULT_MODEL, "cpu")
    segment = segmenter.model.segment

    def note(event: str) -> None:
        with (folder / "calls").open("a") as file:
            file.write(f"{os.getpid()} {event}\n")

    def watched(video, expressions, **settings):
        try:
            tracks = segment(video, expressions, **settings)
            while ENDLESS in expressions:
                segment(video, expressions, **settings)
        except BaseException as error:
            note(type(error).__name__)
            raise
        note("done")
        return tracks

    segmenter.model.segment = watched
    answers = [list(ask(segmenter, clip, TEXTS)) for _ in range(2)]
    endless = ask(segmenter, clip, [ENDLESS] * MANY)
    first = next(endless)
    endless.close()
    answers.append(list(ask(segmenter, clip, TEXTS)))
    said = {
        "pid": os.getpid(),
        "shared": segmenter.shared_gpu,
        "factor": spaces.zero.config.get_config()["duration_factor"],
        "first": first,
        "answers": answers,
    }
    (folder / "answers").write_bytes(pickle.dumps(said))


class Lender(ThreadingHTTPServer):
    """Lends a GPU to whoever asks; the process that had it last may still be there."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), LenderHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str, dict[str, str]]] = []  # path, query

    def queries(self, path: str) -> list[dict[str, str]]:
        return [query for other, query in self.asked if other == path]


class LenderHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        address = urlsplit(self.path)
        lent_before = bool(self.server.queries("/schedule"))
        self.server.asked.append((address.path, dict(parse_qsl(address.query))))
        gpu = {"idle": lent_before, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "token"}
        body = json.dumps(gpu).encode() if address.path == "/schedule" else b""
        self.send_response(200)
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


def run_program(clip: Path, folder: Path, lender: Lender) -> dict:
    """What it says."""
    (folder / "cgroup").write_text("0::/space\n")
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    } | {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": lender.url,
        "ZEROGPU_PROC_SELF_CGROUP_PATH": str(folder / "cgroup"),
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # a forked process has none of the threads of its parent
    }
    command = [sys.executable, "-m", "tests.test_space_zerogpu", str(clip), str(folder)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
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
@pytest.mark.skipif(sys.platform != "linux", reason="ZeroGPU is a Linux, and its package forks")
def test_requests_run_in_a_process_that_asked_for_the_gpu(tmp_path, lender, one_thread):
    clip = write_clip(tmp_path / "clip.mp4", FRAMES + 2)
    said = run_program(clip, tmp_path, lender)

    segmenter = Segmenter(DEFAULT_MODEL, "cpu")
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


if __name__ == "__main__":
    program(sys.argv[1], Path(sys.argv[2]))
