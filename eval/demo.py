"""`make demo`: segment the shipped sample with a shipped checkpoint and score the answer.

python -m eval.demo [--model tiny] [--out demo-output]
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from eval.metrics.jf.core import SequenceScores, sequence_scores
from eval.report import one_line_errors

SAMPLE = Path(__file__).parent / "data" / "sample"
MODEL = "tiny"  # the sample shows sprites


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


@one_line_errors("eval.demo")
def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status of `findtrack segment` where that fails."""
    from modeling_findtrack.cli import main as findtrack

    parser = argparse.ArgumentParser(prog="python -m eval.demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", default=MODEL, help=f"as `findtrack segment` ({MODEL})")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="(demo-output)")
    args = parser.parse_args(argv)
    expression = json.loads((SAMPLE / "sample.json").read_text(encoding="utf-8"))["expression"]
    command = ["segment", str(SAMPLE / "sample.mp4"), expression, "--model", args.model]
    command += ["--out", str(args.out)]
    print("findtrack", *(f'"{word}"' if " " in word else word for word in command))
    status = findtrack(command)
    if status:
        return status
    result = json.loads((args.out / "result.json").read_text(encoding="utf-8"))
    exp_id = str(result["expressions"][0]["id"])
    scores = score_folders(args.out / "masks" / exp_id, SAMPLE / "masks")
    print(f"overlay: {args.out / 'overlay.mp4'}")
    print(f"J&F {scores.jf:.3f}  (J {scores.j_mean:.3f}, F {scores.f_mean:.3f})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
