"""`eval.score` on synthetic trees, the golden sets and, where there are some, real sequences."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from eval import scoring
from eval.benchmarks import load_benchmark
from eval.benchmarks.base import decode_mask
from eval.conventions import DAVIS_SEMI, DAVIS_UNSUPERVISED, PER_EXPRESSION
from eval.davis_tree import DavisTree
from eval.score import main
from eval.scoring import Result, format_scores, score_predictions
from eval.worker_pool import map_in_order
from tests import benchmark_trees as trees

ROOT = Path(__file__).parents[1]
SPLITS = {
    "ref-youtube-vos": "valid",
    "ref-davis17": "valid",
    "mevis": "valid_u",
    "ref-sprites": "valid",
}


class Case:
    """A synthetic benchmark and its truth as a folder of predictions."""

    def __init__(self, name: str, folder: Path):
        self.name, self.split = name, SPLITS[name]
        make = getattr(trees, f"make_{name.replace('-', '_')}")
        self.root = make(folder / "data")
        self.options = {}
        if name == "ref-youtube-vos":
            self.options = {"object_ids": self.root / "object_ids.json"}
        self.benchmark = load_benchmark(name, self.root, self.split, **self.options)
        self.truth = folder / "truth"
        trees.write_truth(self.benchmark, self.truth)

    def command(self, predictions: Path, *more: str) -> list[str]:
        """Arguments of `eval.score`, in this process unless `more` says otherwise."""
        options = [f"--{k.replace('_', '-')}={v}" for k, v in self.options.items()]
        return [
            str(predictions),
            *("--dataset", self.name, "--root", str(self.root), "--split", self.split),
            *("--workers", "1", *options, *more),
        ]

    def rows(self) -> list[dict]:
        return [row for video in self.benchmark.videos for row in self.benchmark.rows(video)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    made = {}

    def case(name: str) -> Case:
        if name not in made:
            made[name] = Case(name, tmp_path_factory.mktemp(name))
        return made[name]

    return case


@pytest.fixture
def edited(tmp_path):
    """A copy of a case's truth, to be changed."""

    def copy(case: Case) -> Path:
        return Path(shutil.copytree(case.truth, tmp_path / "predictions"))

    return copy


def pngs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def change(path: Path, function) -> None:
    """Rewrite a grey PNG with a function of its pixels."""
    Image.fromarray(function(np.array(Image.open(path)))).save(path)


def shift(mask: np.ndarray, down: int, right: int) -> np.ndarray:
    """What moves in is empty."""
    moved = np.zeros_like(mask)
    H, W = mask.shape
    moved[down:, right:] = mask[: H - down, : W - right]
    return moved


# An independent, straightforward J and F: whole frames, distances instead of dilations.


def slow_boundary(mask):
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here, right = padded[:-1, :-1], padded[:-1, 1:]
    below, across = padded[1:, :-1], padded[1:, 1:]
    return (here != right) | (here != below) | (here != across)


def slow_scores(pred, gt, void=None):
    """(J, F) of two masks (H, W) bool."""
    if void is not None:
        pred, gt = pred & ~void, gt & ~void
    union = (pred | gt).sum()
    j = (pred & gt).sum() / union if union else 1.0
    edges = slow_boundary(pred), slow_boundary(gt)
    if not edges[0].any() or not edges[1].any():
        return j, float(edges[0].any() == edges[1].any())
    radius = np.ceil(0.008 * np.hypot(*gt.shape))
    precision, recall = (
        np.mean(distance_transform_edt(~other)[edge] <= radius)
        for edge, other in (edges, edges[::-1])
    )
    return j, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def slow_expression(folder: Path, row: dict) -> np.ndarray:
    """Mean (J, F) over all frames."""
    values = []
    for t, name in enumerate(row["frame_names"]):
        pred = np.array(Image.open(folder / row["video_id"] / row["exp_id"] / f"{name}.png")) > 0
        values.append(slow_scores(pred, decode_mask(row, t)))
    return np.mean(values, axis=0)


def slow_matched(preds: list[np.ndarray], gts: list[np.ndarray]) -> np.ndarray:
    """(J, F) of each object (G, 2) in the best of all assignments; label maps (H, W)."""
    objects = range(1, np.where(gts[0] == 255, 0, gts[0]).max() + 1)
    proposals = range(1, max(len(objects), np.max(preds)) + 1)

    def mean(p: int, k: int) -> np.ndarray:
        frames = zip(preds, gts, strict=True)
        return np.mean([slow_scores(x == p, y == k, y == 255) for x, y in frames], axis=0)

    pairs = np.array([[mean(p, k) for k in objects] for p in proposals])
    ways = itertools.permutations(range(len(proposals)), len(objects))
    best = max(ways, key=lambda way: sum(pairs[p, k].sum() for k, p in enumerate(way)))
    return np.array([pairs[p, k] for k, p in enumerate(best)])


# The truth against itself.


@pytest.mark.parametrize("name", SPLITS)
def test_truth_is_perfect(cases, name):
    case = cases(name)
    result = score_predictions(case.benchmark, case.truth)
    assert list(result.scores)[:4] == ["J&F", "J", "F", "convention"]
    rows = [result.scores, *result.scores["others"], *result.scores.get("annotators", ())]
    for row in rows:
        for key in ("J&F", "J", "F", "J_recall", "F_recall", "N-acc", "T-acc", "Final"):
            assert row.get(key, 1.0) == 1.0, (row, key)
    expected = [(r["video_id"], r["exp_id"], r["expression"]) for r in case.rows()]
    assert [(e.video_id, e.exp_id, e.expression) for e in result.expressions] == expected
    assert all(e.empty == e.no_target for e in result.expressions)
    assert [v["video_id"] for v in result.videos] == list(case.benchmark.videos)
    assert all(v["J&F"] == 1.0 for v in result.videos) and result.missing == 0


def test_primary_conventions(cases):
    """The subsets and conventions each benchmark is reported with."""
    found = {}
    for name in SPLITS:
        scores = score_predictions(cases(name).benchmark, cases(name).truth).scores
        found[name] = [(s["subset"], s["convention"], s["count"]) for s in table_rows(scores)]
    assert found["ref-youtube-vos"] == [("all expressions", PER_EXPRESSION, 7)]
    assert found["ref-davis17"] == [
        ("mean of 4 annotators", DAVIS_UNSUPERVISED, 4),  # the bar comes after the first frame
        ("all expressions", PER_EXPRESSION, 20),
    ]
    with_target, both = "expressions with a target", "expressions with and without a target"
    both_mevis = [(with_target, PER_EXPRESSION, 7), (both, PER_EXPRESSION, 9)]
    assert found["mevis"] == both_mevis
    assert found["ref-sprites"][:3] == both_mevis + [("all but motion-only", PER_EXPRESSION, 6)]
    assert {(subset, count) for subset, _, count in found["ref-sprites"][3:]} == {
        ("kind noun", 2),
        ("kind position", 2),
        ("kind motion-only", 1),
        ("kind relation", 2),
        ("art fluent3d", 4),
        ("art noto", 3),
        ("held-out art", 4),
        ("neither held out", 3),
    }


def table_rows(scores: dict) -> list[dict]:
    return [scores, *scores["others"]]


@pytest.mark.parametrize("protocol", [DAVIS_SEMI, DAVIS_UNSUPERVISED])
def test_davis_truth_is_perfect(cases, tmp_path, protocol, capsys):
    kind, other = "Annotations", "Annotations_unsupervised"
    if protocol == DAVIS_UNSUPERVISED:
        kind, other = other, kind
    davis = tmp_path / "DAVIS"
    shutil.copytree(cases("ref-davis17").root / "DAVIS", davis)
    shutil.rmtree(davis / other)
    shutil.rmtree(davis / "JPEGImages")  # sizes and frames are those of the annotations
    for path in pngs(davis / kind / "480p"):
        labels = np.array(Image.open(path))
        labels[labels > 2] = (
            0  # void, and the bar: it comes after the first frame, so it is no object
        )
        out = tmp_path / "maps" / path.parent.name / path.name
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(out)
    command = [str(tmp_path / "maps"), "--dataset", "davis", "--root", str(davis)]
    command += ["--workers", "1", "--protocol", protocol, "--out", str(tmp_path / "r.json")]
    for split, videos in (("val", 2), ("all", 3)):
        assert main([*command, "--split", split]) == 0
        report = json.loads((tmp_path / "r.json").read_text())
        assert len(report["videos"]) == videos and report["expressions"] == []
        assert report["scores"]["J&F"] == 1.0 and report["scores"]["convention"] == protocol
    # Annotations stand for the protocol they were made for.
    maps = "2017" if protocol == DAVIS_SEMI else "unsupervised"
    assert main([*command[:-4], "--split", "val", "--annotations", maps]) == 0
    assert f"{protocol} | 100.0" in capsys.readouterr().out.splitlines()[-1]


# Predictions that are off, against the slow computation.


@pytest.mark.parametrize("name", ["ref-youtube-vos", "mevis", "ref-sprites"])
def test_shifted_masks(cases, edited, name):
    case = cases(name)
    folder = edited(case)
    for n, path in enumerate(pngs(folder)):
        change(path, lambda mask, n=n: shift(mask, n % 3, 1 + n % 2))
    result = score_predictions(case.benchmark, folder)
    slow = np.array([slow_expression(folder, row) for row in case.rows()])
    fast = [(e.scores.j_mean, e.scores.f_mean) for e in result.expressions]
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12)
    target = [bool(row["obj_ids"]) for row in case.rows()]
    j, f = slow[target].mean(axis=0)
    assert 0.3 < j < 0.95 and 0.3 < f < 1  # the test has something to see
    assert result.scores["J"] == pytest.approx(j, abs=1e-12)
    assert result.scores["F"] == pytest.approx(f, abs=1e-12)
    assert result.scores["J&F"] == pytest.approx((j + f) / 2, abs=1e-12)
    means = [[v["J"], v["F"]] for v in result.videos]
    for video, mean in zip(case.benchmark.videos, means, strict=True):
        mine = [t and r["video_id"] == video for t, r in zip(target, case.rows(), strict=True)]
        np.testing.assert_allclose(mean, slow[mine].mean(axis=0), rtol=0, atol=1e-12)


def test_overlapping_masks_of_ref_davis17(cases, edited):
    """The lower object gets the pixels that several masks claim."""
    case = cases("ref-davis17")
    folder = edited(case)
    for row in case.rows():
        for path in pngs(folder / row["video_id"] / row["exp_id"]):
            step = 2 + row["annotator"]
            change(path, lambda m, step=step: m | shift(m, 0, step) | shift(m, step, 0))
    result = score_predictions(case.benchmark, folder)
    overlaps = 0
    for annotator in range(4):
        objects = []
        for video in case.benchmark.videos:
            rows = [r for r in case.benchmark.rows(video) if r["annotator"] == annotator]
            preds, gts = [], []
            for t, name in enumerate(rows[0]["frame_names"]):
                masks = np.stack(
                    [
                        np.array(Image.open(folder / video / r["exp_id"] / f"{name}.png"))
                        for r in rows
                    ]
                )
                overlaps += ((masks > 0).sum(axis=0) > 1).sum()
                preds.append(np.where(masks.any(axis=0), masks.argmax(axis=0) + 1, 0))
                gts.append(np.array(Image.open(rows[0]["mask_images"][t]["path"])))
            objects += list(slow_matched(preds, gts))
        j, f = np.mean(objects, axis=0)
        entry = result.scores["annotators"][annotator]
        assert entry["annotator"] == annotator and entry["convention"] == DAVIS_UNSUPERVISED
        assert (entry["J"], entry["F"]) == pytest.approx((j, f), abs=1e-12)
    assert overlaps > 1000
    for key in ("J&F", "J", "F", "J_decay"):
        mean = np.mean([entry[key] for entry in result.scores["annotators"]])
        assert result.scores[key] == pytest.approx(mean, abs=1e-12)
    assert len({entry["J"] for entry in result.scores["annotators"]}) == 4
    slow = np.mean([slow_expression(folder, row) for row in case.rows()], axis=0)
    other = result.scores["others"][0]
    assert (other["J"], other["F"]) == pytest.approx(tuple(slow), abs=1e-12)


def test_swapped_objects(cases, edited):
    """Matching forgives an answer about the wrong object: 100 points under davis-unsupervised.
    The per-expression convention does not, and neither does matching by number."""
    case = cases("ref-davis17")
    folder = edited(case)
    for video in case.benchmark.videos:
        for a in range(4):  # expressions 0..3 are about object 1, 4..7 about object 2
            first, second = folder / video / str(a), folder / video / str(4 + a)
            first.rename(folder / "spare")
            second.rename(first)
            (folder / "spare").rename(second)
    scores = score_predictions(case.benchmark, folder).scores
    assert scores["J&F"] == 1.0 and scores["convention"] == DAVIS_UNSUPERVISED
    assert scores["others"][0]["J"] < 0.4
    semi = score_predictions(case.benchmark, folder, protocol=DAVIS_SEMI).scores
    assert semi["convention"] == DAVIS_SEMI and semi["J"] < 0.4


def test_object_without_expression_counts(cases, edited, caplog):
    """An object that an annotator's text leaves out is an object that was not found."""
    case = cases("ref-davis17")
    root = edited(case).parent / "data"
    shutil.copytree(case.root, root)
    text = root / "davis_text_annotations" / "Davis17_annot2.txt"
    lines = text.read_bytes().split(b"\n")
    text.write_bytes(b"\n".join(line for line in lines if not line.startswith(b"blocks ")))
    benchmark = load_benchmark("ref-davis17", root, "valid")
    sets = score_predictions(benchmark, case.truth).scores["annotators"]
    assert [s["count"] for s in sets] == [4, 4, 4, 4]
    # The disk of `blocks` is gone in one of five frames, where an empty answer is right.
    assert [s["J"] for s in sets] == pytest.approx([1, 1, (0 + 0.2 + 2) / 4, 1])


def test_no_target(cases, edited):
    """One of two expressions without a target is answered with a pixel in one frame, and one of
    seven with a target with nothing."""
    case = cases("mevis")
    folder = edited(case)
    rows = case.rows()
    nothing = next(r for r in rows if not r["obj_ids"])
    change(
        pngs(folder / nothing["video_id"] / nothing["exp_id"])[-1],
        lambda m: m | np.eye(*m.shape, dtype=np.uint8),
    )
    something = next(r for r in rows if r["obj_ids"])
    for path in pngs(folder / something["video_id"] / something["exp_id"]):
        change(path, np.zeros_like)
    result = score_predictions(case.benchmark, folder)
    for scores in table_rows(result.scores):
        assert scores["N-acc"] == 0.5 and scores["T-acc"] == 6 / 7
        assert scores["Final"] == pytest.approx((scores["J&F"] + 0.5 + 6 / 7) / 3)
    T = len(nothing["frame_names"])
    zero, all_but_one = 6 / 7, (7 - 1 + 1 + (T - 1) / T) / 9
    assert result.scores["J"] == pytest.approx(zero)
    assert result.scores["others"][0]["J"] == pytest.approx(all_but_one)
    flags = {(e.video_id, e.exp_id): (e.no_target, e.empty) for e in result.expressions}
    assert flags[nothing["video_id"], nothing["exp_id"]] == (True, False)
    assert flags[something["video_id"], something["exp_id"]] == (False, True)


def test_only_expressions_without_a_target(cases):
    case = cases("mevis")
    result = score_predictions(case.benchmark, case.truth)
    nothing = [e for e in result.expressions if e.no_target]
    scores, others = scoring._of_expressions(nothing, "mevis")
    assert (scores["J&F"], scores["count"], scores["N-acc"], scores["Final"]) == (None, 0, 1, None)
    assert others[0]["J&F"] == 1.0
    assert "100.0" in format_scores(scores | {"others": others})


def test_empty_truth_is_told(cases, tmp_path, caplog):
    case = cases("mevis")
    root = shutil.copytree(case.root, tmp_path / "data")
    trees.edit_json(root / "valid_u/mask_dict.json", lambda m: m.update({"18": [None] * 5}))
    score_predictions(load_benchmark("mevis", root, "valid_u"), case.truth)
    (record,) = caplog.records  # not of those without a target, whose truth is as empty
    assert record.levelname == "WARNING" and "in no frame of 1bc5b0f80c57/0" in record.getMessage()


def write_no_answers(labels: Path, *folders: Path) -> None:
    """A label map of zeros in each folder for each one below `labels`."""
    for path in pngs(labels):
        empty = Image.fromarray(np.zeros_like(np.array(Image.open(path))))
        for folder in folders:
            out = folder / path.relative_to(labels)
            out.parent.mkdir(parents=True, exist_ok=True)
            empty.save(out)


@pytest.mark.parametrize(
    ("layout", "protocol"),
    [
        *(("expressions", p) for p in (DAVIS_SEMI, DAVIS_UNSUPERVISED, PER_EXPRESSION)),
        *(("label maps", p) for p in (DAVIS_SEMI, DAVIS_UNSUPERVISED)),
    ],
)
def test_empty_truth_of_ref_davis17_is_told(cases, tmp_path, caplog, layout, protocol):
    case, predictions = cases("ref-davis17"), cases("ref-davis17").truth
    root = shutil.copytree(case.root, tmp_path / "data")
    labels = root / "DAVIS/Annotations_unsupervised/480p"
    for path in pngs(labels / "shapes"):
        change(path, lambda m: np.where(m == 2, np.uint8(1), m))
    if layout == "label maps":  # none of which is of one expression
        predictions = tmp_path / "maps"
        write_no_answers(labels, *(predictions / f"anno_{a}" for a in range(4)))
    score_predictions(load_benchmark("ref-davis17", root, "valid"), predictions, protocol=protocol)
    (text,) = [m for m in caplog.messages if "ignored" not in m]
    assert "in no frame of shapes/4, shapes/5, shapes/6 ... (4 in all)" in text


@pytest.mark.parametrize("protocol", [DAVIS_SEMI, DAVIS_UNSUPERVISED])
@pytest.mark.parametrize("name", ["davis", "ref-davis17"])
def test_video_without_objects_in_its_first_frame_is_told(cases, tmp_path, caplog, name, protocol):
    """Once, though Ref-DAVIS17 scores it for four annotators."""
    root = shutil.copytree(cases("ref-davis17").root, tmp_path / "data")
    labels, maps = root / "DAVIS/Annotations_unsupervised/480p", tmp_path / "maps"
    change(pngs(labels / "shapes")[0], np.zeros_like)
    if name == "davis":
        truth = DavisTree(root / "DAVIS", "val", "unsupervised")
        write_no_answers(labels, maps)
    else:
        truth = load_benchmark(name, root, "valid")
        write_no_answers(labels, *(maps / f"anno_{a}" for a in range(4)))
    result = score_predictions(truth, maps, protocol=protocol)
    (record,) = [r for r in caplog.records if "no object" in r.getMessage()]
    assert record.levelname == "WARNING" and "video shapes:" in record.getMessage()
    assert [v["video_id"] for v in result.videos if v["count"] == 0] == ["shapes"]


# What is wrong with a folder is said in one line.


def one_error(capsys, command: list[str]) -> str:
    """Exit status 2 and the only line on stderr."""
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("eval.score: error: ")
    return line


def test_missing_masks(cases, edited, capsys, tmp_path):
    case = cases("mevis")
    folder = edited(case)
    total = len(pngs(folder))
    gone = pngs(folder / "1bc5b0f80c57" / "2")[1:3] + pngs(folder / "2cd6c1091d68" / "1")
    first = gone[0].relative_to(folder).as_posix()
    expected = Path(shutil.copytree(folder, tmp_path / "zeros"))
    for path in gone:
        path.unlink()
        change(expected / path.relative_to(folder), np.zeros_like)
    (folder / "2cd6c1091d68" / "1").rmdir()
    line = one_error(capsys, case.command(folder))
    assert f"lacks {len(gone)} of {total} PNGs, {first} first" in line and "--missing empty" in line
    out = tmp_path / "r.json"
    assert main(case.command(folder, "--missing", "empty", "--out", str(out))) == 0
    assert f"{len(gone)} missing PNGs counted as empty" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["missing"] == len(gone) == 6
    assert report["scores"] == score_predictions(case.benchmark, expected).scores
    assert report["scores"]["J"] < 0.9


def write_size(path):
    Image.fromarray(np.zeros((64, 48), np.uint8)).save(path)


def write_colour(path):
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path)


def write_damaged(path):
    path.write_bytes(path.read_bytes()[:-25])


def write_jpeg(path):
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(path, format="JPEG")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (write_size, ["64x48", "48x64", "source size"]),
        (write_colour, ["mode RGB", "8-bit grey"]),
        (write_damaged, ["not a readable PNG"]),
        (write_jpeg, ["not a readable PNG"]),
    ],
)
@pytest.mark.parametrize("missing", ["error", "empty"])
def test_unusable_mask(cases, edited, capsys, spoil, words, missing):
    case = cases("mevis")
    path = pngs(edited(case))[7]
    spoil(path)
    line = one_error(capsys, case.command(path.parents[2], "--missing", missing))
    assert str(path) in line and all(word in line for word in words)


def test_unusable_label_map(cases, edited, capsys, tmp_path):
    davis = cases("ref-davis17").root / "DAVIS"
    maps = tmp_path / "maps"
    shutil.copytree(davis / "Annotations" / "480p" / "blocks", maps / "blocks")
    (tmp_path / "names.txt").write_text("blocks")
    command = [str(maps), "--dataset", "davis", "--root", str(davis), "--split", "val"]
    command += ["--workers", "1", "--videos", str(tmp_path / "names.txt")]
    assert main(command) == 0
    capsys.readouterr()
    change(maps / "blocks" / "00002.png", lambda m: np.where(m > 0, 255, 0).astype(np.uint8))
    line = one_error(capsys, command)
    assert "video blocks" in line and "frame 2" in line and "0/255" in line


def test_wrong_layout(cases, capsys, tmp_path):
    case = cases("mevis")
    nested = tmp_path / "nested" / "results" / "mine"
    shutil.copytree(case.truth, nested)
    line = one_error(capsys, case.command(tmp_path / "nested"))
    assert "<video>/<exp_id>/<frame>.png" in line and "found results" in line
    maps = tmp_path / "maps"  # label maps, where masks of expressions are wanted
    for video in case.benchmark.videos:
        shutil.copytree(case.truth / video / "0", maps / video)
    for missing in ("error", "empty"):
        line = one_error(capsys, case.command(maps, "--missing", missing))
        assert "<video>/<exp_id>/<frame>.png" in line
    assert "no such folder" in one_error(capsys, case.command(tmp_path / "nowhere"))


def test_what_nobody_asked_for_is_counted(cases, edited, caplog):
    case = cases("mevis")
    folder = edited(case)
    score_predictions(case.benchmark, folder)
    assert not caplog.records
    (folder / "zzz").mkdir()
    (folder / "1bc5b0f80c57" / "99").mkdir()
    shutil.copy(pngs(folder)[0], folder / "1bc5b0f80c57" / "0" / "77777.png")
    (folder / ".DS_Store").touch()
    assert score_predictions(case.benchmark, folder).scores["J&F"] == 1.0
    (record,) = caplog.records
    assert "ignored 3 files or folders" in record.getMessage()


@pytest.mark.parametrize(("name", "split"), [("mevis", "valid"), ("ref-youtube-vos", "test")])
def test_split_without_masks(cases, capsys, name, split):
    case = cases(name)
    command = [str(case.truth), "--dataset", name, "--root", str(case.root), "--split", split]
    line = one_error(capsys, command)
    assert split in line and "no published masks" in line and "eval.benchmark" in line


def test_unsuitable_options(cases, capsys):
    case = cases("mevis")
    line = one_error(capsys, case.command(case.truth, "--protocol", DAVIS_SEMI))
    assert "mevis can be scored as per-expression, not 'davis-semi'" in line
    with pytest.raises(SystemExit) as stop:
        main(case.command(case.truth, "--annotations", "2017"))
    assert stop.value.code == 2 and "is an option of ref-davis17" in capsys.readouterr().err


# Layouts and options.


def test_annotations_folder_and_zip(cases, tmp_path, capsys):
    case = cases("ref-youtube-vos")
    shutil.copytree(case.truth, tmp_path / "top" / "Annotations")
    shutil.make_archive(str(tmp_path / "submission"), "zip", tmp_path / "top")
    for predictions in (tmp_path / "top", tmp_path / "submission.zip"):
        assert main(case.command(predictions, "--out", str(tmp_path / "r.json"))) == 0
        assert json.loads((tmp_path / "r.json").read_text())["scores"]["J&F"] == 1.0
        capsys.readouterr()
    archive = tmp_path / "submission.zip"
    content = bytearray(archive.read_bytes())
    content[content.index(b"00000.png") + 40] ^= 255  # in the middle of its data
    archive.write_bytes(content)
    line = one_error(capsys, case.command(archive))
    assert str(archive) in line and "cannot be unpacked" in line


@pytest.mark.parametrize("top", ["", "valid"])
@pytest.mark.parametrize("protocol", [DAVIS_SEMI, DAVIS_UNSUPERVISED])
def test_label_maps_of_annotators(cases, edited, tmp_path, capsys, top, protocol):
    """The same as from the masks they were merged from."""
    case = cases("ref-davis17")
    masks, maps = edited(case), tmp_path / "maps" / top
    for n, path in enumerate(pngs(masks)):
        change(path, lambda m, n=n: shift(m, n % 4, 2))
    for row in reversed(case.rows()):  # the lower object is painted last
        for name in row["frame_names"]:
            mask = np.array(Image.open(masks / row["video_id"] / row["exp_id"] / f"{name}.png"))
            out = maps / f"anno_{row['annotator']}" / row["video_id"] / f"{name}.png"
            out.parent.mkdir(parents=True, exist_ok=True)
            labels = np.array(Image.open(out)) if out.exists() else np.zeros_like(mask)
            labels[mask > 0] = row["obj_ids"][0]
            Image.fromarray(labels).save(out)
    # Label maps with an object that comes after the first frame are refused by davis-semi.
    benchmark = load_benchmark("ref-davis17", case.root, "valid", videos=["blocks"])
    from_maps = score_predictions(benchmark, tmp_path / "maps", protocol=protocol)
    from_masks = score_predictions(benchmark, masks, protocol=protocol)
    assert from_maps.expressions == () and from_maps.scores["others"] == []
    assert from_maps.scores == from_masks.scores | {"others": []}
    assert from_maps.videos == from_masks.videos and from_maps.scores["J"] < 0.9
    line = one_error(capsys, case.command(tmp_path / "maps", "--protocol", PER_EXPRESSION))
    assert "label maps" in line and "<exp_id>" in line


def test_ref_davis17_per_expression(cases):
    """As the primary protocol; and the annotations of 2017 number objects differently."""
    case = cases("ref-davis17")
    scores = score_predictions(case.benchmark, case.truth, protocol=PER_EXPRESSION).scores
    assert (scores["J&F"], scores["convention"], scores["count"]) == (1.0, PER_EXPRESSION, 20)
    assert scores["others"] == []
    older = load_benchmark("ref-davis17", case.root, "valid", annotations="2017")
    assert score_predictions(older, case.truth, protocol=PER_EXPRESSION).scores["J"] < 0.6


def test_only_some_videos(cases, tmp_path, capsys):
    case = cases("ref-sprites")
    names = tmp_path / "names.txt"
    names.write_text(f"{case.benchmark.videos[1]}\n\n")
    out = tmp_path / "r.json"
    assert main(case.command(case.truth, "--videos", str(names), "--out", str(out))) == 0
    report = json.loads(out.read_text())
    assert [v["video_id"] for v in report["videos"]] == [case.benchmark.videos[1]]
    assert {e["video_id"] for e in report["expressions"]} == {case.benchmark.videos[1]}
    assert report["expressions"][0]["kind"] == "noun"
    capsys.readouterr()
    names.write_text("nobody\n")
    assert "nobody" in one_error(capsys, case.command(case.truth, "--videos", str(names)))


def test_every_png_is_read_once(cases, monkeypatch):
    """Predictions in any case; true label maps once for all expressions, and on Ref-DAVIS17 once
    for all expressions of an annotator."""
    seen = Counter()
    original = Image.open

    def counted(path, *args, **kwargs):
        seen[str(path)] += 1
        return original(path, *args, **kwargs)

    for name, times in (("ref-youtube-vos", 1), ("ref-davis17", 4)):
        case = cases(name)
        rows = case.rows()
        seen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", counted)
            score_predictions(case.benchmark, case.truth)
        truth = {image["path"] for row in rows for image in row["mask_images"]}
        assert max(seen[path] for path in truth) == times
        assert {seen[str(path)] for path in pngs(case.truth)} == {1}


# Workers.


def test_workers_give_the_same(cases, edited):
    case = cases("ref-davis17")
    folder = edited(case)
    for n, path in enumerate(pngs(folder)):
        change(path, lambda m, n=n: shift(m, n % 5, 1))
    one, two = (score_predictions(case.benchmark, folder, workers=w) for w in (1, 2))
    assert one.scores == two.scores and one.videos == two.videos

    def values(result: Result):
        return [(e.video_id, e.exp_id, e.facts, e.scores.j.tolist()) for e in result.expressions]

    assert values(one) == values(two) and one.scores["J"] < 0.9


def test_failing_worker(cases, edited, capsys):
    case = cases("mevis")
    path = pngs(edited(case))[-1]
    write_size(path)
    line = one_error(capsys, case.command(path.parents[2], "--workers", "2"))
    assert str(path) in line and "48x64" in line


def test_killed_worker():
    with pytest.raises(OSError, match="worker process was killed"):
        list(map_in_order(os._exit, [1, 1], workers=2))


def test_interrupted_worker_ends_without_a_word():
    """Ctrl-C reaches it as well as its parent, who is the one to tell."""
    workers = map_in_order(signal.getsignal, [signal.SIGINT] * 2, workers=2)
    assert list(workers) == [signal.SIG_DFL] * 2
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_end_with_a_killed_parent(tmp_path):
    code = (
        "import time\n"
        "from eval.worker_pool import map_in_order\n"
        "if __name__ == '__main__':\n"
        "    results = map_in_order(time.sleep, [0, 0, 600, 600], workers=2)\n"
        "    next(results), next(results)\n"
        "    import multiprocessing\n"
        "    print(*[p.pid for p in multiprocessing.active_children()], flush=True)\n"
        "    next(results)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(_runs(pid) for pid in workers)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while any(map(_runs, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(_runs, workers))


def _runs(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_interrupted_command_says_so_in_one_line(cases, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.score.score_predictions", interrupted)
    assert main(cases("mevis").command(cases("mevis").truth)) == 130
    assert capsys.readouterr() == ("", "eval.score: interrupted\n")


def test_closed_pool_leaves_nothing_running():
    before = set(multiprocessing.active_children())
    results = map_in_order(time.sleep, [0, 30, 30], workers=2)
    next(results)
    assert set(multiprocessing.active_children()) - before
    results.close()
    end = time.monotonic() + 10
    while set(multiprocessing.active_children()) - before and time.monotonic() < end:
        time.sleep(0.05)
    assert not set(multiprocessing.active_children()) - before


# Printed scores.


def test_table_names_the_convention(cases):
    scores = score_predictions(cases("ref-davis17").benchmark, cases("ref-davis17").truth).scores
    lines = format_scores(scores | {"J&F": 0.0049, "J": 0.0}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["subset", "convention", "J&F", "J", "F", "count"]
    assert cells[2] == ["mean of 4 annotators", DAVIS_UNSUPERVISED, "0.5", "0.0", "100.0", "4"]
    assert [row[1] for row in cells[2:]] == [DAVIS_UNSUPERVISED] * 5 + [PER_EXPRESSION]
    assert [row[0] for row in cells[3:7]] == [f"annotator {a}" for a in range(4)]


# Golden sets: what the official scripts say.


@pytest.mark.parametrize(
    ("protocol", "results", "key"),
    [
        (DAVIS_UNSUPERVISED, "results", "unsupervised"),
        (DAVIS_SEMI, "results_semi", "semi-supervised"),
    ],
)
def test_golden_davis(golden_dir, tmp_path, protocol, results, key):
    folder = golden_dir("davis")
    expected = json.loads((folder / "expected.json").read_text())[key]
    command = [str(folder / results), "--dataset", "davis", "--root", str(folder / "DAVIS")]
    command += ["--split", "val", "--protocol", protocol, "--out", str(tmp_path / "r.json")]
    assert main(command) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    names = {"J&F": "JF", "J": "J_M", "F": "F_M", "J_recall": "J_R", "J_decay": "J_D"}
    names |= {"F_recall": "F_R", "F_decay": "F_D"}
    scores = {official: report["scores"][ours] for ours, official in names.items()}
    assert scores == pytest.approx({k: expected[k] for k in scores}, abs=1e-12)
    objects = report["videos"][0]["objects"]
    for measure in "JF":  # the official rows are in the order of proposals
        ours = sorted(o[measure] for o in objects)
        assert ours == pytest.approx(sorted(expected[f"{measure}_per_row"].values()), abs=1e-12)


def test_golden_mevis(golden_dir, tmp_path):
    folder = golden_dir("mevis")
    expected = json.loads((folder / "expected_per_expression.json").read_text())
    command = [str(folder / "pred"), "--dataset", "mevis", "--root", str(folder)]
    command += ["--workers", "1", "--split", "valid_u"]
    assert main([*command, "--out", str(tmp_path / "r.json")]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    found = {f"{e['video_id']}_{e['exp_id']}": [e["J"], e["F"]] for e in report["expressions"]}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-12)
    official = report["scores"]["others"][0]  # counts expressions without a target too
    means = np.mean(list(expected.values()), axis=0)
    assert [official["J"], official["F"]] == pytest.approx(list(means), abs=1e-12)
    # Of the two expressions without a target one is answered with nothing throughout.
    assert (report["scores"]["N-acc"], report["scores"]["T-acc"]) == (0.5, 1.0)
    final = (report["scores"]["J&F"] + 1.5) / 3
    assert report["scores"]["Final"] == pytest.approx(final, abs=1e-12)


# Real sequences.


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Ref-DAVIS17 of every tenth frame of the DAVIS 2016 sequences, each with one object."""
    folder = Path(os.environ.get("FINDTRACK_VIDEO", ROOT / ".." / "shared" / "video")) / "davis2016"
    masks = folder / "Annotations" / "480p"
    if not masks.is_dir():
        pytest.skip("no DAVIS 2016 (set FINDTRACK_VIDEO to the folder that holds davis2016/)")
    root = tmp_path_factory.mktemp("real")
    davis, videos = root / "DAVIS", sorted(p.name for p in masks.iterdir())
    for video in videos:
        for path in pngs(masks / video)[::10]:
            frame = davis / "JPEGImages" / "480p" / video / f"{path.stem}.jpg"
            labels = davis / "Annotations_unsupervised" / "480p" / video / path.name
            for made in (frame, labels):
                made.parent.mkdir(parents=True, exist_ok=True)
            source = folder / "JPEGImages" / "480p" / video / frame.name
            frame.symlink_to(source.resolve())
            Image.fromarray((np.array(Image.open(path)) > 0).astype(np.uint8)).save(labels)
    sets, texts = davis / "ImageSets" / "2017", root / "davis_text_annotations"
    sets.mkdir(parents=True)
    texts.mkdir()
    for name in ("train", "val"):
        (sets / f"{name}.txt").write_text("".join(f"{v}\n" for v in videos))
    for name, *_ in trees.DAVIS_TEXTS:
        (texts / name).write_text("".join(f'{v} 1 "the {v}"\n' for v in videos))
    return load_benchmark("ref-davis17", root, "valid")


def test_davis_2016(tmp_path, capsys):
    """Masks of 0 and 255 as they are: one object, nothing void."""
    labels = tmp_path / "Annotations" / "480p" / "dog"
    labels.mkdir(parents=True)
    for t in range(5):
        mask = np.zeros((40, 60), np.uint8)
        mask[5:20, 5 + t : 30 + t] = 255
        Image.fromarray(mask).save(labels / f"{t:05d}.png")
    command = ["--dataset", "davis", "--root", str(tmp_path), "--split", "all", "--workers", "1"]
    assert main([str(labels.parent), *command]) == 0
    assert "davis-semi | 100.0 | 100.0 | 100.0 |     1 |" in capsys.readouterr().out
    still = tmp_path / "still" / "dog"
    still.mkdir(parents=True)
    for t in range(5):
        shutil.copy(labels / "00000.png", still / f"{t:05d}.png")
    assert main([str(still.parent), *command, "--out", str(tmp_path / "out.json")]) == 0
    expected = np.mean([(25 - t) / (25 + t) for t in (1, 2, 3)])  # neither first nor last frame
    assert json.loads((tmp_path / "out.json").read_text())["scores"]["J"] == pytest.approx(expected)


def test_a_run_is_scored_by_its_folder(cases, tmp_path, capsys):
    case = cases("mevis")
    shutil.copytree(case.truth, tmp_path / "run" / "predictions")
    (tmp_path / "run" / "run.json").write_text("{}")
    assert main(case.command(tmp_path / "run", "--limit", "1")) == 0
    assert ", 1 videos" in capsys.readouterr().out
    assert main(case.command(case.truth)) == 0
    assert ", 2 videos" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(case.command(case.truth, "--out", str(tmp_path)))


def test_real_sequences(real, tmp_path):
    trees.write_truth(real, tmp_path / "truth")
    for row in table_rows(score_predictions(real, tmp_path / "truth").scores):
        assert (row["J"], row["F"]) == (1.0, 1.0)
    shutil.copytree(tmp_path / "truth", tmp_path / "shifted")
    for path in pngs(tmp_path / "shifted"):
        change(path, lambda mask: shift(mask, 5, 9))
    result = score_predictions(real, tmp_path / "shifted")
    first = [real.rows(video)[0] for video in real.videos]  # the other annotators' are the same
    slow = np.array([slow_expression(tmp_path / "shifted", row) for row in first])
    assert slow.min() > 0.3 and slow.max() < 0.95
    for row in table_rows(result.scores):
        found = [row["J"], row["F"], row["J&F"]]
        expected = [*slow.mean(axis=0), slow.mean()]
        assert found == pytest.approx(expected, abs=1e-12), row["convention"]
    found = [[v["J"], v["F"]] for v in result.videos]
    np.testing.assert_allclose(found, slow, rtol=0, atol=1e-12)
