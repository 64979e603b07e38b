"""What models cost: the same video and sentence, side by side.

    python -m eval.model_speed VIDEO [--models tiny small] [--runs 3] [--threads 1]

Each run is a process of its own, and the models take turns. A run finds the sentence on the sampled
frames and tracks one mask, the same ellipse for every model, from the middle frame through all: so
every model does all of its work, whatever it thinks it has found. Seconds are of processor time, so
that other work on the machine counts little; loading is left out. The ratio is to the first model.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from eval.report import markdown_table, one_line_errors, peak_memory, positive


@dataclass(frozen=True)
class Cost:
    """Of one run."""

    find: float  # seconds of processor time
    track: float  # seconds of processor time
    frames: int
    peak: float  # MiB, highest of the process

    @property
    def per_frame(self) -> float:
        """Milliseconds."""
        return 1000 * (self.find + self.track) / self.frames


def measure(model: str, video: str, expression: str, threads: int) -> Cost:
    """One run, in this process."""
    import numpy as np
    import torch

    from modeling_findtrack import open_video
    from modeling_findtrack.cli import load_model
    from modeling_findtrack.modeling_findtrack import KeyMask

    torch.set_num_threads(threads)
    loaded, processor = load_model(model, "cpu", "float32")
    with open_video(video) as clip:
        height, width, length = clip.height, clip.width, clip.num_frames
    y, x = np.mgrid[:height, :width]
    mask = ((y / height - 0.5) / 0.3) ** 2 + ((x / width - 0.5) / 0.2) ** 2 < 1
    start = time.process_time()
    loaded.find(video, expression, processor=processor)
    found = time.process_time()
    loaded.track(video, [KeyMask(length // 2, mask)], processor=processor)
    tracked = time.process_time()
    return Cost(found - start, tracked - found, length, peak_memory() / 2**20)


def table(names: Sequence[str], costs: dict[str, list[Cost]]) -> str:
    """Markdown: medians per model."""

    def middle(name: str, value) -> float:
        return statistics.median(value(cost) for cost in costs[name])

    base = middle(names[0], lambda c: c.per_frame)
    rows = []
    for name in names:
        whole = middle(name, lambda c: c.per_frame)
        rows.append([
            name, f"{middle(name, lambda c: c.find):.2f}",
            f"{middle(name, lambda c: 1000 * c.track / c.frames):.1f}", f"{whole:.1f}",
            f"{whole / base:.2f}", f"{middle(name, lambda c: c.peak):.0f}",
        ])  # fmt: skip
    header = ["model", "find s", "track ms a frame", "all ms a frame", "ratio", "peak MiB"]
    return markdown_table(header, rows)


@one_line_errors("eval.model_speed")
def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when the table is printed, 2 on unusable input."""
    parser = argparse.ArgumentParser(prog="python -m eval.model_speed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument("--models", nargs="+", default=["tiny", "small"], metavar="M")
    parser.add_argument("--expression", default="a dog", help="(a dog)")
    parser.add_argument("--runs", type=positive, default=3, help="per model (3)")
    parser.add_argument("--threads", type=positive, default=1, help="of PyTorch (1)")
    args = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    context = multiprocessing.get_context("spawn")
    costs: dict[str, list[Cost]] = {name: [] for name in args.models}
    for _ in range(args.runs):
        for name in args.models:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                job = (measure, name, args.video, args.expression, args.threads)
                costs[name].append(pool.submit(*job).result())
    frames = costs[args.models[0]][0].frames
    print(f"{args.video}, {frames} frames, {args.runs} runs, threads: {args.threads}\n")
    print(table(args.models, costs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
