"""Frames and their sentences as tensors: what all tasks on single frames begin with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .embedding_cache import EmbeddingCache
from .samples import FrameSample


@dataclass(frozen=True)
class Reads:
    """What a model's finder reads of a frame."""

    shared: bool  # the tracker's features
    maps: bool = False  # of the tracker's encoder the backbone's maps, and no pixels for BEiT-3

    @classmethod
    def of(cls, model) -> "Reads":
        """What that of a `FindTrackModel` does."""
        return cls(model.config.share_vision_encoder, model.config.finder_config.word_map)

    def cells(self, processor) -> int:
        """Side of its heat map."""
        return processor.finder_size // 8 if self.maps else processor.beit3_size // 16


def frame_tensors(samples: Sequence[FrameSample], processor, reads: Reads) -> dict:
    """B frames for the vision encoder and for BEiT-3.

    Returns:
        `pixels` (B, 3, S, S), `beit3` (B, 3, b, b) where it is read, `files` (B of path and number)
        and `names` (lists of B).
    """
    shared = reads.shared and not reads.maps
    pixels = processor.tracker_pixels if shared else processor.finder_pixels
    beit3 = {}
    if not reads.maps:
        beit3["beit3"] = torch.cat([processor.beit3_pixels(s.frame) for s in samples])
    return beit3 | {
        # One by one: videos of one batch may differ in size.
        "pixels": torch.cat([pixels(s.frame) for s in samples]),
        "files": [(s.path, s.number) for s in samples],
        "names": [s.name for s in samples],
    }


def sentence_tensors(samples: Sequence[FrameSample], processor) -> dict:
    """The sentences of all frames: `input_ids`, `attention_mask` (P, L), `frame` (P,), `kinds`."""
    tokens = processor.finder_tokens([pair.text for s in samples for pair in s.pairs])
    return {
        "input_ids": tokens["input_ids"],
        "attention_mask": tokens["attention_mask"],
        "frame": torch.tensor([i for i, s in enumerate(samples) for _ in s.pairs]),
        "kinds": [pair.kind for s in samples for pair in s.pairs],
    }


def vision_encoder(model) -> torch.nn.Module:
    """The encoder whose features the finder reads."""
    if model.config.finder_config.word_map:
        return model.tracker.sam2.vision_encoder.backbone
    if model.config.share_vision_encoder:
        return model.tracker.sam2.vision_encoder
    return model.finder.sam.vision_encoder


def is_frozen(module: torch.nn.Module) -> bool:
    """Whether no parameter is trained."""
    return not any(p.requires_grad for p in module.parameters())


def encode(model, batch: dict, cache: EmbeddingCache | None = None) -> tuple[Tensor, ...]:
    """What the finder reads of a batch, see `EvfFinder.prepare`; without gradients where the
    encoder is frozen."""
    encoder = vision_encoder(model)
    pixels = batch["pixels"].to(next(encoder.parameters()).dtype)

    def run(pixels: Tensor) -> tuple[Tensor, ...]:
        if model.config.finder_config.word_map:
            return model.encode_maps(pixels)
        if model.config.share_vision_encoder:
            return model.tracker.encode(pixels).levels
        return model.finder.encode(pixels)

    with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(encoder)):
        return run(pixels) if cache is None else cache.levels(batch["files"], pixels, run)
