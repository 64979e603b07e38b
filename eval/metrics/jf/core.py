"""Region similarity J and boundary accuracy F of the DAVIS benchmark, exact and fast.

The definitions are those of the DAVIS 2017 evaluation (Perazzi et al. 2016, Pont-Tuset et al.
2017); every number equals the official script's to the last bit. What makes this faster: of a mask
only its bounding box is looked at; its boundary, and what lies near that, are made once however
many masks it is compared with (`Region`); and the dilation by a disk is made of shifts of whole
arrays. Everything is an integer until the last divisions.

Masks are (H, W), any non-zero pixel is foreground. `void` marks pixels that count for neither.
This file needs NumPy alone and nothing else of the project: the metric ships it as it is.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

BOUND_TH = 0.008  # boundary tolerance as a share of the image diagonal


class Region:
    """One binary mask of one frame, ready to be compared with several others.

    Keeps a copy of the mask's bounding box, not the mask: a Region is small, and what happens to
    the mask later does not reach it.

    Args:
        mask: Mask (H, W).
        void: Pixels (H, W) to set to background first, or None.
        bound_th: Tolerance of F in pixels if >= 1, else as a share of the image diagonal.

    Raises:
        ValueError: The mask is not (H, W), or `void` is of another size.
    """

    def __init__(
        self, mask: np.ndarray, void: np.ndarray | None = None, bound_th: float = BOUND_TH
    ):
        mask = np.asarray(mask)
        if mask.ndim != 2:
            raise ValueError(f"a mask is (H, W), not {mask.shape}")
        self.shape = mask.shape
        # From the full size: the tolerance is the image's, not the object's.
        diagonal = np.linalg.norm(mask.shape)
        self.radius = math.ceil(bound_th if bound_th >= 1 else bound_th * diagonal)
        window = _window(mask)
        self._origin = (window[0].start, window[1].start)  # (y, x) of the crop in the image
        crop = mask[window].astype(bool, order="C")
        if void is not None:
            void = np.asarray(void)
            if void.shape != mask.shape:
                raise ValueError(f"void is {void.shape}, the masks are {mask.shape}")
            crop &= ~void[window].astype(bool)
        self._crop = crop.view(np.uint8)  # (h, w) of 0 and 1
        self.area = int(np.count_nonzero(self._crop))

    def jaccard(self, other: "Region") -> float:
        """Region similarity J; see the function `jaccard`."""
        self._require_same_image(other)
        mine, theirs = _meet(self._origin, self._crop.shape, other._origin, other._crop.shape)
        both = int(np.count_nonzero(self._crop[mine] & other._crop[theirs]))
        union = self.area + other.area - both
        return both / union if union else 1.0

    def boundary_f(self, other: "Region") -> float:
        """Boundary accuracy F; see the function `boundary_f`."""
        self._require_same_image(other)
        if self._edge_area == 0 or other._edge_area == 0:
            return 1.0 if self._edge_area == other._edge_area else 0.0
        precision = self._edge_near(other) / self._edge_area
        hit_rate = other._edge_near(self) / other._edge_area
        if precision + hit_rate == 0:
            return 0.0
        return 2 * precision * hit_rate / (precision + hit_rate)  # official order of operations

    def _require_same_image(self, other: "Region") -> None:
        if (self.shape, self.radius) != (other.shape, other.radius):
            raise ValueError(
                f"regions of {self.shape} and {other.shape} with tolerances {self.radius} and "
                f"{other.radius} cannot be compared; both must be equal"
            )

    @cached_property
    def _edge(self) -> np.ndarray:
        return boundary(self._crop)

    @cached_property
    def _edge_area(self) -> int:
        return int(np.count_nonzero(self._edge))

    @cached_property
    def _reach(self) -> np.ndarray:
        """Pixels within `radius` of the boundary: (h + 2 radius, w + 2 radius), partly outside
        the image."""
        return dilate(self._edge, self.radius)

    def _edge_near(self, other: "Region") -> int:
        """How many pixels of the boundary lie within reach of the other's."""
        (y, x), (h, w), r = other._origin, other._edge.shape, other.radius
        mine, theirs = _meet(self._origin, self._edge.shape, (y - r, x - r), (h + 2 * r, w + 2 * r))
        near = self._edge[mine]
        if not near.any():
            return 0  # without having dilated anything
        return int(np.count_nonzero(near & other._reach[theirs]))


def jaccard(pred: np.ndarray, gt: np.ndarray, void: np.ndarray | None = None) -> float:
    """Region similarity J: intersection over union; two empty masks agree, J = 1.

    Args:
        pred: Prediction (H, W).
        gt: Ground truth (H, W).
        void: Pixels to leave out (H, W), or None.

    Raises:
        ValueError: The masks are not of one and the same size (H, W).
    """
    pred, gt = _regions(pred, gt, void)
    return pred.jaccard(gt)


def boundary_f(
    pred: np.ndarray,
    gt: np.ndarray,
    void: np.ndarray | None = None,
    bound_th: float = BOUND_TH,
) -> float:
    """Boundary accuracy F: harmonic mean of boundary precision and recall.

    The image border is not a boundary, so a mask that covers the whole frame has none: against an
    empty mask it scores F = 1 (and J = 0), as officially.

    Args:
        pred: Prediction (H, W).
        gt: Ground truth (H, W).
        void: Pixels set to background in both masks before their boundaries are taken, or None.
        bound_th: Tolerance in pixels if >= 1, else as a share of the image diagonal.

    Raises:
        ValueError: The masks are not of one and the same size (H, W).
    """
    pred, gt = _regions(pred, gt, void, bound_th)
    return pred.boundary_f(gt)


def j_and_f(
    pred: np.ndarray, gt: np.ndarray, void: np.ndarray | None = None
) -> tuple[float, float]:
    """(J, F) of one frame, cheaper than the two calls apart. See `jaccard`, `boundary_f`."""
    pred, gt = _regions(pred, gt, void)
    return pred.jaccard(gt), pred.boundary_f(gt)


def j_and_f_matrix(preds: Sequence[Region], gts: Sequence[Region]) -> np.ndarray:
    """(J, F) of every prediction with every ground truth of one frame: (P, G, 2) float64.

    Raises:
        ValueError: The regions are not of one and the same image size.
    """
    scores = [[(pred.jaccard(gt), pred.boundary_f(gt)) for gt in gts] for pred in preds]
    return np.array(scores, dtype=np.float64).reshape(len(preds), len(gts), 2)


@dataclass(frozen=True)
class SequenceScores:
    """Scores of one object in one video."""

    j: np.ndarray = field(repr=False)  # (T,) float64, J per evaluated frame
    f: np.ndarray = field(repr=False)  # (T,) float64, F per evaluated frame

    def as_dict(self) -> dict[str, float]:
        """J&F, J, F, and recall and decay of both, by the names they are reported under."""
        return {
            "J&F": self.jf,
            "J": self.j_mean,
            "F": self.f_mean,
            "J_recall": self.j_recall,
            "F_recall": self.f_recall,
            "J_decay": self.j_decay,
            "F_decay": self.f_decay,
        }

    @property
    def j_mean(self) -> float:
        """Mean J over frames."""
        return float(np.mean(self.j))

    @property
    def f_mean(self) -> float:
        """Mean F over frames."""
        return float(np.mean(self.f))

    @property
    def jf(self) -> float:
        """J&F, the mean of both means."""
        return (self.j_mean + self.f_mean) / 2

    @property
    def j_recall(self) -> float:
        """Share of frames with J above 0.5."""
        return recall(self.j)

    @property
    def f_recall(self) -> float:
        """Share of frames with F above 0.5."""
        return recall(self.f)

    @property
    def j_decay(self) -> float:
        """How much J is lost from the first quarter of the frames to the last."""
        return decay(self.j)

    @property
    def f_decay(self) -> float:
        """How much F is lost from the first quarter of the frames to the last."""
        return decay(self.f)


def sequence_scores(
    preds: Iterable[np.ndarray],
    gts: Iterable[np.ndarray],
    voids: Iterable[np.ndarray | None] | None = None,
) -> SequenceScores:
    """Score a video frame by frame; one pair of masks is held at a time.

    Args:
        preds: T predictions (H, W). Which frames count is the caller's choice: DAVIS drops the
            first and the last, MeViS drops none.
        gts: T ground-truth masks (H, W).
        voids: T void masks or Nones; None where nothing is void.

    Raises:
        ValueError: The iterables differ in length, are empty, or hold masks of unequal size.
    """
    streams = (preds, gts) if voids is None else (preds, gts, voids)
    pairs = [j_and_f(*masks) for masks in in_step(*streams)]
    if not pairs:
        raise ValueError("a sequence without frames has no score")
    j, f = np.array(pairs, dtype=np.float64).T
    return SequenceScores(j=j, f=f)


def in_step(*streams: Iterable) -> Iterator[tuple]:
    """The t-th items of all streams together, for every frame t.

    Raises:
        ValueError: The streams differ in length.
    """
    end = object()
    for t, items in enumerate(itertools.zip_longest(*streams, fillvalue=end)):
        if any(item is end for item in items):
            raise ValueError(
                f"predictions and ground truth differ in length: one ends after {t} frames, "
                "another goes on; every frame of the ground truth needs one prediction"
            )
        yield items


def recall(values: np.ndarray) -> float:
    """Share of per-frame values (T,) above 0.5, strictly."""
    return float(np.mean(np.asarray(values, dtype=np.float64) > 0.5))


def decay(values: np.ndarray) -> float:
    """Mean of the first quarter of the per-frame values (T,) less the mean of the last.

    Neighbouring quarters share their border frame, as officially. The official script keeps frame
    numbers in 8 bits and so gives nonsense from T = 256 on; this one does not.
    """
    values = np.asarray(values, dtype=np.float64)
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.int64)
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return float(np.mean(first) - np.mean(last))


def _regions(pred, gt, void, bound_th: float = BOUND_TH) -> tuple[Region, Region]:
    pred, gt = np.asarray(pred), np.asarray(gt)
    if pred.ndim != 2 or pred.shape != gt.shape:
        raise ValueError(
            f"masks must be (H, W) of one size, not {pred.shape} (prediction) and {gt.shape} "
            "(ground truth); resize the prediction to the source size first"
        )
    return Region(pred, void, bound_th), Region(gt, void, bound_th)


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """Bounding box of a mask, one pixel wider where the image goes on; (0, 0) of none.

    That pixel keeps the boundary map of the crop equal to the crop of the boundary map: an edge of
    the crop is background unless it is the image's own edge.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.s_[0:0, 0:0]
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return np.s_[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]


def _meet(origin, shape, other_origin, other_shape) -> tuple[tuple, tuple]:
    """Windows of two placed arrays that cover their common pixels, none where they are disjoint."""
    mine, theirs = [], []
    for a, n, b, m in zip(origin, shape, other_origin, other_shape, strict=True):
        start = max(a, b)
        stop = max(start, min(a + n, b + m))
        mine.append(slice(start - a, stop - a))
        theirs.append(slice(start - b, stop - b))
    return tuple(mine), tuple(theirs)


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of a binary mask (h, w) that differ from their right, lower or lower-right neighbour;
    bool or uint8 as the mask is."""
    edge = np.zeros_like(mask)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def dilate(edge: np.ndarray, radius: int) -> np.ndarray:
    """Dilation of a binary array (h, w) by the disk y^2 + x^2 <= radius^2, bool or uint8 as it is.

    The disk is a stack of horizontal runs, the shorter the farther from its centre; the runs are
    grown once, from the shortest. With a margin of `radius` nothing wraps around from row to row,
    so that a shift by any (y, x) is one shift of the flat array: several times faster than a
    convolution with the disk, and exact in integers.

    Returns:
        (h + 2 radius, w + 2 radius): with what lies up to `radius` pixels outside.
    """
    edge = np.pad(edge, radius)
    width = edge.shape[1]
    flat = edge.ravel()
    n = flat.size
    runs, dilated, grown = flat.copy(), np.zeros_like(flat), 0
    for y in range(radius, -1, -1):
        for x in range(grown + 1, math.isqrt(radius * radius - y * y) + 1):
            runs[x:] |= flat[: n - x]
            runs[: n - x] |= flat[x:]
            grown = x
        dilated[y * width :] |= runs[: n - y * width]
        dilated[: n - y * width] |= runs[y * width :]
    return dilated.reshape(edge.shape)
