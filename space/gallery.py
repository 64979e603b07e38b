"""The *find* step made visible: the frames that were searched, with their masks and scores."""

from pathlib import Path

import numpy as np
from PIL import Image

from modeling_findtrack.drawing import object_color, paint_mask
from modeling_findtrack.results import Candidate, Track
from modeling_findtrack.video_base import Video

WIDEST = 640  # pixels of a picture's longer side


def gallery(
    video: Video, tracks: list[Track], folder: Path, opacity: float
) -> list[tuple[str, str]]:
    """Pictures and captions, per expression its candidates in video order; the chosen is framed.

    Args:
        folder: Where the pictures go; it exists.
    """
    indices = sorted({c.frame for track in tracks for c in track.candidates})
    frames = dict(zip(indices, video.read(indices), strict=True))
    pictures = []
    for number, track in enumerate(tracks):
        for candidate in track.candidates:
            chosen = track.found and candidate.frame == track.key_frame
            color = object_color(number)
            picture = _picture(frames[candidate.frame], candidate, color, opacity, chosen)
            path = folder / f"find-{number}-{candidate.frame:05d}.jpg"
            picture.save(path, quality=88)
            name = f"{track.expression}\n" if len(tracks) > 1 else ""
            pictures.append((str(path), name + caption(candidate, chosen)))
    return pictures


def caption(candidate: Candidate, chosen: bool) -> str:
    """Its numbers and whether it was chosen; also what a screen reader says of the picture."""
    numbers = f"confidence {candidate.iou:.2f}"
    if candidate.alignment is not None:
        numbers += f", alignment {round(candidate.alignment, 2) + 0.0:.2f}"  # no "-0.00"
    notes = [] if candidate.presence is None else [f"presence {candidate.presence:.2f}"]
    if not candidate.area:
        notes.append("empty mask")
    lines = [
        f"{'★ chosen: ' if chosen else ''}frame {candidate.frame}, score {candidate.score:.2f}"
    ]
    return "\n".join([*lines, numbers, ", ".join(notes)]).strip()


def _picture(
    frame: np.ndarray, candidate: Candidate, color, opacity: float, chosen: bool
) -> Image.Image:
    height, width = frame.shape[:2]
    scale = min(WIDEST / max(height, width), 1)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = np.array(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
    mask = Image.fromarray(candidate.mask).convert("L").resize(size, Image.Resampling.BOX)
    paint_mask(picture, np.asarray(mask) > 127, color, opacity)
    if chosen:
        edge = max(3, round(min(size) / 60))
        for side in (picture[:edge], picture[-edge:], picture[:, :edge], picture[:, -edge:]):
            side[:] = color
    return Image.fromarray(picture)
