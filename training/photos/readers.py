"""Reads the three layouts that annotated pictures come in.

A COCO tree:      ROOT/instances.json (or annotations/instances_*.json) and ROOT/images/
Named pictures:   ROOT/NOUN/*.jpg, "_" for a space; optional ROOT/index.json with `file`, `split`
Label maps:       ROOT/images/, ROOT/masks/ and ROOT/index.json: rows of `image`, `mask`,
                  `objects` [{noun, values}], optional `split`
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from .nouns import canonical
from .rows import Photo, PhotoObject, encode

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
BORDER = 255  # of VOC's label maps: unlabelled
WITHHELD = 20  # one of so many pictures is "val" where nobody says
# Nouns that VOC's 20 classes cover.
_VOC = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table",
    "dog", "horse", "motorcycle", "person", "plant", "sheep", "couch", "train", "tv",
)  # fmt: skip


def read_coco(root: Path) -> Iterator[Photo]:
    """Pictures of a COCO tree; crowd regions and unknown categories are left out.

    Where there is a crowd of a noun, single objects of it have no name: nobody can say which one
    is meant.

    Keys beyond COCO's that are heeded: of an image `split`, and `complete`, "person" where only
    people are annotated. Of the completely annotated ones every tenth (`id % 10 == 3`) is "val".

    Raises:
        ValueError: There is no such tree, or it is damaged.
    """
    files = [root / "instances.json", *sorted(root.glob("annotations/instances_*.json"))]
    files = [f for f in files if f.is_file()]
    if not files:
        raise ValueError(f"{root} is no COCO tree: expected instances.json and images/")
    for file in files:
        with _named(file):
            yield from _coco_pictures(root, file)


def _coco_pictures(root: Path, file: Path) -> Iterator[Photo]:
    data, names = _json(file), canonical()
    categories = {c["id"]: names.get(c["name"]) for c in data["categories"]}
    everything = tuple(sorted({n for n in categories.values() if n}))
    by_image: dict[int, list] = {}
    for annotation in data["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for image in data["images"]:
        path = _picture(root, file, image["file_name"])
        if path is None:
            continue
        size = (image["height"], image["width"])
        rows = by_image.get(image["id"], [])
        crowded = {categories[a["category_id"]] for a in rows if a.get("iscrowd")}
        objects = []
        for row in rows:
            noun = categories[row["category_id"]]
            if noun and not row.get("iscrowd") and (rle := _rle(row["segmentation"], size)):
                objects.append(PhotoObject("" if noun in crowded else noun, rle))
        complete = image.get("complete", "all") == "all"
        known = everything if complete else ("person",)
        split = image.get("split") or _split_of(image["file_name"])
        if complete and image["id"] % 10 == 3:
            split = "val"
        yield Photo(
            str(path), size, split, "coco",
            tuple(n for n in known if n not in crowded), tuple(objects),
        )  # fmt: skip


def read_maps(root: Path) -> Iterator[Photo]:
    """Pictures with label maps.

    Raises:
        ValueError: There is no such folder, or its index is damaged.
    """
    names = canonical()
    rows = _json(root / "index.json") if (root / "index.json").is_file() else None
    if not isinstance(rows, list):
        raise ValueError(f"{root} has no index.json: expected rows of image, mask and objects")
    known = _VOC if root.name.startswith("voc") else ("person",)
    with _named(root / "index.json"):
        for row in rows:
            path = _inside(root, row["image"])
            labels = np.asarray(Image.open(_inside(root, row["mask"])))
            objects = []
            for told in row["objects"]:
                noun, values = names.get(told["noun"]), [v for v in told["values"] if v != BORDER]
                mask = np.isin(labels, values)
                if noun and mask.any():
                    objects.append(PhotoObject(noun, encode(mask)))
            split = row.get("split") or _split_of(row["image"])
            yield Photo(str(path), labels.shape[:2], split, root.name, known, tuple(objects))


def read_named(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Path, noun ("" where it is none of ours) and split of class-named pictures.

    Raises:
        ValueError: The folder holds none, or its index is damaged.
    """
    names, splits, index = canonical(), {}, root / "index.json"
    if index.is_file():
        with _named(index):
            splits = {row["file"]: row.get("split") for row in _json(index)}
    found = False
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        noun = names.get(folder.name.replace("_", " ").lower(), "")
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in PICTURES:
                found = True
                told = f"{folder.name}/{path.name}"
                yield path, noun, splits.get(told) or _split_of(told)
    if not found:
        raise ValueError(f"{root} holds no NOUN/*.jpg")


def _json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error})") from error


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Say which file lacks something, or is laid out in another way than this code reads."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{file} lacks {error}") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{file} is not laid out as expected ({error})") from error


def _inside(root: Path, name: str) -> Path:
    """A file that an index names; it must not lead out of its folder."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ValueError(f"{root}: {name!r} leads out of the folder")
    return path


def _picture(root: Path, annotations: Path, name: str) -> Path | None:
    """Where a COCO image lies: images/, or the folder that its annotation file is named after."""
    folders = ("images", annotations.stem.replace("instances_", ""), ".")
    paths = (_inside(root, f"{folder}/{name}") for folder in folders)
    return next((p for p in paths if p.is_file()), None)


def _rle(segmentation, size: tuple[int, int]) -> str:
    """Polygons, or RLE, -> counts; "" where they cover nothing."""
    if isinstance(segmentation, list):
        polygons = [p for p in segmentation if len(p) >= 6]  # four numbers would be a box
        if not polygons:
            return ""
        segmentation = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *size)
    if not coco_mask.area(segmentation):
        return ""
    counts = segmentation["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def _split_of(name: str) -> str:
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return "val" if digest % WITHHELD == 0 else "train"
