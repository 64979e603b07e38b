"""An exponential moving average of the trained weights, in float32."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class MovingAverage:
    """The average; short at first, so that it does not remember the beginning.

    Args:
        module: Whose trained parameters are averaged.
        decay: Of the average, 0..1.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.values = {
            name: p.detach().float().clone()
            for name, p in module.named_parameters()
            if p.requires_grad
        }

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after step number `step`, counted from 1."""
        keep = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(module.named_parameters())
        for name, value in self.values.items():
            value.lerp_(parameters[name].detach().float(), 1 - keep)

    def applied(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict with the averages in place of the weights."""
        own = self.values
        return {k: own[k].to(v.dtype).reshape(v.shape) if k in own else v for k, v in state.items()}

    def save(self, file: Path) -> None:
        """Write the averages."""
        save_file({name: value.contiguous().cpu() for name, value in self.values.items()}, file)

    def load(self, file: Path) -> None:
        """Read what `save` wrote.

        Raises:
            ValueError: It is of other parameters.
        """
        stored = load_file(file)
        if set(stored) != set(self.values):
            raise ValueError(f"{file} averages other parameters than this run trains")
        for name, value in stored.items():
            self.values[name].copy_(value)
