"""Finds the state dict in what a file of `torch.save` holds, and what else lies there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# Where official files keep their tensors, if not on top.
WRAPPERS = ("model", "state_dict", "module")
# What training keeps beside a state dict. It is known, and no part of the network.
_OF_TRAINING = frozenset({
    "optimizer", "optimizers", "optimizer_state", "optimizer_states", "optimizer_state_dict",
    "lr_scheduler", "lr_schedulers", "scheduler", "scheduler_state_dict", "scaler", "grad_scaler",
    "amp", "ema", "ema_state_dict", "model_ema", "loss", "criterion", "callbacks", "loops",
    "rng_state", "rng_states", "random_rng_state", "torch_rng_state", "cuda_rng_state",
})  # fmt: skip


@dataclass(frozen=True)
class StateDict:
    """The tensors of a network, and the names of those that are not among them."""

    tensors: dict[str, Tensor]
    stray: tuple[str, ...]  # beside the state dict, or deeper in it: nobody knows what they are
    training: tuple[str, ...]  # entries with tensors that training keeps beside it


def find_state_dict(content: Any) -> StateDict:
    """Look on top, then below `model`, `state_dict` and `module`.

    Args:
        content: From `torch.load(weights_only=True)`.

    Raises:
        ValueError: It is no dict, or two of its keys are the same word.
    """
    tensors: dict[str, Tensor] = {}
    stray: list[str] = []
    training: list[str] = []

    def set_aside(key: Any, value: Any) -> None:
        names = list(_tensors_in(value, str(key)))
        if names and key in _OF_TRAINING:
            training.append(str(key))
        else:
            stray.extend(names)

    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            for key, value in content.items():
                if key != wrapper:
                    set_aside(key, value)
            content = content[wrapper]
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, no state dict")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            set_aside(key, value)
        elif str(key) in tensors:
            raise ValueError(f"two keys are called {key}")
        else:
            tensors[str(key)] = value.detach()
    return StateDict(tensors, tuple(sorted(stray)), tuple(sorted(training)))


def _tensors_in(value: Any, name: str) -> Iterator[str]:
    """Names of all tensors in a value, whatever they are in."""
    if isinstance(value, Tensor):
        yield name
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors_in(item, f"{name}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        for i, item in enumerate(value):
            yield from _tensors_in(item, f"{name}.{i}")
