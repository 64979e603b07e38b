"""Dense image features in the space of the word embeddings.

A word and a place of the picture are compared by a dot product, as a classifier compares a noun
with a picture. Where the backbone was trained as a classifier, words can start from its rows, and a
sentence's nouns are found before anything has been learnt from sentences.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 1280  # channels that EfficientNet-Lite's classifier reads
HIDDEN = 96  # of the refining convolutions; a multiple of their groups
GROUPS = 8


class Refine(nn.Module):
    """Doubles the resolution of an embedding map and corrects it by a finer map of the backbone."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.embedded = nn.Conv2d(dim, HIDDEN, 1)
        self.lateral = nn.Conv2d(width, HIDDEN, 1)
        self.norm1 = nn.GroupNorm(GROUPS, HIDDEN)
        self.conv = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, HIDDEN)
        self.out = nn.Conv2d(HIDDEN, dim, 1)

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        """x (B, D, h, w), finer (B, C, 2h, 2w) -> (B, D, 2h, 2w)."""
        x = F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=False)
        y = F.gelu(self.norm1(self.embedded(x) + self.lateral(finer)))
        return x + self.out(F.gelu(self.norm2(self.conv(y))))


class WordMap(nn.Module):
    """Backbone maps -> embeddings D at stride 8, and image tokens for BEiT-3 at stride 32.

    Args:
        widths: Channels of the backbone's maps at strides 4, 8, 16, 32.
        dim: D, of the word embeddings.
    """

    def __init__(self, widths: Sequence[int], dim: int):
        super().__init__()
        self.head = nn.Conv2d(widths[3], HEAD, 1)
        self.project = nn.Conv2d(HEAD, dim, 1)
        self.refine16 = Refine(dim, widths[2])
        self.refine8 = Refine(dim, widths[1])
        self.look = nn.Conv2d(widths[2], dim, 1)  # color and texture, which no noun needs
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed frames.

        Args:
            maps: Channels-last maps (K, h, w, C) at strides 4, 8, 16, 32.

        Returns:
            (K, D, S / 8, S / 8) and (K, D, S / 32, S / 32).
        """
        _, eighth, sixteenth, last = (m.permute(0, 3, 1, 2) for m in maps)
        coarse = self.project(F.relu6(self.head(last)))
        fine = self.refine8(self.refine16(coarse, sixteenth), eighth)
        size = coarse.shape[-2:]
        tokens = F.adaptive_avg_pool2d(fine, size)
        return fine, tokens + F.adaptive_avg_pool2d(self.look(sixteenth), size)

    def similarity(self, embeddings: Tensor, words: Tensor) -> Tensor:
        """Logits of "this word is true here".

        Args:
            embeddings: (B, D, h, w).
            words: (B, L, D), or (L, D) for all alike.

        Returns:
            (B, L, h, w).
        """
        b, _, height, width = embeddings.shape
        logits = words.expand(b, -1, -1) @ embeddings.flatten(2)
        return (self.scale * logits + self.bias).view(b, -1, height, width)
