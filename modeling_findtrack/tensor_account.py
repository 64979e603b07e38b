"""The check that a component's files hold its tensors: no more, no fewer, none of another shape."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .checkpoint_files import CheckpointError
from .published_parts import PublishedPart


def account_for(part: PublishedPart, expected: Mapping[str, Tensor]) -> None:
    """Every tensor of the files has its place, and every place its tensor.

    Args:
        part: A component.
        expected: Its share of the model's state dict, of which shapes count, and whether numbers
            are whole.

    Raises:
        CheckpointError: It is not so. Tensors are listed by name: unknown ones by the name in the
            file, missing ones by the name in the model, misshaped ones by both, and so are those
            that hold whole numbers instead of fractions, or the other way round.
    """
    found = part.tensors
    unknown = {
        *part.unknown,
        *(s for k in found.keys() - expected.keys() for s in found[k].sources),
    }
    missing = expected.keys() - found.keys()
    shapes = [
        f"shape: {' + '.join(found[name].sources)} gives {name} {list(found[name].shape)}, the "
        f"model has {list(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != tuple(expected[name].shape)
    ]
    kinds = [
        f"kind: {' + '.join(found[name].sources)} gives {name} in {_word(found[name].dtype)}, the "
        f"model has {_word(expected[name].dtype)}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].dtype.is_floating_point != expected[name].dtype.is_floating_point
    ]
    if not (unknown or missing or shapes or kinds):
        return
    counts = (
        (unknown, "unknown"),
        (missing, "missing"),
        (shapes, "of another shape"),
        (kinds, "of another kind of numbers"),
    )
    summary = ", ".join(f"{len(names)} {word}" for names, word in counts if names)
    raise CheckpointError(
        f"{part.where}: not the tensors of {part.kind}: {summary}; give a complete checkpoint of "
        "this kind, or put the right config.json beside it",
        [
            *(f"unknown: {name}" for name in sorted(unknown)),
            *(f"missing: {name}" for name in sorted(missing)),
            *shapes,
            *kinds,
        ],
    )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
