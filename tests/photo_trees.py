"""Small pictures of bright shapes on dark ground, in the layouts of annotated pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from training.photos.nouns import canonical
from training.photos.rows import INDEX, Photo, PhotoObject, encode

SIZE = (120, 160)  # (H, W)
# Nouns of COCO's 80 categories, by the names that it has for them.
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "bird",
    "cat", "dog", "horse", "sheep", "cow", "elephant", "bottle", "wine glass", "cup", "chair",
    "couch", "potted plant", "dining table", "tv", "laptop", "cell phone", "book", "sports ball",
)  # fmt: skip
BRIGHT = ((250, 230, 90), (120, 250, 160), (250, 150, 220), (150, 230, 250), (240, 240, 240))
PLACES = ((30, 40), (85, 110), (35, 115), (85, 40), (60, 78))  # (y, x), apart from each other


def shape(centre: tuple[int, int], radius: tuple[int, int], size=SIZE) -> np.ndarray:
    """(H, W) bool, an ellipse."""
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, centre[::-1], radius[::-1], 0, 0, 360, 1, -1)
    return mask.astype(bool)


def picture(masks: Sequence[np.ndarray], size=SIZE, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: each mask in a colour of its own."""
    image = np.random.default_rng(seed).integers(10, 30, (*size, 3), dtype=np.uint8)
    for mask, colour in zip(masks, BRIGHT, strict=False):
        image[mask] = colour
    return image


def shapes(count: int, seed: int) -> list[np.ndarray]:
    """(H, W) bool masks, apart from each other and from the border."""
    rng = np.random.default_rng(seed)
    places = [PLACES[i] for i in rng.permutation(len(PLACES))[:count]]
    return [shape(place, tuple(int(r) for r in rng.integers(9, 19, 2))) for place in places]


def write(image: np.ndarray, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def photo(
    root: Path, name: str, names: Sequence[str], known: Sequence[str], seed: int,
    split: str = "train", origin: str = "coco",
) -> Photo:  # fmt: skip
    """A picture with objects of these nouns, written to `root`."""
    masks = shapes(len(names), seed)
    path = write(picture(masks, seed=seed), root / f"{name}.png")
    source = "truth" if known else "salient"
    objects = [PhotoObject(n, encode(m), source) for n, m in zip(names, masks, strict=True)]
    return Photo(str(path), SIZE, split, origin, tuple(known), tuple(objects))


def write_index(photos: Sequence[Photo], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text("".join(p.line() + "\n" for p in photos), encoding="ascii")
    return folder


def make_prepared(root: Path) -> Path:
    """A folder as `training.photos.prepare` makes them, of every kind of picture."""
    everything = tuple(sorted({canonical()[name] for name in COCO}))
    scenes = [
        ("dog", "dog", "cat"), ("car", "bus", "car"), ("person", "person", "ball"),
        ("bottle", "cup", "bottle", "bottle"), ("horse", "person"), ("bird",), ("chair", "table"),
    ]  # fmt: skip
    photos = []
    for split, first in (("train", 0), ("val", 50)):
        for number, names in enumerate(scenes):
            photos.append(photo(root, f"{split}{number}", names, everything, first + number, split))
        photos.append(
            photo(root, f"{split}-people", ("person", "hat"), ("person",), 90 + first, split, "ccp")
        )
    for number, noun in enumerate(("giraffe", "dog", "race car", "kite", "")):
        photos.append(photo(root, f"named{number}", (noun,), (), 30 + number, origin="named"))
    return write_index(photos, root / "prepared")


def polygon(mask: np.ndarray) -> list[list[float]]:
    """A mask as COCO's polygons."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [contour.flatten().astype(float).tolist() for contour in contours]


def rle(mask: np.ndarray, compressed: bool) -> dict:
    """A mask as COCO's RLE."""
    told = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    if compressed:
        return {"size": list(mask.shape), "counts": told["counts"].decode("ascii")}
    flat = mask.flatten(order="F").astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    bounds = [0, *changes.tolist(), len(flat)]
    counts = np.diff(bounds).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def make_coco(root: Path, rows: Sequence[dict], file: str = "instances.json") -> Path:
    """A COCO tree.

    Args:
        rows: Of pictures: keys of an image besides id, name and size, and `objects`, of (category,
            mask, form), the form one of "polygon", "rle", "counts" and "crowd".
    """
    names = sorted({c for row in rows for c, *_ in row.get("objects", ())} | {"person", "dog"})
    ids = {name: 7 + number for number, name in enumerate(names)}
    images, annotations = [], []
    for number, row in enumerate(rows):
        row = dict(row)
        objects = row.pop("objects", ())
        image = {"id": number, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]}
        image |= row
        images.append(image)
        write(picture([m for _, m, _ in objects], seed=number), root / "images" / f"{number}.png")
        for category, mask, form in objects:
            told = polygon(mask) if form == "polygon" else rle(mask, form != "counts")
            annotations.append(
                {
                    "id": len(annotations), "image_id": image["id"], "category_id": ids[category],
                    "segmentation": told, "iscrowd": int(form == "crowd"),
                }
            )  # fmt: skip
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    told = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(told))
    return root


def make_maps(root: Path, rows: Sequence[dict]) -> Path:
    """Pictures with label maps.

    Args:
        rows: Of pictures: `labels` (H, W) uint8, and `objects` as in the index.
    """
    index = []
    for number, row in enumerate(rows):
        row = dict(row)
        labels = row.pop("labels")
        write(picture([labels == v for v in np.unique(labels)[1:]]), root / f"images/{number}.png")
        write(labels, root / f"masks/{number}.png")
        index.append({"image": f"images/{number}.png", "mask": f"masks/{number}.png"} | row)
    (root / "index.json").write_text(json.dumps(index))
    return root


def make_cutter(path: Path) -> Path:
    """A network of the form of U2-NetP: brightness, (1, 3, 320, 320) -> (1, 1, 320, 320)."""
    import onnx
    from onnx import TensorProto, helper

    shape_in, shape_out = [1, 3, 320, 320], [1, 1, 320, 320]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("ReduceMean", ["input.1", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sigmoid", ["mean"], ["d0"]),
        helper.make_node("Identity", ["mean"], ["d1"]),  # a second output, as it has seven
    ]
    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape_out) for n in ("d0", "d1")],
        [axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
