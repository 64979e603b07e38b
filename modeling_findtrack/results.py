"""What `FindTrackModel.segment` returns: frozen values, masks kept as COCO run-length codes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask


class MaskSequence(Sequence):
    """Boolean masks of one object, one per frame, stored as COCO RLE and decoded on access.

    Args:
        rles: One compressed COCO RLE dict (`{"size": [H, W], "counts": bytes}`) per frame.
        size: (H, W) of every mask.
    """

    def __init__(self, rles: Sequence[dict], size: tuple[int, int]):
        self._rles = tuple(rles)
        self.size = (int(size[0]), int(size[1]))
        wrong = [i for i, rle in enumerate(self._rles) if tuple(rle["size"]) != self.size]
        if wrong:
            raise ValueError(f"masks {wrong[:5]} are not of size {self.size}")

    @classmethod
    def empty(cls, num_frames: int, size: tuple[int, int]) -> "MaskSequence":
        """`num_frames` masks without a single pixel."""
        rle = encode_mask(np.zeros(size, dtype=bool))
        return cls([rle] * num_frames, size)

    @classmethod
    def from_masks(cls, masks: Sequence[np.ndarray]) -> "MaskSequence":
        """Encode boolean masks (T, H, W), at least one."""
        return cls([encode_mask(m) for m in masks], masks[0].shape)

    def __len__(self) -> int:
        return len(self._rles)

    def __getitem__(self, index):
        """Frame `index` as (H, W) bool; a slice gives another `MaskSequence`."""
        if isinstance(index, slice):
            return MaskSequence(self._rles[index], self.size)
        return decode_mask(self._rles[index])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (decode_mask(rle) for rle in self._rles)

    def __repr__(self) -> str:
        return f"MaskSequence({len(self)} x {self.size[0]}x{self.size[1]})"

    def areas(self) -> np.ndarray:
        """(T,) pixels per mask, without decoding."""
        # One by one: given more than 255 at once, pycocotools fails under NumPy 2.
        return np.array([coco_mask.area(rle) for rle in self._rles], dtype=np.int64)

    def to_rle(self) -> list[dict]:
        """COCO RLE dicts with `counts` as ASCII text, ready for JSON."""
        return [
            {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
            for rle in self._rles
        ]

    def to_array(self) -> np.ndarray:
        """All masks at once, (T, H, W) bool."""
        return np.stack(list(self)) if self._rles else np.zeros((0, *self.size), dtype=bool)


def encode_mask(mask: np.ndarray) -> dict:
    """(H, W) bool -> compressed COCO RLE with bytes `counts`."""
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def decode_mask(rle: dict) -> np.ndarray:
    """COCO RLE -> (H, W) bool."""
    return coco_mask.decode(rle).astype(bool)


@dataclass(frozen=True)
class Candidate:
    """One sampled frame's answer to one expression."""

    frame: int  # index in the video
    iou: float  # the finder's predicted IoU
    alignment: float | None  # cosine of masked region and text; None without an aligner
    presence: float | None  # probability that the object is there; None if not predicted
    score: float  # what key frames are ranked by
    rle: dict = field(repr=False)  # the mask at source size, COCO RLE

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool at source size."""
        return decode_mask(self.rle)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(coco_mask.area(self.rle))


@dataclass(frozen=True)
class Track:
    """The answer to one expression: one mask per frame."""

    expression: str
    found: bool
    score: float | None  # of the key frame; of the best rejected candidate if not found
    key_frame: int | None  # frame the propagation started from; None if not found
    candidates: tuple[Candidate, ...]  # every sampled frame, in video order
    masks: MaskSequence = field(repr=False)  # T masks (H, W) at source size
    presence: np.ndarray = field(repr=False)  # (T,) float in 0..1, the tracker's belief
    unknown_words: tuple[str, ...] = ()  # of the expression, to the model; lower case
