"""What every video source offers: `Video`, and the one error they raise."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np


class VideoError(ValueError):
    """The input is not a readable video. One line: which input, what is wrong, what to do."""


class Video:
    """Frames with their facts; use it as a context manager.

    Attributes:
        name: Name of the source without folders, for messages and output names.
        num_frames: T, exactly what iterating yields.
        height: H in pixels, after rotation.
        width: W in pixels, after rotation.
        fps: Average frame rate, None for images.
        timestamps: T strictly increasing times in seconds as the container states them (the first
            need not be 0), None for images.
    """

    name: str
    num_frames: int
    height: int
    width: int
    fps: Fraction | None = None
    timestamps: tuple[Fraction, ...] | None = None

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __len__(self) -> int:
        return self.num_frames

    def __repr__(self) -> str:
        return f"Video({self.name!r}, {self.num_frames} x {self.height}x{self.width})"

    def close(self) -> None:
        """Release the source. Iterators started before stay valid until they are dropped."""

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Frames start .. stop-1 in order, each (H, W, 3) uint8 RGB.

        Raises:
            IndexError: If `start` or `stop` lies outside 0 .. T.
        """
        stop = self.num_frames if stop is None else stop
        if not (0 <= start <= self.num_frames and 0 <= stop <= self.num_frames):
            raise IndexError(f"frames {start}..{stop} of {self.name} with {self.num_frames} frames")
        return self._frames(start, stop)

    def frames_reversed(self, start: int | None = None) -> Iterator[np.ndarray]:
        """Frames start, start-1 .. 0 (default: from the last), holding one bounded chunk at a time.

        Raises:
            IndexError: If `start` is not a frame.
        """
        start = self.num_frames - 1 if start is None else start
        self._check(start)
        return self._frames_reversed(start)

    def read(self, indices: Iterable[int]) -> list[np.ndarray]:
        """The frames at `indices` (any order, repeats allowed), each (H, W, 3) uint8 RGB.

        Raises:
            IndexError: If an index is not a frame.
        """
        indices = [int(i) for i in indices]
        for index in indices:
            self._check(index)
        found = self._read(sorted(set(indices)))
        return [found[i] for i in indices]

    def _check(self, index: int) -> None:
        if not 0 <= index < self.num_frames:
            raise IndexError(f"frame {index} of {self.name} with {self.num_frames} frames")

    def _frames(self, start: int, stop: int) -> Iterator[np.ndarray]:
        raise NotImplementedError

    def _frames_reversed(self, start: int) -> Iterator[np.ndarray]:
        raise NotImplementedError

    def _read(self, indices: list[int]) -> dict[int, np.ndarray]:
        raise NotImplementedError


def check_sizes(name: str, sizes: Sequence[tuple[int, int]], labels: Sequence[str]) -> None:
    """Raise `VideoError` unless all (H, W) in `sizes` are equal; `labels` name the frames."""
    for size, label in zip(sizes, labels, strict=True):
        if tuple(size) != tuple(sizes[0]):
            (h0, w0), (h, w) = sizes[0], size
            raise VideoError(
                f"{name}: frames of different sizes ({labels[0]} is {w0}x{h0}, {label} is {w}x{h});"
                " resize them to one size"
            )
