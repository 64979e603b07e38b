"""One training sample, before any model's geometry: pixels, masks and sentences as NumPy values.

Shapes: H, W source size, O objects, T frames.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class Place(NamedTuple):
    """Which sample is drawn; a sample depends on the source's seed and this alone."""

    epoch: int
    item: int  # of the source; its number in an endless one
    progress: float = 0.0  # share of the run that lies behind, for curricula


@dataclass(frozen=True)
class Pair:
    """One sentence about a frame."""

    text: str
    objects: tuple[int, ...]  # rows of the frame's masks; () refers to nothing there
    kind: str = ""  # of Ref-Sprites; "negative" for a sentence of another video


@dataclass(frozen=True)
class FrameSample:
    """A frame with its objects and sentences."""

    name: str  # where it comes from, for messages
    frame: np.ndarray  # (H, W, 3) uint8 RGB
    masks: np.ndarray  # (O, H, W) bool, what is visible; O may be 0
    pairs: tuple[Pair, ...]
    nouns: tuple[str, ...] = ()  # per object, "" if it has none; () where nobody says
    absent: tuple[str, ...] = ()  # nouns that nothing in the frame is
    partial: tuple[str, ...] = ()  # nouns that more may be in the frame than is annotated
    path: str | None = None  # of the frame's file, if it is that file's content unchanged
    number: int | None = None  # of the frame in that file, where it is a video
    seed: int = 0  # of what is drawn for this sample later on

    def target(self, pair: Pair) -> np.ndarray:
        """(H, W) bool, the union of the objects that `pair` is about."""
        return self.masks[list(pair.objects)].any(axis=0)


@dataclass(frozen=True)
class ClipSample:
    """Frames in the order of tracking; every object is visible in the first."""

    name: str
    frames: np.ndarray  # (T, H, W, 3) uint8 RGB
    masks: np.ndarray  # (O, T, H, W) bool, O >= 1
    seed: int = 0  # of what is drawn for this sample later on


class Source(Protocol):
    """Where samples come from."""

    length: int | None  # samples per epoch; None is endless

    def frame(self, place: Place, pairs: int, negatives: float) -> FrameSample:
        """One frame with exactly `pairs` sentences."""

    def clip(self, place: Place, length: int, objects: int, strides: list[int]) -> ClipSample:
        """One clip of `length` frames with 1 to `objects` objects."""
