"""What an assembled model was made of: enough to make it again, nothing of this machine."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import transformers

from .checkpoint_files import LazyTensor
from .presets import PRESETS, TOKENIZERS, Part
from .published_source import Progress, Source, sha256

COMPONENTS = ("finder", "aligner", "tracker")


def describe_sources(
    preset: str, sources: Mapping[str, Source], progress: Progress | None = None
) -> dict[str, Any]:
    """Every source with its files and their hashes.

    Args:
        preset: "sam2" or "paper".
        sources: Fetched.
        progress: Called with the bytes hashed.
    """
    total = sum(file.local.stat().st_size for source in sources.values() for file in source.files)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress("hashing", done, total)

    described = {}
    for option, source in sources.items():
        files = [
            {
                "name": file.name,
                "bytes": file.local.stat().st_size,
                "sha256": sha256(file.local, count),
            }
            for file in source.files
        ]
        part = PRESETS[preset].part(option)
        described[option] = {
            "role": role(preset, option),
            "kind": source.kind,
            "name": source.public_name,
            "revision": source.revision,
            "licence": licence(part, source.name),
            "files": files,
        }
    return described


def describe_components(
    tensors: Mapping[str, LazyTensor], left_out: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    """Finder, aligner and tracker in numbers.

    Args:
        tensors: Of the model.
        left_out: Component -> names in its files that are not needed.
    """
    described = {}
    for name in COMPONENTS:
        own = [tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")]
        described[name] = {
            "tensors": len(own),
            "parameters": sum(tensor.meta.numel() for tensor in own),
            "bytes": sum(tensor.nbytes for tensor in own),
            "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in own}),
            "left_out": list(left_out[name]),
        }
    return described


def versions() -> dict[str, str]:
    """Of what did it."""
    try:
        own = version("findtrack")
    except PackageNotFoundError:  # run from a checkout that is not installed
        own = "unknown"
    return {"findtrack": own, "torch": torch.__version__, "transformers": transformers.__version__}


def role(preset: str, option: str) -> str:
    """What the source of an option becomes."""
    part = PRESETS[preset].part(option)
    return part.role if part else f"tokenizer of {TOKENIZERS[option][0]}"


def licence(part: Part | None, name: str) -> str:
    """Of the published weights; whoever trained other ones may have chosen another."""
    if part is None:
        return "as its weights"
    return part.licence if name == part.default else f"{part.licence}, if as published"
