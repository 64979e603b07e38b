"""The contact sheet of one expression: frames in columns; what was predicted and what is true."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from modeling_findtrack.drawing import GROUND, Color, paint_mask

COLUMNS = 6
CELL = (240, 240)  # pixels (width, height) a frame may take at most
GAP = 4
SHEET_BYTES = 180_000  # a page has at most nine sheets, and base64 adds a third
PREDICTION, TRUTH = (64, 160, 255), (255, 200, 40)  # told apart by all kinds of colour vision
OPACITY, DIMMED = 0.4, 0.6  # of the masks' tint; brightness of what is outside
_QUALITIES = (88, 80, 70, 60, 45, 30)


@dataclass(frozen=True)
class Sheet:
    """A drawn sheet."""

    jpeg: bytes = field(repr=False)
    size: tuple[int, int]  # (width, height) in pixels

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


def pick_frames(count: int, key_frame: int | None) -> list[int]:
    """At most `COLUMNS` of `count` frame indices, evenly spread; the key frame is among them."""
    picked = np.linspace(0, count - 1, min(COLUMNS, count)).round().astype(int).tolist()
    if key_frame is not None and key_frame not in picked:
        nearest = min(range(len(picked)), key=lambda n: abs(picked[n] - key_frame))
        picked[nearest] = key_frame
    return picked


def draw_sheet(
    frames: Sequence[np.ndarray],
    predicted: Sequence[np.ndarray],
    truth: Sequence[np.ndarray] | None,
) -> Sheet:
    """Rows: the frames, the predictions painted on them, and the ground truth if there is one.

    Args:
        frames: K of them, (H, W, 3) uint8 RGB.
        predicted: K masks (H, W) bool.
        truth: K masks (H, W) bool, or None.
    """
    frames = [_shrunk(frame) for frame in frames]
    rows = [frames, _painted(frames, predicted, PREDICTION)]
    if truth is not None:
        rows.append(_painted(frames, truth, TRUTH))
    height, width = frames[0].shape[:2]
    across, down = width + GAP, height + GAP
    sheet = Image.new("RGB", (len(frames) * across - GAP, len(rows) * down - GAP), GROUND)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (x * across, y * down))
    return Sheet(_encode(sheet), sheet.size)


def _shrunk(frame: np.ndarray) -> np.ndarray:
    """The frame as (h, w, 3) uint8 RGB, as large as a cell lets it be."""
    height, width = frame.shape[:2]
    scale = min(CELL[0] / width, CELL[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _painted(
    frames: Sequence[np.ndarray], masks: Sequence[np.ndarray], color: Color
) -> list[np.ndarray]:
    pictures = []
    for frame, mask in zip(frames, masks, strict=True):
        small = Image.fromarray(mask).convert("L")
        small = np.asarray(small.resize(frame.shape[1::-1], Image.Resampling.BOX)) > 127
        picture = frame.copy()
        picture[~small] = picture[~small] * DIMMED  # the row of frames shows it all
        paint_mask(picture, small, color, OPACITY)
        pictures.append(picture)
    return pictures


def _encode(sheet: Image.Image) -> bytes:
    """JPEG of at most `SHEET_BYTES`, as good as that allows."""
    for quality in _QUALITIES:
        file = io.BytesIO()
        # No chroma subsampling: the contours are thin and coloured.
        sheet.save(file, format="JPEG", quality=quality, subsampling=0, optimize=True)
        if file.tell() <= SHEET_BYTES:
            break
    return file.getvalue()
