"""`make demo`: segment the shipped clips, a real picture in motion first, and score the answers.

python -m eval.demo [--out demo-output]
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from eval.metrics.jf.core import SequenceScores, sequence_scores
from eval.report import one_line_errors

DATA = Path(__file__).parent / "data"
SAMPLE = DATA / "sample"


@dataclass(frozen=True)
class Demo:
    """A clip with its sentence and true masks, and who is to segment it."""

    name: str  # of its folder in the output
    sample: Path
    model: str | None  # as `findtrack segment` takes it; None is its default


DEMOS = (Demo("photo", DATA / "photos" / "cat", None), Demo("sprites", SAMPLE, "tiny"))


def score_folders(predicted: Path, truth: Path) -> SequenceScores:
    """Score a folder of mask PNGs against another, paired by name.

    Raises:
        ValueError: The folders do not hold the same names, or none.
    """
    names = sorted(p.name for p in truth.glob("*.png"))
    if not names or names != sorted(p.name for p in predicted.glob("*.png")):
        raise ValueError(f"{predicted} and {truth} do not hold the same PNGs")

    def masks(folder: Path):
        return (np.array(Image.open(folder / name)) > 0 for name in names)

    return sequence_scores(masks(predicted), masks(truth))


def run(demo: Demo, out: Path) -> int:
    """Print what `findtrack segment` does with the clip, and the J&F; its exit status."""
    from modeling_findtrack.cli import main as findtrack

    facts = json.loads((demo.sample / "sample.json").read_text(encoding="utf-8"))
    command = ["segment", str(demo.sample / "sample.mp4"), facts["expression"], "--out", str(out)]
    if demo.model:
        command += ["--model", demo.model]
    print("findtrack", *(f'"{word}"' if " " in word else word for word in command))
    if status := findtrack(command):
        return status
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    exp_id = str(result["expressions"][0]["id"])
    scores = score_folders(out / "masks" / exp_id, demo.sample / "masks")
    print(f"J&F {scores.jf:.3f}  (J {scores.j_mean:.3f}, F {scores.f_mean:.3f})\n")
    return 0


@one_line_errors("eval.demo")
def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status of the first `findtrack segment` that fails."""
    parser = argparse.ArgumentParser(prog="python -m eval.demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("demo-output"))
    args = parser.parse_args(argv)
    for demo in DEMOS:
        if status := run(demo, args.out / demo.name):
            return status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
