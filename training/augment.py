"""Changes to a sample that keep frame, masks and sentences true to each other."""

import re
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance

from .config import Augment
from .samples import ClipSample, FrameSample

# Mirroring makes the one the other, as a word or as a part between hyphens.
_SIDES = {
    "left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost",
    "lefthand": "righthand", "righthand": "lefthand", "leftward": "rightward",
    "rightward": "leftward", "leftwards": "rightwards", "rightwards": "leftwards",
    "clockwise": "counterclockwise", "counterclockwise": "clockwise",
    "anticlockwise": "clockwise", "counter-clockwise": "clockwise", "anti-clockwise": "clockwise",
}  # fmt: skip
_SIDE = re.compile(r"\b(" + "|".join(_SIDES) + r")\b", re.IGNORECASE)


def mirrored_text(text: str) -> str:
    """What a sentence says of the mirrored picture."""

    def swap(match: re.Match) -> str:
        word = match.group()
        other = _SIDES[word.lower()]
        return other.capitalize() if word[0].isupper() else other

    return _SIDE.sub(swap, text)


def augment_frame(sample: FrameSample, how: Augment, rng: np.random.Generator) -> FrameSample:
    """A changed copy; the same for the same random numbers."""
    frames, masks, flipped = _change(sample.frame[None], sample.masks[:, None], how, rng)
    pairs = sample.pairs
    if flipped:
        pairs = tuple(replace(pair, text=mirrored_text(pair.text)) for pair in pairs)
    return replace(sample, frame=frames[0], masks=masks[:, 0], pairs=pairs, path=None)


def augment_clip(sample: ClipSample, how: Augment, rng: np.random.Generator) -> ClipSample:
    """A changed copy, all frames in the same way; the first still shows every object."""
    frames, masks, _ = _change(sample.frames, sample.masks, how, rng)
    return replace(sample, frames=frames, masks=masks)


def _change(frames: np.ndarray, masks: np.ndarray, how: Augment, rng: np.random.Generator):
    """Frames (T, H, W, 3) and masks (O, T, H, W) after all changes; whether they were mirrored."""
    if how.crop < 1:
        rows, columns = _window(masks, how.crop, rng)
        frames, masks = frames[:, rows, columns], masks[:, :, rows, columns]
    flipped = bool(how.flip and rng.random() < how.flip)
    if flipped:
        frames, masks = frames[:, :, ::-1], masks[..., ::-1]
    if how.colour:
        factors = 1 + rng.uniform(-how.colour, how.colour, 3)
        frames = np.stack([_recolour(frame, factors) for frame in frames])
    return np.ascontiguousarray(frames), np.ascontiguousarray(masks), flipped


def _window(masks: np.ndarray, least: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """A random window that cuts off no object: words as "the leftmost" stay true of what is left,
    and a target stays a target."""
    used = masks.any(axis=(0, 1))
    slices = []
    for axis, size in enumerate(used.shape):
        side = max(1, round(size * rng.uniform(least, 1)))
        low, high = 0, size - side  # places the window may begin at
        shown = np.flatnonzero(used.any(axis=1 - axis))
        if len(shown):
            low, high = max(low, int(shown[-1]) + 1 - side), min(high, int(shown[0]))
        start = int(rng.integers(low, high + 1)) if low <= high else 0
        slices.append(slice(start, start + side) if low <= high else slice(0, size))
    return slices[0], slices[1]


def _recolour(frame: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with brightness, contrast and saturation multiplied by `factors`."""
    image = Image.fromarray(np.ascontiguousarray(frame))
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for kind, factor in zip(kinds, factors, strict=True):
        image = kind(image).enhance(float(factor))
    return np.asarray(image)
