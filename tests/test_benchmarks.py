"""The benchmark loaders, on small trees of every layout with every defect the real ones have."""

import io
import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Features
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch.utils.data import DataLoader

from eval.benchmarks import load_benchmark, mevis
from eval.benchmarks.base import COMMON, LayoutError, decode_mask, read_labels
from eval.davis_tree import DavisTree
from tests import benchmark_trees as trees
from tests.benchmark_trees import CLIPS, SIZE, edit_json

MAKERS = {
    "ref-youtube-vos": trees.make_ref_youtube_vos,
    "ref-davis17": trees.make_ref_davis17,
    "mevis": trees.make_mevis,
    "ref-sprites": trees.make_ref_sprites,
}
SPLITS = [(name, split) for name, split in CLIPS]
# One split with truth per benchmark.
SCORED = [
    ("ref-youtube-vos", "train"),
    ("ref-davis17", "valid"),
    ("mevis", "valid_u"),
    ("ref-sprites", "valid"),
]
MEVIS = ("train", "valid_u", "valid", "test")
SHIPPED = Path(__file__).parents[1] / "eval/data/ref_sprites"


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """Benchmark -> root of its tree; not to be changed."""
    base = tmp_path_factory.mktemp("benchmarks")
    return {name: make(base / name) for name, make in MAKERS.items()}


@pytest.fixture
def tree(pristine, tmp_path):
    """Copy of a benchmark's tree, to be damaged."""
    return lambda name: Path(shutil.copytree(pristine[name], tmp_path / name))


def _rows(benchmark) -> list[dict]:
    return [row for video in benchmark.videos for row in benchmark.rows(video)]


def _by_exp(benchmark, video: str) -> dict[str, dict]:
    return {row["exp_id"]: row for row in benchmark.rows(video)}


def _masks(row: dict) -> np.ndarray:
    return np.stack([decode_mask(row, t) for t in range(len(row["frame_names"]))])


def _digest_of(files: Path) -> dict:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files.rglob("*") if p.is_file()}


# What every benchmark has in common.


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_rows_are_the_same_listed_mapped_and_streamed(pristine, tmp_path, name, split):
    before = _digest_of(pristine[name])
    benchmark = load_benchmark(name, pristine[name], split)
    rows = _rows(benchmark)
    assert all(list(row) != [] and set(row) == set(benchmark.features) for row in rows)
    mapped, streamed = benchmark.dataset(tmp_path / "cache"), benchmark.stream()
    assert list(mapped) == list(streamed) == rows
    assert mapped.features == streamed.features == benchmark.features
    assert str(mapped.split) == split
    assert streamed.num_shards == len(benchmark.videos)
    assert isinstance(benchmark.features, Features) and set(COMMON) < set(benchmark.features)
    assert _digest_of(pristine[name]) == before  # read in place


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_frames_are_those_of_the_clip(pristine, name, split):
    benchmark = load_benchmark(name, pristine[name], split)
    clips = sorted(CLIPS[name, split], key=lambda clip: clip.name)
    assert benchmark.videos == tuple(clip.name for clip in clips)
    for clip in clips:
        for row in benchmark.rows(clip.name):
            assert row["video_id"] == clip.name and row["frame_names"] == list(clip.frames)
            assert (row["height"], row["width"]) == SIZE
            for name, frame in zip(clip.frames, row["frames"], strict=True):
                assert frame["bytes"] is None and Path(frame["path"]).stem == name
                with Image.open(frame["path"]) as image:
                    assert image.size == SIZE[::-1]


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_stream_feeds_workers_and_nodes_each_row_once(pristine, name, split):
    stream = load_benchmark(name, pristine[name], split).stream()
    expected = [(r["video_id"], r["exp_id"]) for r in stream]
    loader = DataLoader(stream, batch_size=None, num_workers=2)
    assert sorted((r["video_id"], r["exp_id"]) for r in loader) == sorted(expected)
    nodes = [split_dataset_by_node(stream, rank, world_size=2) for rank in range(2)]
    parts = [[(r["video_id"], r["exp_id"]) for r in node] for node in nodes]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(expected)


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_mapped_rows_follow_the_files_and_not_the_cache(tree, tmp_path, name, split):
    root = tree(name)
    meta = {
        "ref-youtube-vos": "meta_expressions/train/meta_expressions.json",
        "ref-davis17": "davis_text_annotations/Davis17_annot1.txt",
        "mevis": "valid_u/meta_expressions_v2.json",
        "ref-sprites": "valid/meta_expressions.json",
    }[name]
    original = (root / meta).read_bytes()

    def texts():
        benchmark = load_benchmark(name, root, split)
        rows = benchmark.dataset(tmp_path / "cache")["expression"]
        assert list(rows) == [row["expression"] for row in _rows(benchmark)]
        return list(rows), benchmark.digest()

    first = texts()
    assert texts() == first
    (root / meta).write_bytes(original.replace(b"red square", b"pale cube"))
    changed = texts()
    assert changed[0] != first[0] and changed[1] != first[1]
    assert [t.replace("pale cube", "red square") for t in changed[0]] == first[0]
    (root / meta).write_bytes(original)
    assert texts() == first


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_digest_is_of_the_content_not_of_the_place(pristine, tree, name, split):
    here, there = (load_benchmark(name, r, split) for r in (pristine[name], tree(name)))
    assert here.digest() == there.digest()
    fewer = load_benchmark(name, pristine[name], split, videos=[here.videos[0]])
    assert fewer.digest() != here.digest()


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_digest_sees_the_size_of_frames(tree, name, split):
    root = tree(name)
    before = load_benchmark(name, root, split)
    digest, inputs = before.digest(), before.input_digest()
    Image.new("RGB", (32, 24)).save(before.rows(before.videos[1])[0]["frames"][0]["path"])
    after = load_benchmark(name, root, split, check_frames=False)
    assert after.digest() != digest and after.input_digest() == inputs


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_inputs_are_known_without_a_look_at_frames(tree, name, split):
    root = tree(name)
    whole = load_benchmark(name, root, split)
    part = load_benchmark(name, root, split, videos=whole.videos[:1])
    assert part.split_videos == whole.videos and part.input_digest() == whole.input_digest()
    for suffix in ("jpg", "png") if name != "ref-davis17" else ("png",):
        for path in root.rglob(f"{whole.videos[1]}/*.{suffix}"):
            path.unlink()
    with pytest.raises(LayoutError, match="missing|hold"):
        load_benchmark(name, root, split)
    unchecked = load_benchmark(name, root, split, check_frames=False)
    assert unchecked.videos == whole.videos
    assert unchecked.input_digest() == whole.input_digest()
    assert load_benchmark(name, root, split, videos=whole.videos[:1]).videos == whole.videos[:1]


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_inputs_are_expressions_and_frames_and_not_the_truth(tree, name, split):
    root = tree(name)
    file, old, new = {
        "ref-youtube-vos": (
            "meta_expressions/train/meta_expressions.json",
            *('"obj_id": "2"', '"obj_id": "1"'),
        ),
        "ref-davis17": ("davis_text_annotations/Davis17_annot1.txt", "", ""),
        "mevis": ("valid_u/meta_expressions_v2.json", '"anno_id": [19]', '"anno_id": [18]'),
        "ref-sprites": ("valid/meta_expressions.json", '"anno_id": [19]', '"anno_id": [18]'),
    }[name]
    options = {"annotations": "2017"} if name == "ref-davis17" else {}
    text = (root / file).read_text()

    def digests(content, **options):
        (root / file).write_text(content)
        benchmark = load_benchmark(name, root, split, **options)
        return benchmark.digest(), benchmark.input_digest()

    before, truth = digests(text), digests(text.replace(old, new), **options)
    assert truth[0] != before[0] and truth[1] == before[1]
    worded = digests(text.replace("red square", "pale cube"))
    assert worded[1] != before[1]


def test_inputs_do_not_depend_on_known_objects(pristine):
    root = pristine["ref-youtube-vos"]
    with_truth = load_benchmark(
        "ref-youtube-vos", root, "valid", object_ids=root / "object_ids.json"
    )
    plain = load_benchmark("ref-youtube-vos", root, "valid")
    assert plain.input_digest() == with_truth.input_digest()
    assert plain.digest() != with_truth.digest()


def test_davis_trees_ignore_what_file_managers_leave(tree):
    root = tree("ref-davis17") / "DAVIS"
    labels = root / "Annotations_unsupervised/480p"
    before = DavisTree(root, "all", "unsupervised").label_maps("blocks")
    (labels / "blocks/._00000.png").touch()
    (labels / ".thumbnails").mkdir()
    davis = DavisTree(root, "all", "unsupervised")
    assert davis.label_maps("blocks") == before
    assert davis.videos == ("blocks", "classic-car", "shapes")


def test_rows_do_not_depend_on_the_working_directory(pristine, tmp_path, monkeypatch):
    monkeypatch.chdir(pristine["mevis"].parent)
    benchmark = load_benchmark("mevis", "mevis", "valid_u")
    cached = benchmark.dataset(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    for row in (cached[0], benchmark.rows(benchmark.videos[0])[0]):
        assert Path(row["frames"][0]["path"]).is_file()


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_videos_can_be_chosen(pristine, name, split):
    names = load_benchmark(name, pristine[name], split).videos
    two = load_benchmark(name, pristine[name], split, videos=[names[1], names[0], names[1]])
    assert two.videos == names[:2]
    assert load_benchmark(name, pristine[name], split, videos=names[1:]).videos == names[1:]
    with pytest.raises(ValueError, match=f"{split} has no video nowhere, or-here"):
        load_benchmark(name, pristine[name], split, videos=["or-here", names[0], "nowhere"])
    with pytest.raises(ValueError, match="no video"):
        load_benchmark(name, pristine[name], split, videos=[])


@pytest.mark.parametrize("name", MAKERS)
def test_a_wrong_tree_is_told_in_one_message(tmp_path, name):
    split = dict(SCORED)[name]
    with pytest.raises(LayoutError) as error:
        load_benchmark(name, tmp_path / "elsewhere", split)
    message = str(error.value)
    assert "expected" in message and "missing" in message and "\n" not in message
    assert message.count("JPEGImages") == 2  # expected, and missing


def test_a_split_that_is_none_is_an_error(pristine):
    for name in ("ref-youtube-vos", "ref-davis17", "mevis"):
        with pytest.raises(ValueError, match="no split 'dev', only train"):
            load_benchmark(name, pristine[name], "dev")
    with pytest.raises(LayoutError, match="plain"):
        load_benchmark("ref-sprites", pristine["ref-sprites"], "../valid")


@pytest.mark.parametrize(("name", "split"), [s for s in SCORED if s[0] != "ref-davis17"])
def test_missing_frames_and_folders_are_counted(tree, name, split):
    root = tree(name)
    first, second = CLIPS[name, split]
    shutil.rmtree(root / split / "JPEGImages" / first.name)
    for frame in second.frames[1:]:
        (root / split / "JPEGImages" / second.name / f"{frame}.jpg").unlink()
    with pytest.raises(LayoutError) as error:
        load_benchmark(name, root, split)
    message, missing = str(error.value), len(second.frames)  # one folder and all frames but one
    assert f"{missing} missing: {split}/JPEGImages/{first.name}/, " in message
    assert f"{second.name}/{second.frames[1]}.jpg" in message
    assert message.endswith(f"... ({missing} in all)") == (missing > 3)


@pytest.mark.parametrize("bad", ["", ".", "..", "../x", "a/b", "/x", "a\\b", "c:"])
def test_names_never_lead_out_of_their_folder(tree, bad):
    metas = {
        "mevis": ("valid_u", "valid_u/meta_expressions_v2.json"),
        "ref-youtube-vos": ("train", "meta_expressions/train/meta_expressions.json"),
    }
    for name, (split, meta) in metas.items():
        root = tree(name)
        original = (root / meta).read_text()
        for change in (
            lambda m: m["videos"].update({bad: next(iter(m["videos"].values()))}),
            lambda m: next(iter(m["videos"].values()))["frames"].append(bad),
            lambda m: next(iter(m["videos"].values()))["expressions"].update({bad: {"exp": "a"}}),
        ):
            edit_json(root / meta, change)
            with pytest.raises(LayoutError, match="plain"):
                load_benchmark(name, root, split)
            (root / meta).write_text(original)
    root = tree("ref-davis17")
    if bad:
        (root / "DAVIS/ImageSets/2017/val.txt").write_text(f"blocks\n{bad}\n")
        with pytest.raises(LayoutError, match="plain"):
            load_benchmark("ref-davis17", root, "valid")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("videos"),
        lambda m: m.update(videos=[]),
        lambda m: next(iter(m["videos"].values())).pop("frames"),
        lambda m: next(iter(m["videos"].values())).update(frames=[]),
        lambda m: next(iter(m["videos"].values())).update(frames=["00000", "00000"]),
        lambda m: next(iter(m["videos"].values())).update(expressions=["a dog"]),
        lambda m: next(iter(m["videos"].values()))["expressions"].update({"0": {"exp": None}}),
        lambda m: next(iter(m["videos"].values()))["expressions"].update({"0": {"exp": " \t"}}),
    ],
)
def test_files_of_another_schema_are_layout_errors(tree, change):
    root = tree("mevis")
    edit_json(root / "valid_u/meta_expressions_v2.json", change)
    with pytest.raises(LayoutError, match="meta_expressions_v2.json"):
        load_benchmark("mevis", root, "valid_u")
    (root / "valid_u/meta_expressions_v2.json").write_text("{")
    with pytest.raises(LayoutError, match="is not JSON"):
        load_benchmark("mevis", root, "valid_u")


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_instances_stay_small_when_they_go_to_workers(pristine, name, split):
    benchmark = load_benchmark(name, pristine[name], split)
    rows = _rows(benchmark)
    stored = pickle.dumps(benchmark)
    assert len(stored) < 3000
    assert b"counts" not in stored and b".jpg" not in stored
    assert _rows(pickle.loads(stored)) == rows


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_the_truth_writes_itself_as_predictions(pristine, tmp_path, name, split):
    benchmark = load_benchmark(name, pristine[name], split)
    trees.write_truth(benchmark, tmp_path)
    for row in _rows(benchmark):
        folder = tmp_path / row["video_id"] / row["exp_id"]
        written = np.stack([read_labels(folder / f"{n}.png") for n in row["frame_names"]])
        assert np.array_equal(written, _masks(row) * np.uint8(255))


def test_counts_of_the_release_are_told_but_not_demanded(pristine, caplog):
    caplog.set_level(logging.INFO, logger="eval.benchmarks")
    load_benchmark("mevis", pristine["mevis"], "train")
    assert "MeViS train has 1662 videos, 1 of them here" in caplog.text
    assert {r.levelname for r in caplog.records} == {"INFO"}
    caplog.clear()
    load_benchmark("mevis", pristine["mevis"], "train", videos=["0ab4afe7fb46"])
    load_benchmark("ref-sprites", pristine["ref-sprites"], "valid")
    assert not caplog.records


def test_label_maps_are_read_again_when_they_change(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (4, 3), 1).save(path)
    assert read_labels(path).tolist() == [[1] * 4] * 3
    Image.new("L", (4, 2), 7).save(path)
    assert read_labels(path).tolist() == [[7] * 4] * 2


# Ref-YouTube-VOS


def _youtube(root, split="valid", **options):
    return load_benchmark("ref-youtube-vos", root, split, **options)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_youtube_masks_are_the_pixels_of_the_object(pristine, split):
    root = pristine["ref-youtube-vos"]
    options = {"object_ids": root / "object_ids.json"} if split == "valid" else {}
    benchmark = _youtube(root, split, **options)
    assert benchmark.has_truth
    for clip in CLIPS["ref-youtube-vos", split]:
        rows = _by_exp(benchmark, clip.name)
        assert list(rows) == [*map(str, range(0, 2 * len(clip.objects), 2)), "10"]  # gaps, numbers
        for exp_id, row in rows.items():
            (obj_id,) = row["obj_ids"]
            assert obj_id == (1 if exp_id == "10" else int(exp_id) // 2 + 1)
            assert np.array_equal(_masks(row), clip.labels() == obj_id)
    assert benchmark.warn_empty() == []


def test_youtube_valid_is_what_its_file_has_and_that_of_test_has_not(pristine, tree):
    names = [clip.name for clip in CLIPS["ref-youtube-vos", "valid"]]
    assert list(_youtube(pristine["ref-youtube-vos"]).videos) == names
    test = CLIPS["ref-youtube-vos", "test"][0].name
    with pytest.raises(ValueError, match=f"valid has no video {test}"):
        _youtube(pristine["ref-youtube-vos"], videos=[test])
    root = tree("ref-youtube-vos")
    (root / "meta_expressions/test/meta_expressions.json").unlink()
    with pytest.raises(LayoutError, match="missing .*test.*; without the file of test, .* named"):
        _youtube(root)
    assert _youtube(root, videos=names[:1]).videos == (names[0],)


def test_youtube_frames_and_texts_are_in_order_and_verbatim(tree):
    root = tree("ref-youtube-vos")
    name = CLIPS["ref-youtube-vos", "train"][0].name

    def shuffle(meta):
        video = meta["videos"][name]
        video["frames"].reverse()
        video["expressions"]["9"] = {"exp": " A  Red\tsquare. ", "obj_id": "1"}

    edit_json(root / "meta_expressions/train/meta_expressions.json", shuffle)
    rows = _by_exp(_youtube(root, "train"), name)
    assert list(rows) == ["0", "2", "9", "10"]
    assert rows["9"]["expression"] == " A  Red\tsquare. "
    assert rows["9"]["frame_names"] == list(CLIPS["ref-youtube-vos", "train"][0].frames)
    assert np.array_equal(_masks(rows["9"]), _masks(rows["0"]))
    assert [Path(i["path"]).stem for i in rows["9"]["mask_images"]] == rows["9"]["frame_names"]


def test_youtube_schema_by_object_is_named(tree):
    root = tree("ref-youtube-vos")
    meta = root / "meta_expressions/train/meta_expressions.json"
    older = {"objects": {"1": {"category": "cat", "frames": ["00000"], "expressions": ["a cat"]}}}
    meta.write_text(json.dumps({"videos": {"0a1b2c3d4e": older}}))
    with pytest.raises(LayoutError, match="lists expressions by object"):
        _youtube(root, "train")
    meta.rename(root / "train/meta_expressions.json")  # where the older release has it
    with pytest.raises(LayoutError, match="lists expressions by object"):
        _youtube(root, "train")


def test_youtube_valid_has_truth_only_with_object_ids(pristine, tree, tmp_path):
    plain = _youtube(pristine["ref-youtube-vos"])  # though valid/Annotations is there
    assert not plain.has_truth
    assert all(r["obj_ids"] is None and r["mask_images"] is None for r in _rows(plain))
    with pytest.raises(ValueError, match="not published"):
        decode_mask(_rows(plain)[0], 0)
    with pytest.raises(ValueError, match="--object-ids"):
        _youtube(pristine["ref-youtube-vos"], masks=pristine["ref-youtube-vos"])

    root = tree("ref-youtube-vos")
    ids = root / "object_ids.json"
    with_truth = _youtube(root, object_ids=ids)
    assert with_truth.has_truth and with_truth.digest() != plain.digest()
    shutil.move(root / "valid/Annotations", tmp_path / "masks")
    with pytest.raises(LayoutError, match="missing valid/Annotations"):
        _youtube(root, object_ids=ids)
    moved = _youtube(root, object_ids=ids, masks=tmp_path / "masks")
    assert moved.has_truth and moved.digest() != with_truth.digest()
    clip = CLIPS["ref-youtube-vos", "valid"][0]
    assert np.array_equal(_masks(moved.rows(clip.name)[0]), clip.labels() == 1)

    meta = root / "meta_expressions/valid/meta_expressions.json"  # one that tells the objects
    edit_json(meta, lambda m: m["videos"].update(json.loads(ids.read_text())["videos"]))
    assert not _youtube(root).has_truth  # the masks are elsewhere
    assert _rows(_youtube(root))[0]["obj_ids"] == [1]
    assert _youtube(root, masks=tmp_path / "masks").has_truth


def test_youtube_first_frame_annotations_are_no_truth(tree):
    root = tree("ref-youtube-vos")
    for clip in CLIPS["ref-youtube-vos", "valid"]:
        for frame in clip.frames[1:]:
            (root / "valid/Annotations" / clip.name / f"{frame}.png").unlink()
    assert not _youtube(root).has_truth
    missing = "7 missing: valid/Annotations/2c3d4e5f60/00005.png"
    with pytest.raises(LayoutError, match=missing):
        _youtube(root, object_ids=root / "object_ids.json")


def test_youtube_object_ids_must_be_complete_and_pixel_values(tree, caplog):
    root = tree("ref-youtube-vos")
    ids, original = root / "object_ids.json", (root / "object_ids.json").read_text()
    first = CLIPS["ref-youtube-vos", "valid"][0].name
    for change, message in (
        (
            lambda m: m["videos"].pop(first),
            f"no obj_id of expression {first}/10, {first}/0, {first}/2",
        ),
        (lambda m: m["videos"][first]["expressions"]["2"].pop("obj_id"), f"{first}/2"),
        (lambda m: m["videos"][first]["expressions"]["2"].update(obj_id="0"), "no pixel value"),
        (lambda m: m["videos"][first]["expressions"]["2"].update(obj_id=None), "no pixel value"),
        (lambda m: m["videos"][first].update(expressions=[1]), "does not follow the layout"),
        (lambda m: m.pop("videos"), "does not follow the layout"),
    ):
        edit_json(ids, change)
        with pytest.raises(LayoutError, match=message):
            _youtube(root, object_ids=ids)
        ids.write_text(original)
    edit_json(ids, lambda m: m["videos"][first].pop("frames"))  # only the ids are read
    edit_json(ids, lambda m: m["videos"][first]["expressions"]["2"].update(exp="a cat"))
    assert _youtube(root, object_ids=ids).has_truth
    assert "other words than" in caplog.text and f"{first}/2" in caplog.text

    train = root / "meta_expressions/train/meta_expressions.json"
    edit_json(train, lambda m: m["videos"]["0a1b2c3d4e"]["expressions"]["0"].pop("obj_id"))
    with pytest.raises(LayoutError, match="no obj_id of expression 0a1b2c3d4e/0"):
        _youtube(root, "train")


def test_youtube_train_is_incomplete_without_masks(tree):
    root = tree("ref-youtube-vos")
    (root / "train/Annotations/0a1b2c3d4e/00005.png").unlink()
    with pytest.raises(LayoutError, match="1 missing: train/Annotations/0a1b2c3d4e/00005.png"):
        _youtube(root, "train")
    shutil.rmtree(root / "train/Annotations")
    with pytest.raises(LayoutError, match="missing train/Annotations"):
        _youtube(root, "train")


def test_masks_that_are_no_label_maps_are_named(tree):
    root = tree("ref-youtube-vos")
    path = root / "train/Annotations/0a1b2c3d4e/00005.png"
    with Image.open(path) as image:
        image.convert("RGB").save(path)  # as a reader that resolves the palette leaves it
    (row, *_) = _youtube(root, "train").rows("0a1b2c3d4e")
    with pytest.raises(ValueError, match=r"00005\.png is of mode RGB"):
        decode_mask(row, 1)
    Image.new("P", (8, 8)).save(path)
    with pytest.raises(ValueError, match=r"00005\.png is \(8, 8\), its frame \(48, 64\)"):
        decode_mask(row, 1)


# Ref-DAVIS17


def _davis(root, split="valid", **options):
    return load_benchmark("ref-davis17", root, split, **options)


def _lines(root: Path, file: int, change) -> None:
    """Rewrite one of the text files by a function of its lines."""
    name, _, encoding = trees.DAVIS_TEXTS[file]
    path = root / "davis_text_annotations" / name
    lines = path.read_bytes().decode(encoding).splitlines()
    path.write_bytes("".join(f"{line}\n" for line in change(lines)).encode(encoding))


@pytest.mark.parametrize(("split", "given"), [("train", "train"), ("valid", "val")])
def test_davis_numbers_objects_by_annotator(pristine, split, given):
    benchmark = _davis(pristine["ref-davis17"], given)
    assert benchmark.split == split and benchmark.has_truth
    for clip in CLIPS["ref-davis17", split]:
        rows = benchmark.rows(clip.name)
        assert [row["exp_id"] for row in rows] == [str(i) for i in range(4 * len(clip.objects))]
        for i, row in enumerate(rows):
            k, annotator = divmod(i, 4)
            n = clip.objects[k]
            wording = trees.DAVIS_TEXTS[annotator][1]
            assert row["expression"] == f"a {trees.WORDS[n]}, café, {wording}"
            assert (row["obj_ids"], row["annotator"]) == ([n], annotator)
            assert row["style"] == ("first", "full")[annotator % 2]
            drawn = clip.labels() == n
            drawn[:, :, :2] = False  # void
            assert np.array_equal(_masks(row), drawn)


def test_davis_annotations_of_2017_are_another_choice(pristine):
    root = pristine["ref-davis17"]
    other, clip = _davis(root, annotations="2017"), CLIPS["ref-davis17", "valid"][0]
    assert np.array_equal(_masks(other.rows(clip.name)[0]), clip.labels() == 2)  # swapped there
    assert other.digest() != _davis(root).digest()
    with pytest.raises(ValueError, match="unsupervised or 2017, not '2019'"):
        _davis(root, annotations="2019")


def test_davis_sorts_ten_objects_as_numbers(tree):
    root = tree("ref-davis17")
    for file in range(4):
        _lines(root, file, lambda ls: ls + [f'blocks {n} "number {n}"' for n in (10, 9, 4, 3)])
    rows = _davis(root).rows("blocks")
    assert [r["obj_ids"][0] for r in rows[::4]] == [1, 2, 3, 4, 9, 10]
    assert [r["exp_id"] for r in rows] == [str(i) for i in range(24)]
    assert rows[20]["expression"] == "number 10"


def test_davis_gaps_and_repeats_shift_nothing(tree, caplog):
    root = tree("ref-davis17")
    _lines(root, 1, lambda ls: [line for line in ls if not line.startswith("blocks 1 ")])
    _lines(root, 2, lambda ls: [ls[0], 'shapes 1 "the cube again"', *ls[1:], 'shapes 1 "thrice"'])
    benchmark = _davis(root)
    blocks, shapes = (_by_exp(benchmark, v) for v in ("blocks", "shapes"))
    assert list(blocks) == ["0", "2", "3", "4", "5", "6", "7"]
    assert all(row["obj_ids"] == [1 + int(i) // 4] for i, row in blocks.items())
    assert list(shapes) == [str(i) for i in range(12)]
    assert shapes["2"]["expression"] == "the cube again"  # the first in the file
    assert shapes["6"]["expression"] == "a green disk, café, first of two"
    assert "no expression: blocks 1 in Davis17_annot1_full_video.txt" in caplog.text
    assert "the first counts: shapes 1 in Davis17_annot2.txt, shapes 1 in" in caplog.text


def test_davis_texts_of_odd_form_are_read(tree, caplog):
    root = tree("ref-davis17")
    name, _, _ = trees.DAVIS_TEXTS[2]
    path = root / "davis_text_annotations" / name
    path.write_bytes(
        b'blocks  1\t"a "red"\x85 caf\xe9"\r\n\r\nblocks 2 no quotes\r\n'
        b'shapes 1 "s"\r\nshapes 2 "s"\r\nshapes 3 "s"\r\nmotor-bike 1 "m"\r\nno-such 1 "n"'
    )
    (root / "davis_text_annotations" / trees.DAVIS_TEXTS[0][0]).write_bytes(
        '\ufeffblocks 1 "été"\nblocks 2 "b"\nshapes 1 "s"\nshapes 2 "s"\nshapes 3 "s"\n'.encode()
    )
    rows = _by_exp(_davis(root), "blocks")
    assert rows["0"]["expression"] == "été"
    assert rows["2"]["expression"] == 'a "red"\x85 café'
    assert rows["6"]["expression"] == "no quotes"
    assert "unlisted videos: motorbike, no-such" in caplog.text


@pytest.mark.parametrize(
    "line", ["blocks", 'blocks one "a"', "blocks 1", 'blocks 0 "the ground"', 'blocks 255 "void"']
)
def test_davis_lines_that_say_nothing_are_errors(tree, line):
    root = tree("ref-davis17")
    _lines(root, 0, lambda ls: [ls[0], line, *ls[1:]])
    with pytest.raises(LayoutError, match=r"annot1\.txt, line 2 is not <video> <object>"):
        _davis(root)


def test_davis_videos_without_any_text_are_errors(tree):
    root = tree("ref-davis17")
    for file in range(4):
        _lines(root, file, lambda ls: [line for line in ls if "blocks" not in line])
    with pytest.raises(LayoutError, match="leave out blocks"):
        _davis(root)
    assert _davis(root, videos=["shapes"]).videos == ("shapes",)


def test_davis_warns_of_empty_truth(tree, caplog):
    root = tree("ref-davis17")
    assert _davis(root).warn_empty() == [] and not caplog.records
    for path in (root / "DAVIS/Annotations_unsupervised/480p/shapes").iterdir():
        with Image.open(path) as image:
            image.point(lambda v: 1 if v == 2 else v).save(path)
    empty = _davis(root).warn_empty()
    assert empty == [("shapes", str(i)) for i in range(4, 8)]
    assert "in no frame of shapes/4, shapes/5, shapes/6 ... (4 in all)" in caplog.text


def test_davis_may_lie_directly_in_the_root(tree):
    root = tree("ref-davis17")
    rows = [r["expression"] for r in _rows(_davis(root))]
    for folder in ("DAVIS", "davis_text_annotations"):
        for path in (root / folder).iterdir():
            path.rename(root / path.name)
        (root / folder).rmdir()
    assert [r["expression"] for r in _rows(_davis(root))] == rows


def test_davis_masks_must_cover_all_frames(tree):
    root = tree("ref-davis17")
    (root / "DAVIS/Annotations_unsupervised/480p/blocks/00002.png").unlink()
    with pytest.raises(LayoutError, match="1 missing: .*blocks/00002.png; if a conversion"):
        _davis(root)
    assert _davis(root, annotations="2017").videos
    frames = root / "DAVIS/JPEGImages/480p/blocks"
    for frame in frames.iterdir():
        frame.unlink()
    with pytest.raises(LayoutError, match=r"5 missing: .*blocks/00000\.jpg"):
        _davis(root, annotations="2017")
    frames.rmdir()
    with pytest.raises(LayoutError, match=r"1 missing: DAVIS/JPEGImages/480p/blocks/;"):
        _davis(root, annotations="2017")


def test_davis_digest_sees_frames_come_and_go(tree):
    root = tree("ref-davis17")
    before, frames = _davis(root).digest(), root / "DAVIS/JPEGImages/480p/blocks"
    (frames / ".DS_Store").touch()
    (frames / "._00000.jpg").touch()
    assert _davis(root).digest() == before
    (frames / "00004.jpg").unlink()
    with pytest.raises(LayoutError, match=r"1 missing: .*JPEGImages/480p/blocks/00004\.jpg"):
        _davis(root)  # the label map is still there
    (root / "DAVIS/Annotations_unsupervised/480p/blocks/00004.png").unlink()
    assert _davis(root).digest() != before
    assert len(_davis(root).rows("blocks")[0]["frames"]) == 4


def test_davis_suffixes_in_capitals_are_not_overlooked(tree):
    root = tree("ref-davis17")
    masks = root / "DAVIS/Annotations_unsupervised/480p/blocks"
    for path in masks.iterdir():
        path.unlink()
    frames = root / "DAVIS/JPEGImages/480p/blocks"
    for path in list(frames.iterdir()):
        path.rename(path.with_suffix(".JPG"))
    with pytest.raises(LayoutError, match=r"10 missing: .*blocks/00000\.jpg"):
        _davis(root)


def test_davis_texts_are_not_blank(tree):
    root = tree("ref-davis17")
    _lines(root, 0, lambda ls: [ls[0], 'blocks 2 " "', *ls[1:]])
    with pytest.raises(LayoutError, match="line 2: expression of blocks 2 has no text"):
        _davis(root)


# MeViS


def _mevis(root, split="valid_u", **options):
    return load_benchmark("mevis", root, split, **options)


@pytest.mark.parametrize("split", ["train", "valid_u"])
def test_mevis_masks_are_unions(pristine, split):
    benchmark = _mevis(pristine["mevis"], split)
    assert benchmark.has_truth
    for vid_id, clip in enumerate(CLIPS["mevis", split]):
        shapes, rows = clip.masks(), _by_exp(benchmark, clip.name)
        assert list(rows) == [*(str(n - 1) for n in clip.objects), "5", "10"]
        for n in clip.objects:
            row = rows[str(n - 1)]
            assert row["obj_ids"] == [trees.anno_id(vid_id, n)]
            assert np.array_equal(_masks(row), shapes[n])
        assert rows["5"]["obj_ids"] == [] and rows["5"]["mask_rles"] is not None
        assert not _masks(rows["5"]).any()
        everything = np.any(list(shapes.values()), axis=0)
        assert np.array_equal(_masks(rows["10"]), everything)
        assert (shapes[1] & shapes[2]).any()  # so a sum would be another thing
        # The disk is gone in the last frame: null there, not an empty code.
        assert len(rows["10"]["mask_rles"][-1]) == len(clip.objects) - 1
    assert benchmark.warn_empty() == []


@pytest.mark.parametrize("split", ["valid", "test"])
def test_mevis_keeps_unknown_and_none_apart(pristine, split):
    benchmark = _mevis(pristine["mevis"], split)
    assert not benchmark.has_truth
    rows = _rows(benchmark)
    assert all(r["obj_ids"] is None and r["mask_rles"] is None for r in rows)
    with pytest.raises(ValueError, match="not published"):
        decode_mask(rows[0], 0)
    assert benchmark.warn_empty() == []


def test_mevis_version_1_has_no_expression_without_target(tmp_path):
    benchmark = _mevis(trees.make_mevis(tmp_path, v2=False))
    assert all(row["obj_ids"] for row in _rows(benchmark))


@pytest.mark.parametrize(
    ("split", "version", "name"),
    [
        *((s, v, f"meta_expressions{m}.json") for s in MEVIS for v, m in ((1, ""), (2, "_v2"))),
        ("valid", 1, "meta_expressions_release.json"),
        ("valid", 2, "meta_expressions_v2_release.json"),
        ("test", 1, "meta_expressions_release.json"),
        ("test", 2, "meta_expressions_v2_release.json"),
    ],
)
def test_mevis_expressions_have_several_names(tree, split, version, name):
    root = tree("mevis")
    rows = _rows(_mevis(root, split))
    (root / split / trees.mevis_meta(split)).rename(root / split / name)
    for given in (None, version):
        benchmark = _mevis(root, split, version=given)
        assert benchmark.version == version and _rows(benchmark) == rows
    with pytest.raises(LayoutError, match=f"missing {split}/meta_expressions"):
        _mevis(root, split, version=3 - version)
    (root / split / name).unlink()
    with pytest.raises(LayoutError, match=f"missing {split}/meta_expressions_v2"):
        _mevis(root, split)


@pytest.mark.parametrize("split", MEVIS)
def test_mevis_versions_side_by_side_have_to_be_chosen(tree, tmp_path, split):
    root, older = tree("mevis"), trees.make_mevis(tmp_path / "older", v2=False)
    second, first = (_mevis(r, split) for r in (root, older))
    assert (first.version, second.version) == (1, 2)
    name = trees.mevis_meta(split, v2=False)
    shutil.copy(older / split / name, root / split / name)
    both = f"{trees.mevis_meta(split)} and {name}; choose one by `version`"
    with pytest.raises(LayoutError, match=both):
        _mevis(root, split)
    for version, alone in ((1, first), (2, second)):
        chosen = _mevis(root, split, version=version)
        texts = [row["expression"] for row in _rows(chosen)]
        assert texts == [row["expression"] for row in _rows(alone)]
        assert chosen.digest() == alone.digest()
    assert first.digest() != second.digest()
    with pytest.raises(ValueError, match="no version 3"):
        _mevis(root, split, version=3)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_mevis_minus_one_is_unknown(tree, split):
    root = tree("mevis")

    def hide(meta):
        for video in meta["videos"].values():
            for entry in video["expressions"].values():
                entry |= {"obj_id": [-1], "anno_id": [-1]}

    edit_json(root / split / trees.mevis_meta(split), hide)
    assert all(row["obj_ids"] is None for row in _rows(_mevis(root, split)))


def test_mevis_masks_that_end_early_are_named(tree):
    root = tree("mevis")

    def cut(masks):
        for rle in masks["18"][0], masks["18"][4]:
            rle["counts"] = rle["counts"][: len(rle["counts"]) // 2]

    edit_json(root / "valid_u/mask_dict.json", cut)
    rows = _by_exp(_mevis(root), "1bc5b0f80c57")
    for exp_id, t, whose in (
        ("0", 0, "object 18 in frame 00000 of video 1bc5b0f80c57"),
        ("10", 4, "one of the objects 18, 19, 20 in frame 00004"),  # the disk has left by then
    ):
        with pytest.raises(ValueError, match=f"mask of {whose}"):
            decode_mask(rows[exp_id], t)
        assert decode_mask(rows[exp_id], 1).any()


def test_mevis_masks_follow_the_frames_as_listed(tree):
    root = tree("mevis")
    clip = CLIPS["mevis", "valid_u"][0]
    before = [_masks(r) for r in _mevis(root).rows(clip.name)]
    order = [3, 0, 4, 2, 1]
    ids = [str(trees.anno_id(0, n)) for n in clip.objects]

    def frames(meta):
        meta["videos"][clip.name]["frames"] = [clip.frames[t] for t in order]

    edit_json(root / "valid_u/meta_expressions_v2.json", frames)
    edit_json(
        root / "valid_u/mask_dict.json",
        lambda masks: masks.update({i: [masks[i][t] for t in order] for i in ids}),
    )
    rows = _mevis(root).rows(clip.name)
    assert rows[0]["frame_names"] == list(clip.frames)
    assert all(np.array_equal(_masks(r), b) for r, b in zip(rows, before, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["18"].pop(), "no list of 5 masks for object 18 of video 1bc5b0f80c57"),
        (lambda m: m["18"].append(None), "no list of 5 masks for object 18"),
        (lambda m: m.pop("18"), "no list of 5 masks for object 18"),
        (lambda m: m["18"][1].update(size=[64, 48]), r"RLE of size \[48, 64\]"),
        (lambda m: m["18"][1].update(counts=[3072]), "no compressed RLE"),
        (lambda m: m["18"].__setitem__(0, "text"), "no compressed RLE"),
    ],
)
def test_mevis_masks_that_do_not_fit_are_errors(tree, tmp_path, change, message):
    root = tree("mevis")
    edit_json(root / "valid_u/mask_dict.json", change)
    benchmark = _mevis(root)  # the large file is not read for this
    with pytest.raises(LayoutError, match=message):
        benchmark.rows(benchmark.videos[0])
    with pytest.raises(LayoutError, match=message):
        benchmark.dataset(tmp_path / "cache")
    with pytest.raises(LayoutError, match=message):
        list(benchmark.stream())
    assert benchmark.rows(benchmark.videos[1])


def test_mevis_masks_are_read_once_and_when_needed(tree, monkeypatch):
    root, read = tree("mevis"), []
    real = mevis.read_json
    monkeypatch.setattr(mevis, "read_json", lambda path: read.append(path) or real(path))
    benchmark = _mevis(root)
    assert read == []
    _rows(benchmark), _rows(_mevis(root)), _rows(pickle.loads(pickle.dumps(benchmark)))
    assert read == [root / "valid_u/mask_dict.json"]


def test_mevis_mapped_rows_follow_the_masks_too(tree, tmp_path):
    root = tree("mevis")
    first = _mevis(root).dataset(tmp_path / "cache")[0]
    edit_json(root / "valid_u/mask_dict.json", lambda m: m.update({"18": [None] * 5}))
    benchmark = _mevis(root)
    assert not _masks(benchmark.dataset(tmp_path / "cache")[0]).any() and _masks(first).any()
    assert benchmark.warn_empty() == [("1bc5b0f80c57", "0")]


@pytest.mark.parametrize("split", ["train", "valid_u"])
def test_mevis_is_incomplete_without_masks(tree, split):
    root = tree("mevis")
    meta = root / split / "meta_expressions_v2.json"
    video = next(iter(json.loads(meta.read_text())["videos"]))
    edit_json(meta, lambda m: m["videos"][video]["expressions"]["0"].pop("anno_id"))
    with pytest.raises(LayoutError, match=f"no anno_id of expression {video}/0"):
        _mevis(root, split)
    edit_json(meta, lambda m: m["videos"][video]["expressions"]["0"].update(anno_id="18"))
    with pytest.raises(LayoutError, match="no list of numbers"):
        _mevis(root, split)
    (root / split / "mask_dict.json").unlink()
    with pytest.raises(LayoutError, match=f"missing {split}/mask_dict.json"):
        _mevis(root, split)


# Ref-Sprites


def test_sprites_rows_carry_their_facts(pristine):
    benchmark = load_benchmark("ref-sprites", pristine["ref-sprites"], "valid")
    first, second = benchmark.videos
    rows = _by_exp(benchmark, second)
    facts = ("kind", "noun", "art", "background", "heldout_art", "heldout_background")
    assert [rows["2"][f] for f in facts] == ["motion-only", "bar", "fluent3d", "noise", True, False]
    assert (rows["5"]["kind"], rows["5"]["art"], rows["5"]["obj_ids"]) == ("no-target", None, [])
    assert not benchmark.rows(first)[0]["heldout_art"]
    assert list(benchmark.objects(second)) == rows["10"]["obj_ids"]
    shapes = CLIPS["ref-sprites", "valid"][1].masks()
    assert np.array_equal(_masks(rows["10"]), np.any(list(shapes.values()), axis=0))


def test_the_shipped_split_is_whole():
    benchmark = load_benchmark("ref-sprites", SHIPPED, "valid")
    rows = _rows(benchmark)
    assert (len(benchmark.videos), len(rows)) == (40, 310)
    assert benchmark.has_truth and benchmark.warn_empty() == []
    stored = json.loads((SHIPPED / "valid/meta_expressions.json").read_text())["videos"]
    for row in rows:
        entry = stored[row["video_id"]]["expressions"][row["exp_id"]]
        assert row["expression"] == entry["exp"] and row["obj_ids"] == entry["anno_id"]
        assert (row["kind"] == "no-target") == (row["obj_ids"] == [])
        assert len(row["mask_rles"]) == len(row["frames"])
        assert decode_mask(row, 0).shape == (row["height"], row["width"])


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"no image"])
def test_a_damaged_label_map_is_named(tmp_path, damage):
    path = tmp_path / "00000.png"
    path.write_bytes(damage)
    with pytest.raises(ValueError, match="00000.png"):
        read_labels(str(path))
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(buffer, "png")
    path.write_bytes(buffer.getvalue()[:-25])
    with pytest.raises(ValueError, match="00000.png"):
        read_labels(str(path))
