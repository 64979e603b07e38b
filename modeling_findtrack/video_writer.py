"""Writing video: `VideoWriter`, H.264 in mp4 that browsers play, with the times of its source."""

import math
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_BT709 = 1  # FFmpeg's number of it for matrix, primaries and transfer alike
_LIMITED_RANGE = 1
_MAX_TICKS = 2**31 - 1  # ticks per second an mp4 track can state


class VideoWriter:
    """An mp4 file that appears under its name only once it is complete.

    H.264, yuv420p, constant quality, index at the front. Odd sizes grow by one repeated row or
    column, since yuv420p needs even ones. Use it as a context manager: leaving it normally
    finishes the file, leaving it by an exception removes what was written.

    Args:
        path: The file to write; its folder exists.
        size: (H, W) of every frame.
        fps: Frame rate, or the average one where `timestamps` are uneven.
        timestamps: Strictly increasing time of each frame in seconds; default: frame i at i / fps.
            Times before 0 are shifted to start at 0.
        crf: x264's constant rate factor, 0 (lossless) .. 51.

    Raises:
        OSError: If the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: Fraction,
        timestamps: Sequence[Fraction] | None = None,
        crf: int = 18,
    ):
        self.path = Path(path)
        self.size = (int(size[0]), int(size[1]))
        self.num_frames = 0
        fps = Fraction(fps).limit_denominator(100_000)
        self._tick = 1 / fps
        self._pts = None
        self._first_dts = None
        if timestamps is not None:
            self._tick = _common_tick(timestamps)
            self._pts = _to_ticks(timestamps, fps, self._tick)
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._container = av.open(
            str(self._partial), "w", format="mp4", options={"movflags": "+faststart"}
        )
        self._stream = self._add_stream(fps, crf)

    def _add_stream(self, fps: Fraction, crf: int):
        stream = self._container.add_stream("libx264", rate=fps)
        stream.height, stream.width = (side + side % 2 for side in self.size)
        stream.pix_fmt = "yuv420p"
        stream.time_base = self._tick
        stream.options = {"crf": str(crf), "preset": "veryfast"}
        context = stream.codec_context
        context.time_base = self._tick
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        return stream

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, (H, W, 3) uint8 RGB.

        Raises:
            ValueError: If the frame has another size, or there are more frames than timestamps.
        """
        height, width = self.size
        if frame.shape != (height, width, 3):
            raise ValueError(f"a frame of shape {frame.shape} in a video of {height}x{width}")
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
        index = self.num_frames
        if self._pts is None:
            picture.pts, picture.duration = index, 1
        elif index + 1 < len(self._pts):
            picture.pts = self._pts[index]
            picture.duration = self._pts[index + 1] - self._pts[index]
        else:
            raise ValueError(f"{index + 1} frames but {index} timestamps")
        picture.time_base = self._tick
        self._mux(self._stream.encode(picture))
        self.num_frames += 1

    def _mux(self, packets: list) -> None:
        if packets and self._first_dts is None:
            self._first_dts = packets[0].dts
        self._container.mux(packets)

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            ValueError: If no frame was written, or fewer than there are timestamps.
        """
        expected = 1 if self._pts is None else len(self._pts) - 1
        if self.num_frames < expected:
            self.abort()
            raise ValueError(f"{self.path.name}: {self.num_frames} frames, expected {expected}")
        last = self._stream.encode(None)
        if last and self._pts is not None:
            # x264 forgets durations, and mp4 then guesses the last one and with it the frame rate.
            self._first_dts = last[0].dts if self._first_dts is None else self._first_dts
            total = self._pts[-1] - self._pts[0]
            last[-1].duration = max(1, self._first_dts + total - last[-1].dts)
        self._mux(last)
        self._container.close()
        os.replace(self._partial, self.path)

    def abort(self) -> None:
        """Drop everything written."""
        try:
            self._container.close()
        except (av.FFmpegError, OSError):
            pass  # the file is removed anyway
        finally:
            self._partial.unlink(missing_ok=True)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise


def _common_tick(timestamps: Sequence[Fraction]) -> Fraction:
    """The longest time unit in which every timestamp is a whole number, if mp4 can state it."""
    ticks = math.lcm(*(Fraction(t).denominator for t in timestamps))
    return Fraction(1, ticks if ticks <= _MAX_TICKS else 90_000)


def _to_ticks(timestamps: Sequence[Fraction], fps: Fraction, tick: Fraction) -> list[int]:
    """Start of each frame, and the end of the last, in ticks."""
    shift = min(timestamps[0], 0)
    starts = [Fraction(t) - shift for t in timestamps]
    # The end is where the average rate puts it, so that a reader finds the same average again.
    end = max(starts[0] + len(starts) / fps, starts[-1] + tick)
    return [round(t / tick) for t in [*starts, end]]
