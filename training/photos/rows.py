"""One real picture with what is known about it, as a line of a prepared folder."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

INDEX = "photos.jsonl"


@dataclass(frozen=True)
class PhotoObject:
    """One object of a picture.

    Attributes:
        noun: One of `nouns()`, or "" for a thing that has no name but may be cut out.
        rle: COCO RLE counts of its mask, at the picture's size.
        source: "truth" for a mask that people drew, "salient" for one that a network cut out.
    """

    noun: str
    rle: str
    source: str = "truth"

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool."""
        rle = {"size": list(size), "counts": self.rle.encode("ascii")}
        return coco_mask.decode(rle).astype(bool)


@dataclass(frozen=True)
class Photo:
    """One picture.

    Attributes:
        path: Of the file.
        size: (H, W).
        split: "train" or "val".
        origin: Which data set it is of, for reports.
        known: Nouns of which every one in the picture is among the objects; () where only the
            main object is annotated.
        objects: What is annotated.
    """

    path: str
    size: tuple[int, int]
    split: str
    origin: str
    known: tuple[str, ...]
    objects: tuple[PhotoObject, ...]

    def line(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of_line(cls, line: str) -> "Photo":
        """What `line` wrote."""
        row = json.loads(line)
        objects = tuple(PhotoObject(**o) for o in row.pop("objects"))
        size, known = tuple(row.pop("size")), tuple(row.pop("known"))
        return cls(**row, size=size, known=known, objects=objects)


def encode(mask: np.ndarray) -> str:
    """(H, W) bool -> COCO RLE counts."""
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii")


def read_photos(folder: str | Path, split: str | None = None) -> list[Photo]:
    """The pictures of a prepared folder.

    Raises:
        ValueError: The folder is not prepared, or its index is damaged.
    """
    index = Path(folder) / INDEX
    if not index.is_file():
        raise ValueError(
            f"{folder} holds no {INDEX}: make it with "
            "`python -m training.photos.prepare --coco DIR --named DIR --maps DIR --out FOLDER`"
        )
    photos = []
    for number, line in enumerate(_lines(index), 1):
        try:
            photo = Photo.of_line(line)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{index}, line {number} is damaged: prepare it again") from error
        if split in (None, photo.split):
            photos.append(photo)
    return photos


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="ascii") as file:
        yield from (line for line in file if line.strip())
