"""EfficientNet-Lite as a backbone with the output contract of SAM 2's Hiera.

"EfficientNet", arXiv 1905.11946, in the variant for phones: no squeeze-excite, ReLU6. Batch
normalization is folded into the convolutions, so that training leaves its statistics alone and
inference does less.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModelOutput

# (repeats, kernel, stride of the first, expansion, channels out) per stage, behind a stem of 32.
LITE0 = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
STEM = 32


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow pads: with a stride, more at the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        pads = []
        for side in (x.shape[-1], x.shape[-2]):
            room = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [room // 2, room - room // 2]
        # In the weights' own dtype: backwards in bfloat16 takes CPUs more than ten times as long.
        with torch.autocast(x.device.type, enabled=False):
            x = F.pad(x.to(self.weight.dtype), pads)
            return F.conv2d(x, self.weight, self.bias, stride, 0, 1, self.groups)


class MBConv(nn.Module):
    """Inverted residual block: widen, filter each channel, narrow."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        width = before * expansion
        self.expand = SameConv(before, width, 1) if expansion > 1 else None
        self.depthwise = SameConv(width, width, kernel, stride, groups=width)
        self.project = SameConv(width, after, 1)
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """Images (B, 3, S, S) -> channels-last maps at strides 4, 8, 16, 32.

    Args:
        stages: As `LITE0`.
    """

    def __init__(self, stages: Sequence[Sequence[int]] = LITE0):
        super().__init__()
        self.stem = SameConv(3, STEM, 3, stride=2)
        self.blocks, before, self.ends = nn.ModuleList(), STEM, []
        for number, (repeats, kernel, stride, expansion, after) in enumerate(stages):
            for repeat in range(repeats):
                first = stride if repeat == 0 else 1
                self.blocks.append(MBConv(before, after, kernel, first, expansion))
                before = after
            following = stages[number + 1][2] if number + 1 < len(stages) else 2
            if following == 2:  # the last block before the next halving
                self.ends.append(len(self.blocks) - 1)
        self.ends = self.ends[-4:]

    def forward(self, pixel_values: Tensor, **_) -> Sam2HieraDetModelOutput:
        x = pixel_values.to(memory_format=torch.channels_last)
        x, maps = F.relu6(self.stem(x)), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.ends:
                maps.append(x.permute(0, 2, 3, 1))
        return Sam2HieraDetModelOutput(
            last_hidden_state=maps[-1], intermediate_hidden_states=tuple(maps)
        )


def widths(stages: Sequence[Sequence[int]] = LITE0) -> list[int]:
    """Channels of the four maps."""
    halvings = [i for i, stage in enumerate(stages) if stage[2] == 2]
    ends = [i - 1 for i in halvings[1:]] + [len(stages) - 1]
    return [stages[i][4] for i in ends][-4:]
