"""Programs that run with the environment of a ZeroGPU Space, for test_space_zerogpu.py.

    python -m tests.zerogpu_programs requests[-without-gpu] CLIP FOLDER
    python -m tests.zerogpu_programs app-without-gpu [OPTIONS OF space.app]

Without a GPU the weights, which `spaces` pretends are on one until it is lent, go to the CPU then.
"""

import os
import pickle
import sys
from pathlib import Path

from space import surroundings  # noqa: F401  # isort: skip  (before Gradio)

# It patches torch and so comes before it, as in space/segmenter.py.
import spaces  # isort: skip
import torch

from space.intake import Options, open_upload
from space.limits import Limits
from space.segmenter import Segmenter

TEXTS, ENDLESS = ["the leftmost swan", "the sheep"], "a swan for ever"
MANY = 8  # expressions, to take longer than two
PART = Options(key_frames=2, threshold=0.4, start=0.125, end=0, opacity=0.5)


def ask(segmenter: Segmenter, clip: str, texts: list[str]):
    """Steps of a request, as the page sends it."""
    with open_upload(clip, PART, Limits()) as video:
        yield from segmenter.segment(video, texts, PART.key_frames, PART.threshold)


def do_without_gpu() -> None:
    """What the package does with a GPU once it is lent, it does on the CPU."""

    def init(_: str) -> None:
        torch.Tensor.pin_memory = lambda tensor: tensor
        torch.Tensor.cuda = lambda tensor, **_: tensor.clone()
        torch.cuda.synchronize = lambda: None

    spaces.zero.torch.init = init
    spaces.zero.torch.pack = lambda: 0  # nor does it put them away meanwhile


def send_requests(clip: str, folder: Path) -> None:
    """Two requests, one that is closed in the middle, and another; `answers` says what came.

    `calls` gets a line from the process that the model runs in: its id, and what became of a call.
    """
    segmenter = Segmenter("tiny")
    spaces.zero.torch.pack()
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
    os._exit(0)  # with CUDA in it, the other process does not end when it is told to


def main(program: str, *arguments: str) -> int:
    """One of them."""
    if program.endswith("-without-gpu"):
        do_without_gpu()
    if program.startswith("app"):
        from space.app import main as app

        return app(arguments)
    send_requests(arguments[0], Path(arguments[1]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
