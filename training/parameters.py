"""Which parameters a run trains, and where the others come from."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from modeling_findtrack.shipped import checkpoint

from .config import Lora


def choose_trained(model: nn.Module, beginnings: Sequence[str]) -> list[str]:
    """Let only the parameters learn whose names begin with one of `beginnings`.

    A beginning ends at a dot or is a whole name: "finder.sam" does not mean "finder.sam2".

    Returns:
        The names of what is trained.

    Raises:
        ValueError: A beginning that fits nothing.
    """
    used = dict.fromkeys(beginnings, False)
    trained = []
    for name, parameter in model.named_parameters():
        fits = [b for b in beginnings if name == b or name.startswith(b.rstrip(".") + ".")]
        used |= dict.fromkeys(fits, True)
        parameter.requires_grad_(bool(fits) and parameter.dtype.is_floating_point)
        if parameter.requires_grad:
            trained.append(name)
    if unused := [b for b, was in used.items() if not was]:
        parts = sorted({".".join(n.split(".")[:2]) for n, _ in model.named_parameters()})
        raise ValueError(
            f"train: the model has no parameter {unused[0]!r}; its parts are {', '.join(parts)}"
        )
    return trained


def rate_groups(learner: nn.Module, slow: Mapping[str, float]) -> list[dict]:
    """Parameter groups of what learns, by how fast.

    Args:
        learner: Holds the model as `model`.
        slow: Beginnings of names of the model's parameters -> `factor` of the learning rate.

    Raises:
        ValueError: A beginning that fits nothing that learns.
    """
    groups: dict[str, list] = {"": []} | {beginning: [] for beginning in slow}
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            name = name.removeprefix("model.")
            fits = [b for b in slow if name == b or name.startswith(b.rstrip(".") + ".")]
            groups[max(fits, key=len, default="")].append(parameter)
    if unused := [b for b in slow if not groups[b]]:
        raise ValueError(f"optimizer.slow: nothing that is trained begins with {unused[0]!r}")
    return [
        {"params": found, "factor": slow.get(beginning, 1.0)}
        for beginning, found in groups.items()
        if found
    ]


def add_lora(model: nn.Module, lora: Lora) -> list[str]:
    """Put adapters of peft into `model`, in place; the names of their parameters.

    Raises:
        ValueError: peft is not installed, or no layer's name fits.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError('lora needs peft: pip install ".[train]"') from error
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(lora.targets, name)
    ]
    if not layers:
        raise ValueError(f"lora.targets {lora.targets!r} fits the name of no linear layer")
    requires = {name: p.requires_grad for name, p in model.named_parameters()}
    how = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=layers
    )
    inject_adapter_in_model(how, model)
    for name, parameter in model.named_parameters():
        # peft freezes everything else; what `train` chose shall learn nevertheless.
        parameter.requires_grad_(requires.get(name.replace(".base_layer.", "."), True))
    return [name for name, _ in model.named_parameters() if ".lora_" in name]


def widen_scalars(module: nn.Module) -> list[str]:
    """Make parameters without a dimension vectors of one element, which is all that DeepSpeed can
    send between processes; the names of those that were."""
    scalars = [(name, p) for name, p in module.named_parameters() if p.ndim == 0]
    for _, parameter in scalars:
        parameter.data = parameter.data.reshape(1)
    return [name for name, _ in scalars]


def merged(state: dict[str, Tensor], lora: Lora | None) -> dict[str, Tensor]:
    """A state dict with adapters -> one without, as if they had always been part of the weights."""
    if lora is None:
        return state
    plain = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        base = name.replace(".base_layer.", ".")
        if name != base and name.endswith(".weight"):
            stem = name.removesuffix("base_layer.weight")
            down = state[f"{stem}lora_A.default.weight"].float()  # (rank, in)
            up = state[f"{stem}lora_B.default.weight"].float()  # (out, rank)
            change = (lora.alpha / lora.rank) * (up @ down)
            tensor = (tensor.float() + change).to(tensor.dtype)
        plain[base] = tensor
    return plain


@torch.no_grad()
def take_parts(model: nn.Module, parts: dict[str, str]) -> None:
    """Load parts of the model from other checkpoint folders.

    Args:
        parts: Part -> "CHECKPOINT" or "CHECKPOINT:PART there"; a folder or a short name.

    Raises:
        ValueError: A checkpoint lacks some of the part, or has it in another shape.
        FileNotFoundError: There is no such checkpoint.
    """
    own = model.state_dict()
    for part, origin in parts.items():
        folder, _, there = origin.partition(":")
        folder = checkpoint(folder)
        there = there or part
        file = Path(folder) / "model.safetensors"
        if not file.is_file():
            raise FileNotFoundError(f"parts: {folder} is no checkpoint (no model.safetensors)")
        names = [n for n in own if n == part or n.startswith(part + ".")]
        if not names:
            raise ValueError(f"parts: the model has no part {part!r}")
        try:
            _copy(file, {name: there + name[len(part) :] for name in names}, own)
        except SafetensorError as error:
            raise ValueError(f"parts: {file} is damaged ({error})") from error


def _copy(file: Path, sources: dict[str, str], own: dict[str, Tensor]) -> None:
    """Copy tensors of a file into those of `own`; `sources` maps their names to those there."""
    with safe_open(file, "pt") as tensors:
        stored = set(tensors.keys())
        for name, source in sources.items():
            if source not in stored:
                raise ValueError(f"parts: {file.parent} has no {source}")
            tensor = tensors.get_tensor(source)
            if tensor.shape != own[name].shape:
                raise ValueError(
                    f"parts: {source} of {file.parent} is {tuple(tensor.shape)}, "
                    f"{name} of the model {tuple(own[name].shape)}"
                )
            own[name].copy_(tensor)
