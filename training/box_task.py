"""Task `boxes`: the mask decoder learns what a prompt is, from boxes and coarse heat maps.

The heat maps look like what BEiT-3's grounding gives later on.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from modeling_findtrack.finder import FinderImages

from . import config
from .find_task import upsampled
from .frame_batch import Reads, encode, frame_tensors
from .losses import hard_iou, mask_terms, presence_bce, weighted_sum
from .samples import FrameSample
from .targets import as_tensor, boxes_of, coverage, finder_targets

SMALLEST = 20  # visible pixels
JITTER = 0.05  # deviation of a box's corners, of the side; cut off at JITTER_MOST
JITTER_MOST = 0.0625


class BoxCollator:
    """Samples -> tensors; prompts are drawn from each sample's own seed."""

    def __init__(self, processor, reads: Reads, objects: int):
        self.processor, self.reads, self.objects = processor, reads, objects

    def __call__(self, samples: Sequence[FrameSample]) -> dict:
        """Adds to `frame_tensors`: `frame` (P,), `target` (P, s, s), `weight` (P,) that adds up to
        1 with one share per frame, `boxes` (P, 4) in pixels, `heat` (P, g, g) logits, and
        `use_box` (P,) bool."""
        side, cells = self.processor.finder_size // 4, self.processor.beit3_size // 16
        parts: dict[str, list] = {
            k: [] for k in ("frame", "target", "weight", "boxes", "heat", "use_box")
        }
        for i, sample in enumerate(samples):
            rng = np.random.default_rng(sample.seed)
            visible = np.flatnonzero(sample.masks.sum(axis=(1, 2)) > SMALLEST)[: self.objects]
            if not len(visible):
                continue
            masks, count = as_tensor(sample.masks[visible]), len(visible)
            noise = np.clip(JITTER * rng.standard_normal((count, 4)), -JITTER_MOST, JITTER_MOST)
            boxes = boxes_of(masks) + torch.from_numpy(noise).float()
            heat = torch.logit(coverage(masks, (cells, cells)).clamp(0.02, 0.98))
            heat = heat + torch.from_numpy(rng.standard_normal(heat.shape)).float()
            parts["frame"].append(torch.full((count,), i))
            parts["target"].append(finder_targets(masks, self.processor, side))
            parts["weight"].append(torch.full((count,), 1 / (count * len(samples))))
            parts["boxes"].append(boxes.clamp(0, 1) * self.processor.finder_size)
            parts["heat"].append(heat)
            parts["use_box"].append(torch.from_numpy(rng.random(count) < 0.5))
        batch = frame_tensors(samples, self.processor, self.reads)
        return batch | {name: torch.cat(values) for name, values in parts.items()}


class BoxObjective(nn.Module):
    """Losses and metrics of `boxes`."""

    def __init__(self, task: config.BoxTask, processor):
        super().__init__()
        self.processor, self.objects = processor, task.objects

    def collator(self, reads: Reads) -> BoxCollator:
        """What makes this task's batches."""
        return BoxCollator(self.processor, reads, self.objects)

    def forward(self, model, batch: dict) -> dict[str, Tensor]:
        """Unweighted terms, means over the objects of a frame, then over frames."""
        logits, iou, presence = _decode(model, batch)
        terms = mask_terms(logits, batch["target"], iou)
        if presence is not None:
            terms["presence"] = presence_bce(presence, torch.ones_like(presence))
        return weighted_sum(terms, batch["weight"])

    @torch.no_grad()
    def metrics(self, model, batch: dict) -> dict[str, tuple[float, int]]:
        """Sums and counts of the mask IoU, by kind of prompt."""
        iou = hard_iou(_decode(model, batch)[0], batch["target"])
        box = batch["use_box"]
        return {
            "IoU from boxes": (float(iou[box].sum()), int(box.sum())),
            "IoU from heat maps": (float(iou[~box].sum()), int((~box).sum())),
        }


def _decode(model, batch: dict) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mask logits (P, s, s), predicted IoU and presence logits (P,), float32."""
    finder, prompts = model.finder, model.finder.sam.prompt_encoder
    levels = encode(model, batch)
    # `EvfFinder.prepare` without BEiT-3, which takes no part here.
    embeddings = levels[2] + finder.sam.no_memory_embedding.reshape(1, -1, 1, 1)
    decoder = finder.sam.mask_decoder
    high = (decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]))
    nothing = embeddings.new_zeros(len(embeddings), 0, 0)
    images = FinderImages(embeddings, high, nothing).select(batch["frame"])

    use_box = batch["use_box"][:, None, None, None]
    sparse = prompts._embed_boxes(batch["boxes"][:, None].to(embeddings.dtype))
    sparse = torch.where(use_box, sparse, torch.zeros_like(sparse))
    heat = upsampled(batch["heat"], levels[0].shape[-1]).to(embeddings.dtype)
    dense = torch.where(
        use_box, prompts.no_mask_embed.weight.view(1, -1, 1, 1), prompts.mask_embed(heat[:, None])
    )
    logits, iou, presence = finder.decode(images, sparse, dense)
    return logits.float(), iou.float(), None if presence is None else presence.float()
