"""The check that a component's files hold its tensors: no more, no fewer, none of another shape."""

from collections.abc import Mapping

from torch import Tensor

from .checkpoint_files import CheckpointError
from .published_parts import PublishedPart


def account_for(part: PublishedPart, expected: Mapping[str, Tensor]) -> None:
    """Every tensor of the files has its place, and every place its tensor.

    Args:
        part: A component.
        expected: Its share of the model's state dict; only shapes are looked at.

    Raises:
        CheckpointError: It is not so. Tensors are listed by name: unknown ones by the name in the
            file, missing ones by the name in the model, misshaped ones by both.
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
    if not (unknown or missing or shapes):
        return
    counts = ((unknown, "unknown"), (missing, "missing"), (shapes, "of another shape"))
    summary = ", ".join(f"{len(names)} {word}" for names, word in counts if names)
    raise CheckpointError(
        f"{part.where}: not the tensors of {part.kind}: {summary}; give a complete checkpoint of "
        "this kind, or put the right config.json beside it",
        [
            *(f"unknown: {name}" for name in sorted(unknown)),
            *(f"missing: {name}" for name in sorted(missing)),
            *shapes,
        ],
    )
