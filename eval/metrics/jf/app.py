"""Space of the metric: two masks, or two clips of masks, are scored and their boundaries drawn.

    python eval/metrics/jf/app.py

needs `pip install gradio` and what requirements.txt lists, and of this folder only core.py.
"""

import functools
import math
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr
import numpy as np
import pandas as pd
from core import BOUND_TH, SequenceScores, boundary, dilate, j_and_f
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 2**25  # of one mask, 8K video; larger uploads are refused unread
MAX_FRAMES = 2000
MAX_BYTES = 2**26  # of one file in a zip, unpacked
WORST = 8  # frames of a clip that are drawn

# Distinct for colour-blind eyes as well.
MASK, AGREED = (64, 64, 64), (235, 235, 235)
WRONG, MISSED = (255, 140, 0), (86, 180, 233)  # orange, sky blue

INTRO = """
# J&F of video object segmentation
**J** is the intersection over union of two masks, **F** says how well their boundaries agree within
0.8 % of the image diagonal, **J&F** is the mean of both: the DAVIS benchmark's definitions, to the
last bit. Any pixel above 0 is the object; two empty masks agree. Masks are PNGs of one size.
"""
LEGEND = (
    "White: boundaries that agree. Orange: the prediction's, too far from the truth's. Blue: the "
    "truth's, missed. Grey: where either mask is."
)


def one_line_errors(score: Callable) -> Callable:
    """What is wrong with an upload is shown as a message, without a traceback in the log."""

    @functools.wraps(score)
    def shown(*args):
        try:
            return score(*args)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return shown


@one_line_errors
def score_frame(prediction: str | None, reference: str | None) -> tuple[dict, np.ndarray]:
    """J, F and J&F of one frame.

    Args:
        prediction: Path of the predicted mask, a PNG.
        reference: Path of the true mask, a PNG of the same size.

    Returns:
        The scores by name, and a picture (H, W, 3) of where the boundaries differ.
    """
    if not prediction or not reference:
        raise ValueError("Two masks are needed: a prediction and a reference.")
    pred, truth = read_mask(Path(prediction)), read_mask(Path(reference))
    j, f = j_and_f(pred, truth)
    return {"J&F": (j + f) / 2, "J": j, "F": f}, draw(pred, truth)


@one_line_errors
def score_clip(
    predictions: Sequence[str] | None, references: Sequence[str] | None
) -> tuple[dict, pd.DataFrame, list[tuple[np.ndarray, str]]]:
    """J, F and J&F of a clip, over all of its frames.

    Args:
        predictions: Paths of the predicted masks: one PNG per frame, or one zip of them.
        references: Paths of the true masks, by the same names.

    Returns:
        The scores by name; J and F of every frame; and of the worst frames pictures (H, W, 3) of
        where the boundaries differ, with captions.
    """
    preds, truths = list_frames(predictions, "prediction"), list_frames(references, "reference")
    if set(preds) != set(truths):
        odd = sorted(set(preds) ^ set(truths), key=_natural)
        raise ValueError(
            f"Frames are paired by name, and {', '.join(odd[:5])}{' ...' * (len(odd) > 5)} "
            "is on one side only. A frame without the object needs an all-zero mask."
        )
    names = sorted(truths, key=_natural)
    scores = SequenceScores(*_score_frames([(preds[name], truths[name]) for name in names]))
    summary = scores.as_dict() | {"convention": "per-expression", "frames": len(names)}
    curves = pd.DataFrame(
        {
            "frame": np.tile(np.arange(len(names)), 2),
            "score": np.concatenate([scores.j, scores.f]),
            "measure": np.repeat(["J", "F"], len(names)),
        }
    )
    worst = np.argsort(scores.j + scores.f, kind="stable")[:WORST]
    pictures = [
        (
            draw(read_mask(preds[names[t]]), read_mask(truths[names[t]])),
            f"{names[t]}: J {scores.j[t]:.3f}, F {scores.f[t]:.3f}",
        )
        for t in sorted(worst)
    ]
    return summary, curves, pictures


def _score_frames(pairs: Sequence[tuple[Path | zipfile.Path, ...]]) -> np.ndarray:
    """J and F (2, T) of pairs of files, read one pair at a time."""
    scores = []
    for pred, truth in pairs:
        try:
            scores.append(j_and_f(read_mask(pred), read_mask(truth)))
        except ValueError as error:
            raise ValueError(f"Frame {truth.name}: {error}") from error
    return np.array(scores, dtype=np.float64).T


def list_frames(uploads: Sequence[str] | None, side: str) -> dict[str, Path | zipfile.Path]:
    """The PNGs of one side by name without suffix; zips are read in place, never unpacked.

    Raises:
        ValueError: There are none or too many, two have one name, or a zip cannot be read.
    """
    frames: dict[str, Path | zipfile.Path] = {}
    for file in (file for upload in uploads or () for file in _pngs(Path(upload))):
        name = file.name[: -len(".png")]
        if name in frames:
            raise ValueError(f"The {side} has two frames {name}; give one clip at a time.")
        frames[name] = file
    if not 0 < len(frames) <= MAX_FRAMES:
        raise ValueError(f"The {side} has {len(frames)} PNGs, not 1 to {MAX_FRAMES}.")
    return frames


def _pngs(upload: Path) -> list[Path] | list[zipfile.Path]:
    if upload.suffix.lower() == ".png":
        return [upload]
    if upload.suffix.lower() != ".zip":
        raise ValueError(f"{upload.name} is neither a PNG nor a zip.")
    try:
        archive = zipfile.ZipFile(upload)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{upload.name} cannot be read: {error}.") from error
    found = []
    for entry in archive.infolist():
        path = zipfile.Path(archive, entry.filename)
        if not path.name.lower().endswith(".png") or path.name.startswith("."):
            continue  # folders, notes, and the "._name.png" of macOS
        if entry.file_size > MAX_BYTES:
            raise ValueError(f"{path.name} is larger than {MAX_BYTES >> 20} MB.")
        found.append(path)
    return found


def _natural(name: str) -> list:
    """Sort key by which frame 9 comes before frame 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def read_mask(path: Path | zipfile.Path) -> np.ndarray:
    """Mask (H, W) bool: palette or grey values above 0, or visible colours other than black.

    Raises:
        ValueError: The file is no image, too large, or a JPEG.
    """
    try:
        with path.open("rb") as file, Image.open(file) as image:
            kind, size = image.format, image.size
            if kind != "JPEG" and size[0] * size[1] <= MAX_PIXELS:
                if image.mode in ("1", "L", "P", "I", "I;16", "F"):
                    return np.array(image) > 0
                colours = np.array(image.convert("RGBA"))
                return colours[..., :3].any(axis=-1) & (colours[..., 3] > 0)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path.name} is no image.") from error
    except Exception as error:  # broken files raise whatever they like
        raise ValueError(f"{path.name} cannot be read as an image: {error}.") from error
    if kind == "JPEG":
        raise ValueError(f"{path.name} is a JPEG, whose edges are blurred; masks are PNGs.")
    raise ValueError(f"{path.name} has {size[0]} x {size[1]} pixels; that is too large here.")


def split_boundaries(pred: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, ...]:
    """What F counts, as pixels (H, W) bool.

    Returns:
        The prediction's boundary near the truth's and the rest of it; the truth's boundary near the
        prediction's and the rest of it.
    """
    radius = math.ceil(BOUND_TH * np.linalg.norm(truth.shape))
    mine, theirs = boundary(pred), boundary(truth)
    near_mine, near_theirs = near(mine, radius), near(theirs, radius)
    return mine & near_theirs, mine & ~near_theirs, theirs & near_mine, theirs & ~near_mine


def near(edge: np.ndarray, radius: int) -> np.ndarray:
    """Pixels (H, W) within `radius` of one that is set."""
    height, width = edge.shape
    return dilate(edge, radius)[radius : radius + height, radius : radius + width]


def draw(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Picture (h, w, 3) uint8 of both boundaries, small ones enlarged; see `LEGEND`."""
    pred_hit, wrong, truth_hit, missed = split_boundaries(pred, truth)
    scale = max(1, 480 // max(pred.shape))
    line = max(pred.shape) // 800  # pixels on each side, so that large pictures show it
    picture = np.zeros((*pred.shape, 3), dtype=np.uint8)
    picture[pred | truth] = MASK
    for edge, colour in ((pred_hit | truth_hit, AGREED), (missed, MISSED), (wrong, WRONG)):
        picture[near(edge, line)] = colour
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def write_example(folder: Path) -> tuple[list[str], list[str]]:
    """Twelve masks of a moving disk, and of a prediction that falls behind it."""
    y, x = np.ogrid[:180, :320]
    sides: tuple[list[str], list[str]] = ([], [])
    for t in range(12):
        centres = (70 + 14 * t, 70 + 16 * t)
        for side, centre, name in zip(sides, centres, ("prediction", "reference"), strict=True):
            mask = (y - 90) ** 2 + (x - centre) ** 2 <= (34 + (name == "reference") * t) ** 2
            path = folder / name / f"{t:05d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(path)
            side.append(str(path))
    return sides


def build() -> gr.Blocks:
    """The page."""
    with tempfile.TemporaryDirectory() as folder, gr.Blocks(title="J&F") as demo:
        predictions, references = write_example(Path(folder))  # gradio takes copies
        gr.Markdown(INTRO)
        with gr.Tab("One frame"):
            with gr.Row():
                masks = [
                    # The file as it is: converted to RGB, object ids would become colours.
                    gr.Image(label=label, type="filepath", image_mode=None, sources=["upload"])
                    for label in ("Prediction", "Reference")
                ]
            button = gr.Button("Score", variant="primary")
            with gr.Row():
                scores = gr.JSON(label="Scores")
                picture = gr.Image(label="Where the boundaries differ", format="png")
            gr.Markdown(LEGEND)
            gr.Examples([[predictions[8], references[8]]], masks)
            button.click(score_frame, masks, [scores, picture], api_name="frame")
        with gr.Tab("A clip"):
            with gr.Row():
                clips = [
                    gr.File(
                        label=f"{label}: one PNG per frame, or a zip of them",
                        file_count="multiple",
                        file_types=[".png", ".zip"],
                        height=220,
                    )
                    for label in ("Prediction", "Reference")
                ]
            button = gr.Button("Score", variant="primary")
            with gr.Row():
                summary = gr.JSON(label="Scores, all frames")
                curves = gr.LinePlot(
                    x="frame", y="score", color="measure", y_lim=[0, 1], label="Frame by frame"
                )
            worst = gr.Gallery(
                label=f"The worst frames, up to {WORST}",
                format="png",
                columns=4,
                object_fit="contain",
            )
            gr.Markdown(LEGEND)
            gr.Examples([[predictions, references]], clips)
            button.click(score_clip, clips, [summary, curves, worst], api_name="clip")
    return demo


if __name__ == "__main__":
    build().launch(max_file_size="200mb")
