"""What all benchmarks share: one row per (video, expression), typed, with nothing decoded.

A benchmark reads its original, unzipped tree in place and never writes into it. Its rows come one
video at a time, map-style as a `datasets.Dataset` or streamed as an `IterableDataset` with one
shard per video.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

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
from datasets.exceptions import DatasetGenerationError
from PIL import Image as PILImage

from eval.metrics.jf.rle import decode

from .tree import LayoutError, cached_by_file, few, image_size

logger = logging.getLogger(__name__)

ROWS_VERSION = 1  # of what a row means; part of every digest
RLE = {"size": List(Value("int32"), length=2), "counts": Value("string")}  # COCO, compressed

# Columns of every benchmark; each adds either `mask_images` or `mask_rles`, and its own facts.
COMMON = {
    "video_id": Value("string"),
    "exp_id": Value("string"),  # unique in the video; folder name of predictions, kept verbatim
    "expression": Value("string"),  # as written in the file
    "obj_ids": List(Value("int32")),  # objects referred to; [] = no target, None = not published
    "frame_names": List(Value("string")),  # T names without suffix, in temporal order
    "frames": List(Image(decode=False)),  # T paths; None where `VIDEO_FILE` says where they are
    "height": Value("int32"),
    "width": Value("int32"),
}
# Of benchmarks whose videos may be files; both None where each frame is a file of its own.
VIDEO_FILE = {
    "video_file": Value("string"),  # path of the file that holds the frames
    "first_frame": Value("int32"),  # which of its frames the row's first one is
}
# One palette PNG per frame, its pixels object ids (`obj_ids` says which count).
MASK_IMAGES = {"mask_images": List(Image(decode=False))}  # T paths; None where not published
ANY_LABEL = tuple(range(1, 256))  # `obj_ids` of a row for which all but the background counts
# Per frame the RLEs of the objects that are in it; their union is the mask.
MASK_RLES = {"mask_rles": List(List(RLE))}  # T lists; None where not published


class Benchmark:
    """One split of a benchmark.

    A subclass sets the class attributes and `_frames`, fills `videos` and `split_videos` by `_keep`
    and implements `has_truth`, `rows`, `_inputs` and `_meta_files`. Instances are pickled into data
    loader workers, so they stay small: large files are read where they are needed, through a cache
    of the process.

    Args:
        root: Folder of the benchmark.
        split: One of `splits`.
        videos: Names of the videos to keep; all of the split if None.

    Every subclass also takes `check_frames`: if False, nothing looks whether frames and label maps
    are there, which suits who only wants to know `videos` or `input_digest()`.

    Raises:
        LayoutError: The tree is incomplete, or its files do not follow the layout.
        ValueError: The benchmark has no such split, or the split none of these videos.
    """

    name: str  # in `BENCHMARKS`
    title: str  # as people write it
    splits: tuple[str, ...]  # () = whatever is there
    released: Mapping[str, int] = {}  # split -> videos in the real release, where that is known
    splits_overlap = False  # whether a video may be in several splits
    features: Features
    _frames: Path  # folder of <video>/<frame>.jpg

    def __init__(self, root: str | Path, split: str, videos: Sequence[str] | None = None):
        if self.splits and split not in self.splits:
            raise ValueError(f"{self.title} has no split {split!r}, only {', '.join(self.splits)}")
        # Absolute, since rows are kept and must hold in another working directory too.
        self.root, self.split = Path(root).absolute(), split
        self.videos: tuple[str, ...] = ()  # names, in the order they are run
        self.split_videos: tuple[str, ...] = ()  # those of the whole split

    @property
    def has_truth(self) -> bool:
        """Whether the split comes with masks to score against."""
        raise NotImplementedError

    @property
    def _split_name(self) -> str:
        """What `datasets` calls the split."""
        return self.split

    def rows(self, video: str) -> list[dict]:
        """One dict per expression of the video, with the keys of `features`."""
        raise NotImplementedError

    def _inputs(self, video: str) -> tuple[list[str], dict[str, str]]:
        """Names of the frames in temporal order, and exp_id -> expression; of any video of the
        split, and without a look at its frames where a file lists them."""
        raise NotImplementedError

    def _meta_files(self) -> list[Path]:
        """Files whose content decides what the rows are."""
        raise NotImplementedError

    def _options(self) -> dict:
        """What else decides what the rows are; plain JSON values."""
        return {}

    def _keep(self, names: Iterable[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
        """The videos of the split, or those `wanted` of them, sorted.

        Raises:
            ValueError: Some of them are not in the split, or none is left.
        """
        names = set(names)
        self.split_videos = tuple(sorted(names))
        kept = names if wanted is None else set(wanted)
        if unknown := sorted(kept - names):
            raise ValueError(f"{self.title} {self.split} has no video {few(unknown)}")
        if not kept:
            raise ValueError(f"{self.root} has no video of {self.title} {self.split} to read")
        released = self.released.get(self.split, len(kept))
        if wanted is None and len(kept) != released:
            logger.info(
                "%s %s has %d videos, %d of them here",
                *(self.title, self.split, released, len(kept)),
            )
        return tuple(sorted(kept))

    def warn_empty(self) -> list[tuple[str, str]]:
        """Log and return which expressions have a target, but not one pixel of it in any frame.

        Rows are read until a target shows, so this is cheap where the truth is complete.

        Returns:
            (video_id, exp_id) of each.
        """
        empty = []
        for video in self.videos if self.has_truth else ():
            for row in self.rows(video):
                times = range(len(row["frame_names"]))
                if row["obj_ids"] and not any(decode_mask(row, t).any() for t in times):
                    empty.append((video, row["exp_id"]))
        self.tell_empty(empty)
        return empty

    def tell_empty(self, expressions: Sequence[tuple[str, str]]) -> None:
        """Log which expressions, (video_id, exp_id) of each, have no pixel of their target."""
        if expressions:
            logger.warning(
                "%s %s: the object referred to is in no frame of %s",
                *(self.title, self.split, few([f"{v}/{e}" for v, e in expressions])),
            )

    def digest(self) -> str:
        """SHA-256 (hex) that changes when the rows may; does not depend on where the tree lies."""
        facts = {
            "version": ROWS_VERSION,
            "name": self.name,
            "split": self.split,
            "videos": self.videos,
            "options": self._options(),
            "sizes": [self._first_size(video) for video in self.videos],
        }
        sha = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for path in self._meta_files():
            part = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(2**20):  # mask_dict.json has hundreds of megabytes
                    part.update(block)
            sha.update(part.digest())
        return sha.hexdigest()

    def input_digest(self) -> str:
        """SHA-256 (hex) of all that predictions of the split depend on, besides the pixels.

        That is names, frame names and expressions of the whole split, whichever `videos` are kept;
        not masks, and not which objects an expression is about.
        """
        videos = {video: self._inputs(video) for video in self.split_videos}
        facts = {"name": self.name, "split": self.split, "videos": videos}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _first_size(self, video: str) -> tuple[int, int] | None:
        """(H, W) of the first frame; None where it cannot be read."""
        names, _ = self._inputs(video)
        try:
            return image_size(self._frames / video / f"{names[0]}.jpg") if names else None
        except OSError:
            return None

    def dataset(self, cache_dir: str | Path | None = None) -> Dataset:
        """All rows, on disk in the `datasets` cache, memory-mapped.

        Raises:
            LayoutError: A file that only the rows need does not follow the layout.
        """
        place = hashlib.sha256(f"{self.root}\0{self.digest()}".encode()).hexdigest()
        try:
            return Dataset.from_generator(
                _generate,
                features=self.features,
                cache_dir=None if cache_dir is None else str(cache_dir),
                gen_kwargs={"benchmark": self, "videos": list(self.videos)},
                split=NamedSplit(self._split_name),
                fingerprint=place,  # without it, rows of an older meta file would be served
            )
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, (LayoutError, OSError)):
                raise error.__cause__ from None
            raise

    def stream(self) -> IterableDataset:
        """All rows, made as they are asked for; as many shards as videos."""
        return IterableDataset.from_generator(
            _generate,
            features=self.features,
            gen_kwargs={"benchmark": self, "videos": list(self.videos)},
            split=NamedSplit(self._split_name),
        )


def own_columns(columns: Iterable[str]) -> list[str]:
    """Those that a benchmark adds to what all have: its own facts, without masks."""
    known = COMMON | VIDEO_FILE
    return [name for name in columns if name not in known and not name.startswith("mask_")]


def _generate(benchmark: Benchmark, videos: list[str]) -> Iterator[dict]:
    for video in videos:
        yield from benchmark.rows(video)


def decode_mask(row: dict, t: int) -> np.ndarray:
    """Ground truth of one row at frame `t`: (H, W) bool, the union of the objects referred to.

    Raises:
        ValueError: The row has no masks, or one is damaged or not of the row's size.
    """
    size = (row["height"], row["width"])
    mask = np.zeros(size, dtype=bool)
    if row.get("mask_rles") is not None:
        for i, rle in enumerate(row["mask_rles"][t]):
            if tuple(rle["size"]) != size:
                raise ValueError(f"the mask of {_owner(row, t, i)} is {rle['size']}, not {size}")
            try:
                mask |= decode(rle)
            except ValueError as error:
                raise ValueError(
                    f"the mask of {_owner(row, t, i)} is a damaged RLE: {error}"
                ) from None
        return mask
    if row["obj_ids"] is not None and not row["obj_ids"]:
        return mask
    if row.get("mask_images") is None:
        raise ValueError(f"the masks of video {row['video_id']} are not published")
    labels = read_labels(row["mask_images"][t]["path"])
    if labels.shape != size:
        raise ValueError(f"{row['mask_images'][t]['path']} is {labels.shape}, its frame {size}")
    if len(row["obj_ids"]) == len(ANY_LABEL):
        return labels > 0
    for obj_id in row["obj_ids"]:
        mask |= labels == obj_id
    return mask


def _owner(row: dict, t: int, i: int) -> str:
    """Whose the `i`-th RLE of frame `t` is, for a message."""
    objects, rles = row["obj_ids"] or [], row["mask_rles"][t]
    if len(objects) == len(rles):
        of = f"object {objects[i]}"
    else:  # those that are not in the frame have no RLE
        of = f"one of the objects {', '.join(map(str, objects))}"
    return f"{of} in frame {row['frame_names'][t]} of video {row['video_id']}"


@cached_by_file(maxsize=4)  # the expressions of a video share its label maps
def read_labels(path: str) -> np.ndarray:
    """Pixel values (H, W) uint8 of a palette or grey PNG; read-only, since it is shared.

    Raises:
        ValueError: It is of another kind, or damaged.
        FileNotFoundError: It is not there.
    """
    try:
        with PILImage.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise ValueError(
                    f"{path} is of mode {image.mode}; masks are palette or 8-bit grey PNGs"
                )
            labels = np.array(image, dtype=np.uint8)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError) as error:  # PIL's PNG reader raises SyntaxError when damaged
        raise ValueError(f"{path} is a damaged image ({error})") from error
    labels.flags.writeable = False
    return labels


def image_columns(folder: Path, names: Iterable[str], suffix: str) -> list[dict]:
    """The images `folder/<name><suffix>` as a column of undecoded `Image`s holds them."""
    return [{"path": str(folder / f"{name}{suffix}"), "bytes": None} for name in names]


def frame_columns(folder: Path, names: Sequence[str]) -> dict:
    """Columns `frame_names`, `frames`, `height`, `width` of the JPEGs of a video."""
    frames = image_columns(folder, names, ".jpg")
    height, width = image_size(frames[0]["path"])
    return {"frame_names": list(names), "frames": frames, "height": height, "width": width}
