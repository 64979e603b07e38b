"""Clips from still pictures, to learn tracking from: cut-outs that move, pictures that bend.

Masks are exact, for everything is drawn. "Video Object Segmentation using Space-Time Memory
Networks", arXiv 1904.00607, and its successors learn first from such clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..backgrounds import CANVAS
from ..samples import ClipSample
from ..scenes import SceneSampler, screen_to_world
from ..sprite_motion import sample_camera, smooth_noise
from .rows import Photo

WHOLE = 0.35  # share of the clips that are one picture
CURTAIN = 0.2  # share of the clips in which something large passes in front of everything
SHAPES = ((256, 256), (208, 272), (176, 312), (272, 208))  # (H, W), as wide and tall as videos are
SMALLEST = 0.002  # of the frame, what an object covers on the first one
SPRITES = 6  # cut-outs to choose from for one clip
STYLE = "photo"


@dataclass(frozen=True)
class CutBank:
    """A few cut-outs as `SceneSampler` takes its sprites; each has a name of its own."""

    images: dict[str, np.ndarray]
    styles: tuple[str, ...] = (STYLE,)
    new_nouns: tuple[str, ...] = ()

    @property
    def nouns(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.images)

    def image(self, noun: str, style: str) -> np.ndarray:
        """(h, w, 4) uint8 RGBA."""
        return self.images[noun]


def clip_sampler() -> SceneSampler:
    """Draws clips of cut-outs, once it is given a `CutBank` and backgrounds."""
    return SceneSampler(
        CutBank({}), 0, styles=(STYLE,), pool=0, textured=0.1, warp=0.4, crossing=0.25,
        moving_camera=0.75, sizes=(0.12, 0.8),
    )  # fmt: skip


def make_clip(
    source, rng: np.random.Generator, length: int, objects: int, strides: Sequence[int], name: str
) -> ClipSample:
    """One clip of `length` frames, forwards or backwards, with objects that its first frame shows.

    Args:
        source: A `PhotoSource`.
        rng: Source of every random choice.
        length, objects, strides: See `Source.clip`.
        name: For messages.
    """
    while True:
        stride = int(rng.choice(strides))
        count = (length - 1) * stride + 1
        shape = SHAPES[rng.integers(len(SHAPES))]
        make = _whole if rng.random() < WHOLE else _cut_outs
        frames, masks = make(source, rng, count, shape)
        if rng.random() < CURTAIN:
            _draw_curtain(frames, masks, source.pick_image(rng), rng)
        step = stride if rng.random() < 0.5 else -stride
        frames, masks = frames[::step], masks[:, ::step]
        shown = np.flatnonzero(masks[:, 0].mean(axis=(1, 2)) >= SMALLEST)
        if len(shown):
            kept = rng.permutation(shown)[:objects]
            return ClipSample(name, frames, masks[kept], int(rng.integers(2**32)))


def _cut_outs(source, rng, count: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cut-outs over a picture, by the scene generator: frames (T, H, W, 3), masks (O, T, H, W)."""
    cuts = {str(n): source.pick_cut(rng)[0] for n in range(SPRITES)}
    sampler = source.sampler
    sampler.bank = CutBank(cuts)
    canvases = [("photo", cv2.resize(source.pick_image(rng), (CANVAS, CANVAS))) for _ in range(2)]
    sampler.seek(int(rng.integers(2**32)), canvases)
    clip = sampler.clip(count, size=shape, expressions_per_object=0)
    return clip.frames, clip.masks


def _whole(source, rng, count: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One picture under a moving camera while everything bends."""
    photo: Photo = source.pick_photo(rng)
    image, height, width = source.load(photo), *photo.size
    masks = [thing.mask(photo.size) for thing in photo.objects]
    masks = sorted(masks, key=np.count_nonzero, reverse=True)[:4]
    aspect = np.array(shape[::-1]) / min(shape)
    camera = sample_camera(rng, count, aspect, moving=True)
    # Screen -> picture: the camera, then a random part of the picture, squashed a little.
    zoom = float(np.exp(rng.uniform(0, np.log(1.8))))
    scale = np.array([width, height]) / np.array(shape[::-1]) / zoom
    ys, xs = np.nonzero(masks[int(rng.integers(len(masks)))])
    half = np.array([width, height]) / 2 / zoom
    middle = np.clip([xs.mean(), ys.mean()], half, np.array([width, height]) - half)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    view = np.diag([scale[0] * mirror, scale[1], 1.0])
    view[:2, 2] = middle - view[:2, :2] @ (np.array(shape[::-1]) / 2)
    bends = rng.normal(0, rng.uniform(0.005, 0.03), (2, 5, 5, 2)).astype(np.float32)
    swing = smooth_noise(rng, count, 4).astype(np.float32)
    grid = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), -1).astype(np.float32)
    frames = np.empty((count, *shape, 3), np.uint8)
    shown = np.empty((len(masks), count, *shape), bool)
    gain = 1 + 0.08 * rng.standard_normal() * np.linspace(-1, 1, count)
    for t in range(count):
        matrix = (view @ screen_to_world(camera, t, min(shape)))[:2].astype(np.float32)
        lattice = np.tensordot(swing[t], bends, 1) * min(width, height)
        places = grid @ matrix[:, :2].T + matrix[:, 2]
        places += cv2.resize(lattice, shape[::-1], interpolation=cv2.INTER_CUBIC)
        frame = cv2.remap(image, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        frames[t] = cv2.convertScaleAbs(frame, alpha=float(gain[t]))
        for number, mask in enumerate(masks):
            warped = cv2.remap(mask.view(np.uint8), places, None, cv2.INTER_NEAREST)
            shown[number, t] = warped.view(bool)
    return frames, shown


def _draw_curtain(
    frames: np.ndarray, masks: np.ndarray, image: np.ndarray, rng: np.random.Generator
) -> None:
    """Draw a band of another picture that passes in front of everything, in place, so that objects
    are hidden completely and come back."""
    count, (height, width) = len(frames), frames.shape[1:3]
    upright = rng.random() < 0.8
    side = width if upright else height
    thick = int(side * rng.uniform(0.12, 0.5))
    texture = cv2.resize(image, (thick, height) if upright else (width, thick))
    # Over the middle of the way at some time in the clip, out of the frame at one end at least.
    meet, speed = rng.uniform(0.3, 0.7) * count, side * rng.uniform(0.6, 2.0) / count
    speed *= 1 if rng.random() < 0.5 else -1
    for t in range(count):
        begin = round(side * 0.5 - thick / 2 + (t - meet) * speed)
        low, high = max(begin, 0), min(begin + thick, side)
        if low >= high:
            continue
        there, here = slice(low, high), slice(low - begin, high - begin)
        if upright:
            frames[t][:, there] = texture[:, here]
            masks[:, t, :, there] = False
        else:
            frames[t][there] = texture[here]
            masks[:, t, there] = False
