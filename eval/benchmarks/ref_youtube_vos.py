"""Ref-YouTube-VOS (Seo et al. 2020), from its unzipped archives:

    ROOT/meta_expressions/{train,valid,test}/meta_expressions.json
    ROOT/{train,valid,test}/JPEGImages/<video>/<frame>.jpg
    ROOT/train/Annotations/<video>/<frame>.png      palette PNG, its pixels object ids

The file of valid lists the videos of test too; those of the split are what is in valid and not in
test. Masks of valid and test are not part of the release. Who has them gives their folder and the
object that each expression is about (`masks`, `object_ids`).
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from datasets import Features

from .base import COMMON, MASK_IMAGES, Benchmark, frame_columns, image_columns
from .meta_expressions import read_inputs, read_videos
from .tree import LayoutError, by_number, cached_by_file, check_files, few, read_json, require

logger = logging.getLogger(__name__)


class RefYouTubeVOS(Benchmark):
    """One split of Ref-YouTube-VOS; each expression refers to one object.

    Args:
        root: Folder with `meta_expressions` and the splits.
        split: "train", "valid" or "test".
        videos: Names of the videos to keep; all of the split if None.
        object_ids: JSON file with the `obj_id` of every expression, in the schema of
            meta_expressions.json, for a split whose own file does not tell.
        masks: Folder `<video>/<frame>.png` of label maps; `ROOT/<split>/Annotations` if None. Read
            only where the object ids are known: without them a mask says nothing about a sentence.
        check_frames: Whether to check that all frames and label maps are there.

    Raises:
        LayoutError: The tree is incomplete, or its files do not follow the layout.
        ValueError: Unusable options.
    """

    name = "ref-youtube-vos"
    title = "Ref-YouTube-VOS"
    splits = ("train", "valid", "test")
    released = {"train": 3471, "valid": 202, "test": 305}
    features = Features(COMMON | MASK_IMAGES)

    def __init__(
        self,
        root: str | Path,
        split: str,
        videos: Sequence[str] | None = None,
        object_ids: str | Path | None = None,
        masks: str | Path | None = None,
        check_frames: bool = True,
    ):
        super().__init__(root, split)
        self._frames = self.root / split / "JPEGImages"
        self._object_ids = None if object_ids is None else Path(object_ids).absolute()
        self._meta = self._meta_file(split)
        # Who names the videos need not have the file that tells valid from test.
        self._others = self._meta_file("test") if split == "valid" else None
        if self._others and videos is not None and not self._others.exists():
            self._others = None
        self._require([self._frames] if check_frames else [])
        names = set(read_videos(self._meta))
        if self._others:
            names -= set(read_videos(self._others))
        self.videos = self._keep(names, videos)
        self._masks = self._find_masks(None if masks is None else Path(masks).absolute())
        if check_frames:
            self._check_files()

    @property
    def has_truth(self) -> bool:
        """Whether masks and the objects referred to are both known."""
        return self._masks is not None

    def rows(self, video: str) -> list[dict]:
        """One dict per expression, in the order of their numbers."""
        entry = read_videos(self._meta)[video]
        names = by_number(entry["frames"])
        common = {"video_id": video} | frame_columns(self._frames / video, names)
        masks = None
        if self._masks:
            masks = image_columns(self._masks / video, names, ".png")
        known = self._objects(video)
        return [
            common
            | {
                "exp_id": exp_id,
                "expression": entry["expressions"][exp_id]["exp"],
                "obj_ids": [known[exp_id]] if exp_id in known else None,
                "mask_images": masks,
            }
            for exp_id in by_number(entry["expressions"])
        ]

    def _inputs(self, video: str) -> tuple[list[str], dict[str, str]]:
        return read_inputs(self._meta, video)

    def _meta_files(self) -> list[Path]:
        return [p for p in (self._meta, self._others, self._object_ids) if p]

    def _options(self) -> dict:
        masks = None if self._masks is None else os.path.relpath(self._masks, self.root)
        return {"masks": masks, "object_ids": self._object_ids is not None}

    def _meta_file(self, split: str) -> Path:
        return self.root / "meta_expressions" / split / "meta_expressions.json"

    def _require(self, folders: list[Path]) -> None:
        older = self.root / self.split / "meta_expressions.json"
        if older.exists() and not self._meta.exists():
            read_videos(older)  # says so if it is the schema that lists expressions by object
        expected = [self._meta, *folders]
        if self.split == "train":
            expected.append(self.root / "train" / "Annotations")
        if self._object_ids and not self._object_ids.is_file():
            raise LayoutError(f"object_ids: {self._object_ids} is no file")
        remedy = ""
        if self._others:
            expected.append(self._others)
            if not self._others.exists():
                remedy = "without the file of test, the videos of valid have to be named"
        require(self.root, self.title, expected, remedy)

    def _find_masks(self, given: Path | None) -> Path | None:
        """Folder of the label maps; None where there is nothing to score against."""
        if not self._check_objects():
            if given:
                raise ValueError(
                    f"masks are given, but {self._meta} does not say which object an expression "
                    "is about; give object_ids (--object-ids) too"
                )
            return None
        folder = given or self.root / self.split / "Annotations"
        if given or self._object_ids or self.split == "train":
            require(self.root, self.title, [folder])
        return folder if folder.is_dir() else None

    def _check_objects(self) -> bool:
        """Whether the object of every expression is known; if of some only, that is an error."""
        known, unknown = 0, []
        for video in self.videos:
            objects = self._objects(video)
            expressions = read_videos(self._meta)[video]["expressions"]
            unknown += [f"{video}/{exp_id}" for exp_id in expressions if exp_id not in objects]
            known += len(objects)
        if unknown and (known or self._object_ids or self.split == "train"):
            source = self._object_ids or self._meta
            raise LayoutError(f"{source} has no obj_id of expression {few(unknown)}")
        if self._object_ids:
            self._warn_reworded()
        return not unknown

    def _warn_reworded(self) -> None:
        """Numbers of expressions differ between versions of the data; their words show it."""
        reworded = []
        for video in self.videos:
            told = read_object_ids(self._object_ids)[video]
            for exp_id, entry in read_videos(self._meta)[video]["expressions"].items():
                if told[exp_id].get("exp", entry["exp"]) != entry["exp"]:
                    reworded.append(f"{video}/{exp_id}")
        if reworded:
            logger.warning(
                "%s has other words than %s for expression %s; are both of one version?",
                *(self._object_ids, self._meta, few(reworded)),
            )

    def _objects(self, video: str) -> dict[str, int]:
        """Expression -> the object it is about, where that is known."""
        if self._object_ids:
            path, entries = self._object_ids, read_object_ids(self._object_ids).get(video, {})
        else:
            path, entries = self._meta, read_videos(self._meta)[video]["expressions"]
        return {
            exp_id: _pixel_value(entry["obj_id"], f"{path}: expression {video}/{exp_id}")
            for exp_id, entry in entries.items()
            if "obj_id" in entry
        }

    def _check_files(self) -> None:
        videos = read_videos(self._meta)
        expected = [(self._frames, ".jpg")]
        if self._masks:
            expected.append((self._masks, ".png"))
        check_files(
            self.root,
            self.title,
            {
                folder / video: [f"{name}{suffix}" for name in videos[video]["frames"]]
                for folder, suffix in expected
                for video in self.videos
            },
        )


@cached_by_file(maxsize=2)
def read_object_ids(path: Path) -> dict[str, dict[str, dict]]:
    """Video -> expression -> entry of a file that is read for its `obj_id`s alone.

    Raises:
        LayoutError: The file does not follow the schema of meta_expressions.json.
    """
    try:
        videos = read_json(path)["videos"]
        entries = {video: dict(videos[video]["expressions"]) for video in videos}
        if not all(isinstance(e, dict) for es in entries.values() for e in es.values()):
            raise TypeError("an expression is no object")
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, LayoutError):
            raise
        raise LayoutError(
            f"{path} does not follow the layout: {type(error).__name__} {error}"
        ) from error
    return entries


def _pixel_value(obj_id, where: str) -> int:
    """`obj_id` as a pixel value; it is written as a string."""
    if not str(obj_id).isdecimal() or not 0 < int(obj_id) < 256:
        raise LayoutError(f"{where} has obj_id {obj_id!r}, which is no pixel value")
    return int(obj_id)
