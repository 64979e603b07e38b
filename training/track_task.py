"""Task `track`: memory carries masks from the first frame of a clip through the others."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling_findtrack.tracker_sam2 import TrackerOutput

from . import config
from .find_task import upsampled
from .frame_batch import Reads, is_frozen
from .losses import hard_iou, mask_terms, presence_bce, weighted_sum
from .samples import ClipSample
from .targets import as_tensor, coverage

PRESENT = 1e-4  # of the frame; less of an object is none
ROUGH = 0.4  # share of the key masks that are not exact


class TrackCollator:
    """Samples of one length -> tensors."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, samples: Sequence[ClipSample]) -> dict:
        """Makes of B clips, N objects and T frames

        `pixels` (T, B, 3, S, S), `names`, `clip` (N,), `keys` (N, 1, S, S) masks on the first frame
        as a finder gives them, `target` (N, T, s, s), `present` (N, T) and `weight` (N,), which
        adds up to 1 with one share per clip.
        """
        size = self.processor.tracker_size
        pixels, clip, keys, target, present, weight = [], [], [], [], [], []
        for i, sample in enumerate(samples):
            rng = np.random.default_rng(sample.seed)
            pixels.append(self.processor.tracker_pixels(list(sample.frames)))
            count, length = sample.masks.shape[:2]
            masks = as_tensor(sample.masks).flatten(0, 1)
            low = coverage(masks, (size // 4, size // 4))
            target.append(low.view(count, length, *low.shape[-2:]))
            area = masks.float().mean(dim=(1, 2)).view(count, length)
            present.append((area > PRESENT).float())
            first = (coverage(as_tensor(sample.masks[:, 0]), (size, size)) >= 0.5).float()
            keys += [roughened(key, rng) for key in first]
            clip += [i] * count
            weight += [1 / (count * len(samples))] * count
        return {
            "names": [s.name for s in samples],
            "pixels": torch.stack(pixels, dim=1),
            "clip": torch.tensor(clip),
            "keys": torch.stack(keys)[:, None],
            "target": torch.cat(target),
            "present": torch.cat(present),
            "weight": torch.tensor(weight),
        }


class TrackObjective(nn.Module):
    """Losses and metrics of `track`."""

    def __init__(self, task: config.TrackTask, processor):
        super().__init__()
        self.processor = processor

    def collator(self, reads: Reads) -> TrackCollator:
        """What makes this task's batches."""
        return TrackCollator(self.processor)

    def forward(self, model, batch: dict) -> dict[str, Tensor]:
        """Unweighted terms, means over the frames after the first, objects and clips."""
        sums: dict[str, Tensor] = {}
        steps = len(batch["pixels"]) - 1
        for t, out in enumerate(unroll(model, batch), start=1):
            target, present = batch["target"][:, t], batch["present"][:, t]
            masks = mask_terms(out.raw_logits[:, 0].float(), target, out.iou.float())
            terms = weighted_sum(masks, batch["weight"] * present)
            presence = {"presence": presence_bce(out.presence.float(), present)}
            for name, value in (terms | weighted_sum(presence, batch["weight"])).items():
                sums[name] = sums.get(name, 0) + value / steps
        return sums

    @torch.no_grad()
    def metrics(self, model, batch: dict) -> dict[str, tuple[float, int]]:
        """Sums and counts: J over all frames after the first, J of the last, and what copying the
        first mask gives."""
        target = batch["target"]
        side = batch["keys"].shape[-1]
        outputs = list(unroll(model, batch))
        ious = [
            hard_iou(upsampled(out.mask_logits[:, 0].float(), side), upsampled(target[:, t], side))
            for t, out in enumerate(outputs, start=1)
        ]
        copies = [hard_iou(target[:, 0] - 0.5, target[:, t]) for t in range(1, target.shape[1])]
        rows, copied = torch.stack(ious), torch.stack(copies)  # (T - 1, N)
        return {
            "J": (float(rows.sum()), rows.numel()),
            "J of the last frame": (float(rows[-1].sum()), rows.shape[1]),
            "J of copying": (float(copied.sum()), copied.numel()),
        }


def unroll(model, batch: dict) -> Iterator[TrackerOutput]:
    """Start from the key masks on the first frame and yield the output of each later one."""
    tracker, pixels = model.tracker, batch["pixels"]
    length, count = pixels.shape[:2]
    encoder = tracker.sam2.vision_encoder
    with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(encoder)):
        features = tracker.encode(pixels.flatten(0, 1).to(tracker.dtype))
    frames = [features.select(range(t * count, (t + 1) * count)) for t in range(length)]
    lanes, _ = tracker.start(frames[0].select(batch["clip"]), batch["keys"], length)
    for frame in frames[1:]:
        yield tracker.step(frame.select(batch["clip"]), lanes)


def roughened(key: Tensor, rng: np.random.Generator) -> Tensor:
    """A key mask (S, S) as a finder gives it: some grown, some eaten away by a few pixels."""
    if rng.random() >= ROUGH:
        return key
    size = int(rng.choice((3, 5, 7)))
    grow = rng.random() < 0.5
    grown = F.max_pool2d(key[None, None], size, 1, size // 2)[0, 0]
    eaten = -F.max_pool2d(-key[None, None], size, 1, size // 2)[0, 0]
    return grown if grow or not eaten.any() else eaten
