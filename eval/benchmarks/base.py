"""What all benchmarks share: one row per (video, expression), typed, with nothing decoded.

A benchmark reads its original, unzipped tree in place and never writes into it. Its rows come one
video at a time, map-style as a `datasets.Dataset` or streamed as an `IterableDataset` with one
shard per video.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

import numpy as np
from datasets import (
    Dataset,
    Features,
    Image,
    IterableDataset,
    List,
    NamedSplit,
    Value,
)
from PIL import Image as PILImage
from pycocotools import mask as coco_mask

ROWS_VERSION = 1  # of what a row means; part of every digest
RLE = {"size": List(Value("int32"), length=2), "counts": Value("string")}  # COCO, compressed

# Columns of every benchmark; each adds either `mask_images` or `mask_rles`, and its own facts.
COMMON = {
    "video_id": Value("string"),
    "exp_id": Value("string"),  # unique in the video; folder name of predictions, kept verbatim
    "expression": Value("string"),  # as written in the file
    "obj_ids": List(Value("int32")),  # objects referred to; [] = no target, None = not published
    "frame_names": List(Value("string")),  # T names without suffix, in temporal order
    "frames": List(Image(decode=False)),  # T paths
    "height": Value("int32"),
    "width": Value("int32"),
}
# One palette PNG per frame, its pixels object ids (`obj_ids` says which count).
MASK_IMAGES = {"mask_images": List(Image(decode=False))}  # T paths; None where not published
# Per frame the RLEs of the objects that are in it; their union is the mask.
MASK_RLES = {"mask_rles": List(List(RLE))}  # T lists; None where not published


class LayoutError(ValueError):
    """A tree on disk is not the benchmark's. The message lists what was expected and is missing."""


class Benchmark:
    """One split of a benchmark.

    A subclass sets `name` and `features`, fills `videos` and implements `rows` and `_meta_files`.
    Instances are pickled into data loader workers, so they stay small: large files are read where
    they are needed, through a cache of the process.

    Args:
        root: Folder of the benchmark.
        split: One of the subclass's splits.
        videos: Names of the videos to keep; all of the split if None.

    Raises:
        LayoutError: The tree is incomplete, or its files do not follow the layout.
    """

    name: str
    features: Features

    def __init__(self, root: str | Path, split: str, videos: Sequence[str] | None = None):
        self.root, self.split = Path(root), split
        self.videos: tuple[str, ...] = ()  # names, in the order they are run

    @property
    def has_truth(self) -> bool:
        """Whether the split comes with masks to score against."""
        raise NotImplementedError

    def rows(self, video: str) -> list[dict]:
        """One dict per expression of the video, with the keys of `features`."""
        raise NotImplementedError

    def _meta_files(self) -> list[Path]:
        """Files whose content decides what the rows are."""
        raise NotImplementedError

    def _options(self) -> dict:
        """What else decides what the rows are; plain JSON values."""
        return {}

    def digest(self) -> str:
        """SHA-256 (hex) that changes when the rows may; does not depend on where the tree lies."""
        facts = {
            "version": ROWS_VERSION,
            "name": self.name,
            "split": self.split,
            "videos": self.videos,
            "options": self._options(),
        }
        sha = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for path in self._meta_files():
            part = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(2**20):  # mask_dict.json has hundreds of megabytes
                    part.update(block)
            sha.update(part.digest())
        return sha.hexdigest()

    def dataset(self, cache_dir: str | Path | None = None) -> Dataset:
        """All rows, on disk in the `datasets` cache, memory-mapped."""
        place = hashlib.sha256(f"{self.root.resolve()}\0{self.digest()}".encode()).hexdigest()
        return Dataset.from_generator(
            _generate,
            features=self.features,
            cache_dir=None if cache_dir is None else str(cache_dir),
            gen_kwargs={"benchmark": self, "videos": list(self.videos)},
            split=NamedSplit(self.split),
            fingerprint=place,  # without it, rows of an older meta file would be served
        )

    def stream(self) -> IterableDataset:
        """All rows, made as they are asked for; as many shards as videos."""
        return IterableDataset.from_generator(
            _generate,
            features=self.features,
            gen_kwargs={"benchmark": self, "videos": list(self.videos)},
            split=NamedSplit(self.split),
        )


def _generate(benchmark: Benchmark, videos: list[str]) -> Iterator[dict]:
    for video in videos:
        yield from benchmark.rows(video)


def decode_mask(row: dict, t: int) -> np.ndarray:
    """Ground truth of one row at frame `t`: (H, W) bool, the union of the objects referred to.

    Raises:
        ValueError: The row has no masks, or the mask is not of the row's size.
    """
    size = (row["height"], row["width"])
    mask = np.zeros(size, dtype=bool)
    if row.get("mask_rles") is not None:
        for rle in row["mask_rles"][t]:
            mask |= coco_mask.decode(rle).astype(bool)
        return mask
    if row.get("mask_images") is None:
        raise ValueError(f"the masks of video {row['video_id']} are not published")
    labels = read_labels(row["mask_images"][t]["path"])
    if labels.shape != size:
        raise ValueError(f"{row['mask_images'][t]['path']} is {labels.shape}, its frame {size}")
    for obj_id in row["obj_ids"]:
        mask |= labels == obj_id
    return mask


@functools.lru_cache(maxsize=4)  # the expressions of a video share its label maps
def read_labels(path: str) -> np.ndarray:
    """Pixel values (H, W) uint8 of a palette or grey PNG; read-only, since it is shared."""
    with PILImage.open(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise ValueError(
                f"{path} is of mode {image.mode}; masks are palette or 8-bit grey PNGs"
            )
        labels = np.array(image, dtype=np.uint8)
    labels.flags.writeable = False
    return labels


def checked_name(name, where: str) -> str:
    """`name` if it is a plain file or folder name: names from JSON become paths.

    Raises:
        LayoutError: It is not.
    """
    if not isinstance(name, str) or name in ("", "..") or PureWindowsPath(name).name != name:
        raise LayoutError(f"{where}: {name!r} is no plain file or folder name")
    return name


def read_json(path: Path):
    """Content of a JSON file.

    Raises:
        LayoutError: It is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LayoutError(f"{path} is not JSON: {error}") from error


def require(root: Path, name: str, paths: Sequence[Path]) -> None:
    """Check that all of `paths` are there.

    Raises:
        LayoutError: One message with everything that was expected, and what of it is missing.
    """
    missing = [p for p in paths if not p.exists()]
    if missing:
        shown = [os.path.relpath(p, root) for p in paths]
        absent = [os.path.relpath(p, root) for p in missing]
        raise LayoutError(
            f"{root} is not {name}: expected {', '.join(shown)}; missing {', '.join(absent)}"
        )


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image, from its header alone."""
    with PILImage.open(path) as image:
        return image.size[::-1]
