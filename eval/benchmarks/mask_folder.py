"""Checks of a folder of masks: PNGs, one per frame, whose values are 0 or labels of objects."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .base import read_labels
from .tree import LayoutError, few
from .video_metadata import Sentence

MASK_SUFFIXES = frozenset({".png"})
_MODES = ("P", "L", "1")  # as `read_labels` takes them


def check_header(path: Path, size: tuple[int, int], where: str) -> None:
    """Look at the header of a mask; `size` is the (H, W) of its frame.

    Raises:
        LayoutError: It is no mask, or has another size.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode, (width, height) = image.mode, image.size
    except (OSError, SyntaxError) as error:
        raise LayoutError(f"{where}: {path} is no readable PNG ({error}); write it anew") from error
    if mode not in _MODES:
        raise LayoutError(
            f"{where}: {path} is of mode {mode}; masks are palette or 8-bit grey PNGs, convert it"
        )
    if (height, width) != size:
        raise LayoutError(
            f"{where}: {path} is {width}x{height}, the frames {size[1]}x{size[0]}; masks have the "
            "size of their video"
        )


def check_labels(paths: Sequence[Path], users: Sequence[Sentence]) -> None:
    """Look for the labels that sentences are about, in as few masks as need be.

    Args:
        paths: All masks of one folder.
        users: The sentences whose masks it holds.

    Raises:
        LayoutError: One is nowhere.
    """
    wanted = {i for s in users for i in s.object_ids or ()}
    anything = any(s.object_ids is None for s in users)
    found: set[int] = set()
    for path in paths:
        if wanted <= found and (found or not anything):
            return
        try:
            labels = read_labels(str(path))
        except ValueError as error:
            raise LayoutError(f"{users[0].where}: masks: {error}; write it anew") from error
        found.update((np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[1:]) + 1).tolist())
    for sentence in users:
        lost = sorted(set(sentence.object_ids or ()) - found)
        if lost:
            there = f"only {few([str(i) for i in sorted(found)])}" if found else "all of them black"
            raise LayoutError(
                f"{sentence.where}: object_id: {lost[0]} is in none of the masks in "
                f"{paths[0].parent}, {there}; correct it"
            )
        if not found and sentence.object_ids is None:
            raise LayoutError(
                f"{sentence.where}: masks: those in {paths[0].parent} are all black; write "
                '"object_id": [] if the sentence names nothing in the video'
            )
