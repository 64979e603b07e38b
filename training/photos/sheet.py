"""A contact sheet of prepared pictures: masks as colour, nouns below."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .rows import Photo

COLUMNS, ROWS, SIDE = 10, 8, 150
COLOURS = np.array(
    [[230, 60, 60], [60, 160, 230], [70, 200, 90], [240, 180, 40], [190, 90, 220], [90, 220, 210]]
)


def contact_sheet(photos: Sequence[Photo], path: Path, seed: int = 0) -> None:
    """Draw pictures of every origin, evenly, and save them as one."""
    rng = np.random.default_rng(seed)
    by_origin: dict[str, list[Photo]] = {}
    for photo in photos:
        by_origin.setdefault(photo.origin, []).append(photo)
    room, chosen = COLUMNS * ROWS, []
    for number, own in enumerate(by_origin.values()):
        share = (room - len(chosen)) // (len(by_origin) - number)
        chosen += [own[i] for i in rng.permutation(len(own))[:share]]
    sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * (SIDE + 14)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, photo in enumerate(chosen):
        left, top = number % COLUMNS * SIDE, number // COLUMNS * (SIDE + 14)
        tile = marked(photo)
        tile.thumbnail((SIDE - 4, SIDE - 4))
        sheet.paste(tile, (left + 2, top + 2))
        nouns = dict.fromkeys(o.noun or "-" for o in photo.objects)
        draw.text((left + 2, top + SIDE), ", ".join(nouns)[:24], fill="black")
    sheet.save(path)


def marked(photo: Photo) -> Image.Image:
    """The picture with its objects in colour."""
    image = np.array(Image.open(photo.path).convert("RGB"), np.float32)
    for number, thing in enumerate(photo.objects):
        mask = thing.mask(photo.size)
        image[mask] = 0.5 * image[mask] + 0.5 * COLOURS[number % len(COLOURS)]
    return Image.fromarray(image.astype(np.uint8))
