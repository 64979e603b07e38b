"""Region similarity J and boundary accuracy F of the DAVIS benchmark, exact and fast.

The definitions are those of the DAVIS 2017 evaluation (Perazzi et al. 2016, Pont-Tuset et al.
2017); every number equals the official script's to the last bit. What makes this faster is that
only the windows in which anything can happen are looked at: J and the boundaries on the bounding
box of both masks, and each dilation on the box of the other boundary.

Masks are (H, W), any non-zero pixel is foreground. `void` marks pixels that count for neither.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

BOUND_TH = 0.008  # boundary tolerance as a share of the image diagonal


def jaccard(pred: np.ndarray, gt: np.ndarray, void: np.ndarray | None = None) -> float:
    """Region similarity J: intersection over union; two empty masks agree, J = 1.

    Args:
        pred: Prediction (H, W).
        gt: Ground truth (H, W).
        void: Pixels to leave out (H, W), or None.

    Raises:
        ValueError: The masks are not of one and the same size (H, W).
    """
    pred, gt = _as_binary(pred, gt, void)
    return _jaccard(pred, gt)


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
    pred, gt = _as_binary(pred, gt, void)
    return _boundary_f(*_crop_to_content(pred, gt), _radius(gt.shape, bound_th))


def j_and_f(
    pred: np.ndarray, gt: np.ndarray, void: np.ndarray | None = None
) -> tuple[float, float]:
    """(J, F) of one frame, cheaper than the two calls apart. See `jaccard`, `boundary_f`."""
    pred, gt = _as_binary(pred, gt, void)
    radius = _radius(gt.shape, BOUND_TH)  # from the full size, before cropping
    pred, gt = _crop_to_content(pred, gt)
    return _jaccard(pred, gt), _boundary_f(pred, gt, radius)


@dataclass(frozen=True)
class SequenceScores:
    """Scores of one object in one video."""

    j: np.ndarray = field(repr=False)  # (T,) float64, J per evaluated frame
    f: np.ndarray = field(repr=False)  # (T,) float64, F per evaluated frame

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
    if voids is None:
        pairs = [j_and_f(p, g) for p, g in zip(preds, gts, strict=True)]
    else:
        pairs = [j_and_f(p, g, v) for p, g, v in zip(preds, gts, voids, strict=True)]
    if not pairs:
        raise ValueError("a sequence without frames has no score")
    j, f = np.array(pairs, dtype=np.float64).T
    return SequenceScores(j=j, f=f)


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


def _as_binary(pred, gt, void) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as contiguous uint8 of 0 and 1, void pixels cleared."""
    pred, gt = np.asarray(pred), np.asarray(gt)
    if pred.ndim != 2 or pred.shape != gt.shape:
        raise ValueError(
            f"masks must be (H, W) of one size, not {pred.shape} (prediction) and {gt.shape} "
            "(ground truth); resize the prediction to the source size first"
        )
    pred, gt = pred.astype(bool), gt.astype(bool)
    if void is not None:
        void = np.asarray(void)
        if void.shape != gt.shape:
            raise ValueError(f"void is {void.shape}, the masks are {gt.shape}")
        keep = ~void.astype(bool)
        pred, gt = pred & keep, gt & keep
    return np.ascontiguousarray(pred).view(np.uint8), np.ascontiguousarray(gt).view(np.uint8)


def _crop_to_content(pred: np.ndarray, gt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks on the bounding box of their union, one pixel wider where the image goes on.

    That pixel keeps the boundary map of the crop equal to the crop of the boundary map: an edge of
    the crop is background unless it is the image's own edge.
    """
    x, y, w, h = cv2.boundingRect(pred | gt)
    window = np.s_[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1]
    return pred[window], gt[window]


def _jaccard(pred: np.ndarray, gt: np.ndarray) -> float:
    union = np.count_nonzero(pred | gt)
    return np.count_nonzero(pred & gt) / union if union else 1.0


def _boundary_f(pred: np.ndarray, gt: np.ndarray, radius: int) -> float:
    """F of two binary masks (h, w) with a tolerance of `radius` pixels."""
    edge_pred, edge_gt = _boundary(pred), _boundary(gt)
    n_pred, n_gt = np.count_nonzero(edge_pred), np.count_nonzero(edge_gt)
    if n_pred == 0 or n_gt == 0:
        return 1.0 if n_pred == n_gt else 0.0
    precision = _hits(edge_pred, edge_gt, radius) / n_pred
    hit_rate = _hits(edge_gt, edge_pred, radius) / n_gt
    if precision + hit_rate == 0:
        return 0.0
    return 2 * precision * hit_rate / (precision + hit_rate)  # official order of operations


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels (h, w) that differ from their right, lower or lower-right neighbour."""
    edge = np.zeros_like(mask)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def _hits(edge: np.ndarray, other: np.ndarray, radius: int) -> int:
    """How many pixels of `edge` lie within `radius` of a pixel of `other`, which has some."""
    x, y, w, h = cv2.boundingRect(other)
    window = np.s_[
        max(y - radius, 0) : y + h + radius,
        max(x - radius, 0) : x + w + radius,
    ]
    near = edge[window]
    if not near.any():
        return 0
    reach = cv2.dilate(np.ascontiguousarray(other[window]), _disk(radius))
    return np.count_nonzero(near & reach)


def _radius(shape: tuple[int, int], bound_th: float) -> int:
    return math.ceil(bound_th if bound_th >= 1 else bound_th * np.linalg.norm(shape))


@lru_cache(maxsize=32)
def _disk(radius: int) -> np.ndarray:
    """Euclidean disk x^2 + y^2 <= radius^2; OpenCV's own ellipse differs from it."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)
