"""J and F against the official scores, and the properties the definitions promise."""

import ast
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from eval.metrics.jf import core
from eval.metrics.jf.core import (
    Region,
    boundary_f,
    decay,
    j_and_f,
    j_and_f_matrix,
    jaccard,
    recall,
    sequence_scores,
)


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


def _plain_j_and_f(pred, gt, void=None):
    """The definition written down directly, on the whole frame."""
    radius = int(np.ceil(0.008 * np.linalg.norm(gt.shape)))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    if void is not None:
        pred, gt = pred & ~void, gt & ~void

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


def _random_mask(rng, h, w):
    """Boxes, one pixel, nothing, everything, noise, or boxes with noise."""
    mask = np.zeros((h, w), dtype=bool)
    kind = rng.choice(["boxes", "pixel", "empty", "full", "noise", "dirty"], p=[0.4, *[0.12] * 5])
    if kind == "pixel":
        mask[rng.integers(h), rng.integers(w)] = True
    elif kind == "full":
        mask[:] = True
    elif kind == "noise":
        mask = rng.random((h, w)) < rng.uniform(0.01, 0.6)
    elif kind != "empty":
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(h), rng.integers(w)
            mask[y : y + rng.integers(1, h + 1), x : x + rng.integers(1, w + 1)] = True
        if kind == "dirty":
            mask ^= rng.random((h, w)) < 0.01
    return mask


def _random_pair(rng):
    """Masks of one odd size; half of the predictions are the truth, moved and with a few flips."""
    h, w = rng.integers(1, 160, 2)
    if rng.random() < 0.15:  # long and thin: a large tolerance at little cost
        h, w = (rng.integers(1, 12), rng.integers(900, 2000))[:: rng.choice([1, -1])]
    gt = _random_mask(rng, h, w)
    if rng.random() < 0.5:
        return _random_mask(rng, h, w), gt
    pred = np.roll(gt, rng.integers(-4, 5, 2), axis=(0, 1))
    pred[rng.integers(h), rng.integers(w)] ^= True
    return pred, gt


@pytest.mark.parametrize("with_void", [False, True])
def test_random_pairs_to_the_last_bit(with_void):
    rng = np.random.default_rng(int(with_void))
    values = []
    for _ in range(400):
        pred, gt = _random_pair(rng)
        void = _random_mask(rng, *gt.shape) if with_void else None
        values.append(j_and_f(pred, gt, void))
        assert values[-1] == _plain_j_and_f(pred, gt, void)
        assert (jaccard(pred, gt, void), boundary_f(pred, gt, void)) == values[-1]
    assert sum(0 < j < 1 and 0 < f < 1 for j, f in values) > 100  # not all of them trivial


@pytest.mark.parametrize("shape", [(480, 854), (231, 1280)])
def test_usual_sizes_to_the_last_bit(shape):
    rng = np.random.default_rng(2)
    pred, gt = rng.random((2, *shape)) < 0.001
    gt[50:200, 100:700] = True
    pred[55:210, 90:690] = True
    assert j_and_f(pred, gt) == _plain_j_and_f(pred, gt)
    assert j_and_f(np.asfortranarray(pred), gt) == j_and_f(pred, gt)


@pytest.mark.parametrize(
    ("bound_th", "expected"), [(1, 0.0), (3, 0.0), (3.5, 1.0), (4, 1.0), (0.03, 0.0), (0.031, 1.0)]
)
def test_tolerance_in_pixels_or_as_a_share_of_the_diagonal(bound_th, expected):
    lines = np.zeros((2, 60, 80), dtype=bool)
    lines[0, :, :20] = lines[1, :, :24] = True  # the boundaries lie four columns apart
    assert boundary_f(*lines, bound_th=bound_th) == expected


def _scene(rng, count, shape=(90, 130)):
    return [_random_mask(rng, *shape) for _ in range(count)]


@pytest.mark.parametrize("with_void", [False, True])
def test_all_pairs_equal_single_pairs(with_void):
    rng = np.random.default_rng(3)
    for _ in range(20):
        preds, gts = _scene(rng, 5), _scene(rng, 3)
        void = _random_mask(rng, 90, 130) if with_void else None
        matrix = j_and_f_matrix([Region(m, void) for m in preds], [Region(m, void) for m in gts])
        singles = [[j_and_f(p, g, void) for g in gts] for p in preds]
        assert matrix.shape == (5, 3, 2)
        assert matrix.tolist() == [[list(pair) for pair in row] for row in singles]
    assert j_and_f_matrix([], [Region(gts[0])]).shape == (0, 1, 2)
    assert j_and_f_matrix([Region(gts[0])], []).shape == (1, 0, 2)


def test_a_mask_is_dilated_once_however_many_it_is_compared_with(monkeypatch):
    dilate, calls = core.dilate, []
    monkeypatch.setattr(core, "dilate", lambda *args: calls.append(1) or dilate(*args))
    masks = np.zeros((6, 80, 80), dtype=bool)
    for n, mask in enumerate(masks):
        mask[n : n + 40, 10:50] = True
    regions = [Region(mask) for mask in masks]
    j_and_f_matrix(regions[:3], regions[3:])
    assert len(calls) == 6
    far = np.zeros((80, 80), dtype=bool)
    far[70:, 70:] = True
    assert Region(far).boundary_f(Region(masks[0])) == 0.0
    assert len(calls) == 6  # too far apart to need any


def test_a_region_does_not_change_with_its_mask():
    mask = np.ones((20, 30), dtype=bool)
    region, same = Region(mask), Region(mask.copy())
    mask[:] = False
    assert region.area == 600
    assert region.jaccard(same) == 1.0


def test_regions_of_different_images_are_refused():
    with pytest.raises(ValueError, match=r"\(20, 30\) and \(30, 20\)"):
        Region(np.ones((20, 30))).jaccard(Region(np.ones((30, 20))))
    with pytest.raises(ValueError, match="tolerances 1 and 2"):
        Region(np.ones((20, 30))).boundary_f(Region(np.ones((20, 30)), bound_th=2))
    with pytest.raises(ValueError, match=r"void is \(3, 3\)"):
        j_and_f(np.ones((20, 30)), np.ones((20, 30)), np.ones((3, 3)))


def test_core_stands_alone():
    tree = ast.parse(Path(core.__file__).read_text(encoding="utf-8"))
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add(node.module.partition(".")[0])
    assert roots - set(sys.stdlib_module_names) == {"numpy"}


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


@pytest.mark.parametrize("frames", [255, 256, 257, 300, 1000])
def test_decay_of_long_sequences(frames):
    values = np.linspace(1, 0, frames)
    quarter = (frames - 1) / 4
    assert decay(values) == pytest.approx(0.75, abs=1 / quarter)
    values[: frames // 3], values[-frames // 3 :] = 0.9, 0.2
    assert decay(values) == pytest.approx(0.7, abs=1e-12)


def test_sequences_of_unequal_length_or_none_are_refused():
    mask = np.zeros((4, 4), dtype=bool)
    with pytest.raises(ValueError, match="one ends after 1 frames"):
        sequence_scores([mask], [mask, mask])
    with pytest.raises(ValueError, match="one ends after 1 frames"):
        sequence_scores([mask] * 2, [mask] * 2, [mask])
    with pytest.raises(ValueError, match="without frames"):
        sequence_scores([], [])
