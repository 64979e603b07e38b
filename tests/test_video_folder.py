"""Your own videos as a benchmark: what the metadata may say, what it may not, and every command."""

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image

from eval import benchmark as command
from eval import score
from eval.benchmarks import load_benchmark, video_folder
from eval.benchmarks.base import decode_mask
from eval.benchmarks.frames import open_frames, read_frames
from eval.benchmarks.tree import LayoutError, by_number
from eval.benchmarks.video_metadata import read_sentences, video_name
from modeling_findtrack import cli
from modeling_findtrack.video_images import IMAGE_SUFFIXES
from modeling_findtrack.video_io import open_video
from training import finetune
from training.benchmark_samples import BenchmarkSource
from training.config import BenchmarkData, Validation
from training.data import _judge, _training_split
from training.embedding_cache import EmbeddingCache
from training.samples import Place

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "training" / "configs" / "video-folder.yaml"
DAVIS_SENTENCES = ROOT / "eval" / "data" / "davis2016_sentences.jsonl"
SIZE = (48, 64)  # (H, W)
T = 6
TARGET, OTHER = 1, 3  # labels of the two blocks
_STAMPS = itertools.count(1)


def labels(t: int) -> np.ndarray:
    """(H, W) uint8: a block that moves to the right, and one that leaves after the third frame."""
    found = np.zeros(SIZE, dtype=np.uint8)
    found[8:24, 4 + 5 * t : 22 + 5 * t] = TARGET
    if t < 3:
        found[30:44, 40:60] = OTHER
    return found


def picture(t: int) -> np.ndarray:
    """(H, W, 3) uint8: the blocks on a gradient, unlike any other frame."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    frame = np.stack([y * 3, x * 2, np.full_like(x, 20 * t)], axis=-1)
    frame[labels(t) == TARGET], frame[labels(t) == OTHER] = (250, 40, 40), (40, 60, 250)
    return frame.astype(np.uint8)


def write_video(path: Path, count: int = T, size: tuple[int, int] = SIZE) -> None:
    """H.264 with B-frames and a key frame only every fourth frame, so that single frames take
    seeking."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"g": "4", "bf": "2"}
        for t in range(count):
            image = Image.fromarray(picture(t)).resize(size[::-1])
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))


def write_frames(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for t, name in enumerate(names):
        Image.fromarray(picture(t)).save(folder / name)


def write_masks(folder: Path, times, values=labels) -> None:
    folder.mkdir(parents=True)
    for t in times:
        Image.fromarray(values(t)).save(folder / f"mask_{t}.png")


def write_rows(root: Path, *entries: dict | str) -> Path:
    """metadata.jsonl; a text is a line as it stands."""
    lines = [e if isinstance(e, str) else json.dumps(e) for e in entries]
    path = root / "metadata.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    stamp = next(_STAMPS)  # else two files written at once would pass for one
    os.utime(path, ns=(stamp, stamp))
    return root


def row(expression: str = "the red block", file_name: str = "a/clip.mp4", **more) -> dict:
    return {"file_name": file_name, "expression": expression, **more}


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """Videos and masks, without metadata; not to be changed."""
    root = tmp_path_factory.mktemp("media")
    write_video(root / "a" / "clip.mp4")
    write_video(root / "b" / "clip.mp4", 4)
    write_frames(root / "frames", [f"f{t}.png" for t in range(8, 8 + T)])  # f8, f9, f10, ...
    write_masks(root / "masks", range(T))
    write_masks(root / "binary", range(T), lambda t: (labels(t) == TARGET) * np.uint8(255))
    write_masks(root / "half", range(3, T))
    write_masks(root / "black", range(T), lambda t: np.zeros(SIZE, np.uint8))
    write_masks(root / "large", range(T), lambda t: np.ones((96, 128), np.uint8))
    write_masks(root / "colour", range(T), picture)
    write_masks(root / "late", range(T), lambda t: np.full(SIZE, 7 * (t == T - 1), np.uint8))
    (root / "empty").mkdir()
    (root / "twice").mkdir()
    for name in ("0.png", "0.jpg"):
        Image.fromarray(picture(0)).save(root / "twice" / name)
    write_masks(root / "broken", range(T))
    (root / "broken" / "mask_2.png").write_bytes(b"\x89PNG")
    (root / "notes.mp4").write_text("not a video")
    return root


@pytest.fixture
def folder(media, tmp_path):
    """Makes a folder of the videos with these rows."""
    root = Path(shutil.copytree(media, tmp_path / "videos"))
    return lambda *entries: write_rows(root, *entries)


def load(root: Path, split: str = "all", **options):
    return load_benchmark("video-folder", root, split, **options)


def all_rows(benchmark) -> list[dict]:
    return [r for video in benchmark.videos for r in benchmark.rows(video)]


def masks_of(row: dict) -> np.ndarray:
    return np.stack([decode_mask(row, t) for t in range(len(row["frame_names"]))])


def truth(label: int, times=range(T)) -> np.ndarray:
    return np.stack([labels(t) == label for t in times])


# ---- rows --------------------------------------------------------------------------------------


def test_a_video_file_and_its_masks(folder, tmp_path):
    root = folder(
        row(masks="masks", object_id=TARGET),
        row("both blocks", masks="masks", object_id=[OTHER, TARGET]),
        row("whatever there is", masks="masks"),
        row("the binary block", masks="binary"),
        row("a horse", object_id=[]),
    )
    benchmark = load(root)
    assert benchmark.videos == ("a+clip.mp4",) and benchmark.has_truth
    rows = benchmark.rows("a+clip.mp4")
    assert all(set(r) == set(benchmark.features) for r in rows)
    assert [r["exp_id"] for r in rows] == ["0", "1", "2", "3", "4"]
    assert [r["expression"] for r in rows][::4] == ["the red block", "a horse"]
    assert rows[0]["frame_names"] == [f"{t:05d}" for t in range(T)]
    assert (rows[0]["height"], rows[0]["width"]) == SIZE
    both = truth(TARGET) | truth(OTHER)
    for r, expected in zip(rows, [truth(TARGET), both, both, truth(TARGET), 0 * both], strict=True):
        assert np.array_equal(masks_of(r), expected)
    assert [bool(r["obj_ids"]) for r in rows] == [True, True, True, True, False]
    decoded = list(open_video(root / "a" / "clip.mp4").frames())
    assert np.array_equal(list(open_frames(rows[0]).frames()), decoded)
    assert np.array_equal(read_frames(rows[0], [4, 0, 4]), [decoded[t] for t in (4, 0, 4)])
    assert list(benchmark.dataset(tmp_path / "cache")) == list(benchmark.stream()) == rows


def test_a_folder_of_frames_is_in_natural_order(folder, tmp_path):
    root = folder(row(file_name="./frames/", masks="masks", object_id=TARGET))
    (root / "frames" / ".hidden.png").touch()
    (root / "frames" / "notes.txt").touch()
    benchmark = load(root)
    (r,) = benchmark.rows("frames")
    assert r["frame_names"] == [f"f{t}" for t in range(8, 8 + T)]
    for t, frame in enumerate(read_frames(r, range(T))):
        assert np.array_equal(frame, picture(t))
    assert np.array_equal(masks_of(r), truth(TARGET))
    assert list(benchmark.dataset(tmp_path / "cache")) == [r]
    # As the rest of the project reads such a folder.
    names = ["f10.png", "f9.PNG", "a.jpg", "B2.png", "b10.png", "3.png", "02.png"]
    write_frames(tmp_path / "mixed", names)
    by_project = [np.asarray(f) for f in open_video(tmp_path / "mixed").frames()]
    by_loader = [np.asarray(Image.open(tmp_path / "mixed" / n)) for n in by_number(names)]
    assert np.array_equal(by_project, by_loader)
    assert video_folder.IMAGE_SUFFIXES == IMAGE_SUFFIXES


@pytest.mark.parametrize(
    ("file_name", "part", "name"),
    [
        ("clip.mp4", (0, None), "clip.mp4"),
        ("a/clip.mp4", (0, None), "a+clip.mp4"),
        ("a+clip.mp4", (0, None), "a%2Bclip.mp4"),
        ("clip.mp4", (0, 25), "clip.mp4@0-25"),
        ("clip.mp4", (25, None), "clip.mp4@25-"),
        ("clip.mp4@25-", (0, None), "clip.mp4%4025-"),
        (".a/my clip\u202f1.mp4", (0, None), "%2Ea+my%20clip%E2%80%AF1.mp4"),
        ("étang/白鳥_1.mov", (0, None), "étang+白鳥_1.mov"),
    ],
)
def test_names_of_videos_are_plain_and_readable(file_name, part, name):
    assert video_name(file_name, *part) == name


def test_names_of_videos_are_short_enough_for_a_file_system_and_differ(tmp_path):
    long = ["白" * 80 + f"/{n}/clip.mp4" for n in "ab"]
    names = [video_name(file_name, 3, 9) for file_name in long]
    assert len(set(names)) == 2
    for name in names:
        assert name.endswith("/clip.mp4@3-9".replace("/", "+"))
        (tmp_path / f".{name}.json.12345.part").touch()


def test_parts_of_a_video_are_videos_of_their_own(folder, tmp_path):
    root = folder(
        row(masks="masks", object_id=TARGET, start=0, end=3, split="train"),
        row("the blue block", masks="masks", object_id=OTHER, start=3),  # all gone by then
        row("the late one", masks="half", object_id=TARGET, start=3),
        row(file_name="frames", masks="half", object_id=TARGET, start=3, end=6),
    )
    benchmark = load(root)
    assert benchmark.videos == ("a+clip.mp4@0-3", "a+clip.mp4@3-", "frames@3-6")
    (first,), (gone, late), (images,) = map(benchmark.rows, benchmark.videos)
    assert first["frame_names"] == ["00000", "00001", "00002"]
    assert late["frame_names"] == ["00003", "00004", "00005"]
    assert images["frame_names"] == ["f11", "f12", "f13"]
    assert np.array_equal(masks_of(first), truth(TARGET, range(3)))
    for r in (late, images):
        assert np.array_equal(masks_of(r), truth(TARGET, range(3, 6)))
    assert gone["obj_ids"] == [OTHER] and not masks_of(gone).any()
    assert benchmark.warn_empty() == [("a+clip.mp4@3-", "0")]
    whole = open_video(root / "a" / "clip.mp4")
    decoded, part = list(whole.frames()), open_frames(late)
    assert len(part) == 3 and part.timestamps == whole.timestamps[3:]
    assert np.array_equal(list(part.frames()), decoded[3:])
    assert np.array_equal(list(part.frames_reversed()), decoded[:2:-1])
    assert np.array_equal(list(part.frames_reversed(1)), decoded[4:2:-1])
    assert np.array_equal(part.read([2, 0]), [decoded[5], decoded[3]])
    with pytest.raises(IndexError):
        part.read([3])
    assert list(benchmark.dataset(tmp_path / "cache")) == all_rows(benchmark)


def test_a_video_that_has_become_shorter_is_told(folder):
    root = folder(row(object_id=[], start=4))
    (r,) = load(root).rows("a+clip.mp4@4-")
    shutil.copy(root / "b" / "clip.mp4", root / "a" / "clip.mp4")
    with pytest.raises(ValueError, match=r"clip\.mp4: 4 frames, fewer than when"):
        open_frames(r)


def test_splits(folder):
    root = folder(
        row(file_name="a/clip.mp4", object_id=[], split="train"),
        row(file_name="b/clip.mp4", object_id=[], split="test"),
        row("everywhere", file_name="b/clip.mp4", object_id=[]),
    )

    def shown(split):
        return [(r["video_id"], r["exp_id"]) for r in all_rows(load(root, split))]

    a, b = "a+clip.mp4", "b+clip.mp4"
    assert shown("all") == [(a, "0"), (b, "0"), (b, "1")]
    # A sentence has the same number in every split.
    assert shown("train") == [(a, "0"), (b, "1")] and shown("test") == [(b, "0"), (b, "1")]
    with pytest.raises(ValueError, match="has split 'dev', only test, train; 'all' takes all"):
        load(root, "dev")
    with pytest.raises(ValueError, match='split is "my-split"'):
        load(root, "my-split")
    assert load(root, "train", videos=[b]).videos == (b,)
    with pytest.raises(ValueError, match="test has no video a"):
        load(root, "test", videos=[a])
    write_rows(root, row(object_id=[]))
    assert load(root, "train").videos == load(root, "test").videos == (a,)


def test_rows_may_be_written_by_any_editor(folder):
    root = folder()
    lines = [
        json.dumps(row("l'étang\u2028du cygne", object_id=[]), ensure_ascii=False),
        "",
        json.dumps(row(object_id=[], masks=None, start=None, expression_id="B", fps=25, mask="x")),
    ]
    text = "\r\n".join([*lines, "", "  ", ""])
    (root / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    rows = all_rows(load(root))
    assert [(r["exp_id"], r["expression"]) for r in rows] == [
        ("0", "l'étang\u2028du cygne"), ("B", "the red block"),
    ]  # fmt: skip


def test_the_metadata_may_lie_elsewhere(folder, tmp_path):
    root = folder(row(object_id=[]))
    other = tmp_path / "elsewhere.jsonl"
    shutil.move(root / "metadata.jsonl", other)
    assert load(root, metadata=other).videos == ("a+clip.mp4",)
    with pytest.raises(LayoutError, match="expected .*none.jsonl, .*missing"):
        load(root, metadata=tmp_path / "none.jsonl")


def test_digests(folder, tmp_path):
    root = folder(row(masks="masks", object_id=TARGET), row("a horse", object_id=[]))
    digest, inputs = load(root).digest(), load(root).input_digest()
    copy = load(shutil.copytree(root, tmp_path / "copy"))
    assert (copy.digest(), copy.input_digest()) == (digest, inputs)

    def changed(*entries) -> tuple[bool, bool]:
        now = load(write_rows(root, *entries))
        return now.digest() != digest, now.input_digest() != inputs

    horse = row("a horse", object_id=[])
    # Truth may be corrected under predictions that are made.
    assert changed(row(masks="masks", object_id=OTHER), horse) == (True, False)
    assert changed(row("the crimson block", masks="masks", object_id=TARGET), horse) == (True, True)
    assert changed(row(masks="masks", object_id=TARGET), horse) == (False, False)
    (root / "masks" / "mask_0.png").rename(root / "masks" / "a.png")
    assert load(root).digest() != digest
    assert load(root, check_frames=False).input_digest() == inputs


def test_instances_stay_small_when_they_go_to_workers(folder):
    benchmark = load(folder(row(masks="masks"), row(file_name="frames", masks="masks")))
    stored = pickle.dumps(benchmark)
    assert len(stored) < 1000 and all_rows(pickle.loads(stored)) == all_rows(benchmark)


# ---- what is refused ---------------------------------------------------------------------------

GOOD = row(masks="masks", object_id=TARGET)
REFUSED = {
    "no JSON": (["{"], ["line 1", "not JSON", "one object per line"]),
    "a list": (["[1, 2]"], ["line 1", "[1, 2], not an object"]),
    "huge number": ([GOOD, '{"start": ' + "1" * 5000 + "}"], ["line 2", "not JSON"]),
    "nested": (["[" * 100_000], ["line 1", "not JSON"]),
    "no rows": (["", "  "], ["has no rows", "one line per sentence"]),
    "no file_name": ([{"expression": "a"}], ["line 1: file_name is missing"]),
    "no expression": ([GOOD, {"file_name": "a/clip.mp4"}], ["line 2: expression is missing"]),
    "null": ([GOOD, row(None)], ["line 2: expression is missing"]),
    "blank expression": ([row(" ")], ["expression is empty"]),
    "expression no text": ([row(["a"])], ['expression is ["a"]; write a text']),
    "half a character": ([row("\ud800")], ['expression is "\\ud800"', "remove"]),
    "file_name no text": ([row(file_name=3)], ["file_name is 3; write a text"]),
    "file_name empty": ([row(file_name="")], ["file_name is empty"]),
    "file_name NUL": ([row(file_name="a\0b")], ["file_name is", "remove"]),
    "the root": ([row(file_name="./")], ['file_name is "./", which names no file']),
    "absolute": ([row(file_name="/etc/clip.mp4")], ["file_name", "below the root"]),
    "drive": ([row(file_name="C:/clip.mp4")], ["file_name", "below the root"]),
    "up": ([row(file_name="a/../../clip.mp4")], ["file_name", "without .."]),
    "backslash": ([row(file_name="a\\clip.mp4")], ["file_name", "write / between folders"]),
    "not there": (
        [row(object_id=[]), row(file_name="a/clap.mp4", object_id=[])],
        ["line 2: file_name", "is not there"],
    ),
    "name too long": ([row(file_name="a" * 300)], ["file_name", "is not there"]),
    "no video": ([row(file_name="notes.mp4")], ["file_name", "notes.mp4", "not a video"]),
    "no images": ([row(file_name="empty")], ["file_name", "holds no images"]),
    "two of a name": ([row(file_name="twice")], ["file_name", "0.jpg and 0.png", "rename"]),
    "sizes differ": ([row(file_name="mixed")], ["file_name", "different sizes"]),
    "masks up": ([row(masks="../masks")], ["line 1: masks is", "without .."]),
    "masks no text": ([row(masks=["masks"])], ["masks is", "write a text"]),
    "masks not there": ([row(masks="mask")], ["line 1: masks", "mask is no folder"]),
    "masks a file": ([row(masks="notes.mp4")], ["masks", "notes.mp4 is no folder"]),
    "fewer masks": ([row(masks="half")], ["masks", "3 PNGs", "has 6 frames", "black"]),
    "masks of another part": (
        [row(masks="half", start=1, end=3)],
        ["masks", "3 PNGs", "6 frames, 2 of them in the part", "start and end"],
    ),
    "no PNGs": ([row(masks="empty")], ["0 PNGs", "6 frames"]),
    "mask size": ([row(masks="large")], ["masks", "mask_0.png is 128x96, the frames 64x48"]),
    "mask mode": ([row(masks="colour")], ["masks", "mode RGB", "8-bit grey"]),
    "mask damaged": ([row(masks="broken")], ["masks", "mask_2.png is no readable PNG"]),
    "black": ([row(masks="black")], ["masks", "all black", '"object_id": []']),
    "label of black": ([row(masks="black", object_id=1)], ["object_id: 1", "all of them black"]),
    "no such label": (
        [GOOD, row("the disk", masks="masks", object_id=2)],
        ["line 2: object_id: 2 is in none", "only 1, 3", "correct it"],
    ),
    "one of the labels": ([row(masks="masks", object_id=[1, 9])], ["object_id: 9 is in none"]),
    "label without masks": ([row(object_id=1)], ["object_id is given, but no masks", "[]"]),
    "background": ([row(masks="masks", object_id=0)], ["object_id is 0", "1 to 255"]),
    "label no number": ([row(masks="masks", object_id="1")], ['object_id is "1"', "1 to 255"]),
    "label no whole number": ([row(masks="masks", object_id=[1.0])], ["object_id is [1.0]"]),
    "label a truth value": ([row(masks="masks", object_id=True)], ["object_id is true"]),
    "ids the same": (
        [{**GOOD, "expression_id": "x"}, {**GOOD, "expression_id": "x"}],
        ["line 2: expression_id is 'x', as in line 1", "its own"],
    ),
    "an id that is counted": (
        [GOOD, {**GOOD, "expression_id": "2"}, GOOD],
        ["line 3: expression_id is '2', as in line 2", "count 0, 1"],
    ),
    "id no text": ([{**GOOD, "expression_id": 1}], ["expression_id is 1; write a text"]),
    "id a path": ([{**GOOD, "expression_id": "../x"}], ["expression_id: '../x' is no plain"]),
    "id too long": ([{**GOOD, "expression_id": "x" * 200}], ["expression_id has more than"]),
    "split no text": ([{**GOOD, "split": 1}], ["split is 1; write a text"]),
    "split no name": ([{**GOOD, "split": "a b"}], ['split is "a b"; write letters']),
    "split all": ([{**GOOD, "split": "all"}], ["split is 'all'", "leave the field out"]),
    "start below 0": ([row(start=-1)], ["start is -1; write the number of a frame"]),
    "end no number": ([row(end="3")], ['end is "3"; write the number of a frame']),
    "end a truth value": ([row(end=True)], ["end is true; write"]),
    "end before start": ([row(start=3, end=3)], ["end is 3 and start 3"]),
    "start behind": ([row(start=6)], ["line 1: start is 6, but a/clip.mp4 has 6 frames"]),
    "end behind": ([row(start=2, end=7)], ["end is 7, but a/clip.mp4 has 6 frames"]),
    "end behind frames": ([row(file_name="frames", end=7)], ["end is 7, but frames has 6"]),
    "truth of some": ([GOOD, row("b")], ["line 2: masks and object_id are missing", "split"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_wrong_is_told_in_one_line(kind, folder, tmp_path, capsys):
    entries, words = REFUSED[kind]
    root = folder(*entries)
    if kind == "sizes differ":
        (root / "mixed").mkdir()
        for side in (20, 30):
            Image.new("RGB", (side, side)).save(root / "mixed" / f"{side}.png")
    out = tmp_path / "out"
    assert command.main(["video-folder", "--root", str(root), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("eval.benchmark: error: ")
    assert str(root / "metadata.jsonl") in error
    assert all(word in error for word in words), error
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["is no video folder", "expected metadata.jsonl", "missing", '"file_name"']),
        ("{}".encode("utf-16"), ["metadata.jsonl is not UTF-8", "save it as UTF-8"]),
    ],
)
def test_metadata_that_cannot_be_read(content, words, tmp_path, capsys):
    if content is not None:
        (tmp_path / "metadata.jsonl").write_bytes(content)
    arguments = [str(tmp_path), "--dataset", "video-folder", "--root", str(tmp_path)]
    assert score.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(word in error for word in words), error


@pytest.mark.parametrize("field", ["file_name", "masks"])
def test_links_do_not_lead_out_of_the_folder(field, folder, media):
    entry = row(file_name="frames", masks="masks")
    root = folder(entry | {field: "link"})
    (root / "link").symlink_to(root / entry[field])
    assert load(root).videos  # below the root a link is as good as what it points to
    (root / "link").unlink()
    (root / "link").symlink_to(media / entry[field])
    for check in (True, False):
        with pytest.raises(LayoutError, match=f"line 1: {field}: link is a link that leads out"):
            all_rows(load(root, check_frames=check))


def test_options_of_other_datasets_are_refused(folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["ref-sprites", "--metadata", "x.jsonl", "--out", "out"])
    assert stopped.value.code == 2
    assert "--metadata is an option of video-folder, not of ref-sprites" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        score.main(["p", "--dataset", "mevis", "--root", "r"])
    assert "mevis needs --split" in capsys.readouterr().err


# ---- the commands ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded():
    return cli.load_model("tiny", "cpu", "float32")


def run(root: Path, out: Path, *more: str) -> int:
    arguments = ["video-folder", "--root", str(root), "--device", "cpu", "--workers", "1"]
    arguments += ["--model", "tiny"]
    return command.main([*arguments, "--key-frames", "2", "--out", str(out), *more])


def test_from_videos_to_scores(folder, loaded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_model", lambda *_: loaded)
    clip = row(file_name="b/clip.mp4", masks="masks", object_id=TARGET, start=0, end=4)
    root = folder(
        clip | {"masks": "four"},
        {**clip, "expression": "a horse", "masks": None, "object_id": []},
        row(file_name="frames", masks="half", start=3),
    )
    write_masks(root / "four", range(4))
    out = tmp_path / "out"
    (tmp_path / "names").write_text("frames@3-")
    assert run(root, out, "--videos", str(tmp_path / "names")) == 0
    record = out / "records" / "frames@3-.json"
    made = record.stat().st_mtime_ns
    assert run(root, out) == 0
    assert record.stat().st_mtime_ns == made  # what is done is not done again
    printed = capsys.readouterr().out
    assert "video-folder all, 2 videos, 3 expressions; percent" in printed
    report = json.loads((out / "report.json").read_text())
    assert report["scores"]["count"] == 2 and {"N-acc", "T-acc"} < set(report["scores"])
    assert [e["no_target"] for e in report["expressions"]] == [False, True, False]
    names = {p.name for p in (out / "predictions" / "b+clip.mp4@0-4" / "0").iterdir()}
    assert names == {f"{t:05d}.png" for t in range(4)}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "b+clip.mp4@0-4" in page and str(root) not in page

    # The masks are those of the file given to the model as a whole.
    model, processor = loaded
    clip = [str(root / "b" / "clip.mp4"), ["the red block", "a horse"]]
    tracks = model.segment(*clip, processor=processor, key_frames=2)
    for exp_id, track in enumerate(tracks):
        for t, mask in enumerate(track.masks):
            path = out / "predictions" / "b+clip.mp4@0-4" / str(exp_id) / f"{t:05d}.png"
            assert np.array_equal(np.asarray(Image.open(path)), mask * np.uint8(255))

    found = tmp_path / "scores.json"
    arguments = [str(out), "--dataset", "video-folder", "--root", str(root), "--out", str(found)]
    assert score.main([*arguments, "--workers", "1"]) == 0
    assert json.loads(found.read_text())["scores"] == report["scores"]


def test_the_truth_scores_full_marks(folder, tmp_path, capsys):
    root = folder(
        row(masks="masks", object_id=OTHER, expression_id="blue"),
        row("anything", masks="masks"),
        row("a horse", object_id=[], masks="masks"),
    )
    shutil.move(root / "metadata.jsonl", tmp_path / "rows.jsonl")
    benchmark = load(root, metadata=tmp_path / "rows.jsonl")
    for r in all_rows(benchmark):
        place = tmp_path / "predictions" / r["video_id"] / r["exp_id"]
        place.mkdir(parents=True)
        for name, mask in zip(r["frame_names"], masks_of(r), strict=True):
            Image.fromarray(mask.view(np.uint8) * np.uint8(255)).save(place / f"{name}.png")
    arguments = ["--dataset", "video-folder", "--root", str(root), "--workers", "1"]
    arguments += ["--metadata", str(tmp_path / "rows.jsonl")]
    found = tmp_path / "scores.json"
    predictions = tmp_path / "predictions"
    assert score.main([str(predictions), *arguments, "--out", str(found)]) == 0
    scores = json.loads(found.read_text())["scores"]
    assert (scores["J&F"], scores["N-acc"], scores["T-acc"], scores["count"]) == (1, 1, 1, 2)
    (predictions / "a+clip.mp4" / "blue" / "00004.png").unlink()
    assert score.main([str(predictions), *arguments]) == 2
    assert "lacks 1 of 18 PNGs, a+clip.mp4/blue/00004.png" in capsys.readouterr().err


def test_without_masks_it_only_predicts(folder, loaded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_model", lambda *_: loaded)
    root = folder(row(file_name="b/clip.mp4"))
    assert run(root, tmp_path / "out") == 0
    assert "no scores: there are no masks to score against" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["scores"] is None and report["expressions"][0]["no_target"] is None
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "There are no masks to score against" in page and "server" not in page
    arguments = [str(tmp_path / "out"), "--dataset", "video-folder", "--root", str(root)]
    assert score.main(arguments) == 2
    assert "its rows need `masks`" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Video folder all has no masks to train on"):
        BenchmarkSource([load(root)], 0)


SCORING = """
import pickle, sys
from pathlib import Path
from eval.prediction_folder import EXPRESSIONS, PredictionFolder
from eval.video_scoring import score_video
benchmark = pickle.loads(Path(sys.argv[1]).read_bytes())
folder = PredictionFolder.find(sys.argv[2], {EXPRESSIONS: benchmark.videos}, True)
for video in benchmark.videos:
    score_video(benchmark, folder, "per-expression", video)
assert "torch" not in sys.modules
"""


def test_processes_that_score_do_without_torch(folder, tmp_path):
    benchmark = load(folder(row(masks="masks"), row(file_name="frames", masks="masks")))
    (tmp_path / "benchmark").write_bytes(pickle.dumps(benchmark))
    (tmp_path / "predictions" / "frames").mkdir(parents=True)
    arguments = [sys.executable, "-c", SCORING, str(tmp_path / "benchmark")]
    done = subprocess.run(
        [*arguments, str(tmp_path / "predictions")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# ---- training ----------------------------------------------------------------------------------


@pytest.fixture
def source(folder, tmp_path, monkeypatch):
    """Sentences about a video file, a part of it and a folder of frames."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    root = folder(
        row(masks="masks", object_id=TARGET),
        row("the blue block", masks="masks", object_id=OTHER),
        row("a horse", object_id=[]),
        row(masks="masks", object_id=TARGET, start=2, end=5),
        row(file_name="frames", masks="binary"),
    )
    return BenchmarkSource([load(root)], 0)


def test_frames_reached_by_seeking_are_those_of_the_video_in_order(source):
    decoded = list(open_video(source._row(0)["video_file"]).frames())
    shown = set()
    for item in range(source.length):
        r = source._row(item)
        for epoch in range(8):
            sample = source.frame(Place(epoch, item), 2, 0.0)
            t = r["frame_names"].index(sample.name.split()[-1])
            if r["video_file"] is None:
                expected = picture(t)
                assert (sample.path, sample.number) == (r["frames"][t]["path"], None)
            else:
                number = r["first_frame"] + t
                expected = decoded[number]
                assert (sample.path, sample.number) == (r["video_file"], number)
            assert np.array_equal(sample.frame, expected)
            pair = sample.pairs[0]
            assert np.array_equal(sample.target(pair), decode_mask(r, t))
            shown.add((r["video_id"], t))
    assert len(shown) == T + 3 + T


def test_clips_are_those_of_the_video_in_order(source):
    for item in range(source.length):
        for epoch in range(6):
            clip = source.clip(Place(epoch, item), 4, 2, [1, 2])
            # An item without a target has given way, so the name says which video it is.
            video = clip.name.split()[1]
            r = next(r for r in map(source._row, range(source.length)) if r["video_id"] == video)
            whole = list(open_frames(r).frames())
            first = r["first_frame"] or 0
            for frame, mask in zip(clip.frames, clip.masks[0], strict=True):
                (t,) = [t for t, other in enumerate(whole) if np.array_equal(frame, other)]
                shown = labels(first + t)
                assert any(np.array_equal(mask, shown == n) for n in (TARGET, OTHER))


def test_frames_of_one_file_do_not_share_embeddings(source, tmp_path):
    path = source._row(0)["video_file"]
    pixels = torch.arange(3.0).view(3, 1, 1, 1)

    def levels(cache, numbers):
        frames = [(path, n) for n in numbers]
        (level,) = cache.levels(frames, pixels[numbers], lambda p: (p * 10,))
        return level.flatten().tolist()

    assert levels(EmbeddingCache(tmp_path / "cache", "x"), [0, 1, 2]) == [0, 10, 20]
    again = EmbeddingCache(tmp_path / "cache", "x")
    assert levels(again, [2, 0]) == [20, 0] and (again.hits, again.misses) == (2, 0)


@pytest.mark.parametrize(
    ("split", "kept"),
    [("train", ["a+clip.mp4@0-3"]), ("test", None), ("all", ["a+clip.mp4@0-3"])],
)
def test_videos_of_validation_are_not_trained_on(split, kept, folder, capsys):
    part = row(masks="masks", object_id=TARGET)
    root = folder(
        part | {"start": 0, "end": 3, "split": "train"},
        part | {"start": 3, "split": "test"},
        row(file_name="frames", masks="masks"),  # of both
    )
    judged = Validation("video-folder", str(root), "test", videos=None)
    data, told = BenchmarkData("video-folder", str(root), split), []
    judge = _judge(judged)
    assert judge.videos == ["a+clip.mp4@3-", "frames"]
    if kept is None:
        with pytest.raises(ValueError, match="leaves none to train on"):
            _training_split(data, judged, judge, told.append)
        return
    assert list(_training_split(data, judged, judge, told.append).videos) == kept
    assert "kept apart for validation" in told[0]


def test_fine_tuning_on_a_video_file(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    root = folder(
        row("the red star", masks="masks", object_id=TARGET, end=4, split="train"),
        row("a clock", object_id=[], end=4, split="train"),
        row("the red star", masks="masks", object_id=TARGET, start=4, split="test"),
    )
    torch.set_num_threads(1)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    out = tmp_path / "run"
    changes = [
        "model=tiny", f"benchmarks.0.root={root}", f"validation.root={root}",
        "validation.key_frames=1", "steps=2", "batch_size=1", "track.frames=[2]", "track.every=1",
        "workers=0", "checkpoint_every=2", "log_every=1",
    ]  # fmt: skip
    assert finetune.main(["--config", str(CONFIG), "--out", str(out), "--set", *changes]) == 0
    lines = list(map(json.loads, (out / "log.jsonl").read_text().splitlines()))
    losses = {name.partition("/")[0] for name in lines[0]["losses"]}
    assert losses == {"find", "track", "total"}
    (measured,) = [line["validation"] for line in lines if "validation" in line]
    assert (measured["videos"], measured["expressions"]) == (1, 1)
    assert "On Video folder test" in (out / "last" / "README.md").read_text()


# ---- examples ----------------------------------------------------------------------------------


def test_the_rows_in_the_readme(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if line.startswith('    {"file_name"')]
    videos = read_sentences(write_rows(tmp_path, *lines) / "metadata.jsonl")
    assert list(videos) == ["clip.mp4", "day2+frames@40-90"]
    (car, horse), (dog,) = videos.values()
    assert (car.masks, car.object_ids, horse.object_ids) == ("masks/clip", None, ())
    assert (dog.object_ids, dog.split) == ((3,), "test")


def test_the_sentences_about_davis():
    videos = read_sentences(DAVIS_SENTENCES)
    assert len(videos) == 4
    for sentences in videos.values():
        target, *absent = sentences
        assert target.masks and target.object_ids is None and len(absent) == 3
        assert all(s.object_ids == () for s in absent)
        assert len({s.expression for s in sentences}) == 4


def test_davis_is_read_where_it_lies():
    place = Path(os.environ.get("FINDTRACK_VIDEO", ROOT / ".." / "shared" / "video")) / "davis2016"
    if not place.is_dir():
        pytest.skip("no DAVIS 2016 (set FINDTRACK_VIDEO to the folder that holds davis2016/)")
    benchmark = load(place, metadata=DAVIS_SENTENCES)
    names = ("blackswan", "car-shadow", "dog", "libby")
    assert benchmark.videos == tuple(f"JPEGImages+480p+{name}" for name in names)
    for name, video in zip(names, benchmark.videos, strict=True):
        target, *absent = benchmark.rows(video)
        for t in (0, len(target["frame_names"]) - 1):
            file = place / "Annotations" / "480p" / name / f"{target['frame_names'][t]}.png"
            assert np.array_equal(decode_mask(target, t), np.asarray(Image.open(file)) > 0)
            assert decode_mask(target, t).any()
            assert not any(decode_mask(r, t).any() for r in absent)
