"""The overlay video: every frame with its masks, and below it a legend with a time line."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .drawing import (
    DIM,
    GROUND,
    INK,
    RAIL,
    fit_lines,
    line_height,
    load_font,
    object_color,
    paint_mask,
)
from .results import Track
from .video_base import Video
from .video_writer import VideoWriter

DEFAULT_FPS = Fraction(24)  # for images, which state none
_MAX_START = 1  # seconds


class Overlay:
    """Draws frames of one video with the masks of its tracks.

    The legend is a band below the picture, so that it hides nothing: per expression its colour,
    sentence, score and key frame, and a time line (bright where there is a mask, a diamond at the
    key frame, a bar at the current frame).

    Args:
        video: For its size and number of frames.
        tracks: In the order of their colours.
        opacity: 0..1, of the colour on the masks.
    """

    def __init__(self, video: Video, tracks: list[Track], opacity: float = 0.4):
        self._tracks, self._opacity = tracks, opacity
        self._num_frames = video.num_frames
        self._height, self._width = video.height, video.width
        self._unit = max(11, round((video.height * video.width) ** 0.5 / 42))  # text size, pixels
        self._edge = max(1, round(min(video.height, video.width) / 260))
        self._rails: list[int] = []  # y of each time line in the band
        self._band = self._draw_band()

    @property
    def size(self) -> tuple[int, int]:
        """(H + band, W) of the frames drawn."""
        return self._height + self._band.shape[0], self._width

    def draw(self, index: int, frame: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
        """Frame `index` (H, W, 3) with its N masks (H, W) -> (*size, 3) uint8 RGB."""
        picture = frame.copy()
        for number, mask in enumerate(masks):
            paint_mask(picture, mask, object_color(number), self._opacity, self._edge)
        keys = [n for n, t in enumerate(self._tracks) if t.key_frame == index]
        if keys:
            picture = self._mark_key_frame(picture, keys)
        band = self._band.copy()
        x = self._x(index)
        for y in self._rails:
            reach = self._unit // 3
            band[y - reach : y + reach + 1, max(0, x - 1) : x + 1] = INK
        return np.concatenate([picture, band])

    def _x(self, index: int) -> int:
        """Where frame `index` lies on the time lines."""
        pad = self._unit // 2
        span = self._width - 1 - 2 * pad
        return pad + round(span * (index + 0.5) / self._num_frames)

    def _mark_key_frame(self, picture: np.ndarray, numbers: list[int]) -> np.ndarray:
        image = Image.fromarray(picture)
        draw = ImageDraw.Draw(image)
        font = load_font(self._unit, bold=True)
        pad, top = self._unit // 3, 0
        draw.rectangle(
            (0, 0, image.width - 1, image.height - 1),
            outline=object_color(numbers[0]),
            width=2 * self._edge,
        )
        for number in numbers:
            width, height = font.getlength("key frame"), line_height(font)
            box = (0, top, width + 2 * pad, top + height + pad)
            draw.rectangle(box, fill=object_color(number))
            draw.text((pad, top + round(0.7 * pad)), "key frame", fill=GROUND, font=font)
            top += height + pad
        return np.asarray(image)

    def _draw_band(self) -> np.ndarray:
        rows = [self._draw_row(n, track) for n, track in enumerate(self._tracks)]
        top = 0
        for row in rows:
            self._rails.append(top + row.height - round(self._unit * 0.7))
            top += row.height
        band = Image.new("RGB", (self._width, top + top % 2), GROUND)
        top = 0
        for row in rows:
            band.paste(row, (0, top))
            top += row.height
        return np.asarray(band)

    def _draw_row(self, number: int, track: Track) -> Image.Image:
        unit, pad = self._unit, self._unit // 2
        color = object_color(number) if track.found else DIM
        text = " ".join(track.expression.split())
        font, bold = load_font(unit, text), load_font(unit, bold=True)
        verdict, note = _verdict(track)
        if self._width < 26 * unit:  # too narrow for both
            note = ""
        right = bold.getlength(verdict) + (font.getlength(note) + pad if note else 0)
        left = pad + unit + pad
        lines = fit_lines(text, font, max(self._width - left - right - 2 * pad, 3 * unit), 2)
        step = line_height(font)
        row = Image.new("RGB", (self._width, pad + step * len(lines) + round(unit * 1.4)), GROUND)
        draw = ImageDraw.Draw(row)
        swatch = (pad, pad + (step - unit) // 2, pad + unit - 1, pad + (step + unit) // 2 - 1)
        draw.rounded_rectangle(
            swatch, unit // 4, fill=color if track.found else None, outline=color, width=2
        )
        for i, line in enumerate(lines):
            draw.text((left, pad + i * step), line, fill=INK if track.found else DIM, font=font)
        x = self._width - pad - right
        draw.text((x, pad), verdict, fill=color, font=bold)
        if note:
            draw.text((x + bold.getlength(verdict) + pad, pad), note, fill=DIM, font=font)
        self._draw_rail(draw, row.height - round(unit * 0.7), track, color)
        return row

    def _draw_rail(self, draw: ImageDraw.ImageDraw, y: int, track: Track, color) -> None:
        half = max(1, self._unit // 10)
        draw.rectangle((self._x(0), y - half, self._x(self._num_frames - 1), y + half), fill=RAIL)
        for index in np.flatnonzero(track.masks.areas()):
            left = self._x(index)
            right = max(left, self._x(index + 1) - 1)  # a video may have more frames than pixels
            draw.rectangle((left, y - half, right, y + half), fill=color)
        if track.key_frame is not None:
            x, reach = self._x(track.key_frame), max(3, self._unit // 3)
            diamond = [(x - reach, y), (x, y - reach), (x + reach, y), (x, y + reach)]
            draw.polygon(diamond, fill=color, outline=GROUND)


def _verdict(track: Track) -> tuple[str, str]:
    """What the legend says of a track: the main word, and a note."""
    score = "" if track.score is None else f"{track.score:.2f}"
    if not track.found:
        return "not found", f"best {score}" if score else ""
    return score, f"key frame {track.key_frame}"


def film_writer(path: str | Path, video: Video, size: tuple[int, int]) -> VideoWriter:
    """A writer of frames of `size` (H, W) with the times of `video`.

    Times that start late are shifted to 0: broadcast recordings start hours in, and a player would
    wait that long before the first picture.
    """
    times = video.timestamps
    if times is not None and times[0] > _MAX_START:
        times = [t - times[0] for t in times]
    return VideoWriter(path, size, video.fps or DEFAULT_FPS, times)
