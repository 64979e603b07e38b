"""Tracking alone: the true mask of the first frame, propagated through real video.

    python -m eval.propagation --davis DAVIS2016 [--sequences dog libby]

J&F over frames 2..T, next to two baselines that know nothing: the first mask copied to every
frame, and warped from frame to frame by OpenCV's DIS optical flow (medium preset). DAVIS2016 is
the original tree: JPEGImages/480p/<sequence>/*.jpg and Annotations/480p/<sequence>/*.png.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from eval.metrics.jf.core import SequenceScores, sequence_scores
from eval.report import add_model_options, markdown_table, one_line_errors
from modeling_findtrack.cli import load_model

METHODS = ("copy the first mask", "warp by optical flow", "FindTrack")


@dataclass(frozen=True)
class DavisSequence:
    """One sequence of DAVIS 2016; frames and masks are read as they are needed."""

    name: str
    frame_folder: Path
    frame_paths: tuple[Path, ...] = field(repr=False)  # T
    mask_paths: tuple[Path, ...] = field(repr=False)  # T

    def frames(self) -> Iterator[np.ndarray]:
        """T frames (H, W, 3) uint8 RGB."""
        return (np.array(Image.open(p).convert("RGB")) for p in self.frame_paths)

    def masks(self) -> Iterator[np.ndarray]:
        """T masks (H, W) bool."""
        # The two values of a mask may be a palette's, so its pixels are compared as indices.
        return (np.array(Image.open(p)) > 0 for p in self.mask_paths)


def read_davis(root: str | Path, names: Sequence[str] | None = None) -> list[DavisSequence]:
    """Sequences of a DAVIS 2016 tree: the named ones, or all there are, sorted.

    Raises:
        FileNotFoundError: A sequence is missing.
        ValueError: The frames and masks of a sequence do not pair up, or are fewer than two.
    """
    images, annotations = (Path(root) / d / "480p" for d in ("JPEGImages", "Annotations"))
    if not images.is_dir():
        raise FileNotFoundError(f"{images} is not there; --davis names the folder above JPEGImages")
    sequences = []
    for name in names or sorted(p.name for p in images.iterdir() if p.is_dir()):
        frames = tuple(sorted((images / name).glob("*.jpg")))
        masks = tuple(sorted((annotations / name).glob("*.png")))
        if not frames:
            raise FileNotFoundError(f"{images / name} holds no frames")
        if [p.stem for p in frames] != [p.stem for p in masks] or len(frames) < 2:
            raise ValueError(
                f"sequence {name} has {len(frames)} frames and {len(masks)} masks; "
                "both must have the same names, two at least"
            )
        sequences.append(DavisSequence(name, images / name, frames, masks))
    return sequences


def warp_by_flow(frames: Iterable[np.ndarray], mask: np.ndarray) -> Iterator[np.ndarray]:
    """Carry a mask along by optical flow.

    Args:
        frames: T frames (H, W, 3) uint8 RGB.
        mask: Mask (H, W) of the first of them.

    Yields:
        Masks (H, W) bool of frames 2..T. In between the mask stays soft, so that sampling it again
        and again does not wear its boundary down.
    """
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    x, y = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in reversed(mask.shape)))
    soft, before = mask.astype(np.float32), None
    for frame in frames:
        now = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if before is not None:
            back = flow.calc(now, before, None)  # (H, W, 2): where each pixel came from
            soft = cv2.remap(soft, x + back[..., 0], y + back[..., 1], cv2.INTER_LINEAR)
            yield soft > 0.5
        before = now


def score_sequence(sequence: DavisSequence, model=None, processor=None) -> list[SequenceScores]:
    """Scores over frames 2..T in the order of `METHODS`; the last needs a model.

    Raises:
        ValueError: The model returns another number of masks than there are frames.
    """
    first, *truth = sequence.masks()
    answers = [[first] * len(truth), warp_by_flow(sequence.frames(), first)]
    if model is not None:
        masks = model.propagate(str(sequence.frame_folder), first, key_frame=0, processor=processor)
        if len(masks) != len(truth) + 1:
            raise ValueError(f"{len(truth) + 1} frames gave {len(masks)} masks")
        answers.append(masks[1:])
    return [sequence_scores(answer, truth) for answer in answers]


def table(sequences: Sequence[DavisSequence], scores: Sequence[Sequence[SequenceScores]]) -> str:
    """Markdown: one row per sequence and their mean; J&F per method, then J and F of the last."""
    values = [[*(s.jf for s in row), row[-1].j_mean, row[-1].f_mean] for row in scores]
    last = METHODS[len(scores[0]) - 1]
    header = ["J&F, frames 2..T", *METHODS[: len(scores[0])], f"J {last}", f"F {last}"]
    rows = [[s.name, *row] for s, row in zip(sequences, values, strict=True)]
    rows.append(["mean", *(float(v) for v in np.mean(values, axis=0))])
    return markdown_table(header, rows)


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.propagation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--davis", type=Path, required=True, help="folder of DAVIS 2016")
    parser.add_argument("--sequences", nargs="+", help="default: all there are")
    add_model_options(parser)
    parser.add_argument("--baselines-only", action="store_true", help="load no model")
    return parser.parse_args(argv)


@one_line_errors("eval.propagation")
def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when the table is printed, 2 on unusable input."""
    args = _parse(argv)
    sequences = read_davis(args.davis, args.sequences)
    loaded = () if args.baselines_only else load_model(args.model, args.device, args.dtype)
    bar = tqdm(sequences, unit="sequence", disable=not sys.stderr.isatty())
    scores = [score_sequence(sequence, *loaded) for sequence in bar]
    print(table(sequences, scores))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
