"""Colours, fonts, text and masks painted on RGB arrays and PIL images."""

import colorsys
import functools
import re

import numpy as np
from PIL import ImageFont

Color = tuple[int, int, int]

INK: Color = (236, 238, 242)  # text on the dark ground
DIM: Color = (134, 140, 150)  # secondary text, and everything about "not found"
GROUND: Color = (19, 21, 26)
RAIL: Color = (54, 58, 66)
# Told apart on footage and on the dark ground, neighbours far from each other.
_COLORS: tuple[Color, ...] = (
    (255, 92, 92),
    (64, 160, 255),
    (255, 200, 40),
    (60, 210, 150),
    (196, 124, 255),
    (255, 146, 60),
    (40, 208, 228),
    (255, 116, 188),
)
_REGULAR = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "segoeui.ttf", "Helvetica.ttc")
_BOLD = ("DejaVuSans-Bold.ttf", "NotoSans-Bold.ttf", "Arial Bold.ttf", "arialbd.ttf")
_WIDE = (
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "YuGothR.ttc",
)
_NO_GLYPH = "\U0010fffe"  # a code point no font draws: it shows the font's "missing" box


def object_color(index: int) -> Color:
    """RGB colour of expression `index`; distinct for the first eight, then spread by hue."""
    if index < len(_COLORS):
        return _COLORS[index]
    hue = (index * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.6, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def paint_mask(
    frame: np.ndarray, mask: np.ndarray, color: Color, opacity: float = 0.4, edge: int = 2
) -> None:
    """Tint the masked pixels of a frame in place and draw the mask's contour inside its border.

    Args:
        frame: (H, W, 3) uint8 RGB, changed.
        mask: (H, W) bool.
        color: RGB.
        opacity: 0..1, of the tint.
        edge: Width of the contour in pixels.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return
    # One pixel of surroundings, so that the contour also runs along the box's own sides.
    top, bottom = max(rows[0] - 1, 0), rows[-1] + 2
    left, right = max(columns[0] - 1, 0), columns[-1] + 2
    mask, region = mask[top:bottom, left:right], frame[top:bottom, left:right]
    tint = np.asarray(color, dtype=np.float32) * opacity
    region[mask] = (region[mask] * np.float32(1 - opacity) + tint).astype(np.uint8)
    region[mask & ~_shrink(mask, edge)] = color


def _shrink(mask: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        inner = mask.copy()
        inner[1:] &= mask[:-1]
        inner[:-1] &= mask[1:]
        inner[:, 1:] &= mask[:, :-1]
        inner[:, :-1] &= mask[:, 1:]
        mask = inner
    return mask


def load_font(size: int, text: str = "", bold: bool = False):
    """A font of `size` pixels that can draw `text`; the nearest thing where there is none."""
    first = None
    for name in (*(_BOLD if bold else ()), *_REGULAR, *_WIDE):
        font = _truetype(name, size)
        if font is None:
            continue
        if _draws(font, text):
            return font
        first = first or font
    return first or _builtin(size)


@functools.lru_cache(maxsize=64)
def _truetype(name: str, size: int):
    try:
        return ImageFont.truetype(name, size)
    except (OSError, ImportError):
        return None


@functools.lru_cache(maxsize=16)
def _builtin(size: int):
    return ImageFont.load_default(size)


def _draws(font, text: str) -> bool:
    missing = bytes(font.getmask(_NO_GLYPH))
    characters = {c for c in text if not c.isspace()}
    return not any(not c.isascii() and bytes(font.getmask(c)) == missing for c in characters)


def fit_lines(text: str, font, width: float, max_lines: int = 1) -> list[str]:
    """Break text into at most `max_lines` lines of `width` pixels, "…" where it had to be cut."""
    lines, line = [], ""
    for word in re.findall(r"\S+", text):
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width and len(word) > 1:  # scripts without spaces
            size = _longest_prefix(word, font, width)
            lines.append(word[:size])
            word = word[size:]
        line = word
    lines.append(line)
    if len(lines) > max_lines:
        cut = lines[max_lines - 1]
        while cut and font.getlength(cut + "…") > width:
            cut = cut[:-1]
        lines = [*lines[: max_lines - 1], cut.rstrip() + "…"]
    return lines


def _longest_prefix(word: str, font, width: float) -> int:
    size = 1
    while size < len(word) and font.getlength(word[: size + 1]) <= width:
        size += 1
    return size


def line_height(font) -> int:
    """Pixels from one base line to the next."""
    return round(sum(font.getmetrics()) * 1.1)
