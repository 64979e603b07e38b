"""Predictions as PNGs on disk, this project's or anyone else's: where they are and what they hold.

    [Annotations/]<video>/<exp_id>/<frame>.png        one mask per expression; > 0 is foreground
    [valid/]anno_<0..3>/<video>/<frame>.png           Ref-DAVIS17: a label map per annotator
    [Annotations/]<video>/<frame>.png                 DAVIS: a label map per video

Label maps hold one number per object, 0 for background. All are palette or 8-bit grey PNGs of the
source size, one for every frame. The reader is strict: what is missing is an error or, where that
is asked for, empty and counted, since what silently drops out raises the score.
"""

import logging
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

EXPRESSIONS = "[Annotations/]<video>/<exp_id>/<frame>.png"
ANNOTATORS = "[valid/]anno_<0..3>/<video>/<frame>.png"
LABEL_MAPS = "[Annotations/]<video>/<frame>.png"
NUM_ANNOTATORS = 4  # sets of expressions of Ref-DAVIS17
# Folders that may lie above the videos or annotators.
_TOPS = {
    EXPRESSIONS: ("", "Annotations"),
    ANNOTATORS: ("", "valid"),
    LABEL_MAPS: ("", "Annotations"),
}
_MODES = ("L", "P", "1")  # of Pillow; each decodes to one 8-bit number per pixel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionFolder:
    """Where the predictions of a split are; decodes one PNG at a time."""

    root: Path  # as given
    base: Path  # holds the folders of videos or annotators
    layout: str  # EXPRESSIONS, ANNOTATORS or LABEL_MAPS
    missing_is_empty: bool = False

    @classmethod
    def find(
        cls, root: str | Path, tops: dict[str, Iterable[str]], missing_is_empty: bool = False
    ) -> "PredictionFolder":
        """Tell the layout from the folders that are there.

        Args:
            root: Folder of predictions.
            tops: Layouts to consider, the first that fits is taken: layout -> names of the folders
                (videos or annotators) it would begin with.
            missing_is_empty: Whether a PNG that is not there is an empty prediction.

        Raises:
            ValueError: None of the layouts' folders is there.
        """
        root = Path(root)
        for layout, names in tops.items():
            names = list(names)
            for top in _TOPS[layout]:
                if any((root / top / name).is_dir() for name in names):
                    return cls(root, root / top, layout, missing_is_empty)
        raise ValueError(_nothing_there(root, tops))

    def check(self, expected: Iterable[tuple[tuple[str, ...], Sequence[str]]]) -> int:
        """Compare what is there with what should be; no file is opened.

        Warns of files and folders nobody asked for, with their number.

        Args:
            expected: Folders below `base`, as parts of their paths, and the names of their frames.

        Returns:
            How many PNGs are missing.

        Raises:
            ValueError: All are missing, or some and `missing_is_empty` is not set.
        """
        total, missing, extra = 0, [], []
        parents: dict[tuple[str, ...], set[str]] = {}
        for parts, frames in expected:
            for depth in range(len(parts)):
                parents.setdefault(parts[:depth], set()).add(parts[depth])
            listed = [f"{name}.png" for name in frames]
            found = _names_in(self.base.joinpath(*parts))
            total += len(listed)
            missing += ["/".join((*parts, name)) for name in listed if name not in found]
            extra += ["/".join((*parts, name)) for name in sorted(found.difference(listed))]
        for parts, children in parents.items():
            found = _names_in(self.base.joinpath(*parts))
            extra += ["/".join((*parts, name)) for name in sorted(found - children)]
        if missing and len(missing) == total:
            raise ValueError(_nothing_there(self.root, [self.layout]))
        if missing and not self.missing_is_empty:
            raise ValueError(
                f"{self.base} lacks {len(missing)} of {total} PNGs, {missing[0]} first; write one "
                "for every frame, all zero where the object is absent, or count what is missing "
                "as empty (--missing empty)"
            )
        if extra:
            logger.warning(
                "ignored %d files or folders in %s that nothing was asked about, %s first",
                len(extra),
                self.base,
                extra[0],
            )
        return len(missing)

    def read(self, *parts: str, size: tuple[int, int]) -> np.ndarray:
        """Pixel values (H, W) uint8 of one PNG.

        Args:
            parts: Path below `base`, the last without suffix.
            size: (H, W) it must have.

        Raises:
            ValueError: It is damaged, no palette or 8-bit grey PNG, or of another size.
            FileNotFoundError: It is not there, and `missing_is_empty` is not set.
        """
        path = self.base.joinpath(*parts[:-1], f"{parts[-1]}.png")
        try:
            return _read_png(path, size)
        except FileNotFoundError:
            if not self.missing_is_empty:
                raise
            return np.zeros(size, dtype=np.uint8)


def _read_png(path: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode not in _MODES:
                raise _WrongPngError(
                    f"{path} is of mode {image.mode}; predictions are palette or 8-bit grey PNGs"
                )
            if image.size != size[::-1]:
                raise _WrongPngError(
                    f"{path} is {image.height}x{image.width}, its frame {size[0]}x{size[1]} "
                    "(height x width); predictions must have the source size"
                )
            return np.array(image, dtype=np.uint8)
    except (FileNotFoundError, PermissionError, _WrongPngError):
        raise
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error) as error:
        # What Pillow raises for damaged files, often without saying which.
        raise ValueError(f"{path} is not a readable PNG; write it anew") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: {error}") from error


class _WrongPngError(ValueError):
    """A PNG that can be read but is not what it should be."""


def _names_in(folder: Path) -> set[str]:
    """What lies in a folder, hidden files aside; nothing if it is not there."""
    try:
        return {name for name in os.listdir(folder) if not name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _nothing_there(root: Path, layouts: Iterable[str]) -> str:
    found = sorted(_names_in(root))
    shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return (
        f"{root} holds no predictions of this split: expected {' or '.join(layouts)}, "
        f"found {shown or 'nothing' if root.is_dir() else 'no such folder'}"
    )
