"""J and F against the official scores, and the properties the definitions promise."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from eval.metrics.jf.core import boundary_f, decay, j_and_f, jaccard, recall, sequence_scores


def _golden_folder() -> Path | None:
    """Where jf.npz and jf.json lie: directly in the golden folder or in `jf` below it."""
    root = Path(os.environ.get("FINDTRACK_GOLDEN") or Path(__file__).parent / "golden")
    return next((f for f in (root / "jf", root) if (f / "jf.npz").is_file()), None)


GOLDEN = _golden_folder()
FACTS = json.loads((GOLDEN / "jf.json").read_text()) if GOLDEN else {}
needs_golden = pytest.mark.skipif(GOLDEN is None, reason="golden set jf is not there")


def _golden_pair(index: int):
    facts = FACTS["pairs"][index]
    h, w = facts["shape"]
    with np.load(GOLDEN / "jf.npz") as packed:
        pred, gt, void = (
            np.unpackbits(packed[name])[: h * w].reshape(h, w).astype(bool)
            if name in packed
            else None
            for name in (f"{kind}_{index:02d}" for kind in ("pred", "gt", "void"))
        )
    assert (void is not None) == facts["has_void"]
    return facts, pred, gt, void


@needs_golden
@pytest.mark.parametrize("index", range(len(FACTS.get("pairs", []))))
def test_golden_pairs_to_the_last_bit(index):
    facts, pred, gt, void = _golden_pair(index)
    j, f = j_and_f(pred, gt, void)
    assert (j, f) == (float.fromhex(facts["J_hex"]), float.fromhex(facts["F_hex"]))
    assert jaccard(pred, gt, void) == j
    assert boundary_f(pred, gt, void) == f


@needs_golden
def test_golden_has_all_sixteen_pairs_and_two_with_void():
    assert len(FACTS["pairs"]) == 16
    assert sum(p["has_void"] for p in FACTS["pairs"]) == 2


@needs_golden
@pytest.mark.parametrize("series", FACTS.get("db_statistics", []), ids=lambda s: f"T{s['T']}")
def test_golden_recall_and_decay(series):
    t, length = np.arange(series["T"]), series["T"]
    values = np.round(np.clip(0.9 - 0.5 * t / length + 0.2 * np.sin(1.7 * t), 0, 1), 6)
    assert recall(values) == series["recall"]
    assert decay(values) == pytest.approx(series["decay_int64_ids"], abs=1e-12)
    assert np.mean(values) == pytest.approx(series["mean"], abs=1e-12)


def _plain_j_and_f(pred, gt):
    """The definition written down directly, on the whole frame."""
    radius = int(np.ceil(0.008 * np.linalg.norm(gt.shape)))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)

    def boundary(mask):
        padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")  # the border is no boundary
        right, low, corner = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
        edge = (mask != right) | (mask != low)
        edge[:-1, :-1] |= (mask != corner)[:-1, :-1]
        return edge

    edge_p, edge_g = boundary(pred), boundary(gt)
    union = (pred | gt).sum()
    j = (pred & gt).sum() / union if union else 1.0
    if not edge_p.any() or not edge_g.any():
        return j, float(edge_p.any() == edge_g.any())
    p = (edge_p & (cv2.dilate(edge_g.astype(np.uint8), disk) > 0)).sum() / edge_p.sum()
    r = (edge_g & (cv2.dilate(edge_p.astype(np.uint8), disk) > 0)).sum() / edge_g.sum()
    return j, 2 * p * r / (p + r) if p + r else 0.0


def test_cropping_changes_nothing():
    rng = np.random.default_rng(0)
    for _ in range(300):
        h, w = rng.integers(1, 200, 2)
        masks = np.zeros((2, h, w), dtype=bool)
        for mask in masks:
            for _ in range(rng.integers(0, 3)):
                y, x = rng.integers(0, h), rng.integers(0, w)
                dy, dx = rng.integers(1, h + 1), rng.integers(1, w + 1)
                mask[y : y + dy, x : x + dx] = True
            if rng.random() < 0.3:
                mask ^= rng.random((h, w)) < 0.01
        assert j_and_f(*masks) == _plain_j_and_f(*masks)


def test_any_nonzero_pixel_is_foreground_and_inputs_stay_untouched():
    gt = np.zeros((40, 60), dtype=np.uint8)
    gt[5:20, 10:30] = 255
    pred, before = (gt > 0).astype(np.int64) * 3, gt.copy()
    assert j_and_f(pred, gt, void=np.zeros_like(gt)) == (1.0, 1.0)
    assert np.array_equal(gt, before)


def test_void_pixels_count_for_neither():
    gt, pred, void = (np.zeros((50, 50), dtype=bool) for _ in range(3))
    gt[10:20, 10:20] = True
    pred[10:20, 10:40] = True
    void[:, 20:] = True
    assert j_and_f(pred, gt) < (0.5, 1.0)
    assert j_and_f(pred, gt, void) == (1.0, 1.0)


def test_scores_are_symmetric():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 60, 80)) < 0.2
    assert j_and_f(a, b) == j_and_f(b, a)


@pytest.mark.parametrize("shapes", [((4, 5), (5, 4)), ((4, 5, 1), (4, 5, 1)), ((20,), (20,))])
def test_unequal_or_unsuitable_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="one size"):
        j_and_f(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_sequence_streams_and_averages():
    gts = np.zeros((8, 30, 40), dtype=bool)
    gts[:, 5:15, 5:15] = True
    preds = gts.copy()
    preds[6:] = False  # lost in the last quarter
    held = []

    def stream(masks):
        for mask in masks:
            held.append(mask)
            yield mask

    scores = sequence_scores(stream(preds), stream(gts))
    assert len(held) == 16
    assert scores.j.tolist() == [1.0] * 6 + [0.0] * 2
    assert (scores.j_mean, scores.f_mean, scores.jf) == (0.75, 0.75, 0.75)
    assert scores.j_recall == 0.75
    assert scores.j_decay == pytest.approx(1 - 1 / 3)  # the last quarter shares frame 5


def test_recall_is_strict():
    assert recall([0.5, 0.51, 0.4, 1.0]) == 0.5


def test_sequences_of_unequal_length_or_none_are_refused():
    mask = np.zeros((4, 4), dtype=bool)
    with pytest.raises(ValueError):
        sequence_scores([mask], [mask, mask])
    with pytest.raises(ValueError, match="without frames"):
        sequence_scores([], [])
