"""A small convolutional backbone with the output contract of SAM 2's Hiera.

It stands in where training from scratch on a CPU must be affordable (`findtrack-tiny`); the
official weights never use it.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModelOutput


class ConvBlock(nn.Module):
    """Pre-activation residual block: two 3x3 convolutions with group normalisation."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.gelu(self.norm1(x)))
        return x + self.conv2(F.gelu(self.norm2(y)))


class ConvStages(nn.Module):
    """Images (B, 3, S, S) -> one map per width at strides 4, 8, 16, ...

    Args:
        widths: Channels per stage, multiples of 8; the first stage has stride 4.
        depths: Residual blocks per stage; one each if not given.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int] | None = None):
        super().__init__()
        depths = depths or [1] * len(widths)
        self.stem = nn.Conv2d(3, widths[0] // 2, 3, stride=2, padding=1)
        self.downs = nn.ModuleList()
        self.blocks = nn.ModuleList()
        before = widths[0] // 2
        for width, depth in zip(widths, depths, strict=True):
            self.downs.append(nn.Conv2d(before, width, 3, stride=2, padding=1))
            self.blocks.append(nn.Sequential(*[ConvBlock(width) for _ in range(depth)]))
            before = width

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.gelu(self.stem(x))
        maps = []
        for down, blocks in zip(self.downs, self.blocks, strict=True):
            x = blocks(down(x))
            maps.append(x)
        return maps


class ConvBackbone(nn.Module):
    """`ConvStages` speaking Hiera's language: channels-last maps at strides 4, 8, 16, 32."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.stages = ConvStages(widths, depths=[1, 1, 2, 1])
        # Maps of unit scale: beside larger ones, prompts and positions would go unheard.
        self.norms = nn.ModuleList([nn.GroupNorm(8, width) for width in widths])

    def forward(self, pixel_values: Tensor, **_) -> Sam2HieraDetModelOutput:
        maps = [norm(m) for norm, m in zip(self.norms, self.stages(pixel_values), strict=True)]
        maps = tuple(m.permute(0, 2, 3, 1) for m in maps)
        return Sam2HieraDetModelOutput(last_hidden_state=maps[-1], intermediate_hidden_states=maps)
