"""Real pictures as training data: what is read, cut out, and written to a prepared folder."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import photo_trees as trees
from tests.small_models import needs_imagenet
from training.photos import prepare
from training.photos.readers import read_coco, read_maps, read_named
from training.photos.rows import INDEX, Photo, PhotoObject, encode, read_photos
from training.photos.salient import AREA, usable
from training.photos.sheet import COLUMNS, ROWS, SIDE, contact_sheet, marked
from training.photos.source import load

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")),
    reason="onnx or onnxruntime is not installed",
)
LEFT, RIGHT = (trees.shape(place, (14, 17)) for place in ((60, 40), (60, 115)))


def by_name(photos) -> dict[str, Photo]:
    return {Path(photo.path).stem: photo for photo in photos}


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def masks_of(photo: Photo) -> list[np.ndarray]:
    return [thing.mask(photo.size) for thing in photo.objects]


# ---- COCO trees --------------------------------------------------------------------------------


def test_every_form_of_mask_is_read(tmp_path):
    forms = ("polygon", "rle", "counts")
    rows = [{"objects": [("dog", LEFT, form), ("dining table", RIGHT, form)]} for form in forms]
    photos = by_name(read_coco(trees.make_coco(tmp_path, rows)))
    assert len(photos) == 3
    for number, form in enumerate(forms):
        photo = photos[str(number)]
        assert [thing.noun for thing in photo.objects] == ["dog", "table"]
        assert photo.size == trees.SIZE and photo.origin == "coco"
        assert photo.known == ("dog", "person", "table")
        for mask, truth in zip(masks_of(photo), (LEFT, RIGHT), strict=True):
            assert mask.shape == trees.SIZE and mask.dtype == bool
            assert overlap(mask, truth) > (0.9 if form == "polygon" else 0.9999)
        assert all(thing.source == "truth" for thing in photo.objects)


def test_a_crowd_is_no_object_and_its_noun_is_not_all_there(tmp_path):
    far = trees.shape((20, 80), (8, 8))
    rows = [
        {"objects": [("dog", LEFT, "rle"), ("person", RIGHT, "crowd"), ("person", far, "rle")]},
        {"objects": [("dog", LEFT, "rle"), ("person", RIGHT, "rle")]},
    ]
    photos = by_name(read_coco(trees.make_coco(tmp_path, rows)))
    crowded, plain = photos["0"], photos["1"]
    assert crowded.known == ("dog",) and plain.known == ("dog", "person")
    # Nobody can say which of the crowd is "the person": it may be cut out, but has no name.
    assert [thing.noun for thing in crowded.objects] == ["dog", ""]
    assert overlap(masks_of(crowded)[1], far) > 0.999
    assert [thing.noun for thing in plain.objects] == ["dog", "person"]


def test_unknown_categories_and_pictures_that_are_not_there_are_left_out(tmp_path):
    rows = [{"objects": [("zorkblob", LEFT, "rle"), ("dog", RIGHT, "rle")]}, {"objects": []}]
    root = trees.make_coco(tmp_path, [*rows, {"file_name": "gone.png"}])
    photos = by_name(read_coco(root))
    assert set(photos) == {"0", "1"}
    assert [thing.noun for thing in photos["0"].objects] == ["dog"]
    assert "zorkblob" not in photos["0"].known and photos["1"].objects == ()


@pytest.mark.parametrize("segmentation", [[], [[5, 5, 5, 5, 5, 5]]])
def test_an_object_without_a_pixel_is_left_out(segmentation, tmp_path):
    root = trees.make_coco(tmp_path, [{"objects": [("dog", LEFT, "rle"), ("dog", RIGHT, "rle")]}])
    told = json.loads((root / "instances.json").read_text())
    told["annotations"][0]["segmentation"] = segmentation
    (root / "instances.json").write_text(json.dumps(told))
    (photo,) = read_coco(root)
    (mask,) = masks_of(photo)
    assert overlap(mask, RIGHT) > 0.999


@pytest.mark.parametrize(
    ("image", "split", "known"),
    [
        ({"id": 13}, "val", ("dog", "person")),  # every tenth
        ({"id": 13, "split": "train"}, "val", ("dog", "person")),
        ({"id": 12, "split": "train"}, "train", ("dog", "person")),
        ({"id": 12, "split": "val"}, "val", ("dog", "person")),
        ({"id": 13, "complete": "person", "split": "train"}, "train", ("person",)),
        ({"id": 4, "complete": "person", "split": "val"}, "val", ("person",)),
        ({"id": 4, "complete": "all", "split": "train"}, "train", ("dog", "person")),
    ],
)
def test_splits_and_what_is_known(image, split, known, tmp_path):
    (photo,) = read_coco(trees.make_coco(tmp_path, [image]))
    assert (photo.split, photo.known) == (split, known)


def test_where_nobody_says_a_twentieth_is_withheld(tmp_path):
    folder = tmp_path / "dog"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number}.jpg").touch()
    splits = [split for *_, split in read_named(tmp_path)]
    assert set(splits) == {"train", "val"} and 8 <= splits.count("val") <= 40
    assert splits == [split for *_, split in read_named(tmp_path)]


def test_annotation_files_of_a_folder_are_all_read(tmp_path):
    file = "annotations/instances_val2017.json"
    root = trees.make_coco(tmp_path, [{"objects": [("dog", LEFT, "rle")]}], file)
    (tmp_path / "images").rename(tmp_path / "val2017")
    (photo,) = read_coco(root)
    assert Path(photo.path) == tmp_path / "val2017" / "0.png"


# ---- label maps and named pictures -------------------------------------------------------------


def test_label_maps_are_read(tmp_path):
    labels = np.zeros(trees.SIZE, np.uint8)
    labels[LEFT], labels[RIGHT] = 3, 4
    labels[0] = 255
    objects = [
        {"noun": "person", "values": [3, 4, 255]}, {"noun": "jeans", "values": [4]},
        {"noun": "zorkblob", "values": [3]}, {"noun": "hat", "values": [9]},
    ]  # fmt: skip
    rows = [{"labels": labels, "objects": objects, "split": "val"}]
    (photo,) = read_maps(trees.make_maps(tmp_path / "ccp", rows))
    assert [thing.noun for thing in photo.objects] == ["person", "pants"]
    assert (masks_of(photo)[0] == (LEFT | RIGHT)).all() and (masks_of(photo)[1] == RIGHT).all()
    assert (photo.split, photo.origin, photo.known) == ("val", "ccp", ("person",))
    (photo,) = read_maps(trees.make_maps(tmp_path / "voc2007", rows))
    assert photo.origin == "voc2007" and {"dog", "person", "table"} <= set(photo.known)


def test_named_pictures_are_read(tmp_path):
    for name in ("race_car/b.jpg", "race_car/a.PNG", "Dog/c.webp", "zork/d.jpeg", "dog2/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    told = [{"file": "race_car/b.jpg", "split": "val"}, {"file": "Dog/c.webp", "split": "train"}]
    (tmp_path / "index.json").write_text(json.dumps(told))
    rows = {path.relative_to(tmp_path).as_posix(): (noun, split)
            for path, noun, split in read_named(tmp_path)}  # fmt: skip
    assert rows.keys() == {"race_car/b.jpg", "race_car/a.PNG", "Dog/c.webp", "zork/d.jpeg"}
    assert rows["race_car/b.jpg"] == ("race car", "val") and rows["Dog/c.webp"] == ("dog", "train")
    assert rows["race_car/a.PNG"][0] == "race car" and rows["zork/d.jpeg"][0] == ""


# ---- what cannot be read -----------------------------------------------------------------------


def broken_coco(root: Path, change) -> Path:
    trees.make_coco(root, [{"objects": [("dog", LEFT, "rle")]}])
    told = json.loads((root / "instances.json").read_text())
    change(told)
    (root / "instances.json").write_text(json.dumps(told))
    return root


def broken_maps(root: Path, **row) -> Path:
    labels = np.where(LEFT, 3, 0).astype(np.uint8)
    trees.make_maps(root, [{"labels": labels, "objects": [{"noun": "dog", "values": [3]}], **row}])
    return root


def emptied(root: Path, text: str | None = None, name: str = "instances.json") -> Path:
    root.mkdir()
    if text is not None:
        (root / name).write_text(text)
    return root


def listed(root: Path, text: str) -> Path:
    (root / "dog").mkdir(parents=True)
    (root / "dog" / "a.jpg").touch()
    (root / "index.json").write_text(text)
    return root


UNREADABLE = {
    "no tree": ("--coco", lambda r: emptied(r), "is no COCO tree"),
    "no folder": ("--coco", lambda r: r, "is no COCO tree"),
    "no JSON": ("--coco", lambda r: emptied(r, "{"), "instances.json is no JSON"),
    "no lists": ("--coco", lambda r: emptied(r, "{}"), "instances.json lacks 'categories'"),
    "a list": ("--coco", lambda r: emptied(r, "[]"), "instances.json"),
    "no category": (
        "--coco",
        lambda r: broken_coco(r, lambda t: t["annotations"][0].update(category_id=99)),
        "instances.json lacks 99",
    ),
    "no size": (
        "--coco", lambda r: broken_coco(r, lambda t: t["images"][0].pop("height")), "lacks 'height'"
    ),
    "a way out": (
        "--coco",
        lambda r: broken_coco(r, lambda t: t["images"][0].update(file_name="../../secret.png")),
        "leads out of the folder",
    ),
    "no index": ("--maps", lambda r: emptied(r), "has no index.json"),
    "no rows": ("--maps", lambda r: emptied(r, "{}", "index.json"), "has no index.json"),
    "no noun": ("--maps", lambda r: broken_maps(r, objects=[{"values": [3]}]), "lacks 'noun'"),
    "an image outside": (
        "--maps", lambda r: broken_maps(r, image="../secret.png"), "leads out of the folder"
    ),
    "an absolute mask": ("--maps", lambda r: broken_maps(r, mask="/etc/passwd"), "leads out"),
    "a missing mask": ("--maps", lambda r: broken_maps(r, mask="masks/9.png"), "masks/9.png"),
    "no pictures": ("--named", lambda r: emptied(r), "holds no NOUN/*.jpg"),
    "nowhere": ("--named", lambda r: r, "No such file"),
    "no list": ("--named", lambda r: listed(r, "{"), "index.json is no JSON"),
    "no file": ("--named", lambda r: listed(r, '[{"split": "val"}]'), "index.json lacks 'file'"),
}  # fmt: skip


@pytest.mark.parametrize(("option", "make", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_one_line(option, make, reason, tmp_path, capsys):
    trees.write(np.zeros((4, 4, 3), np.uint8), tmp_path / "secret.png")
    root, out = make(tmp_path / "data"), tmp_path / "out"
    assert prepare.main([option, str(root), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and reason in error and "training.photos.prepare" in error
    assert not (out / INDEX).exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "training.photos.prepare --coco DIR"),
        ('{"path": "a.jpg"}\n', "line 1 is damaged"),
        ('\n\n{"path": \n', "line 1 is damaged"),
        ("[]\n", "line 1 is damaged"),
    ],
)
def test_a_folder_that_is_not_prepared_is_told(text, reason, tmp_path):
    if text is not None:
        (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        read_photos(tmp_path)
    assert "\n" not in str(caught.value)


# ---- rows --------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were(tmp_path):
    mask = np.random.default_rng(0).random(trees.SIZE) < 0.3
    things = (PhotoObject("race car", encode(mask)), PhotoObject("", encode(~mask), "salient"))
    photos = [
        Photo("/a b/ü.jpg", trees.SIZE, "train", "coco", ("dog", "race car"), things),
        Photo("c.jpg", (3, 5), "val", "named", (), ()),
    ]
    folder = trees.write_index(photos, tmp_path)
    assert read_photos(folder) == photos
    assert read_photos(folder, "val") == photos[1:] and read_photos(folder, "train") == photos[:1]
    assert (masks_of(read_photos(folder)[0])[0] == mask).all()
    assert (masks_of(read_photos(folder)[0])[1] == ~mask).all()
    assert all("\n" not in photo.line() and photo.line().isascii() for photo in photos)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_picture_is_read_as_its_masks_lie(orientation, tmp_path):
    """Cameras note which side is up; masks are those of the file as it is stored."""
    image = trees.picture([LEFT])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = trees.write(image, tmp_path / "a.jpg", quality=95, exif=exif)
    loaded = load(Photo(str(path), trees.SIZE, "train", "coco", (), ()))
    assert loaded.shape == image.shape and loaded.dtype == np.uint8
    assert np.abs(loaded.astype(int) - image).mean() < 6
    assert loaded[LEFT].mean() > 150 and loaded[~LEFT].mean() < 40


def test_a_picture_that_changed_is_told(tmp_path):
    path = trees.write(trees.picture([LEFT]), tmp_path / "a.png")
    photo = Photo(str(path), trees.SIZE, "train", "coco", (), ())
    assert (load(photo) == trees.picture([LEFT])).all()  # RGB, not BGR
    trees.write(np.zeros((40, 40, 3), np.uint8), path)
    for text in (None, b"", b"no picture"):
        if text is not None:
            path.write_bytes(text)
        with pytest.raises(ValueError, match="prepare the pictures again"):
            load(photo)


# ---- preparing ---------------------------------------------------------------------------------


def soft(mask: np.ndarray, edge: float = 0.0) -> np.ndarray:
    return np.where(mask, 1 - edge, edge).astype(np.float32)


def test_a_usable_cut_is_neither_small_nor_large_nor_undecided():
    mask = trees.shape((60, 80), (30, 40))
    assert (usable(soft(mask)) == mask).all() and (usable(soft(mask, 0.1)) == mask).all()
    assert usable(soft(mask, 0.3)) is None
    low, high = AREA
    for side, fits in ((3, False), (60, True), (110, False)):
        square = np.zeros((120, 120), bool)
        square[:side, :side] = True
        assert (low <= square.mean() <= high) == fits
        assert (usable(soft(square)) is not None) == fits


@pytest.fixture(scope="module")
def trees_of_all_kinds(tmp_path_factory) -> Path:
    """A folder of each layout, and a stand-in for U2-NetP."""
    root = tmp_path_factory.mktemp("photos")
    rows = [
        {"objects": [("dog", LEFT, "polygon"), ("dog", RIGHT, "polygon")], "split": "train"},
        {"id": 3, "objects": [("person", LEFT, "rle")]},
    ]
    trees.make_coco(root / "coco", rows)
    labels = np.where(RIGHT, 7, 0).astype(np.uint8)
    people = [{"noun": "person", "values": [7]}]
    trees.make_maps(root / "human", [{"labels": labels, "objects": people, "split": "train"}])
    big = trees.shape((60, 80), (40, 45))
    for noun, mask in (
        ("giraffe", big), ("dog", big), ("person", big), ("zork", big),
        ("kite", trees.shape((60, 80), (5, 5))),
    ):  # fmt: skip
        for number in range(2):
            trees.write(trees.picture([mask], seed=number), root / "named" / noun / f"{number}.png")
    (root / "named" / "kite" / "2.png").write_bytes(b"no picture")
    told = [
        {"file": path.relative_to(root / "named").as_posix(), "split": "train"}
        for path in (root / "named").rglob("*.png")
    ]
    (root / "named" / "index.json").write_text(json.dumps(told))
    return root


def options(root: Path, out: Path) -> list[str]:
    told = ["--coco", "coco", "--maps", "human", "--named", "named"]
    folders = [str(root / word) if not word.startswith("-") else word for word in told]
    return [*folders, "--out", str(out), "--cutter", str(root / "cutter.onnx")]


@pytest.fixture(scope="module")
def prepared(trees_of_all_kinds, tmp_path_factory) -> Path:
    trees.make_cutter(trees_of_all_kinds / "cutter.onnx")
    out = tmp_path_factory.mktemp("prepared")
    assert prepare.main(options(trees_of_all_kinds, out)) == 0
    return out


@needs_onnx
@needs_imagenet
def test_pictures_of_all_kinds_become_one_folder(prepared, trees_of_all_kinds):
    photos = read_photos(prepared)
    assert [p.origin for p in photos] == ["coco"] * 2 + ["human"] + ["named"] * 8
    assert [p.split for p in photos[:3]] == ["train", "val", "train"]
    named = {Path(p.path).relative_to(trees_of_all_kinds / "named").as_posix(): p
             for p in photos[3:]}  # fmt: skip
    # Too small to cut out, or no picture: those drop.
    assert not [name for name in named if name.startswith("kite")]
    big = trees.shape((60, 80), (40, 45))
    for name, photo in named.items():
        (thing,) = photo.objects
        assert thing.source == "salient" and photo.known == ()
        assert overlap(thing.mask(photo.size), big) > 0.95
        # ImageNet does not know giraffes, and sees no dog in a yellow spot; what is cut out of
        # pictures of people is not only people; "zork" is none of our nouns.
        assert thing.noun == ("giraffe" if name.startswith("giraffe") else "")
    assert len(read_photos(prepared, "train")) == 10
    for photo in photos:
        load(photo)
    assert not list(prepared.glob("*.part"))


@needs_onnx
@needs_imagenet
@pytest.mark.parametrize("share", [0.0, 0.37, 0.8, 1.0])
def test_interrupted_it_goes_on(share, prepared, trees_of_all_kinds, tmp_path, capsys):
    out, whole = tmp_path / "out", (prepared / prepare.CUTS).read_bytes()
    out.mkdir()
    cut = whole[: int(share * len(whole))]
    assert share in (0, 1) or not cut.endswith(b"}"), "in the middle of a line"
    (out / prepare.CUTS).write_bytes(cut)
    assert prepare.main(options(trees_of_all_kinds, out)) == 0
    assert (out / INDEX).read_bytes() == (prepared / INDEX).read_bytes()
    # What was done is not done again; the picture that cannot be read is one of them.
    assert ("cannot be read" in capsys.readouterr().err) == (b"kite/2.png" not in cut)
    # And every cut is on record now: the next time no network is needed.
    (out / INDEX).unlink()
    again = [*options(trees_of_all_kinds, out)[:-1], str(tmp_path / "nowhere.onnx")]
    assert prepare.main(again) == 0
    assert (out / INDEX).read_bytes() == (prepared / INDEX).read_bytes()


@needs_onnx
@needs_imagenet
def test_with_all_cuts_done_no_network_is_needed(prepared, trees_of_all_kinds, tmp_path):
    shutil.copy(prepared / prepare.CUTS, tmp_path)
    told = [*options(trees_of_all_kinds, tmp_path)[:-1], str(tmp_path / "nowhere.onnx")]
    assert prepare.main(told) == 0
    assert (tmp_path / INDEX).read_bytes() == (prepared / INDEX).read_bytes()


def test_without_named_pictures_nothing_is_cut_out(trees_of_all_kinds, tmp_path, capsys):
    told = ["--coco", str(trees_of_all_kinds / "coco"), "--out", str(tmp_path / "new" / "out")]
    assert prepare.main(told) == 0
    assert "train: 1 pictures (1 coco), 2 objects" in capsys.readouterr().out
    assert len(read_photos(tmp_path / "new" / "out")) == 2
    assert not (tmp_path / "new" / "out" / prepare.CUTS).exists()


def test_nothing_named_is_a_question_of_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        prepare.main(["--out", "x"])
    assert caught.value.code == 2 and "name pictures with" in capsys.readouterr().err


@needs_onnx
@needs_imagenet
def test_a_cutter_that_is_not_there_is_one_line(trees_of_all_kinds, tmp_path, capsys):
    told = [*options(trees_of_all_kinds, tmp_path / "out")[:-1], str(tmp_path / "nowhere.onnx")]
    assert prepare.main(told) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("training.photos.prepare: ")


def test_help_does_not_load_a_network():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "training.photos.prepare", "--help"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "--coco" in done.stdout
    assert "| torch\n" not in done.stderr and "onnxruntime" not in done.stderr


def test_the_contact_sheet_shows_every_origin(tmp_path):
    photos = [
        trees.photo(tmp_path, f"{origin}{n}", ("dog",), (), n, origin=origin)
        for origin, count in (("a", 1), ("b", 30), ("c", 100))
        for n in range(count)
    ]
    contact_sheet(photos, tmp_path / "sheet.png")
    sheet = np.array(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (ROWS * (SIDE + 14), COLUMNS * SIDE, 3)
    tiles = sheet.reshape(ROWS, SIDE + 14, COLUMNS, SIDE, 3)[:, 20:100]
    shown = (tiles < 100).any(axis=(1, 3, 4))  # pictures are dark, paper is white
    assert shown.sum() == 1 + 30 + 49
    # The same every time, and in colour where the object is.
    contact_sheet(photos, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sheet.png").read_bytes()
    before, after = load(photos[0]).astype(int), np.array(marked(photos[0])).astype(int)
    apart = np.abs(after - before).sum(axis=2) > 30
    assert (apart == masks_of(photos[0])[0]).mean() > 0.999
