"""Ref-Sprites scenes as training batches: pixels, masks and tokenised sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .scenes import Clip, SceneSampler
from .tiny_model import IMAGE_SIZE

IMAGE_MEAN = (0.485, 0.456, 0.406)  # SAM 2's, as in the processor
IMAGE_STD = (0.229, 0.224, 0.225)
# (height, width) of generated frames before they are squashed to the model's square, as wide and
# tall videos are.
SHAPES = ((192, 192), (160, 214), (160, 240), (160, 284), (214, 160))
NO_TARGET_SHARE = 0.15  # of the sentences of a batch


@dataclass(frozen=True)
class FrameBatch:
    """B frames of scenes, each with its objects' masks."""

    pixels: Tensor  # (B, 3, S, S) uint8
    masks: list[Tensor]  # B of (O, S, S) bool, visible pixels of each object
    clips: list[Clip]

    def normalised(self) -> Tensor:
        """(B, 3, S, S) float32, SAM 2's normalisation."""
        return normalise(self.pixels, IMAGE_MEAN, IMAGE_STD)


@dataclass(frozen=True)
class PairBatch:
    """P sentences about frames of a `FrameBatch`."""

    frame: Tensor  # (P,) index into the batch
    texts: list[str]
    target: Tensor  # (P, S, S) float, union of the meant objects; zeros if none
    present: Tensor  # (P,) float
    noun: Tensor  # (P,) index of the noun
    kinds: list[str]


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 with `mean` and `std` in 0..1 units."""
    mean, std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def square(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, S, S, 3) and masks (O, T, S, S), squashed to the model's size."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    if clip.frames.shape[1:3] == size:
        return clip.frames, clip.masks
    frames = [cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in clip.frames]
    masks = [
        [
            cv2.resize(m.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR) > 127
            for m in o
        ]
        for o in clip.masks
    ]
    return np.stack(frames), np.array(masks).reshape(len(clip.masks), -1, *size)


class SceneBatches:
    """Draws batches. Random numbers depend on seed and step alone, so a resumed run goes on with
    other scenes than it has seen."""

    def __init__(self, sampler: SceneSampler, seed: int):
        self.sampler, self.seed = sampler, seed
        self.nouns = {noun: i for i, noun in enumerate(sampler.bank.nouns)}

    def rng(self, step: int) -> np.random.Generator:
        """Random numbers of one step, for the sampler as well."""
        self.sampler.reseed((self.seed, step))
        return np.random.default_rng((self.seed, step, 1))

    def frames(self, rng: np.random.Generator, count: int) -> FrameBatch:
        """`count` single frames."""
        clips = [self.sampler.clip(1, size=SHAPES[rng.integers(len(SHAPES))]) for _ in range(count)]
        squares = [square(clip) for clip in clips]
        pixels = np.stack([frames[0] for frames, _ in squares])
        masks = [torch.from_numpy(m[:, 0].copy()) for _, m in squares]
        return FrameBatch(torch.from_numpy(pixels).permute(0, 3, 1, 2), masks, clips)

    def pairs(self, rng: np.random.Generator, batch: FrameBatch, per_frame: int) -> PairBatch:
        """`per_frame` sentences for each frame, kinds drawn evenly, some without a target."""
        frame, chosen = [], []
        for i, clip in enumerate(batch.clips):
            kinds: dict[str, list] = {}
            for expression in clip.expressions:
                kinds.setdefault(expression.kind, []).append(expression)
            absent = kinds.pop("no-target", [])
            kinds.pop("motion-only", None)  # no single frame shows it
            for _ in range(per_frame):
                pool = absent
                if kinds and (not absent or rng.random() > NO_TARGET_SHARE):
                    pool = list(kinds.values())[rng.integers(len(kinds))]
                if pool:
                    frame.append(i)
                    chosen.append(pool[rng.integers(len(pool))])
        target = torch.zeros(len(frame), IMAGE_SIZE, IMAGE_SIZE)
        for p, (i, expression) in enumerate(zip(frame, chosen, strict=True)):
            for obj in expression.objects:
                target[p] = torch.maximum(target[p], batch.masks[i][obj].float())
        return PairBatch(
            frame=torch.tensor(frame),
            texts=[e.text for e in chosen],
            target=target,
            present=target.flatten(1).any(dim=1).float(),
            noun=torch.tensor([self.nouns[e.noun] for e in chosen]),
            kinds=[e.kind for e in chosen],
        )


def coverage(masks: Tensor, side: int) -> Tensor:
    """(..., S, S) masks -> (..., side, side) covered fraction of each cell."""
    flat = masks.float().flatten(0, -3)[:, None]
    return F.adaptive_avg_pool2d(flat, side).view(*masks.shape[:-2], side, side)


def boxes_of(target: Tensor) -> Tensor:
    """(P, S, S) masks -> (P, 4) pixel boxes x0, y0, x1, y1; zeros for empty ones."""
    boxes = torch.zeros(len(target), 4)
    for p, mask in enumerate(target):
        ys, xs = mask.nonzero(as_tuple=True)
        if len(ys):
            boxes[p] = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
    return boxes
