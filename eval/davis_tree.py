"""The ground truth of DAVIS as it is unzipped, for scoring label maps without expressions.

ROOT/Annotations/480p/<video>/<frame>.png                 2017, semi-supervised
ROOT/Annotations_unsupervised/480p/<video>/<frame>.png    2019, unsupervised
ROOT/ImageSets/2017/<split>.txt                           one video per line

DAVIS 2016 has the first of these, with masks of one object, 0 and 255, and no void.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.benchmarks.base import read_labels
from eval.benchmarks.ref_davis17 import FOLDERS
from eval.benchmarks.tree import LayoutError, checked_name, require
from eval.conventions import DAVIS_SEMI, DAVIS_UNSUPERVISED

ALL = "all"  # the split of every video that is there
# The convention each set of annotations was made for.
PROTOCOLS = {"2017": DAVIS_SEMI, "unsupervised": DAVIS_UNSUPERVISED}


class DavisTree:
    """One split of DAVIS 2017, or the masks of DAVIS 2016.

    Args:
        root: Folder named DAVIS in the zip.
        split: Name of a list in ImageSets/2017, or "all".
        annotations: "2017" or "unsupervised".
        videos: Names of the videos to keep; all of the split if None.

    Raises:
        LayoutError: The tree is incomplete, or a video is not in it.
    """

    name = "davis"
    has_truth = True

    def __init__(
        self,
        root: str | Path,
        split: str,
        annotations: str = "2017",
        videos: Sequence[str] | None = None,
    ):
        self.root, self.split, self.annotations = Path(root), split, annotations
        self._labels = self.root / FOLDERS[annotations] / "480p"
        listed = self.root / "ImageSets" / "2017" / f"{split}.txt"
        remedy = f"--split {ALL} takes every video that is there"
        expected = [self._labels] + ([] if split == ALL else [listed])
        require(self.root, "DAVIS 2017", expected, remedy if split != ALL else "")
        if split == ALL:
            names = sorted(
                p.name for p in self._labels.iterdir() if p.is_dir() and p.name[0] != "."
            )
        else:
            lines = listed.read_text(encoding="utf-8").split("\n")
            names = [checked_name(n.strip(), str(listed)) for n in lines if n.strip()]
        unknown = sorted(set(videos or ()) - set(names))
        if unknown:
            raise LayoutError(f"DAVIS 2017 {split} has no video {', '.join(unknown[:5])}")
        self.videos = tuple(n for n in names if videos is None or n in set(videos))
        if not self.videos:
            raise LayoutError(f"{self.root}: split {split} has no videos")
        first = [read_labels(str(self.label_maps(video)[0])) for video in self.videos[:2]]
        # Of 2017 no first frame is without any object.
        self.binary = all(set(np.unique(labels)) <= {0, 255} for labels in first)

    def objects(self, labels: np.ndarray) -> np.ndarray:
        """A label map (H, W) as the conventions want it: the mask of DAVIS 2016 is object 1."""
        return (labels > 0).astype(np.uint8) if self.binary else labels

    def label_maps(self, video: str) -> list[Path]:
        """T palette PNGs in temporal order, pixels are object ids and 255 is void.

        Raises:
            LayoutError: There are none.
        """
        # What starts with a dot was left by a file manager.
        paths = sorted(p for p in (self._labels / video).glob("*.png") if p.name[0] != ".")
        if not paths:
            raise LayoutError(f"{self._labels / video} holds no PNGs")
        return paths
