"""A part of a video, as a video."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from modeling_findtrack.video_base import Video


class VideoPart(Video):
    """Frames first .. first + count - 1 of a video; times start at 0.

    Attributes:
        first: Index of its first frame in the whole.
        start: When that is shown, seconds after the whole's first frame.
    """

    def __init__(self, whole: Video, first: int, count: int):
        self._whole, self.first, self.start = whole, first, 0.0
        self.name, self.num_frames, self.fps = whole.name, count, whole.fps
        self.height, self.width = whole.height, whole.width
        if whole.timestamps is not None:
            times = whole.timestamps[first : first + count]
            self.start = float(times[0] - whole.timestamps[0])
            self.timestamps = tuple(t - times[0] for t in times)

    def close(self) -> None:
        self._whole.close()

    def _frames(self, start: int, stop: int) -> Iterator[np.ndarray]:
        return self._whole.frames(self.first + start, self.first + stop)

    def _frames_reversed(self, start: int) -> Iterator[np.ndarray]:
        return islice(self._whole.frames_reversed(self.first + start), start + 1)

    def _read(self, indices: list[int]) -> dict[int, np.ndarray]:
        frames = self._whole.read([self.first + i for i in indices])
        return dict(zip(indices, frames, strict=True))
