"""The conventions against the official scores of toy trees, and what they promise beyond those."""

import json
import weakref

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from eval.conventions import (
    CONVENTIONS,
    DAVIS_SEMI,
    DAVIS_UNSUPERVISED,
    PER_EXPRESSION,
    davis_semi,
    davis_unsupervised,
    no_target_scores,
    per_expression,
    summarise,
)
from eval.metrics.jf.core import SequenceScores, j_and_f
from eval.speed import plain_scores

EXACT = 1e-12
OFFICIAL = {
    "J&F": "JF",
    "J": "J_M",
    "F": "F_M",
    "J_recall": "J_R",
    "J_decay": "J_D",
    "F_recall": "F_R",
    "F_decay": "F_D",
}


def _read_maps(folder):
    return [np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))]


@pytest.mark.parametrize(
    ("score", "convention", "task", "annotations", "results"),
    [
        (davis_semi, DAVIS_SEMI, "semi-supervised", "Annotations", "results_semi"),
        (
            davis_unsupervised,
            DAVIS_UNSUPERVISED,
            "unsupervised",
            "Annotations_unsupervised",
            "results",
        ),
    ],
)
def test_golden_davis(golden_dir, score, convention, task, annotations, results):
    root = golden_dir("davis")
    official = json.loads((root / "expected.json").read_text())[task]
    truth = _read_maps(root / "DAVIS" / annotations / "480p" / "toy")
    scores = score(_read_maps(root / results / "toy"), truth)
    assert list(scores) == [1, 2, 3]
    summary = summarise(list(scores.values()), convention)
    for ours, theirs in OFFICIAL.items():
        assert summary[ours] == pytest.approx(official[theirs], abs=EXACT), ours
    rows = list(zip(official["J_per_row"].values(), official["F_per_row"].values(), strict=True))
    mine = [(s.j_mean, s.f_mean) for s in scores.values()]
    if convention == DAVIS_UNSUPERVISED:  # officially in the order of the predictions
        rows, mine = sorted(rows), sorted(mine)
    assert np.array(mine) == pytest.approx(np.array(rows), abs=EXACT)


def test_golden_mevis(golden_dir):
    root = golden_dir("mevis")
    official = json.loads((root / "expected_per_expression.json").read_text())
    videos = json.loads((root / "valid_u" / "meta_expressions.json").read_text())["videos"]
    rles = json.loads((root / "valid_u" / "mask_dict.json").read_text())
    scores, empty, no_target = {}, [], []
    for name, video in videos.items():
        for exp_id, expression in video["expressions"].items():
            truth = np.zeros((len(video["frames"]), video["height"], video["width"]), dtype=bool)
            for anno_id in expression["anno_id"]:
                for mask, rle in zip(truth, rles[str(anno_id)], strict=True):
                    if rle is not None:
                        mask |= coco_mask.decode(rle).astype(bool)
            preds = _read_maps(root / "pred" / name / exp_id)
            scores[f"{name}_{exp_id}"] = per_expression(preds, truth)
            empty.append(not np.any(preds))
            no_target.append(not expression["anno_id"])
    assert scores.keys() == official.keys()
    for key, (j, f) in official.items():
        assert scores[key].j_mean == pytest.approx(j, abs=EXACT)
        assert scores[key].f_mean == pytest.approx(f, abs=EXACT)
    summary = summarise(list(scores.values()), PER_EXPRESSION)
    assert summary["J"] == pytest.approx(0.7438843682, abs=1e-10)
    assert summary["F"] == pytest.approx(0.6500426548, abs=1e-10)
    assert summary["J&F"] == pytest.approx(0.6969635115, abs=1e-10)
    assert no_target_scores(0.6, empty, no_target) == {
        "N-acc": 0.5,
        "T-acc": 1.0,
        "Final": pytest.approx(0.7),
    }


def _video(frames=6, objects=2, shape=(60, 90)):
    """Squares side by side that move down."""
    maps = np.zeros((frames, *shape), dtype=np.uint8)
    for t in range(frames):
        for k in range(objects):
            maps[t, 5 + t : 25 + t, 5 + 25 * k : 25 + 25 * k] = k + 1
    return maps


def _ids(maps, mapping):
    """Label maps with other ids."""
    table = np.arange(256, dtype=np.uint8)
    for old, new in mapping.items():
        table[old] = new
    return table[maps]


def test_swapped_objects_are_forgiven_by_matching_alone():
    truth = _video()
    swapped = _ids(truth, {1: 2, 2: 1})
    matched = davis_unsupervised(swapped, truth)
    assert [(s.j_mean, s.f_mean) for s in matched.values()] == [(1.0, 1.0)] * 2
    assert [s.j_mean for s in davis_semi(swapped, truth).values()] == [0.0] * 2
    assert [per_expression(swapped == k, truth == k).j_mean for k in (1, 2)] == [0.0] * 2
    assert [s.jf for s in davis_semi(truth, truth).values()] == [1.0] * 2


def test_semi_leaves_out_the_first_and_last_frame():
    truth = _video(frames=5)
    pred = truth.copy()
    pred[[0, -1]] = 77  # neither scored nor looked at
    scores = davis_semi(pred, truth)
    assert [s.j.tolist() for s in scores.values()] == [[1.0] * 3] * 2
    pred = truth.copy()
    pred[1] = 0
    assert davis_semi(pred, truth)[2].j.tolist() == [0.0, 1.0, 1.0]
    for frames in (1, 2):
        with pytest.raises(ValueError, match="three at least"):
            davis_semi(truth[:frames], truth[:frames])


def test_unsupervised_counts_every_frame():
    truth = _video(frames=5)
    pred = truth.copy()
    pred[[0, -1]] = 0
    assert davis_unsupervised(pred, truth)[1].f.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_void_is_background_for_semi_and_left_out_by_unsupervised():
    truth = _video(objects=1)
    pred = truth.copy()
    truth[:, :, 25:40] = 255
    pred[:, 30:50, 25:40] = 1  # spills into void alone
    assert davis_unsupervised(pred, truth)[1].jf == 1.0
    semi = davis_semi(pred, truth)[1]
    assert semi.j_mean == pytest.approx(400 / 700)
    assert semi.j[0] == j_and_f(pred[1] == 1, truth[1] == 1)[0]


@pytest.mark.parametrize("score", [davis_semi, davis_unsupervised])
def test_objects_are_those_of_the_first_frame(score):
    truth = _video(objects=3)
    truth[0][truth[0] == 3] = 0  # the third object comes later
    truth[0, -5:] = 255  # void is no object
    assert list(score(_video(objects=2), truth)) == [1, 2]
    truth[0][truth[0] == 2] = 0
    truth[0][truth[0] == 1] = 2  # a gap in the ids: object 1 is there, never seen
    truth[1:][truth[1:] == 1] = 0
    scores = score(np.zeros_like(truth), truth)
    assert list(scores) == [1, 2]
    assert (scores[1].j_mean, scores[2].j_mean) == (1.0, 0.0)
    truth[0] = 0
    assert score(np.zeros_like(truth), truth) == {}


def test_missing_predictions_are_empty_ones():
    truth = _video(objects=3)
    pred = _ids(truth, {2: 0, 3: 0})
    for scores in (davis_semi(pred, truth), davis_unsupervised(pred, truth)):
        assert [s.jf for s in scores.values()] == [1.0, 0.0, 0.0]


def test_more_predictions_than_objects():
    truth = _video(objects=2)
    pred = truth.copy()
    pred[:, 50:55, 60:80] = 3
    with pytest.raises(ValueError, match="object id 3, the ground truth only 2"):
        davis_semi(pred, truth)
    assert [s.jf for s in davis_unsupervised(pred, truth).values()] == [1.0, 1.0]
    assert [s.jf for s in davis_unsupervised(_ids(pred, {3: 20}), truth).values()] == [1.0, 1.0]
    for too_high in (21, 255):
        with pytest.raises(ValueError, match=f"object id {too_high}"):
            davis_unsupervised(_ids(pred, {1: too_high}), truth)


def test_matching_maximises_the_sum_over_objects():
    truth = _video(objects=2)
    pred = np.zeros_like(truth)
    pred[truth > 0] = 5  # one proposal covers both: it can serve one of them only
    scores = davis_unsupervised(pred, truth)
    assert sorted(s.j_mean > 0 for s in scores.values()) == [False, True]


def _random_maps(rng, count, frames, void=False):
    maps = np.zeros((frames, 41, 57), dtype=np.uint8)
    for labels in maps:
        for k in rng.permutation(count):
            if rng.random() < 0.85:  # else absent in this frame
                y, x = rng.integers(0, 35), rng.integers(0, 50)
                labels[y : y + rng.integers(2, 30), x : x + rng.integers(2, 30)] = k + 1
        if void and rng.random() < 0.5:
            labels[:, rng.integers(57) :] = 255
    return maps


@pytest.mark.parametrize("seed", range(12))
def test_unsupervised_equals_the_plain_way_to_the_last_bit(seed):
    rng = np.random.default_rng(seed)
    truth = _random_maps(rng, rng.integers(1, 5), 5, void=seed % 2 == 1)
    pred = _random_maps(rng, rng.integers(0, 7), 5)  # ids may first show in a late frame
    scores = davis_unsupervised(pred, truth)
    plain = plain_scores(pred, truth)
    assert {k: (s.j.tolist(), s.f.tolist()) for k, s in scores.items()} == plain


@pytest.mark.parametrize("score", [davis_semi, davis_unsupervised, per_expression])
def test_frames_are_streamed(score):
    truth, alive = _video(frames=12), weakref.WeakSet()

    class Labels(np.ndarray):
        __hash__ = object.__hash__  # so that a WeakSet takes it

    def stream():
        for labels in truth:
            labels = labels.copy().view(Labels)
            alive.add(labels)
            assert len(alive) <= 6  # of 24
            yield labels

    score(stream(), stream())


@pytest.mark.parametrize("score", [davis_semi, davis_unsupervised, per_expression])
def test_frames_that_do_not_pair_up_are_refused(score):
    truth = _video()
    with pytest.raises(ValueError, match="one ends after 5 frames"):
        score(truth[:5], truth)
    with pytest.raises(ValueError, match="one ends after 5 frames"):
        score(truth, truth[:5])
    with pytest.raises(ValueError, match="of one size"):
        score(truth[:, :-1], truth)
    with pytest.raises(ValueError):
        score([], [])


@pytest.mark.parametrize("score", [davis_semi, davis_unsupervised])
def test_label_maps_are_uint8(score):
    truth = _video()
    with pytest.raises(ValueError, match="frame 0: label maps must be uint8, not float64"):
        score(truth.astype(float), truth)


def test_summary_is_the_unweighted_mean_with_its_convention():
    long = SequenceScores(j=np.array([1.0, 1.0, 0.4, 0.0]), f=np.array([1.0, 0.6, 0.6, 0.6]))
    short = SequenceScores(j=np.array([0.2]), f=np.array([0.5]))
    for convention in CONVENTIONS:
        summary = summarise([long, short], convention)
        assert list(summary) == [
            *("J&F", "J", "F", "convention", "count"),
            *("J_recall", "J_decay", "F_recall", "F_decay"),
        ]
        assert (summary["convention"], summary["count"]) == (convention, 2)
        assert summary["J"] == pytest.approx((0.6 + 0.2) / 2)
        assert summary["F"] == pytest.approx((0.7 + 0.5) / 2)
        assert summary["J&F"] == pytest.approx(0.5)
        assert (summary["J_recall"], summary["F_recall"]) == (0.25, 0.5)
        assert summary["J_decay"] == pytest.approx((long.j_decay + 0) / 2)
        json.dumps(summary)
    with pytest.raises(ValueError, match="nothing was scored"):
        summarise([], PER_EXPRESSION)
    with pytest.raises(ValueError, match="'davis' is none of davis-semi"):
        summarise([long], "davis")


def test_no_target_scores():
    empty = [True, True, False, True, False]
    no_target = [True, True, True, False, False]
    scores = no_target_scores(0.5, empty, no_target)
    assert list(scores) == ["N-acc", "T-acc", "Final"]
    assert scores["N-acc"] == pytest.approx(2 / 3)
    assert scores["T-acc"] == 0.5
    assert scores["Final"] == pytest.approx((0.5 + 2 / 3 + 0.5) / 3)
    with_target = no_target_scores(0.5, np.array([True, False]), np.array([False, False]))
    assert with_target == {"N-acc": None, "T-acc": 0.5, "Final": None}
    assert no_target_scores(None, [True], [True]) == {"N-acc": 1.0, "T-acc": None, "Final": None}
    json.dumps(with_target)
    with pytest.raises(ValueError, match="do not pair up"):
        no_target_scores(0.5, [True], [])
