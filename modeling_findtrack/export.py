"""Tracks to files: mask PNGs, overlay, contact sheet, COCO, NPZ, mattes and `result.json`.

Whatever needs frames is written in one pass over the video, one frame in memory at a time.
"""

import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from .contact_sheet import ContactSheet
from .overlay import Overlay, film_writer
from .results import Candidate, MaskSequence, Track
from .video_base import Video

KINDS = ("masks", "overlay", "coco", "npz", "matte")  # what `export` writes on demand
RESULT_NAME = "result.json"
OUTPUT_NAMES = frozenset(
    {RESULT_NAME, "masks", "overlay.mp4", "contact_sheet.png", "coco.json", "masks.npz", "matte"}
)
_FORMAT = "findtrack-result/1"


def export(
    video: Video,
    tracks: list[Track],
    folder: Path,
    *,
    kinds: Iterable[str] = ("masks", "overlay"),
    model: str | None = None,
    source: str | None = None,
    opacity: float = 0.4,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Write the chosen kinds, and always `contact_sheet.png` and, last, `result.json`.

    Args:
        video: The video the tracks belong to; read once, from the first frame to the last.
        tracks: The id of each is its position.
        folder: An existing folder.
        kinds: Any of `KINDS`: "masks" `masks/<id>/<frame:05d>.png` (8 bit, 0 or 255), "overlay"
            `overlay.mp4`, "coco" `coco.json`, "npz" `masks.npz`, "matte" `matte/<id>.mp4` (grey,
            0 or 255).
        model: Name of the model, for the record.
        source: Path of the video, for the record.
        opacity: 0..1, of the colour on the overlay's masks.
        progress: Called as progress("write", frames done, frames).

    Raises:
        ValueError: If a kind is unknown, or a track has not one mask per frame at the video's size.
        OSError: If a file cannot be written.
    """
    kinds = set(kinds)
    if kinds - set(KINDS):
        raise ValueError(f"cannot write {sorted(kinds - set(KINDS))}; choose from {KINDS}")
    size = (video.height, video.width)
    for track in tracks:
        if len(track.masks) != video.num_frames or track.masks.size != size:
            raise ValueError(f"{track.masks} does not belong to {video}")
    folder = Path(folder)
    _export_frames(video, tracks, folder, kinds, opacity, progress)
    if "coco" in kinds:
        _write_json(folder / "coco.json", to_coco(video, tracks))
    if "npz" in kinds:
        write_npz(folder / "masks.npz", tracks, size)
    _write_json(folder / RESULT_NAME, to_result(video, tracks, model=model, source=source))


def _export_frames(
    video: Video,
    tracks: list[Track],
    folder: Path,
    kinds: set[str],
    opacity: float,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """The one pass over the video."""
    size = (video.height, video.width)
    sheet = ContactSheet(tracks, size)
    mask_folders = [folder / "masks" / str(n) for n in range(len(tracks))]
    with ExitStack() as stack:
        drawing, film, mattes = None, None, []
        if "overlay" in kinds:
            drawing = Overlay(video, tracks, opacity)
            film = stack.enter_context(film_writer(folder / "overlay.mp4", video, drawing.size))
        if "matte" in kinds:
            (folder / "matte").mkdir()
            mattes = [
                stack.enter_context(film_writer(folder / "matte" / f"{n}.mp4", video, size))
                for n in range(len(tracks))
            ]
        if "masks" in kinds:
            for mask_folder in mask_folders:
                mask_folder.mkdir(parents=True)
        for index, frame in enumerate(video.frames()):
            sheet.add(index, frame)
            masks = [track.masks[index] for track in tracks]
            if drawing is not None:
                film.write(drawing.draw(index, frame, masks))
            for mask, matte in zip(masks, mattes, strict=False):
                matte.write(np.repeat(_grey(mask)[..., None], 3, axis=2))
            if "masks" in kinds:
                for mask, mask_folder in zip(masks, mask_folders, strict=True):
                    path = mask_folder / f"{index:05d}.png"
                    Image.fromarray(_grey(mask)).save(path, compress_level=3)
            if progress is not None:
                progress("write", index + 1, video.num_frames)
    sheet.save(folder / "contact_sheet.png")


def _grey(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> uint8, 0 or 255."""
    return mask.astype(np.uint8) * np.uint8(255)


def write_npz(path: str | Path, tracks: list[Track], size: tuple[int, int]) -> None:
    """All masks in one compressed NumPy archive, without holding them all in memory.

    Entries: `masks_<id>` (T, H, ceil(W / 8)) uint8, the mask rows packed eight pixels to a byte
    (`np.unpackbits(a, axis=-1, count=W).astype(bool)` gives them back), `expressions` (N,) text,
    `found` (N,) bool, `score` (N,) float (NaN: none), `key_frame` (N,) int (-1: none), `size`
    (2,) int as H, W.
    """
    facts = {
        "expressions": np.array([t.expression for t in tracks], dtype=np.str_),
        "found": np.array([t.found for t in tracks], dtype=bool),
        "score": np.array([np.nan if t.score is None else t.score for t in tracks], dtype=float),
        "key_frame": np.array([-1 if t.key_frame is None else t.key_frame for t in tracks]),
        "size": np.array(size),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in facts.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values, allow_pickle=False)
        for number, track in enumerate(tracks):
            with archive.open(f"masks_{number}.npy", "w", force_zip64=True) as file:
                _write_packed(file, track.masks)


def _write_packed(file, masks: MaskSequence) -> None:
    height, width = masks.size
    shape = (len(masks), height, math.ceil(width / 8))
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for mask in masks:
        file.write(np.packbits(mask, axis=-1).tobytes())


def to_coco(video: Video, tracks: list[Track]) -> dict:
    """COCO-style annotations in the layout of YouTube-VIS.

    One video, one category per expression (its name is the sentence), one annotation per found
    expression: per frame an RLE, a box [x, y, width, height] and an area in pixels, each null where
    the mask is empty.
    """
    size = {"height": video.height, "width": video.width, "length": video.num_frames}
    annotations = []
    for number, track in enumerate(tracks):
        if not track.found:
            continue
        rles = track.masks.to_rle()
        areas = [int(a) for a in track.masks.areas()]
        boxes = [coco_mask.toBbox(rle).tolist() for rle in rles]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "video_id": 1,
                "category_id": number + 1,
                "iscrowd": 0,
                **size,
                "score": _number(track.score),
                "segmentations": [r if a else None for r, a in zip(rles, areas, strict=True)],
                "bboxes": [b if a else None for b, a in zip(boxes, areas, strict=True)],
                "areas": [a or None for a in areas],
            }
        )
    return {
        "info": {"description": "FindTrack masks", "version": _FORMAT},
        "videos": [{"id": 1, "file_name": video.name, **size}],
        "categories": [{"id": n + 1, "name": t.expression} for n, t in enumerate(tracks)],
        "annotations": annotations,
    }


def to_result(
    video: Video, tracks: list[Track], *, model: str | None = None, source: str | None = None
) -> dict:
    """What `result.json` says: the model, the video, and the answer to each expression."""
    times = video.timestamps
    duration = None if video.fps is None else float(video.num_frames / video.fps)
    return {
        "format": _FORMAT,
        "model": model,
        "video": {
            "name": video.name,
            "path": source,
            "frames": video.num_frames,
            "height": video.height,
            "width": video.width,
            "fps": None if video.fps is None else f"{video.fps.numerator}/{video.fps.denominator}",
            "duration": _number(duration),
            "timestamps": None if times is None else [_number(t) for t in times],
        },
        "expressions": [
            {
                "id": str(number),
                "text": track.expression,
                "unknown_words": list(track.unknown_words),
                "found": bool(track.found),
                "score": _number(track.score),
                "key_frame": None if track.key_frame is None else int(track.key_frame),
                "candidates": [_candidate(c) for c in track.candidates],
                "presence": [_number(p, 4) for p in track.presence],
            }
            for number, track in enumerate(tracks)
        ],
    }


def is_result_folder(path: Path) -> bool:
    """Whether `path` holds a result that `export` wrote."""
    try:
        data = json.loads((path / RESULT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and str(data.get("format", "")).startswith("findtrack-result/")


def _candidate(candidate: Candidate) -> dict:
    return {
        "frame": int(candidate.frame),
        "score": _number(candidate.score),
        "iou": _number(candidate.iou),
        "alignment": _number(candidate.alignment),
        "presence": _number(candidate.presence),
    }


def _number(value, digits: int = 6) -> float | None:
    """A rounded float; None for None, NaN and infinities, which JSON has no word for."""
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), digits)


def _write_json(path: Path, data: dict) -> None:
    """Indented JSON with lists of numbers on one line."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    # Strings never hold a raw line break in JSON, so only real lists of numbers match.
    text = re.sub(
        r"\[\n\s+((?:[-\d.e+]+|null)(?:,\n\s+(?:[-\d.e+]+|null))*)\n\s+\]",
        lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]",
        text,
    )
    path.write_text(text + "\n", encoding="utf-8")
