"""The pixels of a row: each frame a file of its own, or all in a video file.

They are read by the model package, so that they are those of `findtrack segment`. It loads torch,
which processes that only score do without: they must not import this module.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from modeling_findtrack.video_base import Video, VideoError
from modeling_findtrack.video_images import load_image
from modeling_findtrack.video_io import open_video

from .tree import cached_by_file


class VideoPart(Video):
    """Some frames of a video in a row, as a video.

    Args:
        video: The whole.
        first: Which of its frames comes first.
        count: How many there are.

    Raises:
        VideoError: The video does not have them.
    """

    def __init__(self, video: Video, first: int, count: int):
        if first + count > video.num_frames:
            raise VideoError(
                f"{video.name}: {video.num_frames} frames, fewer than when it was looked at; run "
                "again"
            )
        self._video, self._first = video, first
        self.name, self.num_frames, self.fps = video.name, count, video.fps
        self.height, self.width = video.height, video.width
        if video.timestamps is not None:
            self.timestamps = video.timestamps[first : first + count]

    def _frames(self, start: int, stop: int) -> Iterator[np.ndarray]:
        return self._video.frames(self._first + start, self._first + stop)

    def _frames_reversed(self, start: int) -> Iterator[np.ndarray]:
        return islice(self._video.frames_reversed(self._first + start), start + 1)

    def _read(self, indices: list[int]) -> dict[int, np.ndarray]:
        found = self._video.read([self._first + i for i in indices])
        return dict(zip(indices, found, strict=True))


def open_frames(row: dict) -> Video:
    """All T frames of a row, as `FindTrackModel.segment` takes them.

    Raises:
        VideoError: They cannot be read.
    """
    if row.get("video_file") is None:
        return open_video([frame["path"] for frame in row["frames"]])
    video = open_file(row["video_file"])
    return VideoPart(video, row["first_frame"], len(row["frame_names"]))


def read_frames(row: dict, times: Sequence[int]) -> list[np.ndarray]:
    """The frames of a row at `times` (any order, repeats allowed), each (H, W, 3) uint8 RGB.

    Raises:
        VideoError: They cannot be read.
    """
    if row.get("video_file") is None:
        return [load_image(row["frames"][t]["path"]) for t in times]
    return open_frames(row).read(times)


# Opening decodes the whole file, and what is kept of it is its index: where its frames lie, a few
# hundred bytes of each.
@cached_by_file(maxsize=256)
def open_file(path: str) -> Video:
    """A video file, opened; its index is kept for the next time.

    Raises:
        VideoError: It is no video.
        OSError: It is not there.
    """
    return open_video(path)


@cached_by_file(maxsize=2**16)
def file_shape(path: str) -> tuple[int, int, int]:
    """(T, H, W) of a video file; errors as `open_file`."""
    video = open_file(path)
    return video.num_frames, video.height, video.width


def images_shape(paths: Sequence[str]) -> tuple[int, int, int]:
    """(T, H, W) of frames that are files, from their headers.

    Raises:
        VideoError: One is no image, or they differ in size.
    """
    video = open_video(list(paths))
    return video.num_frames, video.height, video.width
