"""The demo app as a server of its own, clips to send to it, and what it has to answer.

A plugin: `pytest_plugins = ["tests.space_server"]` gives a test file the fixtures. The server is
shared by all of them, since starting it costs more than most tests.
(PYTEST_DONT_REWRITE: the test files import names from here before they load it as a plugin.)
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import MappingProxyType

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from eval.demo import SAMPLE
from modeling_findtrack.cli import load_model
from modeling_findtrack.results import Track
from modeling_findtrack.shipped import checkpoint
from modeling_findtrack.video_io import open_video
from modeling_findtrack.video_writer import VideoWriter

ROOT = Path(__file__).parents[1]
MODEL = "tiny"  # the clips show sprites
FPS = 16  # of the clips, as of the sample
MAX_MEGABYTES = 1  # of an upload; every good clip here is far below
KEEP_SECONDS = 6  # results and uploads of this age are removed
PATIENCE = 200  # seconds before a wait is given up; nothing is judged by how long it takes

needs_space = pytest.mark.skipif(
    not (Path(checkpoint(MODEL)) / "model.safetensors").is_file(),
    reason="the shipped checkpoint has no model.safetensors here",
)


def wait_until(condition: Callable[[], object], what: str, every: float = 0.1) -> None:
    """Returns once `condition()` holds.

    Raises:
        TimeoutError: It never did.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE} s until {what}")
        time.sleep(every)


def files_in(folder: Path) -> Iterator[Path]:
    """Every file below `folder`. The app removes folders at any time; `rglob` trips over that."""
    for name, _, files in os.walk(folder):
        yield from (Path(name, file) for file in files)


class SpaceServer:
    """`python -m space.app` in a process of its own.

    Args:
        folder: Where everything goes that it writes.
        root: Where it is started.
        command: What Python is to run there.
        device: What it is to compute on.
        environment: Variables it gets besides ours.
        own_session: Whether `stop` is to end the processes, too, that it has started.

    Attributes:
        url: Its address.
        work: Its TMPDIR; requests work here.
        files: Gradio's folder of uploads and downloads.
        log: What it prints.
    """

    def __init__(
        self,
        folder: Path,
        root: Path = ROOT,
        command: Sequence[str] = ("-m", "space.app"),
        device: str = "cpu",
        environment: Mapping[str, str] = MappingProxyType({}),
        own_session: bool = False,
    ):
        self.work, self.files, self.log = folder / "work", folder / "files", folder / "log.txt"
        self.work.mkdir()
        self.files.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        with self.log.open("w") as out:
            self._process = subprocess.Popen(
                [sys.executable, *command, "--port", str(port), "--device", device],
                cwd=root,
                env=self._environment() | environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=own_session,
            )
        self._own_session = own_session
        self._over, self._ageing = threading.Event(), threading.Event()
        self._keeper = threading.Thread(target=self._keep_young, daemon=True)
        self._own: set[Path] = set()

    def _environment(self) -> dict[str, str]:
        ours = ("FINDTRACK_SPACE_", "GRADIO_")
        proxies = ("http_proxy", "https_proxy", "all_proxy")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(ours) and name.lower() not in proxies
        }
        return kept | {
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",  # the log is read
            "TMPDIR": str(self.work),
            "GRADIO_TEMP_DIR": str(self.files),
            "FINDTRACK_SPACE_MODEL": MODEL,
            "FINDTRACK_SPACE_KEEP_SECONDS": str(KEEP_SECONDS),
            "FINDTRACK_SPACE_MAX_MEGABYTES": str(MAX_MEGABYTES),
            # Masks are compared bit by bit; sums depend on the number of threads.
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            # glibc holds freed memory back for every thread; what is used would not be seen.
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_TRIM_THRESHOLD_": "131072",
        }

    def wait_until_ready(self) -> None:
        """Returns when it answers.

        Raises:
            RuntimeError: It stopped instead; with what it printed.
        """

        def answers() -> bool:
            if self._process.poll() is not None:
                raise RuntimeError(f"the app stopped:\n{self.log.read_text()}")
            # Not a look at the port, which another program may have taken meanwhile.
            return f"Running on local URL:  {self.url}" in self.log.read_text()

        wait_until(answers, "the app answers", every=0.25)
        self._own = set(self._everything())  # the videos of the examples
        self._keeper.start()

    def _keep_young(self) -> None:
        """As long as files are not to age: a busy machine must not lose them before their use."""
        while not self._over.wait(0.5):
            if not self._ageing.is_set():
                for path in self._everything():
                    with suppress(OSError):  # removed meanwhile
                        os.utime(path)

    def _everything(self) -> Iterator[Path]:
        """Uploads and downloads, the folders requests work in, and whatever else appears there."""
        yield from files_in(self.files)
        yield from self.request_folders()
        for path in files_in(self.work):
            # The app keeps the answers to its examples on purpose.
            if not path.relative_to(self.work).parts[0].startswith("findtrack-examples-"):
                yield path

    def upload_named(self, name: str) -> Path:
        """Where the only upload of this name lies."""
        (path,) = (path for path in files_in(self.files) if path.name == name)
        return path

    def request_folders(self) -> list[Path]:
        """One per request it works on."""
        return list(self.work.glob("findtrack-space-*"))

    def kept_answers(self) -> list[Path]:
        """One file per answer that was computed for an example."""
        return list(self.work.glob("findtrack-examples-*/*/results/overlay.mp4"))

    def let_files_age(self) -> None:
        """Time passes, until the app has removed what was there before this call."""
        (last,) = map(Path, self.upload("last.txt", os.urandom(8)).raise_for_status().json())
        self._ageing.set()
        try:
            wait_until(lambda: not last.exists(), "an old file is removed")
            left, rounds = self.leftovers(), 0
            while left and rounds < KEEP_SECONDS + 2:  # it need not have been the last one
                time.sleep(1)
                before, left = left, self.leftovers()
                rounds = rounds + 1 if left == before else 0
        finally:
            self._ageing.clear()

    def leftovers(self) -> list[Path]:
        """What requests have written and nobody has removed yet."""
        return sorted(set(self._everything()) - self._own)

    def memory(self) -> int:
        """Bytes of RAM it holds, without those of mapped files; 0 where there is no /proc."""
        status = Path(f"/proc/{self._process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

    def client(self, folder: Path, **options):
        """A visitor's `gradio_client.Client`; downloads go to `folder`."""
        from gradio_client import Client

        return Client(
            self.url,
            verbose=False,
            download_files=folder,
            analytics_enabled=False,
            ssl_verify=False,  # plain HTTP; it would read all certificates again for every call
            # No proxy on the way to ourselves.
            httpx_kwargs={"trust_env": False, "timeout": PATIENCE},
            **options,
        )

    def upload(self, name: str, data: bytes) -> httpx.Response:
        """Send a file as the page does, without a look at its size."""
        address = f"{self.url}/gradio_api/upload"
        return httpx.post(address, files={"files": (name, data)}, trust_env=False, timeout=PATIENCE)

    def stop(self) -> None:
        self._over.set()
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            if self._own_session:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def space_server(tmp_path_factory) -> Iterator[SpaceServer]:
    """The app with its defaults, but for model and limits above."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    server = SpaceServer(tmp_path_factory.mktemp("space"))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


class Reference:
    """The same model in this process: what the app has to answer."""

    def __init__(self):
        self.model, self.processor = load_model(MODEL, "cpu")

    def __call__(self, video, text: str, **options) -> list[Track]:
        """`model.segment` of a path or frames (T, H, W, 3), one track per line."""
        return self.model.segment(video, text.splitlines(), processor=self.processor, **options)


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@cache
def _sample() -> list[np.ndarray]:
    with open_video(SAMPLE / "sample.mp4") as video:
        return list(video.frames())


def write_clip(
    path: Path,
    frames: int = 8,
    *,
    first: int = 0,
    size: tuple[int, int] = (96, 128),
    mirrored: bool = False,
) -> Path:
    """A part of the sample, three swans and a sheep, at `size` (H, W), its index at the front.

    After its last frame the sample begins again.
    """
    sample = _sample()
    with VideoWriter(path, size, Fraction(FPS)) as writer:
        for index in range(first, first + frames):
            frame = sample[index % len(sample)]
            picture = Image.fromarray(frame[:, ::-1] if mirrored else frame)
            writer.write(np.asarray(picture.resize(size[::-1])))
    return path
