"""The tracker of `findtrack-tiny`: memory and decoder on the frozen backbone of stage `sam`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from modeling_findtrack.conv_backbone import ConvBackbone
from modeling_findtrack.tracker_sam2 import FrameFeatures, Sam2Tracker

from .batches import IMAGE_MEAN, IMAGE_STD, SHAPES, SceneBatches, coverage, normalise, square
from .find_stages import EVALUATION, autocast
from .loop import Schedule, Stage, load_part
from .losses import hard_iou, mask_losses
from .tiny_model import BACKBONE_WIDTHS, IMAGE_SIZE, initialise, tracker_config

LOW = IMAGE_SIZE // 4
CLIPS = 3  # per step
OBJECTS = 3  # per clip
SMALLEST = 40  # visible pixels an object needs on its key frame


@dataclass(frozen=True)
class LaneBatch:
    """N lanes over T frames of B clips."""

    pixels: Tensor  # (T, B, 3, S, S) normalised
    clip: list[int]  # N indices into B
    masks: Tensor  # (N, T, S, S) float


def build_tracker(sam_weights: Path) -> Sam2Tracker:
    """A fresh tracker with backbone and decoder of stage `sam`, backbone frozen."""
    config = tracker_config()
    config._attn_implementation = "eager"  # on a CPU the backward of SDPA is slow
    tracker = Sam2Tracker(config)
    sam2 = tracker.sam2
    sam2.vision_encoder.backbone = ConvBackbone(BACKBONE_WIDTHS)
    initialise(tracker)
    load_part(sam2.vision_encoder, sam_weights, "vision_encoder.")
    for name in ("mask_decoder", "prompt_encoder", "shared_image_embedding"):
        load_part(getattr(sam2, name), sam_weights, f"finder.sam.{name}.")
    # What the decoder of stage `sam` is used to seeing added to the features.
    with safe_open(sam_weights, "pt") as tensors, torch.no_grad():
        sam2.no_memory_embedding.copy_(tensors.get_tensor("finder.sam.no_memory_embedding"))
    sam2.vision_encoder.requires_grad_(False)
    return tracker


def lanes(batches: SceneBatches, rng: np.random.Generator, length: int, clips: int) -> LaneBatch:
    """Clips of `length` frames and up to `OBJECTS` objects each that their first frame shows."""
    pixels, owner, masks = [], [], []
    while len(pixels) < clips:
        stride = int(rng.choice((1, 1, 2, 3)))
        shape = SHAPES[rng.integers(len(SHAPES))]
        clip = batches.sampler.clip((length - 1) * stride + 1, size=shape, expressions_per_object=0)
        step = stride if rng.random() < 0.5 else -stride
        frames, objects = square(clip)
        frames, objects = frames[::step], objects[:, ::step]
        shown = np.flatnonzero(objects[:, 0].sum(axis=(1, 2)) >= SMALLEST)
        if not len(shown):
            continue
        for o in rng.permutation(shown)[:OBJECTS]:
            owner.append(len(pixels))
            masks.append(torch.from_numpy(objects[o].astype(np.float32)))
        pixels.append(torch.from_numpy(frames.copy()).permute(0, 3, 1, 2))
    stacked = torch.stack(pixels, dim=1)  # (T, B, 3, S, S)
    normal = normalise(stacked.flatten(0, 1), IMAGE_MEAN, IMAGE_STD)
    return LaneBatch(normal.view(stacked.shape), owner, torch.stack(masks))


def roughen(masks: Tensor, rng: np.random.Generator) -> Tensor:
    """Key masks (N, S, S) as a finder gives them: some grown, some eaten away by a few pixels."""
    rough = masks.clone()
    for n in range(len(masks)):
        if rng.random() < 0.4:
            size = int(rng.choice((3, 5, 7)))
            grown = F.max_pool2d(masks[n][None, None], size, 1, size // 2)[0, 0]
            eaten = -F.max_pool2d(-masks[n][None, None], size, 1, size // 2)[0, 0]
            rough[n] = grown if rng.random() < 0.5 or not eaten.any() else eaten
    return rough


def encode_all(tracker: Sam2Tracker, pixels: Tensor) -> list[FrameFeatures]:
    """Features of T frames of B clips, each T entry of batch B."""
    length, count = pixels.shape[:2]
    with torch.no_grad():
        features = tracker.encode(pixels.flatten(0, 1))
    return [features.select(range(t * count, (t + 1) * count)) for t in range(length)]


def unroll(tracker: Sam2Tracker, batch: LaneBatch, keys: Tensor):
    """Start from `keys` (N, S, S) on the first frame and yield the output of each later one."""
    features = encode_all(tracker, batch.pixels)
    running, _ = tracker.start(features[0].select(batch.clip), keys[:, None], len(features))
    for frame in features[1:]:
        yield tracker.step(frame.select(batch.clip), running)


def track_losses(
    tracker: Sam2Tracker, batches: SceneBatches, step: int, progress: float
) -> dict[str, Tensor]:
    """Mask, IoU and presence on every frame after the first; clips grow with `progress`."""
    rng = batches.rng(step)
    length = 4 if progress < 0.3 else 6 if progress < 0.7 else 8
    batch = lanes(batches, rng, length, CLIPS)
    sums: dict[str, Tensor] = {}
    with autocast():
        outputs = list(unroll(tracker, batch, roughen(batch.masks[:, 0], rng)))
    for t, output in enumerate(outputs, start=1):
        target = batch.masks[:, t]
        present = (target.flatten(1).sum(dim=1) > 4).float()
        terms = mask_losses(
            output.raw_logits[:, 0].float(), coverage(target, LOW), output.iou.float(), present
        )
        presence = F.binary_cross_entropy_with_logits(output.presence.float(), present)
        for name, value in (terms | {"presence": 0.3 * presence}).items():
            sums[name] = sums.get(name, 0) + value / (length - 1)
    return sums


def train_track(batches: SceneBatches, sam_weights: Path, folder: Path, minutes: float) -> None:
    """Stage `track`."""
    tracker = build_tracker(sam_weights)

    def evaluate() -> dict:
        per_frame, copied = [], []
        for i in range(6):
            batch = lanes(batches, batches.rng(EVALUATION + i), 12, 2)
            key = batch.masks[:, 0]
            rows, copies = [], []
            for t, output in enumerate(unroll(tracker, batch, key), start=1):
                full = F.interpolate(output.mask_logits.float(), IMAGE_SIZE, mode="bilinear")[:, 0]
                rows.append(hard_iou(full, batch.masks[:, t]))
                copies.append(hard_iou(key - 0.5, batch.masks[:, t]))
            per_frame.append(torch.stack(rows))  # (T - 1, N)
            copied.append(torch.stack(copies))
        scores, copies = torch.cat(per_frame, dim=1), torch.cat(copied, dim=1)
        return {
            "J": round(float(scores.mean()), 4),
            "J_last": round(float(scores[-1].mean()), 4),
            "J_copy": round(float(copies.mean()), 4),
        }

    schedule = Schedule(minutes, lr=8e-4, hold=0.3, ema=0.998)
    stage = Stage(tracker, schedule, folder, save_every=100)
    stage.run(lambda s, p: track_losses(tracker, batches, s, p), evaluate, evaluate_every=200)
