"""The tensors of a TorchScript archive, the form in which OpenAI publishes CLIP, without its code.

`torch.load(weights_only=True)` refuses such archives because they hold a program. This reads the
one part that describes the tensors, with an unpickler that can build nothing else.
"""

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the archive."""

    meta: Tensor  # on the meta device: shape and dtype
    load: Callable[[], Tensor]


def is_torchscript(path: Path) -> bool:
    """Whether `path` is an archive with a program in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def torchscript_tensors(path: Path) -> dict[str, StoredTensor]:
    """All parameters and buffers, under the names that `state_dict` would give them.

    Tensors in a list or dict have names as well: `part.list[3]`.

    Raises:
        pickle.UnpicklingError: The archive describes something else than modules and tensors.
    """
    with zipfile.ZipFile(path) as archive:
        (table,) = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
        with archive.open(table) as file:
            root = _Unpickler(file, path, table.removesuffix(".pkl")).load()
    found: dict[str, StoredTensor] = {}
    _collect(root, "", found)
    return found


class _Module:
    """Stands in for every class of the archive: attributes, no behaviour."""

    state: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state


def _collect(value: Any, name: str, found: dict[str, StoredTensor]) -> None:
    if isinstance(value, StoredTensor):
        found[name] = value
    elif isinstance(value, _Module):
        for key, item in value.state.items():
            _collect(item, f"{name}.{key}" if name else key, found)
    elif isinstance(value, dict | list | tuple):  # no state dict has these, nor such names
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            _collect(item, f"{name}[{key}]", found)


class _Unpickler(pickle.Unpickler):
    """Knows modules, tensors and typed lists; every other name is refused.

    Args:
        file: The open `data.pkl`.
        path: The archive it is in.
        folder: Where in the archive the data of the tensors lie.
    """

    def __init__(self, file, path: Path, folder: str):
        super().__init__(file)
        self._path, self._folder = path, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch" and name in _STORAGES:
            return name
        if module == "torch.jit._pickle":  # lists and dicts with the type of what is in them
            return _untyped
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"{module}.{name} is refused")

    def persistent_load(self, pid: tuple) -> tuple[torch.dtype, str]:
        _, storage, key, *_ = pid
        return _STORAGES[storage], str(key)

    def _tensor(self, storage, offset, size, stride, *_) -> StoredTensor:
        dtype, key = storage

        def load() -> Tensor:
            if 0 in size:
                return torch.empty(size, dtype=dtype)
            with zipfile.ZipFile(self._path) as archive:
                data = bytearray(archive.read(f"{self._folder}/{key}"))
            return torch.frombuffer(data, dtype=dtype).as_strided(size, stride, offset)

        return StoredTensor(torch.empty(size, dtype=dtype, device="meta"), load)


def _untyped(value: Any = None, *_) -> Any:
    return value
