"""The result tables: reader, baselines, cache, numbers; on a tree small enough to check by hand."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from eval import demo, propagation, report, sprites
from eval.benchmarks.base import decode_mask
from eval.benchmarks.ref_sprites import RefSprites
from modeling_findtrack import cli
from modeling_findtrack.results import MaskSequence

T, H, W = 5, 40, 60


def _rle(mask):
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def _objects() -> dict[str, np.ndarray]:
    """Two objects (T, H, W): 7 is small and moves, 8 is large and leaves in the last frame."""
    small, large = np.zeros((2, T, H, W), dtype=bool)
    for t in range(T):
        small[t, 5:13, 5 + 4 * t : 13 + 4 * t] = True
        large[t, 20:36, 30:50] = t < T - 1
    return {"7": small, "8": large}


def _entry(text, kind, ids):
    return {"exp": text, "anno_id": ids, "kind": kind, "noun": "dog", "art": "a" if ids else None}


SENTENCES = {
    "0": _entry("the small dog", "size", [7]),
    "1": _entry("the dog below", "position", [8]),
    "2": _entry("both dogs", "noun", [7, 8]),
    "3": _entry("a cat", "no-target", []),
}


def _video(**changes) -> dict:
    return {
        "expressions": SENTENCES,
        "frames": [f"{t:05d}" for t in range(T)],
        "height": H,
        "width": W,
        "fps": 12,
        "background": "noise",
        "heldout_art": False,
        "heldout_background": False,
        "objects": [{"anno_id": 7}, {"anno_id": 8}],
    } | changes


def _write_tree(root: Path, videos: dict[str, dict]) -> Path:
    split = root / "valid"
    for name in videos:
        folder = split / "JPEGImages" / name
        folder.mkdir(parents=True)
        for t in range(T):
            cv2.imwrite(str(folder / f"{t:05d}.jpg"), np.full((H, W, 3), 10 * t, dtype=np.uint8))
    masks = {k: [_rle(m) if m.any() else None for m in ms] for k, ms in _objects().items()}
    (split / "mask_dict.json").write_text(json.dumps(masks))
    (split / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    return root


@pytest.fixture
def tree(tmp_path):
    videos = {"aa": _video(), "bb": _video(heldout_art=True)}
    return _write_tree(tmp_path / "data", videos)


@dataclass
class FakeTrack:
    masks: MaskSequence


def _name(frames: list[str]) -> str:
    """The video that a list of frame paths is of."""
    (folder,) = {Path(frame).parent for frame in frames}
    return folder.name


class FakeModel:
    """Answers with the truth when it may look at every frame, with nothing at key_frames=1."""

    def __init__(self):
        self.calls = []
        self.dtype = "float32"
        self.device = type("Device", (), {"type": "cpu"})()

    def segment(self, video, expressions, *, processor, key_frames=None, progress=None):
        self.calls.append((_name(video), tuple(expressions), key_frames))
        known = {e["exp"]: e["anno_id"] for e in SENTENCES.values()}
        objects, tracks = _objects(), []
        for text in expressions:
            masks = np.zeros((T, H, W), dtype=bool)
            for anno_id in known[text] if key_frames is None else ():
                masks |= objects[str(anno_id)]
            tracks.append(FakeTrack(MaskSequence.from_masks(masks)))
        return tracks

    def propagate(self, video, mask, *, key_frame, processor):
        count = len(list(Path(video).iterdir()))
        return MaskSequence.from_masks([mask] * count)


@pytest.fixture
def fake(monkeypatch):
    model = FakeModel()
    for module in (sprites, propagation):
        monkeypatch.setattr(module, "load_model", lambda *_: (model, None))
    monkeypatch.setattr(sprites, "model_digest", lambda _: "0" * 64)
    return model


def _run(tree, out, *more):
    assert sprites.main(["--root", str(tree), "--out", str(out), *more]) == 0
    table = json.loads((out / "table.json").read_text())
    rows = {row[0]: dict(zip(table["header"], row, strict=True)) for row in table["rows"]}
    return rows, table


def test_baselines_choose_among_the_true_masks_of_all_objects(tree):
    meta = tree / "valid/meta_expressions.json"
    videos = {"aa": _video(expressions={"0": SENTENCES["0"]})}  # no sentence about object 8
    meta.write_text(json.dumps({"videos": videos}))
    benchmark = RefSprites(tree, "valid")
    (row,), objects = benchmark.rows("aa"), benchmark.objects("aa")
    assert list(objects) == [7, 8]
    assert sprites.visible_area(objects[8]) == 16 * 20 * (T - 1)
    guess = row | {"mask_rles": sprites._guess("largest object", objects, row, seed=0)}
    assert np.array_equal([decode_mask(guess, t) for t in range(T)], _objects()["8"])
    assert np.array_equal([decode_mask(row, t) for t in range(T)], _objects()["7"])


def test_largest_object_is_right_where_it_is_the_target(tree, fake, tmp_path):
    rows, _ = _run(tree, tmp_path / "out")
    largest = rows["largest object"]
    assert largest["position"] == 1.0
    # Against the small object nothing overlaps, and no frame has both masks empty.
    assert largest["size"] == 0.0
    # Both: J is 0 in the last frame, where the large object is gone, 320 / 384 before.
    both = next(
        a
        for a in json.loads((tmp_path / "out/table.json").read_text())["answers"]
        if (a["method"], a["kind"], a["video"]) == ("largest object", "noun", "aa")
    )
    assert both["j"] == pytest.approx(320 / 384 * 4 / 5)


def test_table_counts_groups_and_accuracies(tree, fake, tmp_path):
    rows, table = _run(tree, tmp_path / "out")
    assert rows["sentences"] | {"": ""} == {
        "": "",
        "J&F": 6,
        "J": 6,
        "F": 6,
        "noun": 2,
        "position": 2,
        "size": 2,
        "relation": 0,
        "motion": 0,
        "motion-only": 0,
        "all but motion-only": 6,
        "trained": 3,
        "held-out art": 3,
        "held-out background": 0,
        "art a": 6,
        "N-acc": 2,
        "T-acc": 6,
    }
    ours, first = rows["FindTrack"], rows["key frame 0 only"]
    assert (ours["J&F"], ours["N-acc"], ours["T-acc"]) == (1.0, 1.0, 1.0)
    assert ours["relation"] is None and ours["held-out background"] is None
    assert (first["N-acc"], first["T-acc"]) == (1.0, 0.0)
    # An empty answer is right in the one frame in which the large object is absent, no other.
    assert first["J&F"] == pytest.approx((0 + 1 / T + 0) / 3)
    assert rows["largest object"]["N-acc"] == 0.0
    assert len(table["answers"]) == 2 * 4 * len(sprites.METHODS)


def test_every_art_style_has_a_column(fake, tmp_path):
    styled = {k: e | {"art": "b" if k == "1" else e["art"]} for k, e in SENTENCES.items()}
    videos = {"aa": _video(), "bb": _video(expressions=styled)}
    rows, table = _run(_write_tree(tmp_path / "data", videos), tmp_path / "out")
    assert [c for c in table["header"] if c.startswith("art ")] == ["art a", "art b"]
    assert (rows["sentences"]["art a"], rows["sentences"]["art b"]) == (5, 1)
    assert rows["largest object"]["art b"] == rows["largest object"]["position"] == 1.0
    assert rows["largest object"]["art a"] < 1.0


def test_answers_of_another_cache_version_are_scored_again(tree, fake, tmp_path, monkeypatch):
    monkeypatch.setattr(sprites, "CACHE_VERSION", sprites.CACHE_VERSION - 1)
    _run(tree, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(sprites, "load_model", lambda *_: (fake, None))
    monkeypatch.setattr(sprites, "model_digest", lambda _: "0" * 64)
    fake.calls.clear()
    _run(tree, tmp_path / "out")
    assert {call[0] for call in fake.calls} == {"aa", "bb"}


def test_devices_and_dtypes_are_those_of_the_command_line(capsys):
    assert (report.DEVICES, report.DTYPES) == (cli._DEVICES, cli._DTYPES)
    assert report.shipped.DEFAULT_MODEL == cli.DEFAULT_MODEL
    for main, needed in ((sprites.main, "--out"), (propagation.main, "--davis")):
        with pytest.raises(SystemExit) as stop:
            main([needed, "somewhere", "--device", "tpu"])
        assert stop.value.code == 2 and "'tpu'" in capsys.readouterr().err


def test_markdown_says_what_the_baselines_are(tree, fake, tmp_path, capsys):
    _run(tree, tmp_path / "out")
    text = (tmp_path / "out/table.md").read_text()
    assert text == capsys.readouterr().out
    assert "upper bounds" in text
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")] == [
        "",
        "sentences",
        *sprites.METHODS,
    ]


def test_all_sentences_of_a_video_go_into_one_call(tree, fake, tmp_path):
    _run(tree, tmp_path / "out", "--limit", "1")
    texts = tuple(e["exp"] for e in SENTENCES.values())
    assert fake.calls == [("aa", texts, None), ("aa", texts, 1)]


def test_random_object_depends_on_the_seed_only(tree, fake, tmp_path):
    def guesses(name, *more):
        _, table = _run(tree, tmp_path / name, *more)
        return [a["j"] for a in table["answers"] if a["method"] == "random object"]

    first = guesses("a")
    assert guesses("b") == first
    assert guesses("c", "--limit", "1") == first[: len(first) // 2]
    assert any(guesses(f"seed{s}", "--seed", str(s)) != first for s in range(1, 6))


def test_interrupted_run_goes_on_where_it_stopped(tree, fake, tmp_path):
    out = tmp_path / "out"
    fake_segment, fake.segment = fake.segment, None
    fake.segment = lambda video, *a, **k: (
        (_ for _ in ()).throw(KeyboardInterrupt)
        if _name(video) == "bb"
        else fake_segment(video, *a, **k)
    )
    with pytest.raises(KeyboardInterrupt):
        sprites.main(["--root", str(tree), "--out", str(out)])
    assert not (out / "table.md").exists()
    fake.segment = fake_segment
    fake.calls.clear()
    rows, _ = _run(tree, out)
    assert {call[0] for call in fake.calls} == {"bb"}
    assert rows["sentences"]["J&F"] == 6


def test_changed_data_or_model_is_scored_again(tree, fake, tmp_path, monkeypatch):
    out = tmp_path / "out"
    _run(tree, out)
    fake.calls.clear()
    _run(tree, out)
    assert fake.calls == []
    frame = tree / "valid/JPEGImages/aa/00000.jpg"
    frame.write_bytes((frame.parent / "00004.jpg").read_bytes())
    _run(tree, out)
    assert {call[0] for call in fake.calls} == {"aa"}
    fake.calls.clear()
    monkeypatch.setattr(sprites, "model_digest", lambda _: "1" * 64)
    _run(tree, out)
    assert {call[0] for call in fake.calls} == {"aa", "bb"}


def test_a_damaged_cache_file_is_scored_again(tree, fake, tmp_path):
    out = tmp_path / "out"
    _run(tree, out)
    next(out.glob("cache/*/aa.json")).write_text("{")
    fake.calls.clear()
    rows, _ = _run(tree, out)
    assert {call[0] for call in fake.calls} == {"aa"}
    assert rows["FindTrack"]["J&F"] == 1.0


def test_model_digest_follows_the_files(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    first = report.model_digest(tmp_path)
    assert report.model_digest(tmp_path) == first
    (tmp_path / "config.json").write_text("{ }")
    assert report.model_digest(tmp_path) != first
    second = report.model_digest(tmp_path)
    (tmp_path / "README.md").write_text("words")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "report.json").write_text("{}")  # what `--out MODEL/results` makes
    assert report.model_digest(tmp_path) == second
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert report.model_digest(tmp_path) != second
    assert report.model_digest("some/name") != report.model_digest("other/name")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": [{"anno_id": 7}]}, "unlisted objects"),
        ({"height": H + 1}, "is said to be 41x60"),
        ({"objects": [{"anno_id": 7}, {"anno_id": 8}, {"anno_id": 9}]}, "no list of 5 masks"),
        ({"frames": ["00000", "00001"]}, "exactly the 2 listed frames"),
        ({"expressions": {"0": _entry("a cat", "no-target", [7])}}, "no-target but refers to 1"),
        ({"expressions": {"0": {"exp": "a dog"}}}, "no anno_id of expression aa/0"),
        ({"expressions": {"0": {"exp": "a dog", "anno_id": [7]}}}, "does not follow the layout"),
    ],
)
def test_contradictions_in_the_data_are_one_line_errors(tmp_path, fake, capsys, change, message):
    tree = _write_tree(tmp_path / "data", {"aa": _video(**change)})
    assert sprites.main(["--root", str(tree), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../aa", "a/b", "/aa", "a\\b"])
def test_names_in_the_data_never_lead_out_of_its_folder(tmp_path, fake, capsys, name):
    out = tmp_path / "out"
    for video in ({name: _video()}, {"aa": _video(frames=[name])}):
        tree = _write_tree(tmp_path / "data", {"aa": _video()})
        meta = tree / "valid" / "meta_expressions.json"
        meta.write_text(json.dumps({"videos": video}))
        assert sprites.main(["--root", str(tree), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert repr(name) in error and "plain" in error and error.count("\n") == 1
        shutil.rmtree(tree)
    assert not out.exists()


def test_failed_writing_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "table.json"
    report.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        report.write_json(path, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):  # in the middle of writing
        report.write_text(path, "x" * 10**6 + "\ud800")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def _davis(root: Path, shift: int) -> Path:
    """A textured square on still ground, moving `shift` pixels per frame."""
    rng = np.random.default_rng(0)
    ground, skin = (
        cv2.GaussianBlur(rng.integers(0, 255, size, dtype=np.uint8), (5, 5), 0)
        for size in ((120, 160, 3), (50, 50, 3))
    )
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / "480p" / "square").mkdir(parents=True)
    for t in range(8):
        frame, mask = ground.copy(), np.zeros((120, 160), dtype=np.uint8)
        window = np.s_[30:80, 20 + shift * t : 70 + shift * t]
        frame[window], mask[window] = skin, 255
        cv2.imwrite(str(root / f"JPEGImages/480p/square/{t:05d}.jpg"), frame)
        cv2.imwrite(str(root / f"Annotations/480p/square/{t:05d}.png"), mask)
    return root


def test_propagation_scores_frames_after_the_first(tmp_path, fake):
    (sequence,) = propagation.read_davis(_davis(tmp_path, shift=3))
    copied, warped, ours = propagation.score_sequence(sequence, fake, None)
    assert len(copied.j) == len(warped.j) == len(ours.j) == 7
    # A square 50 wide, moved by 3t: J of its copy is (50 - 3t) / (50 + 3t).
    assert copied.j == pytest.approx([(50 - 3 * t) / (50 + 3 * t) for t in range(1, 8)])
    assert ours.j.tolist() == copied.j.tolist()  # the fake model copies too
    assert (warped.j > copied.j).all()  # though ground laid bare behind the square stays marked


def test_flow_carries_a_mask_along_with_a_panning_camera():
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 255, (120, 260, 3), dtype=np.uint8), (7, 7), 0)
    frames = [np.ascontiguousarray(wide[:, 3 * t : 3 * t + 200]) for t in range(11)]
    masks = np.zeros((11, 120, 200), dtype=bool)
    for t, mask in enumerate(masks):
        mask[40:80, 100 - 3 * t : 150 - 3 * t] = True
    warped = list(propagation.warp_by_flow(frames, masks[0]))
    assert len(warped) == 10
    assert min(propagation.sequence_scores(warped, masks[1:]).j) > 0.93


def test_propagation_prints_one_table(tmp_path, fake, capsys):
    davis = _davis(tmp_path, shift=0)
    assert propagation.main(["--davis", str(davis), "--sequences", "square"]) == 0
    header, _, square, mean = capsys.readouterr().out.splitlines()
    for method in propagation.METHODS:
        assert method in header
    assert square.split("|")[2:-1] == mean.split("|")[2:-1]
    assert {cell.strip() for cell in mean.split("|")[2:-1]} == {"1.000"}


def test_propagation_names_a_missing_sequence(tmp_path, fake, capsys):
    davis = _davis(tmp_path, shift=0)
    assert propagation.main(["--davis", str(davis), "--sequences", "cat"]) == 2
    assert "cat holds no frames" in capsys.readouterr().err
    assert propagation.main(["--davis", str(tmp_path / "nowhere")]) == 2


@pytest.fixture
def samples(tmp_path, monkeypatch) -> Path:
    """Two clips of three frames for the demo; the first is for the default model."""
    for name in ("dog", "swan"):
        folder = tmp_path / name / "masks"
        folder.mkdir(parents=True)
        for t in range(3):
            cv2.imwrite(str(folder / f"{t:05d}.png"), np.full((8, 8), 255 * (t < 2), np.uint8))
        facts = {"expression": f"the left {name}"}
        (tmp_path / name / "sample.json").write_text(json.dumps(facts))
    first = demo.Demo("real", tmp_path / "dog", None)
    monkeypatch.setattr(demo, "DEMOS", (first, demo.Demo("drawn", tmp_path / "swan", "m")))
    return tmp_path


def test_demo_scores_the_masks_it_asked_for(samples, monkeypatch, capsys):
    asked = []

    def segment(argv):
        asked.append(argv)
        out = Path(argv[argv.index("--out") + 1])
        shutil.copytree(Path(argv[1]).parent / "masks", out / "masks/0")
        if "dog" in argv[2]:  # one frame wrong
            cv2.imwrite(str(out / "masks/0/00000.png"), np.zeros((8, 8), np.uint8))
        (out / "result.json").write_text(json.dumps({"expressions": [{"id": 0}]}))
        return 0

    monkeypatch.setattr(cli, "main", segment)
    out = samples / "out"
    assert demo.main(["--out", str(out)]) == 0
    clips = [str(samples / name / "sample.mp4") for name in ("dog", "swan")]
    assert asked == [
        ["segment", clips[0], "the left dog", "--out", str(out / "real")],
        ["segment", clips[1], "the left swan", "--out", str(out / "drawn"), "--model", "m"],
    ]
    real, drawn = capsys.readouterr().out.split("\n\n", 1)
    assert "J 0.667" in real and "J 1.000" in drawn


def test_demo_stops_with_the_status_of_what_fails(samples, monkeypatch, capsys):
    monkeypatch.setattr(cli, "main", lambda argv: 2)
    assert demo.main(["--out", str(samples / "out")]) == 2
    assert "the left swan" not in capsys.readouterr().out


def test_demo_starts_with_a_real_picture_and_the_default_model():
    photo, sprites = demo.DEMOS
    assert photo.sample.parent.name == "photos" and photo.model is None
    assert sprites.sample == demo.SAMPLE and sprites.model == "tiny"
    assert all((d.sample / "sample.mp4").is_file() for d in demo.DEMOS)
