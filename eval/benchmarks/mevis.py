"""MeViS (Ding et al. 2023, 2025), versions 1 and 2, from its unzipped archives:

    ROOT/<split>/JPEGImages/<video>/<frame>.jpg
    ROOT/<split>/meta_expressions.json      version 1
    ROOT/<split>/meta_expressions_v2.json   version 2
    ROOT/<split>/mask_dict.json             train and valid_u: object -> one RLE or null per frame

For valid and test the names of the expressions may end in `_release.json` instead, and do in the
release of version 2. An expression may refer to several objects, whose union is its mask, or, in
version 2, to none.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets import Features

from .base import COMMON, MASK_RLES, Benchmark, frame_columns
from .meta_expressions import read_inputs, read_videos
from .tree import LayoutError, by_number, cached_by_file, check_files, few, read_json, require


class MeViS(Benchmark):
    """One split of MeViS. The `obj_ids` of a row are the `anno_id`s, the keys of mask_dict.json.

    For training prefer `dataset()`, which is memory-mapped, to `stream()` with many workers: each
    process that makes rows parses mask_dict.json, which takes about 1.5 times its size in memory.

    Args:
        root: Folder of the splits.
        split: "train", "valid_u", "valid" or "test".
        videos: Names of the videos to keep; all of the split if None.
        version: 1 or 2, where the expressions of both are there; the one that is there if None.
        check_frames: Whether to check that all frames are there.

    Raises:
        LayoutError: The tree is incomplete, or its files do not follow the layout.
        ValueError: Unusable options.
    """

    name = "mevis"
    title = "MeViS"
    splits = ("train", "valid_u", "valid", "test")
    released = {"train": 1662, "valid_u": 50, "valid": 140}
    unmasked = ("valid", "test")  # splits whose masks are not published
    features = Features(COMMON | MASK_RLES)

    def __init__(
        self,
        root: str | Path,
        split: str,
        videos: Sequence[str] | None = None,
        version: int | None = None,
        check_frames: bool = True,
    ):
        super().__init__(root, split)
        folder = self.root / split
        self._frames, self._masks = folder / "JPEGImages", folder / "mask_dict.json"
        self._meta, self.version = self._find_meta(folder, version)
        expected = [self._meta] + ([self._frames] if check_frames else [])
        if split not in self.unmasked:
            expected.append(self._masks)
        require(self.root, self.title, expected)
        entries = read_videos(self._meta)
        self.videos = self._keep(entries, videos)
        self._has_truth = self._masks.exists() and self._check_targets()
        if check_frames:
            frames = {v: [f"{n}.jpg" for n in entries[v]["frames"]] for v in self.videos}
            check_files(self.root, self.title, {self._frames / v: frames[v] for v in frames})

    @property
    def has_truth(self) -> bool:
        """Whether the split comes with masks to score against."""
        return self._has_truth

    def rows(self, video: str) -> list[dict]:
        """One dict per expression, in the order of their numbers.

        Raises:
            LayoutError: mask_dict.json lacks a mask, or has one of another size.
        """
        entry = read_videos(self._meta)[video]
        names = by_number(entry["frames"])
        common = {"video_id": video} | frame_columns(self._frames / video, names)
        size = (common["height"], common["width"])
        # Masks are in the order of the frames as listed, which need not be that of their numbers.
        order = [entry["frames"].index(name) for name in names]
        rows = []
        for exp_id in by_number(entry["expressions"]):
            expression = entry["expressions"][exp_id]
            ids, rles = _targets(expression, f"{self._meta}: expression {video}/{exp_id}"), None
            if self.has_truth:
                objects = [self._object_rles(video, anno_id, size) for anno_id in ids]
                rles = [[o[t] for o in objects if o[t] is not None] for t in order]
            rows.append(
                common
                | {
                    "exp_id": exp_id,
                    "expression": expression["exp"],
                    "obj_ids": ids,
                    "mask_rles": rles,
                }
                | self._facts(entry, expression)
            )
        return rows

    def _facts(self, video: dict, expression: dict) -> dict:
        """Columns of the benchmark's own, from the entries of the JSON file."""
        return {}

    def _meta_names(self) -> dict[int | None, list[str]]:
        """Version -> names of its file of expressions; the first that is there counts."""
        ends = ["_release.json", ".json"] if self.split in self.unmasked else [".json"]
        return {v: [f"meta_expressions{m}{e}" for e in ends] for v, m in ((2, "_v2"), (1, ""))}

    def _find_meta(self, folder: Path, version: int | None) -> tuple[Path, int | None]:
        """The file of expressions, which need not exist, and its version."""
        names = self._meta_names()
        if version is not None:
            if version not in names:
                raise ValueError(f"{self.title} has no version {version!r}, only 1 and 2")
            names = {version: names[version]}
        found = {}
        for number, options in names.items():
            if there := [folder / name for name in options if (folder / name).exists()]:
                found[number] = there[0]
        if len(found) > 1:
            raise LayoutError(
                f"{folder} has several versions, {' and '.join(p.name for p in found.values())}; "
                "choose one by `version` (--mevis-version 1 or 2)"
            )
        number, options = next(iter(names.items()))
        return next(((p, n) for n, p in found.items()), (folder / options[0], number))

    def _inputs(self, video: str) -> tuple[list[str], dict[str, str]]:
        return read_inputs(self._meta, video)

    def _options(self) -> dict:
        return {"version": self.version}

    def _meta_files(self) -> list[Path]:
        return [self._meta, self._masks] if self.has_truth else [self._meta]

    def _check_targets(self) -> bool:
        """Whether the targets of every expression are known; if of some only, that is an error."""
        known, unknown = 0, []
        for video in self.videos:
            for exp_id, entry in read_videos(self._meta)[video]["expressions"].items():
                if _targets(entry, f"{self._meta}: expression {video}/{exp_id}") is None:
                    unknown.append(f"{video}/{exp_id}")
                else:
                    known += 1
        if unknown and (known or self.split not in self.unmasked):
            raise LayoutError(f"{self._meta} has no anno_id of expression {few(unknown)}")
        return not unknown

    def _object_rles(self, video: str, anno_id: int, size: tuple[int, int]) -> list[dict | None]:
        """The RLEs of an object, one per frame as listed; None where it is absent."""
        length = len(read_videos(self._meta)[video]["frames"])
        rles = read_masks(self._masks).get(str(anno_id))
        if not isinstance(rles, list) or len(rles) != length:
            raise LayoutError(
                f"{self._masks} has no list of {length} masks for object {anno_id} of video {video}"
            )
        for rle in rles:
            if rle is not None and not _is_rle(rle, size):
                raise LayoutError(
                    f"{self._masks}: object {anno_id} of video {video} has a mask that is no "
                    f"compressed RLE of size {list(size)}, the size of its frames"
                )
        return rles


def _is_rle(rle, size: tuple[int, int]) -> bool:
    return (
        isinstance(rle, dict)
        and rle.keys() == {"size", "counts"}
        and rle["size"] == list(size)
        and isinstance(rle["counts"], str)
    )


def _targets(expression: dict, where: str) -> list[int] | None:
    """The objects an expression refers to; [] = none, None = not published."""
    ids = expression.get("anno_id")
    if ids is None:
        return None
    try:
        if isinstance(ids, list):
            ids = [int(i) for i in ids]
            return None if -1 in ids else ids  # as published without them
    except (TypeError, ValueError):
        pass
    raise LayoutError(f"{where} has anno_id {ids!r}, which is no list of numbers")


@cached_by_file(maxsize=2)  # that of train has hundreds of megabytes
def read_masks(path: Path) -> dict[str, list]:
    """mask_dict.json: object -> one COCO RLE or None per frame. The result is shared."""
    masks = read_json(path)
    if not isinstance(masks, dict):
        raise LayoutError(f"{path} does not follow the layout: no object of mask lists")
    return masks
