"""Features of a frozen vision encoder, kept on disk between epochs and runs.

Worth it where the encoder is most of a step: SAM's ViT-H costs fifty times the rest. One frame
takes 2 MiB for SAM (256 x 64 x 64 in half precision) and 42 MiB for SAM 2 at 1024 px, so a split's
frames times that is what the folder grows to, unless it is full before.
"""

import hashlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

logger = logging.getLogger(__name__)


class EmbeddingCache:
    """Maps a frame's file, an encoder and the precision it runs in to its output.

    Args:
        folder: Made if need be; processes and runs may share it.
        digest: Of the encoder's weights and of how frames are prepared.
        limit: Bytes that the folder may have; when it is full, nothing more is kept.
        processes: How many share what is left of them.
    """

    def __init__(
        self, folder: str | Path, digest: str, limit: float = math.inf, processes: int = 1
    ):
        self.folder, self.digest = Path(folder), digest
        self.hits = self.misses = 0
        used = sum(file.stat().st_size for file in self.folder.rglob("*.safetensors"))
        self.room, self.full = (limit - used) / processes, False

    def levels(
        self,
        frames: Sequence[tuple[str, int | None]],
        pixels: Tensor,
        run: Callable[[Tensor], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """The features of B frames, from disk where they are there.

        Args:
            frames: B image files, each with None, or video files with the number of the frame.
            pixels: (B, 3, S, S), what the encoder is given of them, in its dtype.
            run: The encoder.
        """
        device = pixels.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else pixels.dtype
        files = [self._file(path, number, dtype) for path, number in frames]
        known = [self._read(file, pixels.device) for file in files]
        missing = [i for i, levels in enumerate(known) if levels is None]
        self.hits += len(files) - len(missing)
        self.misses += len(missing)
        if missing:
            fresh = run(pixels[missing])
            for row, i in enumerate(missing):
                known[i] = tuple(level[row : row + 1] for level in fresh)
                self._keep(files[i], known[i])
        return tuple(torch.cat(level) for level in zip(*known, strict=True))

    def _file(self, path: str, number: int | None, dtype: torch.dtype) -> Path:
        status = os.stat(path)
        image = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}"
        image += "" if number is None else f"\0{number}"
        facts = f"{self.digest}\0{dtype}\0{image}"
        name = hashlib.sha256(facts.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def _read(self, file: Path, device: torch.device) -> tuple[Tensor, ...] | None:
        try:
            tensors = load_file(file, device=str(device))
        except (OSError, SafetensorError):  # not there, or cut off by a full disk: make it again
            return None
        return tuple(tensors[str(i)] for i in range(len(tensors)))

    def _keep(self, file: Path, levels: Sequence[Tensor]) -> None:
        """Write the features of a frame, if there is room for them."""
        size = sum(level.nbytes for level in levels)
        if size <= self.room:
            self.room -= size
            self._write(file, levels)
        elif not self.full:
            self.full = True
            logger.warning("%s is full: other frames are encoded every time", self.folder)

    def _write(self, file: Path, levels: Sequence[Tensor]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            tensors = {str(i): level.detach().cpu().contiguous() for i, level in enumerate(levels)}
            save_file(tensors, partial)
            partial.replace(file)
        except SafetensorError as error:
            raise OSError(f"{file} cannot be written ({error})") from error
        finally:
            partial.unlink(missing_ok=True)


def encoder_digest(encoder: torch.nn.Module, processor) -> str:
    """SHA-256 (hex) of an encoder's weights and of its input's geometry."""
    sha = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    geometry = (processor.finder_size, processor.tracker_size, processor.finder_geometry)
    sha.update(repr((geometry, processor.finder_mean, processor.finder_std)).encode())
    return sha.hexdigest()
