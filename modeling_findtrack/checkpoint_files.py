"""Reads published checkpoints tensor by tensor: safetensors, and PyTorch files as plain tensors.

Opening a checkpoint reads names, shapes and dtypes; a tensor's data is read when it is asked for,
so that converting a model never holds more of it than one tensor.
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .torchscript_file import is_torchscript, torchscript_tensors

# Mapped pages count as used memory until the map is closed: a file is opened anew after so much.
_REOPEN_AFTER = 64 * 2**20
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(r"(?:model|pytorch_model)-(\d{5})-of-(\d{5})\.(?:safetensors|bin)")
_WRAPPERS = (
    "model",
    "state_dict",
    "module",
)  # where official files keep their tensors, if not on top


class CheckpointError(ValueError):
    """A checkpoint cannot be used. One line, and names in `details` where there are many.

    Args:
        message: The file, what is wrong with it, and the remedy.
        details: Further lines: one per tensor, say.
    """

    def __init__(self, message: str, details: Iterable[str] = ()):
        super().__init__(message)
        self.details = tuple(details)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a file that is not read yet, with the few operations a conversion needs.

    `convert` works on it as on a tensor: shapes follow at once, data when `load` is called.
    """

    meta: Tensor  # on the meta device: shape and dtype
    load: Callable[[], Tensor]  # reads the data; nothing is kept
    sources: tuple[str, ...]  # its name in the file, or the names of what it is made of

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.meta.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.meta.dtype

    @property
    def nbytes(self) -> int:
        return self.meta.nbytes

    def then(self, change: Callable[[Tensor], Tensor]) -> "LazyTensor":
        """What `change` makes of it."""
        return LazyTensor(change(self.meta), lambda: change(self.load()), self.sources)

    @property
    def T(self) -> "LazyTensor":  # noqa: N802 - as of a tensor
        return self.then(lambda x: x.T)

    def contiguous(self) -> "LazyTensor":
        return self.then(lambda x: x.contiguous())

    def clone(self) -> "LazyTensor":
        return self  # every `load` gives a tensor of its own

    def chunk(self, chunks: int) -> tuple["LazyTensor", ...]:
        count = len(self.meta.chunk(chunks))
        return tuple(self.then(lambda x, i=i: x.chunk(chunks)[i]) for i in range(count))

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None) -> "LazyTensor":
        """Functions of torch, `torch.cat` and padding above all."""
        kwargs = kwargs or {}

        def run(pick: Callable[[LazyTensor], Tensor]) -> Tensor:
            return function(*_replace(args, pick), **_replace(kwargs, pick))

        sources: list[str] = []
        meta = run(lambda x: sources.extend(x.sources) or x.meta)
        return cls(meta, lambda: run(lambda x: x.load()), tuple(sources))


def _replace(value: Any, pick: Callable[[LazyTensor], Tensor]) -> Any:
    """`value` with `pick` applied to every lazy tensor in it."""
    if isinstance(value, LazyTensor):
        return pick(value)
    if isinstance(value, dict):
        return {key: _replace(item, pick) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replace(item, pick) for item in value)
    return value


def choose_weights(names: Iterable[str], where: str) -> list[str]:
    """Which files of a folder or repository hold its weights.

    Args:
        names: Of its files; those in sub-folders are not looked at.
        where: What it is, for the message.

    Returns:
        The usual names (`model.safetensors`, its shards, `pytorch_model.bin`, its shards), or the
        only other file that looks like a checkpoint.

    Raises:
        CheckpointError: There is none, there are several, or a shard is missing.
    """
    names = {name for name in names if "/" not in name}
    for whole in _WHOLE:
        kind = Path(whole).suffix
        if whole in names:
            return [whole]
        shards = {n: m for n in names if (m := _SHARD.fullmatch(n)) and n.endswith(kind)}
        if shards:
            return _all_shards(shards, where)
    loose = sorted(name for name in names if name.endswith(SUFFIXES))
    if not loose:
        raise CheckpointError(f"{where}: no checkpoint there (none of {', '.join(SUFFIXES)})")
    if len(loose) > 1:
        raise CheckpointError(f"{where}: several checkpoints there, name the one to use", loose)
    return loose


def _all_shards(shards: dict[str, re.Match], where: str) -> list[str]:
    counts = {int(match[2]) for match in shards.values()}
    there = {int(match[1]) for match in shards.values()}
    missing = sorted(set(range(1, max(counts) + 1)) - there)
    if missing or len(counts) > 1:
        raise CheckpointError(
            f"{where}: shards are missing or of several checkpoints: {len(there)} of "
            f"{' or '.join(map(str, sorted(counts)))} are there; fetch it again"
        )
    return sorted(shards)


def open_checkpoint(paths: Sequence[Path]) -> dict[str, LazyTensor]:
    """All tensors of a checkpoint, under their own names.

    Args:
        paths: Its file, or all of its shards.

    Raises:
        CheckpointError: A file is damaged, holds more than tensors, or repeats a tensor.
    """
    tensors: dict[str, LazyTensor] = {}
    for path in paths:
        try:
            found = _tensors_of(path)
        except CheckpointError:
            raise
        except pickle.UnpicklingError:  # whose message advises to read it unsafely
            raise CheckpointError(
                f"{path}: holds other things than tensors, which could run code when read, or is "
                "damaged; save its state dict alone, best as safetensors"
            ) from None
        except (OSError, ValueError, RuntimeError, SafetensorError, EOFError, KeyError) as error:
            raise CheckpointError(f"{path}: damaged, or no checkpoint ({_first(error)})") from None
        for name in found:
            if name in tensors:
                raise CheckpointError(f"{path}: {name} is in another shard, too")
        tensors |= found
    if not tensors:
        raise CheckpointError(f"{paths[0]}: no tensors in it")
    return tensors


def _tensors_of(path: Path) -> dict[str, LazyTensor]:
    if path.suffix == ".safetensors":
        return _SafetensorsFile(path).tensors()
    if is_torchscript(path):
        return {
            name: LazyTensor(tensor.meta, tensor.load, (name,))
            for name, tensor in torchscript_tensors(path).items()
        }
    return _TorchFile(path).tensors()


class _File:
    """A checkpoint file that is mapped. All of them are let go once much has been read of them."""

    _mapped: ClassVar[WeakSet["_File"]] = WeakSet()
    _read: ClassVar[int] = 0  # bytes of the files in `_mapped`

    def __init__(self, path: Path):
        self.path = path
        self._content: Any = None

    def content(self) -> Any:
        """The open file."""
        if self._content is None:
            self._content = self._open()
            if self._is_mapped():
                _File._mapped.add(self)
        return self._content

    def count(self, tensor: Tensor) -> Tensor:
        """Note that `tensor` was read; it keeps the map it is in alive for as long as it lives."""
        _File._read += tensor.nbytes
        if _File._read > _REOPEN_AFTER:
            for file in _File._mapped:
                file._content = None
            _File._mapped.clear()
            _File._read = 0
        return tensor

    def _open(self) -> Any:
        raise NotImplementedError

    def _is_mapped(self) -> bool:
        return True


class _SafetensorsFile(_File):
    def _open(self):
        return safe_open(self.path, framework="pt")

    def tensors(self) -> dict[str, LazyTensor]:
        file = self.content()
        found = {}
        for name in file.keys():  # noqa: SIM118 - older safetensors cannot be iterated
            part = file.get_slice(name)
            dtype = _DTYPES.get(part.get_dtype())
            if dtype is None:
                raise CheckpointError(f"{self.path}: {name} is {part.get_dtype()}, not supported")
            meta = torch.empty(part.get_shape(), dtype=dtype, device="meta")
            found[name] = LazyTensor(meta, lambda name=name: self._load(name), (name,))
        return found

    def _load(self, name: str) -> Tensor:
        return self.count(self.content().get_tensor(name))


class _TorchFile(_File):
    """A file of `torch.save`, read as nothing but tensors."""

    def _open(self) -> dict[str, Tensor]:
        content = torch.load(
            self.path, map_location="cpu", weights_only=True, mmap=self._is_mapped()
        )
        for wrapper in _WRAPPERS:
            if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
                content = content[wrapper]
        if not isinstance(content, dict):
            raise CheckpointError(f"{self.path}: holds a {type(content).__name__}, no state dict")
        return {str(k): v.detach() for k, v in content.items() if isinstance(v, Tensor)}

    def _is_mapped(self) -> bool:
        """Files from before PyTorch 1.6 are no archives: they cannot be mapped, only held whole."""
        return zipfile.is_zipfile(self.path)

    def tensors(self) -> dict[str, LazyTensor]:
        return {
            name: LazyTensor(tensor.to("meta"), lambda name=name: self._load(name), (name,))
            for name, tensor in self.content().items()
        }

    def _load(self, name: str) -> Tensor:
        return self.count(self.content()[name])


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
SAFETENSORS_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def _first(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
