"""Writes safetensors files tensor by tensor: the library's own writer wants all of a file at once.

The format (github.com/huggingface/safetensors) is a length, a JSON header and the data, so that a
file whose names, shapes and dtypes are known can be written as a stream.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from .checkpoint_files import SAFETENSORS_NAMES, CheckpointError, LazyTensor

MAX_SHARD_BYTES = 5 * 10**9
_ALIGNMENT = 8  # of the data in the file


def write_sharded(
    folder: Path,
    tensors: Mapping[str, LazyTensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Write `model.safetensors`, or several files and the index that `from_pretrained` looks for.

    Args:
        folder: Where.
        tensors: By the names they shall have.
        max_shard_bytes: What a file holds at most, unless one tensor alone is larger.
        progress: Called with the bytes written so far.

    Returns:
        The names of the files that hold tensors.
    """
    shards: list[dict[str, LazyTensor]] = [{}]
    filled = 0
    for name in sorted(tensors):
        size = tensors[name].nbytes
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensors[name]
        filled += size
    count = len(shards)
    files = [
        "model.safetensors" if count == 1 else f"model-{i:05}-of-{count:05}.safetensors"
        for i in range(1, count + 1)
    ]
    done = 0
    for file, shard in zip(files, shards, strict=True):
        done = _write(folder / file, shard, done, progress)
    if count > 1:
        index = {
            "metadata": {"total_size": done},
            "weight_map": {n: f for f, shard in zip(files, shards, strict=True) for n in shard},
        }
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / "model.safetensors.index.json").write_text(f"{text}\n", encoding="utf-8")
    return files


def _write(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    done: int,
    progress: Callable[[int], None] | None,
) -> int:
    """One file; returns the bytes of tensors written, those `done` before included."""
    # The widest numbers first: so every tensor lies where its numbers are aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(math.ceil(len(text) / _ALIGNMENT) * _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            _write_data(file, name, tensors[name])
            done += tensors[name].nbytes
            if progress:
                progress(done)
    return done


def _write_data(file: BinaryIO, name: str, tensor: LazyTensor) -> None:
    """Read a tensor and write it; a function of its own, so that it is let go before the next."""
    data = tensor.load().contiguous()
    if data.dtype != tensor.dtype or data.shape != tensor.meta.shape:
        raise CheckpointError(f"{name}: its file changed while it was read; start again")
    file.write(data.reshape(-1).view(torch.uint8).numpy())
