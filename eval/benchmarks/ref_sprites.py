"""Ref-Sprites, the synthetic benchmark that ships with this repository: MeViS and more.

    ROOT/<split>/{JPEGImages/<video>/<frame>.jpg, meta_expressions.json, mask_dict.json}

Per video also `height`, `width`, `background`, `heldout_art`, `heldout_background` and `objects`;
per expression `kind`, `noun` and `art`. The reader is strict: what is missing or contradictory is
an error, since a sentence that silently drops out raises the score.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from datasets import Features, Value

from .base import COMMON, MASK_RLES
from .meta_expressions import read_videos
from .mevis import MeViS
from .tree import LayoutError, by_number, checked_name, image_size


class RefSprites(MeViS):
    """One split of Ref-Sprites, checked as a whole.

    Args:
        root: Folder of the splits.
        split: Name of a split; "valid" ships.
        videos: Names of the videos to keep; all of the split if None.
        check_frames: Whether to check frames, masks and what is said about them.

    Raises:
        LayoutError: Something is missing or contradictory.
    """

    name = "ref-sprites"
    title = "Ref-Sprites"
    splits = ()
    released = {}
    unmasked = ()
    features = Features(
        COMMON
        | MASK_RLES
        | {
            "kind": Value("string"),  # noun, position, size, relation, motion(-only), no-target
            "noun": Value("string"),
            "art": Value("string"),  # art style of the target; None without one
            "background": Value("string"),
            "heldout_art": Value("bool"),  # drawn in a style that training never saw
            "heldout_background": Value("bool"),  # likewise for the background family
        }
    )

    def __init__(
        self,
        root: str | Path,
        split: str,
        videos: Sequence[str] | None = None,
        check_frames: bool = True,
    ):
        super().__init__(root, checked_name(split, "split"), videos, check_frames=check_frames)
        for video in self.videos if check_frames else ():
            entry = read_videos(self._meta)[video]
            try:
                self._check_video(video, entry)
            except (KeyError, TypeError, AttributeError) as error:
                raise LayoutError(
                    f"{self._meta} does not follow the layout: {type(error).__name__} {error}"
                ) from error

    def objects(self, video: str) -> dict[int, list[dict | None]]:
        """Every object of the video, also those no sentence refers to: one RLE or None per frame.

        Returns:
            By `anno_id`, T entries each.
        """
        entry = read_videos(self._meta)[video]
        size = (entry["height"], entry["width"])
        ids = [int(o["anno_id"]) for o in entry["objects"]]
        return {anno_id: self._object_rles(video, anno_id, size) for anno_id in ids}

    def _meta_names(self) -> dict[int | None, list[str]]:
        return {None: ["meta_expressions.json"]}

    def _options(self) -> dict:
        return {}

    def _facts(self, video: dict, expression: dict) -> dict:
        of_expression = {key: expression[key] for key in ("kind", "noun", "art")}
        keys = ("background", "heldout_art", "heldout_background")
        return of_expression | {key: video[key] for key in keys}

    def _check_video(self, video: str, entry: dict) -> None:
        if not entry["expressions"]:
            raise LayoutError(f"video {video} has no sentences")
        self._check_frames(video, entry)
        known = self.objects(video)
        for row in self.rows(video):
            if unlisted := sorted(set(row["obj_ids"]) - set(known)):
                raise LayoutError(
                    f"sentences of video {video} refer to unlisted objects: {unlisted}"
                )
            if (row["kind"] == "no-target") != (not row["obj_ids"]):
                raise LayoutError(
                    f"sentence {row['exp_id']} of video {video} is of kind {row['kind']} "
                    f"but refers to {len(row['obj_ids'])} objects"
                )

    def _check_frames(self, video: str, entry: dict) -> None:
        # A video folder may be given to a model as it is: it must hold the listed frames exactly.
        if entry["frames"] != by_number(entry["frames"]):
            raise LayoutError(f"the frames of video {video} are not listed in order")
        listed = {f"{name}.jpg" for name in entry["frames"]}
        folder = self._frames / video
        if odd := sorted(set(os.listdir(folder)) ^ listed)[:3]:
            raise LayoutError(
                f"{folder} does not hold exactly the {len(listed)} listed frames: {odd} ..."
            )
        size = image_size(folder / f"{entry['frames'][0]}.jpg")
        if size != (entry["height"], entry["width"]):
            raise LayoutError(
                f"video {video} is said to be {entry['height']}x{entry['width']}, "
                f"but its frames are {size[0]}x{size[1]}"
            )
