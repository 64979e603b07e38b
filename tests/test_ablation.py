"""The ablation of the key frame: which frame each row starts from, on a model whose scores are set
here; and the row of the model's own score, on the checkpoint that ships."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval import ablation
from eval.benchmarks.base import decode_mask
from eval.benchmarks.ref_sprites import RefSprites
from eval.sprites import score_masks
from modeling_findtrack.configuration_findtrack import FindTrackConfig
from modeling_findtrack.keyframes import sample_frames
from modeling_findtrack.modeling_findtrack import FindTrackModel
from modeling_findtrack.results import Candidate, MaskSequence, encode_mask
from tests.benchmark_trees import make_ref_sprites

DATA = Path(__file__).parents[1] / "eval" / "data" / "ref_sprites"
FIVE, FOUR = "5f09f43c409b", "601a054d51ac"  # the videos of the tree, by their length
FIRST, RANDOM = "first frame", "random frame"
CONFIDENCE, ALIGNMENT, BOTH, TRUTH = (f"K = 5, {name}" for name in ablation.RANKS)


class StubModel:
    """Finds in frame t what `JUDGED` says of it; only in frame 4 is its mask the true one.

    Its tracks are the key mask in every frame.
    """

    JUDGED = {  # frame -> predicted IoU, alignment, score
        0: (0.5, 0.5, 0.5),
        1: (0.9, 0.1, 0.5),
        2: (0.1, 0.9, 0.5),
        3: (0.6, 0.6, 0.6),
        4: (0.2, 0.2, 0.2),
    }
    choose = FindTrackModel.choose

    def __init__(self, benchmark: RefSprites, **config):
        self.config = FindTrackConfig(**config)
        self.aligner, self.dtype = "not None", "float32"
        self.device = type("Device", (), {"type": "cpu"})()
        self.rows = {video: benchmark.rows(video) for video in benchmark.videos}
        self.presence = dict.fromkeys(self.JUDGED, 0.9)
        self.found: list[tuple[str, int]] = []  # video and K of every call of find
        self.tracked: list[list[int]] = []  # key frames of every call of track

    def find(self, video, expressions, *, processor, key_frames, cache):
        name = Path(video[0]).parent.name
        self.found.append((name, key_frames))
        assert list(expressions) == [row["expression"] for row in self.rows[name]]
        frames = sample_frames(len(video), key_frames)
        return [tuple(self.candidate(row, t) for t in frames) for row in self.rows[name]]

    def candidate(self, row: dict, t: int) -> Candidate:
        mask = decode_mask(row, t)
        mask = mask if t == 4 else np.roll(mask, 6, axis=1)
        if not row["obj_ids"]:
            mask[:5, :5] = True  # taken in by a sentence without a target
        iou, alignment, score = self.JUDGED[t]
        return Candidate(t, iou, alignment, self.presence[t], score, encode_mask(mask))

    def track(self, video, keys, *, processor, cache):
        self.tracked.append([key.frame for key in keys])
        T = len(video)
        return [(MaskSequence.from_masks([key.mask] * T), np.ones(T)) for key in keys]


@pytest.fixture
def tree(tmp_path):
    return make_ref_sprites(tmp_path / "data")


@pytest.fixture
def stub(tree, monkeypatch):
    model = StubModel(RefSprites(tree, "valid"))
    monkeypatch.setattr(ablation, "load_model", lambda *_: (model, None))
    monkeypatch.setattr(ablation, "model_digest", lambda _: "0" * 64)
    return model


def _always_visible(benchmark: RefSprites) -> dict:
    """A sentence whose target is in all five frames, so that a candidate can be true in any."""
    return next(
        row
        for row in benchmark.rows(FIVE)
        if row["obj_ids"] and all(decode_mask(row, t).any() for t in range(5))
    )


def _chosen(model: StubModel, row: dict, count: int = 5) -> dict[str, int | None]:
    """Key frame by row of the table."""
    candidates = [model.candidate(row, t) for t in sample_frames(5, count)]
    chosen = ablation.choices(model, row, candidates, seed=0, count=count)
    return {label: c and c.frame for label, c in chosen.items()}


def _run(tree: Path, out: Path, *more: str) -> tuple[dict, dict]:
    assert ablation.main(["--root", str(tree), "--out", str(out), *more]) == 0
    table = json.loads((out / "table.json").read_text())
    rows = {row[0]: dict(zip(table["header"], row, strict=True)) for row in table["rows"]}
    return rows, table


def test_every_row_starts_from_its_own_frame(tree, stub):
    chosen = _chosen(stub, _always_visible(RefSprites(tree, "valid")))
    assert chosen.pop(RANDOM) in range(5)
    assert chosen == {FIRST: 0, CONFIDENCE: 1, ALIGNMENT: 2, BOTH: 3, TRUTH: 4}


def test_what_the_model_would_reject_no_row_takes(tree, stub):
    row = _always_visible(RefSprites(tree, "valid"))
    stub.presence |= {0: 0.1, 1: 0.1}
    chosen = _chosen(stub, row)
    chosen.pop(RANDOM)
    assert chosen == {FIRST: None, CONFIDENCE: 3, ALIGNMENT: 2, BOTH: 3, TRUTH: 4}
    stub.presence |= dict.fromkeys(range(5), 0.1)
    assert set(_chosen(stub, row).values()) == {None}
    nothing = row | {"mask_rles": [[] for _ in row["frames"]]}
    stub.presence |= dict.fromkeys(range(5), 0.9)
    assert set(_chosen(stub, nothing).values()) == {None}  # its candidates have no pixel


def test_score_threshold_is_about_the_score_of_the_model(tree, stub):
    stub.config.score_threshold = 0.55  # frames 1 and 2 have a higher predicted IoU or alignment
    chosen = _chosen(stub, _always_visible(RefSprites(tree, "valid")))
    assert chosen[FIRST] is None
    assert [chosen[row] for row in (CONFIDENCE, ALIGNMENT, BOTH, TRUTH)] == [3, 3, 3, 3]


def test_an_absent_target_is_no_frame_to_start_from(tree, stub):
    stub.config.accept_empty_masks = True  # as in the official code
    row = _always_visible(RefSprites(tree, "valid"))
    rles = [rles if t < 2 else [] for t, rles in enumerate(row["mask_rles"])]
    # Empty candidates agree with the empty truth of frames 2 to 4, and yet 0 and 1 are better.
    chosen = _chosen(stub, row | {"mask_rles": rles})
    assert chosen[TRUTH] == 0
    assert chosen[ALIGNMENT] == 2  # empty, and accepted


def test_a_video_is_searched_once_and_shared_tracks_are_made_once(tree, stub):
    benchmark = RefSprites(tree, "valid")
    answers = ablation.score_video(benchmark, FIVE, stub, None, seed=0, count=5)
    rows = benchmark.rows(FIVE)
    assert stub.found == [(FIVE, 5)] and len(stub.tracked) == 1
    different = [
        {frame for frame in _chosen(stub, row).values() if frame is not None} for row in rows
    ]
    assert sorted(stub.tracked[0]) == sorted(frame for frames in different for frame in frames)
    assert len(answers) == len(rows) * len(ablation.methods(stub, 5))
    for row in rows:  # what is scored belongs to the sentence and the method
        chosen = _chosen(stub, row)
        mine = [a for a in answers if a.exp_id == row["exp_id"]]
        assert [(a.method, a.text) for a in mine] == [(m, row["expression"]) for m in chosen]
        for answer in mine:
            key = stub.candidate(row, chosen[answer.method])
            assert answer == score_masks(row, answer.method, [key.mask] * 5)


def test_table_has_a_row_per_method_and_leaves_motion_only_out(tree, stub, tmp_path, capsys):
    rows, table = _run(tree, tmp_path / "out")
    assert list(rows) == ["sentences", FIRST, RANDOM, CONFIDENCE, ALIGNMENT, BOTH, TRUTH]
    counts = rows["sentences"]
    assert counts["motion-only"] > 0
    assert counts["all but motion-only"] == counts["J&F"] - counts["motion-only"]
    assert counts["N-acc"] > 0 and rows[BOTH]["N-acc"] == 0.0 and rows[BOTH]["T-acc"] == 1.0
    mine = [a for a in table["answers"] if a["method"] == BOTH]
    rest = [a for a in mine if a["kind"] not in ("motion-only", "no-target")]
    assert rows[BOTH]["all but motion-only"] == pytest.approx(
        np.mean([(a["j"] + a["f"]) / 2 for a in rest])
    )
    text = (tmp_path / "out/table.md").read_text()
    assert text == capsys.readouterr().out and "upper bound" in text


def test_labels_follow_k_and_one_frame_makes_all_rows_equal(tree, stub, tmp_path):
    rows, _ = _run(tree, tmp_path / "three", "--key-frames", "3")
    assert "K = 3, both" in rows and BOTH not in rows
    rows, _ = _run(tree, tmp_path / "one", "--key-frames", "1")
    assert {tuple(list(row.values())[1:]) for name, row in rows.items() if name != "sentences"} == {
        tuple(list(rows[FIRST].values())[1:])
    }


def test_without_an_aligner_there_is_no_row_of_it(tree, stub, tmp_path):
    stub.aligner = None
    rows, _ = _run(tree, tmp_path / "out")
    assert ALIGNMENT not in rows and {CONFIDENCE, BOTH, TRUTH} < set(rows)


def test_random_frame_depends_on_sentence_and_seed_only(tree, stub, tmp_path):
    def drawn(name: str, *more: str) -> dict:
        _, table = _run(tree, tmp_path / name, *more)
        answers = [a for a in table["answers"] if a["method"] == RANDOM]
        return {(a["video"], a["exp_id"]): a["j"] for a in answers}

    first = drawn("a")
    assert drawn("b") == first
    limited = drawn("c", "--limit", "1")
    assert limited == {key: j for key, j in first.items() if key[0] == FIVE}
    assert len(set(limited.values())) > 1  # not one draw per video
    assert any(drawn(f"seed{s}", "--seed", str(s)) != first for s in range(1, 4))


def test_interrupted_run_goes_on_where_it_stopped(tree, stub, tmp_path, monkeypatch):
    out, track = tmp_path / "out", stub.track

    def interrupted(video, *args, **kwargs):
        if FOUR in video[0]:
            raise KeyboardInterrupt
        return track(video, *args, **kwargs)

    stub.track = interrupted
    assert ablation.main(["--root", str(tree), "--out", str(out)]) == 130
    assert not (out / "table.md").exists()
    stub.track = track
    stub.found.clear()
    rows, _ = _run(tree, out)
    assert stub.found == [(FOUR, 5)]
    assert _run(tree, tmp_path / "undisturbed")[0] == rows
    # Another K, seed, model or version is another table.
    for change in (["--key-frames", "4"], ["--seed", "1"], []):
        stub.found.clear()
        if not change:
            monkeypatch.setattr(ablation, "model_digest", lambda _: "1" * 64)
        _run(tree, out, *change)
        assert {video for video, _ in stub.found} == {FIVE, FOUR}
    monkeypatch.setattr(ablation, "CACHE_VERSION", ablation.CACHE_VERSION + 1)
    stub.found.clear()
    _run(tree, out)
    assert {video for video, _ in stub.found} == {FIVE, FOUR}


def test_unusable_input_is_one_line(tmp_path, stub, capsys):
    out = tmp_path / "out"
    assert ablation.main(["--root", str(tmp_path / "nowhere"), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("eval.ablation: error: ") and error.count("\n") == 1
    assert "nowhere" in error and not out.exists()


class FewSentences(RefSprites):
    """With the first sentences of each video, to be quick."""

    def rows(self, video: str) -> list[dict]:
        return super().rows(video)[:3]


def test_score_of_both_is_what_the_model_answers():
    shipped = FewSentences(DATA, "valid", check_frames=False)
    length = {video: len(shipped.rows(video)[0]["frames"]) for video in shipped.videos}
    videos = sorted(shipped.videos, key=length.get)[:2]
    model, processor = ablation.load_model("tiny", "cpu", "float32")
    for video in videos:
        rows = shipped.rows(video)
        answers = ablation.score_video(shipped, video, model, processor, seed=0, count=5)
        both = [a for a in answers if a.method == BOTH]
        frames = [frame["path"] for frame in rows[0]["frames"]]
        tracks = model.segment(frames, [row["expression"] for row in rows], processor=processor)
        assert any(track.found for track in tracks)
        for row, answer, track in zip(rows, both, tracks, strict=True):
            expected = score_masks(row, BOTH, track.masks)
            # More tracks in one batch may turn a pixel.
            assert (answer.j, answer.f) == pytest.approx((expected.j, expected.f), abs=1e-3)
            assert answer.empty == expected.empty != track.found
