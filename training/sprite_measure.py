"""Reading a finished scene: its objects, and the facts that sentences are checked against."""

from dataclasses import dataclass

import cv2
import numpy as np

from training.sprite_art import SpriteBank
from training.sprite_motion import Camera, Motion
from training.sprite_render import Drawing
from training.sprite_truths import SceneFacts


@dataclass(frozen=True)
class SpriteObject:
    """One target of a clip."""

    noun: str  # "" for an unnamed textured cut-out
    style: str  # art style, "" for a cut-out
    noun_id: int  # index into `SpriteBank.nouns`, -1 for a cut-out
    z: int  # drawing order; larger is nearer
    boxes: np.ndarray  # (T, 4) int32 x0, y0, x1, y1 of the visible part, ends exclusive; or zeros
    visibility: np.ndarray  # (T,) visible share of the whole drawing, 0..1


@dataclass(frozen=True)
class Layer:
    """Something to draw; `index` is its object, or None for an occluder."""

    drawing: Drawing
    motion: Motion
    flip: bool
    index: int | None
    noun: str = ""
    style: str = ""


def measure(
    layers: list[Layer],
    camera: Camera,
    masks: np.ndarray,
    whole: np.ndarray,
    shown: np.ndarray,
    bank: SpriteBank,
) -> tuple[tuple[SpriteObject, ...], SceneFacts]:
    """Read the objects and the facts for sentences off the finished masks."""
    size = masks.shape[2:]
    short = min(size)
    area, centre, boxes = _moments(masks)
    visibility = np.minimum(area / np.maximum(whole, 1), 1.0)
    order = {layer.index: z for z, layer in enumerate(layers) if layer.index is not None}
    ordered = [layers[order[i]] for i in range(len(order))]
    aspect = np.array([size[1], size[0]]) / short
    path = np.stack([camera.to_screen(layer.motion.position) for layer in ordered])
    extents = np.stack([layer.motion.extent for layer in ordered]) * camera.zoom
    objects = tuple(
        SpriteObject(
            layer.noun, layer.style, bank.nouns.index(layer.noun) if layer.noun else -1,
            order[i], boxes[i], visibility[i],
        )
        for i, layer in enumerate(ordered)
    )  # fmt: skip
    facts = SceneFacts(
        nouns=tuple(layer.noun for layer in ordered),
        aspect=aspect,
        centre=centre / short,
        area=area,
        visibility=visibility,
        extent=np.sqrt(whole) / short,
        path=path,
        drift=np.stack([layer.motion.position for layer in ordered]),
        inside=((path > 0) & (path < aspect)).all(axis=2),
        growth=extents[:, -1] / extents[:, 0],
        spin=np.array([layer.motion.spin for layer in ordered]),
    )
    return objects, facts


def _moments(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Areas (O, T), centres (O, T, 2) in pixels, x first (nan if empty), boxes (O, T, 4)."""
    count, frames = masks.shape[:2]
    area = np.zeros((count, frames))
    centre = np.full((count, frames, 2), np.nan)
    boxes = np.zeros((count, frames, 4), np.int32)
    for o in range(count):
        for t in range(frames):
            mask = masks[o, t].view(np.uint8)
            x, y, width, height = cv2.boundingRect(mask)
            if not width:
                continue
            boxes[o, t] = x, y, x + width, y + height
            moments = cv2.moments(mask[y : y + height, x : x + width], binaryImage=True)
            area[o, t] = moments["m00"]
            centre[o, t] = x + moments["m10"] / area[o, t], y + moments["m01"] / area[o, t]
    return area, centre, boxes
