"""Task `words`: every noun is looked for at every place of the picture, through the word map.

What is annotated differs from picture to picture: of some nouns it is known where they are, of some
that they are nowhere, of others nothing. The last are left out.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .frame_batch import Reads, encode, frame_tensors
from .losses import hard_iou, mask_dice
from .photos.nouns import confusable, true_of
from .photos.sentences import joined
from .samples import FrameSample
from .targets import as_tensor, coverage

PRESENT_WEIGHT = 4.0  # of a cell that a noun covers: they are few
SMALLEST = 0.25  # cells that an object covers, for its noun to be asked for inside its mask


class WordCollator:
    """Samples -> tensors.

    Args:
        processor: The model's processor.
        reads: What the finder reads of a frame.
        nouns: What is looked for.
    """

    def __init__(self, processor, reads: Reads, nouns: Sequence[str]):
        self.processor, self.reads = processor, reads
        self.index = {noun: i for i, noun in enumerate(nouns)}
        kin = [[other in confusable(noun) for other in nouns] for noun in nouns]
        self.kin = torch.tensor(kin)  # (N, N): choosing the one for the other is no mistake

    def __call__(self, samples: Sequence[FrameSample]) -> dict:
        """Adds to `frame_tensors`, of M pairs of a frame and a noun that it shows: `shown_frame`,
        `shown_noun` (M,), `cells` (M, g, g) covered fractions, `certain` (M,) whether that is all
        of the noun; `absent` (B, N) bool; of R objects `object_frame`, `object_noun` (R,), `region`
        (R, g, g) and `rivals` (R, N) bool, what its noun is told from."""
        g = self.reads.cells(self.processor)
        empty = torch.zeros(0, g, g)
        shown_frame, shown_noun, cells, certain = [], [], [empty], []
        object_frame, object_noun, region = [], [], [empty]
        absent = torch.zeros(len(samples), len(self.index), dtype=torch.bool)
        for i, sample in enumerate(samples):
            absent[i, [self.index[n] for n in sample.absent]] = True
            named = [o for o, noun in enumerate(sample.nouns) if noun]
            if not named:
                continue
            covered = coverage(as_tensor(sample.masks[named]), (g, g))
            names = [sample.nouns[o] for o in named]
            for noun in dict.fromkeys(kind for name in names for kind in true_of(name)):
                own = [o for o, name in enumerate(names) if noun in true_of(name)]
                shown_frame.append(i)
                shown_noun.append(self.index[noun])
                cells.append(covered[own].sum(dim=0, keepdim=True).clamp(max=1))
                certain.append(noun not in sample.partial)
            for o, name in enumerate(names):
                if covered[o].sum() >= SMALLEST:
                    object_frame.append(i)
                    object_noun.append(self.index[name])
                    region.append(covered[o : o + 1])
        which = torch.tensor(object_noun, dtype=torch.long)
        rivals = ~self.kin[which]
        rivals[torch.arange(len(which)), which] = True  # among them itself
        return frame_tensors(samples, self.processor, self.reads) | {
            "shown_frame": torch.tensor(shown_frame, dtype=torch.long),
            "shown_noun": torch.tensor(shown_noun, dtype=torch.long),
            "cells": torch.cat(cells),
            "certain": torch.tensor(certain, dtype=torch.bool),
            "absent": absent,
            "object_frame": torch.tensor(object_frame, dtype=torch.long),
            "object_noun": which,
            "region": torch.cat(region),
            "rivals": rivals,
        }


class WordObjective(nn.Module):
    """Losses and metrics of `words`.

    Raises:
        ValueError: A noun that is no word of the tokenizer's.
    """

    def __init__(self, processor, nouns: Sequence[str]):
        super().__init__()
        self.processor, self.nouns = processor, tuple(nouns)
        words = [joined(noun) for noun in nouns]
        ids = torch.tensor(processor.tokenizer.convert_tokens_to_ids(words))
        unknown = [
            n for n, i in zip(nouns, ids, strict=True) if i == processor.tokenizer.unk_token_id
        ]
        if unknown:
            raise ValueError(f"words: the tokenizer lacks {', '.join(unknown)}")
        self.register_buffer("ids", ids, persistent=False)

    def collator(self, reads: Reads) -> WordCollator:
        """What makes this task's batches."""
        return WordCollator(self.processor, reads, self.nouns)

    def forward(self, model, batch: dict) -> dict[str, Tensor]:
        """Unweighted terms, means over frames; of a frame over its nouns, or its objects."""
        embeddings, logits = self._logits(model, batch)
        count = len(logits)
        frame, noun, cells = batch["shown_frame"], batch["shown_noun"], batch["cells"]
        weight = _shares(frame, count)
        shown = logits[frame, noun].float()
        bce = F.binary_cross_entropy_with_logits(
            shown, cells, weight=1 + (PRESENT_WEIGHT - 1) * (cells > 0.2).float(), reduction="none"
        )
        # Outside of the masks there may be more of it that nobody marked.
        bce = torch.where(batch["certain"][:, None, None], bce, bce * (0.2 + 0.8 * (cells > 0.05)))
        nowhere = batch["absent"].float()
        silence = F.softplus(logits).float().mean(dim=(2, 3)) * nowhere
        hardest = F.softplus(logits.flatten(2).max(dim=2).values).float() * nowhere
        quiet = ((silence + 0.05 * hardest).sum(dim=1) / nowhere.sum(dim=1).clamp(min=1)).mean()
        dense = (bce.mean(dim=(1, 2)) * weight).sum() + 4.0 * quiet
        dice = (mask_dice(shown, cells) * weight).sum()
        return {"dense": dense, "dice": dice, "which": self._which(model, batch, embeddings, count)}

    def _which(self, model, batch: dict, embeddings: Tensor, count: int) -> Tensor:
        """Cross-entropy of an object's noun, from the mean embedding inside of its mask."""
        scores = self._scores(model, batch, embeddings)
        loss = F.cross_entropy(scores, batch["object_noun"], reduction="none")
        return (loss * _shares(batch["object_frame"], count)).sum()

    def _scores(self, model, batch: dict, embeddings: Tensor) -> Tensor:
        """(R, N) float32; what a noun is not told from has -inf."""
        frame, region = batch["object_frame"], batch["region"].flatten(1)
        share = region / region.sum(dim=1, keepdim=True).clamp(min=1e-6)
        # Objects of one frame side by side, so that no embedding is copied for each of them.
        count = torch.bincount(frame, minlength=len(embeddings))
        row = torch.arange(len(frame), device=frame.device) - (count.cumsum(0) - count)[frame]
        shares = share.new_zeros(len(embeddings), int(count.max()), share.shape[1])
        shares[frame, row] = share
        mean = (shares.to(embeddings.dtype) @ embeddings.flatten(2).transpose(1, 2)).float()
        mean = mean[frame, row]
        words = model.finder.beit3.text_embed(self.ids).float()
        scores = model.finder.word_map.scale.float() * mean @ words.T
        return scores.masked_fill(~batch["rivals"], float("-inf"))

    @torch.no_grad()
    def metrics(self, model, batch: dict) -> dict[str, tuple[float, int]]:
        """Sums and counts: mask IoU of the nouns shown, of the right noun inside a mask, and of
        absent nouns that are found nowhere."""
        embeddings, logits = self._logits(model, batch)
        shown = logits[batch["shown_frame"], batch["shown_noun"]].float()
        iou = hard_iou(shown, batch["cells"])[batch["certain"]]
        right = self._scores(model, batch, embeddings).argmax(dim=1) == batch["object_noun"]
        silent = (logits.flatten(2).max(dim=2).values < 0)[batch["absent"]]
        return {
            "IoU": (float(iou.sum()), len(iou)),
            "noun right": (float(right.sum()), len(right)),
            "absent silent": (float(silent.sum()), len(silent)),
        }

    def _logits(self, model, batch: dict) -> tuple[Tensor, Tensor]:
        """Embeddings (B, D, g, g) and logits (B, N, g, g) of every noun everywhere."""
        embeddings, _ = model.finder.word_map(encode(model, batch))
        words = model.finder.beit3.text_embed(self.ids)
        return embeddings, model.finder.word_map.similarity(embeddings, words.to(embeddings.dtype))


def _shares(frame: Tensor, count: int) -> Tensor:
    """Weights of entries that lie in `count` frames: one share per frame, dealt out evenly."""
    number = torch.bincount(frame, minlength=count)
    return 1 / (number[frame] * count)
