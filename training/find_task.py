"""Tasks of the finder on sentences: `find` segments what they mean, `ground` only points at it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling_findtrack.finder import FinderImages

from . import config
from .embedding_cache import EmbeddingCache
from .frame_batch import Reads, encode, frame_tensors, sentence_tensors
from .losses import (
    choice_loss,
    choice_right,
    grounding_bce,
    hard_iou,
    mask_terms,
    presence_bce,
    weighted_sum,
)
from .samples import FrameSample, Pair
from .targets import as_tensor, boxes_of, coverage, finder_targets


class FindCollator:
    """Samples -> tensors. Runs in data loading processes, so it holds no model.

    Args:
        processor: The model's processor.
        reads: What the finder reads of a frame.
        keep_source: Whether masks at source size are needed as well.
    """

    def __init__(self, processor, reads: Reads, keep_source: bool = False):
        self.processor, self.reads, self.keep_source = processor, reads, keep_source

    def __call__(self, samples: Sequence[FrameSample]) -> dict:
        """Adds to `frame_tensors` and `sentence_tensors`:

        `target` (P, s, s) covered fractions, `cells` (P, g, g) likewise over the heat map,
        `boxes` (P, 4), `present` (P,), and `source`, P masks (H, W), if they are kept. Of R
        objects among which a sentence must choose, for they have one noun: `choice_pair` (R,),
        `choice_cells` (R, g, g) and `choice_right` (R,) bool.
        """
        side = self.processor.finder_size // 4
        cells = self.reads.cells(self.processor)
        source, low, coarse = [], [], []
        choice_pair, choice_cells, choice_right = [], [torch.zeros(0, cells, cells)], []
        for sample in samples:
            for number, pair in enumerate(sample.pairs, len(source)):
                twins = _twins(sample, pair)
                if twins:
                    choice_pair += [number] * len(twins)
                    choice_right += [o in pair.objects for o in twins]
                    choice_cells.append(coverage(as_tensor(sample.masks[twins]), (cells, cells)))
            # Clamped by construction: the union of a sentence's objects, never their sum.
            masks = as_tensor([sample.target(pair) for pair in sample.pairs])
            source += list(masks)
            low.append(finder_targets(masks, self.processor, side))
            coarse.append(coverage(masks, (cells, cells)))
        batch = frame_tensors(samples, self.processor, self.reads)
        batch |= sentence_tensors(samples, self.processor)
        batch |= {
            "target": torch.cat(low),
            "cells": torch.cat(coarse),
            "boxes": torch.cat([boxes_of(mask[None]) for mask in source]),
            "present": torch.tensor([float(mask.any()) for mask in source]),
            "choice_pair": torch.tensor(choice_pair, dtype=torch.long),
            "choice_cells": torch.cat(choice_cells),
            "choice_right": torch.tensor(choice_right, dtype=torch.bool),
        }
        if self.keep_source:
            batch["source"] = source
        return batch


def _twins(sample: FrameSample, pair: Pair) -> list[int]:
    """Objects of one noun of which a sentence means one; [] where it need not choose."""
    if len(pair.objects) != 1 or not sample.nouns or not sample.nouns[pair.objects[0]]:
        return []
    noun = sample.nouns[pair.objects[0]]
    shown = sample.masks.any(axis=(1, 2))
    twins = [o for o, other in enumerate(sample.nouns) if other == noun and shown[o]]
    return twins if len(twins) > 1 and pair.objects[0] in twins else []


class FindObjective(nn.Module):
    """Losses and metrics of `find`."""

    def __init__(self, task: config.FindTask, processor, cache: EmbeddingCache | None = None):
        super().__init__()
        self.at_source = task.resolution == "source"
        self.processor, self.cache = processor, cache

    def collator(self, reads: Reads) -> FindCollator:
        """What makes this task's batches."""
        return FindCollator(self.processor, reads, self.at_source)

    def forward(self, model, batch: dict) -> dict[str, Tensor]:
        """Unweighted terms, means over all sentences; absent targets train presence alone."""
        out = run_finder(model, batch, self.cache)
        weight = batch["present"] / len(batch["present"])
        everyone = torch.full_like(weight, 1 / len(weight))
        iou = out.iou.float()
        terms = mask_terms(out.mask_logits.float(), batch["target"], iou)
        if self.at_source:
            terms |= self._at_source(out.mask_logits, batch["source"], iou)
        losses = weighted_sum(terms, weight)
        if out.presence is not None:
            presence = presence_bce(out.presence.float(), batch["present"])
            losses |= weighted_sum({"presence": presence}, everyone)
        if out.grounding is not None:
            ground = grounding_bce(out.grounding.float(), batch["cells"])
            losses |= weighted_sum({"ground": ground}, everyone)
            losses["choose"] = choice_loss(out.grounding.float(), batch)
        return losses

    def _at_source(
        self, logits: Tensor, source: Sequence[Tensor], iou: Tensor
    ) -> dict[str, Tensor]:
        """The terms at the size of the video, as the official recipe has them."""
        each = []
        for one, mask, predicted in zip(logits, source, iou, strict=True):
            large = self.processor.masks_to_source(one, tuple(mask.shape), "finder")
            each.append(mask_terms(large[None], mask[None].float(), predicted[None]))
        return {name: torch.cat([terms[name] for terms in each]) for name in each[0]}

    @torch.no_grad()
    def metrics(self, model, batch: dict) -> dict[str, tuple[float, int]]:
        """Sums and counts: mask IoU in all and by kind of sentence, and presence being right."""
        out = run_finder(model, batch, self.cache)
        iou = hard_iou(out.mask_logits.float(), batch["target"])
        sums: dict[str, tuple[float, int]] = {}
        there = batch["present"].bool()
        for kind, value, present in zip(batch["kinds"], iou, there, strict=True):
            if present:
                for name in ("IoU", f"IoU {kind}") if kind else ("IoU",):
                    total, count = sums.get(name, (0.0, 0))
                    sums[name] = (total + float(value), count + 1)
        if out.presence is not None:
            right = float(((out.presence > 0) == there).sum())
            sums["presence right"] = (right, len(there))
        return sums


class GroundObjective(nn.Module):
    """Losses and metrics of `ground`; the box head exists in training only."""

    def __init__(self, task: config.GroundTask, processor, width: int):
        super().__init__()
        self.processor = processor
        self.box = nn.Linear(width, 4)

    def collator(self, reads: Reads) -> FindCollator:
        """What makes this task's batches."""
        return FindCollator(self.processor, reads)

    def forward(self, model, batch: dict) -> dict[str, Tensor]:
        """Unweighted terms, means over all sentences."""
        first, heat = ground(model, batch)
        everyone = torch.full_like(batch["present"], 1 / len(batch["present"]))
        presence = model.finder.presence(first, heat).float()
        distance = (self.box(first).float() - batch["boxes"]).abs().mean(dim=1)
        terms = {
            "ground": grounding_bce(heat, batch["cells"]),
            "presence": presence_bce(presence, batch["present"]),
        }
        box = weighted_sum({"box": distance}, batch["present"] * everyone)
        return weighted_sum(terms, everyone) | box | {"choose": choice_loss(heat, batch)}

    @torch.no_grad()
    def metrics(self, model, batch: dict) -> dict[str, tuple[float, int]]:
        """Sums and counts: the heat map's peak lies on the target; presence is right."""
        first, heat = ground(model, batch)
        there = batch["present"].bool()
        peak = heat.flatten(1).argmax(dim=1, keepdim=True)
        hit = batch["cells"].flatten(1).gather(1, peak)[:, 0] > 0.2
        right = (model.finder.presence(first, heat) > 0) == there
        chosen = choice_right(heat, batch)
        return {
            "peak on target": (float(hit[there].sum()), int(there.sum())),
            "presence right": (float(right.sum()), len(there)),
            "right one": (float(chosen.sum()), len(chosen)),
        }


def run_finder(model, batch: dict, cache: EmbeddingCache | None = None):
    """The finder's `FinderOutput` about the sentences of a batch."""
    images = prepare(model, batch, cache)
    return model.finder(images.select(batch["frame"]), batch["input_ids"], batch["attention_mask"])


def ground(model, batch: dict) -> tuple[Tensor, Tensor]:
    """BEiT-3's class token (P, D) and heat map (P, g, g) float32, without any mask decoder."""
    finder = model.finder
    if finder.word_map is None:
        # The mask decoder's inputs are not needed, and the vision encoder neither.
        pixels = batch["beit3"].to(finder.beit3.text_embed.weight.dtype)
        images = FinderImages(pixels, (), finder.beit3.embed_image(pixels))
    else:
        images = prepare(model, batch)
    fused, heat = finder.ground(
        images.select(batch["frame"]), batch["input_ids"], batch["attention_mask"]
    )
    return fused[:, 0], heat.float()


def prepare(model, batch: dict, cache: EmbeddingCache | None = None) -> FinderImages:
    """What the finder knows of the frames of a batch before it reads a sentence."""
    levels = encode(model, batch, cache)
    beit3 = batch.get("beit3")
    return model.finder.prepare(levels, None if beit3 is None else beit3.to(levels[0].dtype))


def upsampled(logits: Tensor, side: int) -> Tensor:
    """(P, a, a) -> (P, side, side), bilinear."""
    size = (side, side)
    return F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]
