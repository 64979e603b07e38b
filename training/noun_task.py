"""Task `nouns`: image tokens are classified with the word embeddings of nouns.

A sentence cannot be grounded before its noun is recognised. With the words' own embeddings as
classifier, image and text meet in one space before any sentence is read.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .frame_batch import Reads
from .samples import FrameSample
from .targets import as_tensor, coverage

COVERED = 0.35  # of a cell, for it to show an object


class NounCollator:
    """Samples -> `beit3` (B, 3, b, b), `labels` (B, g * g), `names`."""

    def __init__(self, processor, nouns: Sequence[str]):
        self.processor = processor
        self.index = {noun: i for i, noun in enumerate(nouns)}

    def __call__(self, samples: Sequence[FrameSample]) -> dict:
        """Labels are indices of nouns; `len(nouns)` where a cell shows none."""
        g = self.processor.beit3_size // 16
        labels = torch.full((len(samples), g * g), len(self.index))
        for i, sample in enumerate(samples):
            named = [o for o, noun in enumerate(sample.nouns) if noun]
            if not named:
                continue
            covered = coverage(as_tensor(sample.masks[named]), (g, g)).flatten(1)  # (O, g * g)
            best, which = covered.max(dim=0)
            nouns = torch.tensor([self.index[sample.nouns[o]] for o in named])
            labels[i] = torch.where(best > COVERED, nouns[which], labels[i])
        pixels = torch.cat([self.processor.beit3_pixels(s.frame) for s in samples])
        return {"beit3": pixels, "labels": labels, "names": [s.name for s in samples]}


class NounObjective(nn.Module):
    """Losses and metrics of `nouns`; the background class exists in training only.

    Raises:
        ValueError: A noun that is no word of the tokenizer's.
    """

    def __init__(self, processor, nouns: Sequence[str], width: int):
        super().__init__()
        self.processor, self.nouns = processor, tuple(nouns)
        ids = torch.tensor(processor.tokenizer.convert_tokens_to_ids(list(nouns)))
        unknown = [
            n for n, i in zip(nouns, ids, strict=True) if i == processor.tokenizer.unk_token_id
        ]
        if unknown:
            raise ValueError(
                f"nouns: the tokenizer lacks {', '.join(unknown)}; set new_words: true"
            )
        self.register_buffer("ids", ids, persistent=False)
        self.background = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.tensor(0.1))

    def collator(self, reads: Reads) -> NounCollator:
        """What makes this task's batches."""
        return NounCollator(self.processor, self.nouns)

    def forward(self, model, batch: dict) -> dict[str, Tensor]:
        """Cross-entropy of the cells with a noun, and of those without, means per frame."""
        labels = batch["labels"]  # (B, g * g)
        classes = torch.cat([self._words(model), self.background[None]])
        logits = self.scale * self._tokens(model, batch) @ classes.T
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
        loss, shown = loss.view_as(labels), (labels < len(self.nouns)).float()
        return {
            "noun": _mean(loss, shown).mean(),
            "background": _mean(loss, 1 - shown).mean(),
        }

    @torch.no_grad()
    def metrics(self, model, batch: dict) -> dict[str, tuple[float, int]]:
        """Sums and counts: cells with a noun whose nearest noun is the right one."""
        guess = (self._tokens(model, batch) @ self._words(model).T).argmax(dim=-1)
        shown = batch["labels"] < len(self.nouns)
        right = (guess == batch["labels"]) & shown
        return {"noun right": (float(right.sum()), int(shown.sum()))}

    def _tokens(self, model, batch: dict) -> Tensor:
        beit3 = model.finder.beit3
        return beit3.vision_embed(batch["beit3"].to(beit3.text_embed.weight.dtype))[:, 1:]

    def _words(self, model) -> Tensor:
        # Through the module, so that sharded weights are gathered.
        return model.finder.beit3.text_embed(self.ids)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean (B,) over the entries (B, n) where `where` is 1; 0 if there are none."""
    return (values * where).sum(dim=1) / where.sum(dim=1).clamp(min=1)
