"""Reads published checkpoints tensor by tensor: safetensors, and PyTorch files as plain tensors.

Opening a checkpoint reads names, shapes and dtypes; a tensor's data is read when it is asked for,
so that converting a model never holds more of it than one tensor.
"""

import contextlib
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from safetensors import safe_open
from torch import Tensor

from .state_dict import WRAPPERS, StateDict, find_state_dict
from .torchscript_file import is_torchscript, torchscript_tensors

# Mapped pages count as used memory until the map is closed: a file is opened anew after so much.
_REOPEN_AFTER = 64 * 2**20


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


@dataclass(frozen=True)
class Checkpoint:
    """What the files of a checkpoint hold."""

    tensors: dict[str, LazyTensor]  # by their own names
    stray: tuple[str, ...] = ()  # names of tensors that are no part of the state dict
    training: tuple[str, ...] = ()  # what training keeps beside it: an optimizer, say


def open_checkpoint(paths: Sequence[Path]) -> Checkpoint:
    """All tensors of a checkpoint, under their own names.

    Args:
        paths: Its file, or all of its shards.

    Raises:
        CheckpointError: A file is damaged, holds more than tensors, or repeats a tensor. Loading
            one of the tensors raises it, too, where its data is damaged.
    """
    tensors: dict[str, LazyTensor] = {}
    stray: list[str] = []
    training: list[str] = []
    for path in paths:
        with _readable(path):
            part = _open(path)
        for name, tensor in part.tensors.items():
            if name in tensors:
                raise CheckpointError(f"{path}: {name} is in another shard, too")
            tensors[name] = replace(tensor, load=_guarded(path, tensor.load))
        stray += part.stray
        training += part.training
    if not tensors:
        raise CheckpointError(
            f"{paths[0]}: no tensors in it, at the top or below {', '.join(WRAPPERS)}"
        )
    return Checkpoint(tensors, tuple(stray), tuple(training))


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say which file it is and that it is damaged, whatever a reader makes of the damage."""
    try:
        yield
    except CheckpointError:
        raise
    except pickle.UnpicklingError:  # whose message advises to read it unsafely
        raise CheckpointError(
            f"{path}: holds other things than tensors, which could run code when read, or is "
            "damaged; save its state dict alone, best as safetensors"
        ) from None
    except Exception as error:
        lines = str(error).strip().splitlines()
        why = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise CheckpointError(f"{path}: damaged, or no checkpoint ({why})") from error


def _guarded(path: Path, load: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with _readable(path):
            return load()

    return read


def _open(path: Path) -> Checkpoint:
    if path.suffix == ".safetensors":
        return Checkpoint(_SafetensorsFile(path).tensors())
    if path.name.endswith(".index.json"):
        raise CheckpointError(f"{path}: the index of shards, no checkpoint; give their folder")
    with open(path, "rb") as file:
        if not file.read(2).startswith((b"PK", b"\x80")):  # a zip archive, or a pickle
            raise CheckpointError(f"{path}: not a checkpoint (safetensors, or of torch.save)")
    if is_torchscript(path):
        return Checkpoint(
            {
                name: LazyTensor(tensor.meta, tensor.load, (name,))
                for name, tensor in torchscript_tensors(path).items()
            }
        )
    file = _TorchFile(path)
    return Checkpoint(file.tensors(), file.content().stray, file.content().training)


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

    def _open(self) -> StateDict:
        # Below, a file could run code in spite of `weights_only` (CVE-2025-32434).
        if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
            raise CheckpointError(
                f"{self.path}: reading it safely needs PyTorch 2.6 or later, this is "
                f"{torch.__version__}; update it, or give safetensors"
            )
        content = torch.load(
            self.path, map_location="cpu", weights_only=True, mmap=self._is_mapped()
        )
        return find_state_dict(content)

    def _is_mapped(self) -> bool:
        """Files from before PyTorch 1.6 are no archives: they cannot be mapped, only held whole."""
        return zipfile.is_zipfile(self.path)

    def tensors(self) -> dict[str, LazyTensor]:
        found = {}
        for name, tensor in self.content().tensors.items():
            if kind := _unsupported(tensor):
                raise CheckpointError(f"{self.path}: {name} is {kind}, not supported")
            found[name] = LazyTensor(tensor.to("meta"), lambda name=name: self._load(name), (name,))
        return found

    def _load(self, name: str) -> Tensor:
        return self.count(self.content().tensors[name])


def _unsupported(tensor: Tensor) -> str | None:
    """What is the matter with a tensor that cannot be written as safetensors, if something is."""
    if tensor.is_meta:
        return "without data"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
    if tensor.dtype not in SAFETENSORS_NAMES:
        return str(tensor.dtype).removeprefix("torch.")
    return None


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
