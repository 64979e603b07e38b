"""Task `align`: the aligner tells which region of a frame a sentence is about."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .frame_batch import Reads
from .samples import FrameSample

SMALLEST = 20  # visible pixels of a region
SPOT = 0.2  # side of a wrong region that shows no object, of the frame's short side
LARGEST_SCALE = 50.0  # of the logits, as CLIP bounds it


class AlignCollator:
    """Samples -> tensors. Beside the objects, every frame has one wrong region that no sentence
    must choose: two objects at once, or a spot of background."""

    def __init__(self, processor, nouns: Sequence[str] = ()):
        self.processor = processor
        self.index = {noun: i for i, noun in enumerate(nouns)}

    def __call__(self, samples: Sequence[FrameSample]) -> dict:
        """Makes of B frames

        `rgb` (B, 3, c, c), `names`; of R regions `alpha` (R, 1, c, c), `frame` (R,), `noun` (R,)
        with -1 for a wrong region and -2 for an object nobody names; of P sentences `input_ids`,
        `attention_mask` (P, L), `region` (P,) and `weight` (P,), which adds up to at most 1.
        Nouns that the classifier does not tell apart get numbers of this batch's own behind its.
        """
        index = dict(self.index)
        alpha, frame, noun, texts, region, weight = [], [], [], [], [], []
        for i, sample in enumerate(samples):
            rng = np.random.default_rng(sample.seed)
            shown = [o for o in range(len(sample.masks)) if sample.masks[o].sum() > SMALLEST]
            rows = {o: len(frame) + n for n, o in enumerate(shown)}
            regions = [sample.masks[o] for o in shown] + [_wrong_region(sample, shown, rng)]
            alpha.append(self.processor.alpha(np.stack(regions)))
            frame += [i] * len(regions)
            names = sample.nouns or [""] * len(sample.masks)
            noun += [index.setdefault(names[o], len(index)) if names[o] else -2 for o in shown]
            noun.append(-1)
            own = [p for p in sample.pairs if len(p.objects) == 1 and p.objects[0] in rows]
            texts += [pair.text for pair in own]
            region += [rows[pair.objects[0]] for pair in own]
            weight += [1 / (len(own) * len(samples)) for _ in own]
        if not texts:  # nothing to learn here, but every process must do the same work
            texts, region, weight = [samples[0].pairs[0].text], [0], [0.0]
        tokens = self.processor.aligner_tokens(texts)
        return {
            "names": [s.name for s in samples],
            "rgb": torch.cat([self.processor.aligner_pixels(s.frame) for s in samples]),
            "alpha": torch.cat(alpha),
            "frame": torch.tensor(frame),
            "noun": torch.tensor(noun),
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "region": torch.tensor(region),
            "weight": torch.tensor(weight),
        }


class AlignObjective(nn.Module):
    """Losses and metrics of `align`; the noun classifier exists in training only.

    Args:
        processor: The model's processor.
        nouns: What the classifier tells apart; none where the data does not name its objects.
        width: C of the shared space.
    """

    def __init__(self, processor, nouns: Sequence[str], width: int):
        super().__init__()
        self.processor, self.names = processor, tuple(nouns)
        self.nouns = nn.Linear(width, len(nouns)) if nouns else None

    def collator(self, reads: Reads) -> AlignCollator:
        """What makes this task's batches."""
        return AlignCollator(self.processor, self.names)

    def forward(self, model, batch: dict) -> dict[str, Tensor]:
        """Unweighted terms: means over the sentences of a frame, then over frames.

        `across` compares with the regions of the frames at hand, so it alone depends on how a batch
        is dealt out to devices.
        """
        image, logits = _compare(model, batch)
        same, row, noun = _same_frame(batch), batch["region"], batch["noun"]
        within = F.cross_entropy(logits.masked_fill(~same, -1e4), row, reduction="none")
        # Another frame's object of the same noun may well fit the sentence: it is no negative.
        unclear = ~same & (
            (noun[None] == noun[row][:, None]) & (noun[None] >= 0) | (noun < 0)[None]
        )
        unclear &= ~(noun == -2)[None]
        across = F.cross_entropy(logits.masked_fill(unclear, -1e4), row, reduction="none")
        weight = batch["weight"]
        losses = {"within": (within * weight).sum(), "across": (across * weight).sum()}
        if self.nouns is not None:
            named = batch["noun"].clamp(min=0)
            scores = 10 * self.nouns(image.to(self.nouns.weight.dtype)).float()
            loss = F.cross_entropy(scores, named, reduction="none")
            losses["noun"] = (loss * _share(batch)).sum()
        return losses

    @torch.no_grad()
    def metrics(self, model, batch: dict) -> dict[str, tuple[float, int]]:
        """Sums and counts: the sentence's region is chosen among all of its frame."""
        _, logits = _compare(model, batch)
        chosen = logits.masked_fill(~_same_frame(batch), -1e4).argmax(dim=1)
        there = batch["weight"] > 0
        right = (chosen == batch["region"]) & there
        return {"region chosen": (float(right.sum()), int(there.sum()))}


def _compare(model, batch: dict) -> tuple[Tensor, Tensor]:
    """Region embeddings (R, C) and logits (P, R), float32."""
    dtype = model.aligner.vision_model.embeddings.patch_embedding.weight.dtype
    pixels = torch.cat([batch["rgb"][batch["frame"]], batch["alpha"]], dim=1).to(dtype)
    image = model.aligner.encode_image(pixels).float()
    text = model.aligner.encode_text(batch["input_ids"], batch["attention_mask"]).float()
    scale = model.aligner.logit_scale.float().exp().clamp(max=LARGEST_SCALE)
    return image, scale * text @ image.T


def _same_frame(batch: dict) -> Tensor:
    """(P, R) whether a region is of the sentence's frame."""
    return batch["frame"][None] == batch["frame"][batch["region"]][:, None]


def _share(batch: dict) -> Tensor:
    """(R,) weights of named regions, one share per frame."""
    named = (batch["noun"] >= 0).float()
    count = len(batch["rgb"])
    per_frame = torch.zeros(count, device=named.device).index_add(0, batch["frame"], named)
    return named / per_frame.clamp(min=1)[batch["frame"]] / count


def _wrong_region(
    sample: FrameSample, shown: Sequence[int], rng: np.random.Generator
) -> np.ndarray:
    """(H, W) bool."""
    height, width = sample.frame.shape[:2]
    if len(shown) > 1 and rng.random() < 0.5:
        a, b = rng.choice(shown, 2, replace=False)
        both = sample.masks[a] | sample.masks[b]
        # "All dogs" may be an object of its own, and then this would be a right region.
        if not any(np.array_equal(both, mask) for mask in sample.masks):
            return both
    side = max(1, round(SPOT * min(height, width)))
    y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    wrong = np.zeros((height, width), dtype=bool)
    wrong[y : y + side, x : x + side] = True
    return wrong & ~sample.masks.any(axis=0)
