"""The contact sheet: what the finder saw and how it was judged, one row per expression."""

from collections.abc import Iterator
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
from .results import Candidate, Track

_SHEET_WIDTH = 1700  # pixels aimed at
_CELL_WIDTHS = (210, 420)  # pixels a sampled frame may take
_GAP = 14
_TEXT, _TITLE = 14, 19


class ContactSheet:
    """Collects the sampled frames as they pass by, then draws one picture.

    Each row has the sentence, the verdict, and the sampled frames in video order with their
    candidate masks and scores. The frame chosen to track from is framed in the object's colour.

    Args:
        tracks: Their candidates name the frames.
        size: (H, W) of the video.
    """

    def __init__(self, tracks: list[Track], size: tuple[int, int]):
        self._tracks = tracks
        self._wanted = {c.frame for track in tracks for c in track.candidates}
        columns = max((len(track.candidates) for track in tracks), default=1) or 1
        width = min(max(_SHEET_WIDTH // columns, _CELL_WIDTHS[0]), _CELL_WIDTHS[1])
        height = min(width * size[0] / size[1], 1.25 * width)  # portrait video: not too tall
        self._cell = (width, round(height))
        scale = min(width / size[1], height / size[0])
        self._thumb = (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)))
        self._columns = columns
        self._frames: dict[int, Image.Image] = {}

    def add(self, index: int, frame: np.ndarray) -> None:
        """Show frame `index`, (H, W, 3) uint8 RGB; it is kept, small, if the sheet needs it."""
        if index in self._wanted:
            image = Image.fromarray(frame)
            self._frames[index] = image.resize(self._thumb, Image.Resampling.LANCZOS)

    def draw(self) -> Image.Image:
        """The sheet so far, as an RGB image."""
        rows = [self._row(n, track) for n, track in enumerate(self._tracks)]
        width = self._columns * (self._cell[0] + _GAP) + _GAP
        sheet = Image.new("RGB", (width, sum(r.height for r in rows) + _GAP), GROUND)
        top = 0
        for row in rows:
            sheet.paste(row, (0, top))
            top += row.height
        return sheet

    def save(self, path: str | Path) -> None:
        """Write the sheet as PNG."""
        self.draw().save(path, format="PNG")

    def _row(self, number: int, track: Track) -> Image.Image:
        width = self._columns * (self._cell[0] + _GAP) + _GAP
        text = " ".join(track.expression.split())
        title, small = load_font(_TITLE, text), load_font(_TEXT)
        color = object_color(number) if track.found else DIM
        lines = fit_lines(text, title, width - 3 * _GAP - _TITLE, 3)
        step = line_height(title)
        top = _GAP + step * len(lines) + line_height(small) + _GAP // 2
        height = top + self._cell[1] + 3 * line_height(small) + _GAP
        row = Image.new("RGB", (width, height), GROUND)
        draw = ImageDraw.Draw(row)
        y = _GAP + (step - _TITLE) // 2
        swatch = (_GAP, y, _GAP + _TITLE - 1, y + _TITLE - 1)
        fill = color if track.found else None
        draw.rounded_rectangle(swatch, 4, fill=fill, outline=color, width=2)
        left = 2 * _GAP + _TITLE
        for i, line in enumerate(lines):
            draw.text((left, _GAP + i * step), line, fill=INK, font=title)
        draw.text((left, _GAP + step * len(lines)), _verdict(track), fill=color, font=small)
        for i, candidate in enumerate(track.candidates):
            chosen = track.found and candidate.frame == track.key_frame
            x = _GAP + i * (self._cell[0] + _GAP)
            self._draw_cell(row, (x, top), candidate, object_color(number), chosen)
        return row

    def _draw_cell(self, row, corner, candidate: Candidate, color, chosen: bool) -> None:
        (x, y), (width, height) = corner, self._cell
        draw = ImageDraw.Draw(row)
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=RAIL)
        picture = self._picture(candidate, color)
        if picture is not None:
            row.paste(
                picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2)
            )
        if chosen:
            draw.rectangle((x - 3, y - 3, x + width + 2, y + height + 2), outline=color, width=4)
        small, bold = load_font(_TEXT), load_font(_TEXT, bold=True)
        y += height + _GAP // 2
        ink = color if chosen else INK
        draw.text((x, y), f"frame {candidate.frame}", fill=ink, font=bold)
        score = f"{candidate.score:.2f}"
        draw.text((x + width - bold.getlength(score), y), score, fill=ink, font=bold)
        for text in _captions(candidate):
            y += line_height(small)
            draw.text((x, y), text, fill=DIM, font=small)

    def _picture(self, candidate: Candidate, color) -> Image.Image | None:
        frame = self._frames.get(candidate.frame)
        if frame is None:
            return None
        mask = Image.fromarray(candidate.mask).convert("L")
        mask = np.asarray(mask.resize(self._thumb, Image.Resampling.BOX)) > 127
        picture = np.array(frame)
        paint_mask(picture, mask, color)
        return Image.fromarray(picture)


def _captions(candidate: Candidate) -> Iterator[str]:
    """The two lines under a sampled frame that say what its score is made of."""
    alignment = candidate.alignment
    if alignment is not None:
        alignment = round(alignment, 2) + 0.0  # no "-0.00"
    yield f"IoU {candidate.iou:.2f}" + (
        "" if alignment is None else f"   alignment {alignment:.2f}"
    )
    parts = [] if candidate.presence is None else [f"presence {candidate.presence:.2f}"]
    if not candidate.mask.any():
        parts.append("empty mask")
    yield "   ".join(parts)


def _verdict(track: Track) -> str:
    score = "" if track.score is None else f"{track.score:.2f}"
    if track.found:
        return f"found: score {score}, tracked from frame {track.key_frame}"
    return f"not found (best score {score})" if score else "not found"
