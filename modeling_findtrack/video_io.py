"""Reading video: `open_video` for files, file objects, image folders, image lists and arrays.

Frames are decoded when asked for and then dropped. Frame i is the same pixels whichever way it is
reached: streaming, seeking (`read`) or walking backwards (`frames_reversed`).
"""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from .video_base import Video, VideoError, check_sizes
from .video_images import open_folder, open_images

# Decoded frames kept at a time when walking backwards (YUV 4:2:0: 720p gives about 90 frames).
CHUNK_BYTES = 128 * 2**20
_TEXT_CODECS = frozenset({"ansi", "bintext", "xbin", "idf"})  # FFmpeg "plays" .txt files


def open_video(source, max_pixels: int | None = None) -> Video:
    """Open anything that holds frames.

    Args:
        source: Path of a video file; path of a folder of images (natural order); binary, seekable
            file object; list of image paths, PIL images or arrays; array (T, H, W, 3) uint8; or a
            `Video`.
        max_pixels: Larger frames of a video file are an error and are not decoded. Codecs count
            some pixels that are not shown: they may pad each side to a multiple of 64.

    Raises:
        VideoError: If it is missing, not a video, empty, damaged, or of changing frame size.
        TypeError: If `source` is none of these kinds.
    """
    if hasattr(source, "frames_reversed"):
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            return open_folder(path)
        if not path.exists():
            raise VideoError(f"{source}: no such file; give a video file or a folder of images")
        return _FileVideo(path, path.name, max_pixels)
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        name = Path(name).name if isinstance(name, str) else "stream"
        return _FileVideo(source, name, max_pixels)
    if isinstance(source, list | tuple) or hasattr(source, "__array__"):
        return open_images(source)
    raise TypeError(f"a video is a path, file object, image list or array, not {type(source)}")


class _FileVideo(Video):
    """A file FFmpeg can decode.

    Opening decodes it once without converting pixels, since only that tells the number of frames
    and their times. Every iterator opens a container of its own, so iterators do not disturb each
    other.
    """

    def __init__(self, source, name: str, max_pixels: int | None = None):
        self.name = name
        self._options = {} if max_pixels is None else {"max_pixels": str(max_pixels)}
        self._source = source
        self._label = str(source) if isinstance(source, Path) else name
        self._scan()

    def _scan(self) -> None:
        pts, keys = [], []
        with self._open() as container:
            stream = video_stream(container, self._label)
            time_base, fps = stream.time_base, stream.average_rate or stream.guessed_rate
            for frame in self._decode(container, stream, whole=True):
                size = frame.height, frame.width
                if not pts:
                    first, rotation = size, frame.rotation
                check_sizes(self._label, [first, size], ["frame 0", f"frame {len(pts)}"])
                if frame.key_frame:
                    keys.append(len(pts))
                pts.append(frame.pts)
        if not pts:
            raise VideoError(f"{self._label}: no frames; the file may be truncated")
        self._pts, self.num_frames = pts, len(pts)
        # Frames are turned by quarters only; what players do with other angles differs.
        self._quarters = round(rotation / 90) % 4  # counter-clockwise, as np.rot90 counts
        self.height, self.width = first
        if self._quarters % 2:
            self.height, self.width = self.width, self.height
        usable = None not in pts and all(a < b for a, b in zip(pts, pts[1:], strict=False))
        # Without trustworthy times there is nothing to seek by: always decode from the start.
        self._anchors = [0, *(k for k in keys if k > 0)] if usable else [0]
        if usable and len(pts) > 1:
            step = Fraction(pts[-1] - pts[0], len(pts) - 1)
            # Even times state the rate; the container's average errs by its last frame's duration.
            if not fps or all(b - a == step for a, b in zip(pts, pts[1:], strict=False)):
                fps = 1 / (step * time_base)
        self.fps = Fraction(fps or 25)
        self.timestamps = tuple(
            p * time_base if usable else i / self.fps for i, p in enumerate(pts)
        )

    def _open(self):
        source = self._source
        source = str(source) if isinstance(source, Path) else _OwnPosition(source)
        try:
            return av.open(source, metadata_errors="replace", options=self._options)
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, PermissionError):
                raise VideoError(f"{self._label}: permission denied; make it readable") from None
            raise VideoError(
                f"{self._label}: not a video, or one that is damaged; give a file that plays"
            ) from None

    def _decode(
        self, container, stream, anchor_pts: int | None = None, whole: bool = False
    ) -> Iterator[av.VideoFrame]:
        """Frames in display order; with `anchor_pts`, after seeking to the key frame there.

        With `whole`, a file that ends before its index does is an error.
        """
        stream.thread_type = "AUTO"
        stream.codec_context.options = self._options
        count = packets = 0
        cut = waiting = False
        if anchor_pts is not None:
            waiting = True
            container.seek(anchor_pts, stream=stream, backward=True)
        try:
            for packet in container.demux(stream):
                if packet.size:
                    if waiting and not packet.is_keyframe:
                        continue  # some demuxers land between key frames
                    waiting, cut = False, packet.is_corrupt
                    packets += 1
                elif whole and (cut or packets < _promised(container, stream)):
                    raise self._damaged(count)
                for frame in self._decode_packet(packet, strict=count > 0):
                    count += 1
                    yield frame
        except av.FFmpegError:
            raise self._damaged(count) from None

    def _decode_packet(self, packet, strict: bool) -> list[av.VideoFrame]:
        try:
            return packet.decode()
        except av.FFmpegError:
            if strict:
                raise
            return []  # a recording cut from a broadcast may open in the middle of a group

    def _damaged(self, count: int) -> VideoError:
        larger = ", or larger from there on" if self._options else ""
        return VideoError(
            f"{self._label}: truncated or damaged after {count} frames{larger}; "
            "copy or encode it again"
        )

    def _decode_at(self, anchor: int) -> Iterator[av.VideoFrame]:
        """Decoded frames from frame `anchor` on, a key frame."""
        with self._open() as container:
            stream = video_stream(container, self._label)
            if anchor == 0:
                yield from self._decode(container, stream)
                return
            pts = self._pts[anchor]
            for frame in self._decode(container, stream, pts):
                # What precedes the key frame on the screen may lack the frames it refers to.
                if frame.pts is None or frame.pts >= pts:
                    yield frame

    def _decoded(self, start: int, stop: int) -> Iterator[av.VideoFrame]:
        """Decoded frames start .. stop-1. Each is checked by its time against the first pass."""
        position = start
        for anchor in self._ways_to(start):
            if position >= stop:
                return
            try:
                for index, frame in enumerate(self._decode_at(anchor), anchor):
                    if index >= stop or frame.pts != self._pts[index]:
                        break
                    if index == position:
                        position += 1
                        yield frame
            except (VideoError, av.FFmpegError):
                if anchor == 0:
                    raise
        if position < stop:
            raise VideoError(f"{self._label}: changed while it was read; run again")

    def _ways_to(self, start: int) -> Iterator[int]:
        """Key frames to begin decoding at, nearest first; the last way is always the start."""
        last = sum(1 for a in self._anchors if a <= start) - 1
        back = 0
        while back < last:
            yield self._anchors[last - back]
            back = 2 * back + 1
        yield 0

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        array = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(array, self._quarters)) if self._quarters else array

    def _frames(self, start, stop):
        return (self._rgb(frame) for frame in self._decoded(start, stop))

    def _frames_reversed(self, start):
        chunk = max(8, int(CHUNK_BYTES / (1.5 * self.height * self.width)))
        for stop in range(start + 1, 0, -chunk):
            held = list(self._decoded(max(0, stop - chunk), stop))
            while held:
                yield self._rgb(held.pop())

    def _read(self, indices):
        found = {}
        for run in self._runs(indices):
            decoded = self._decoded(run[0], run[-1] + 1)
            wanted = set(run)
            for index, frame in enumerate(decoded, run[0]):
                if index in wanted:
                    found[index] = self._rgb(frame)
        return found

    def _runs(self, indices: list[int]) -> Iterator[list[int]]:
        """Sorted indices in groups without a key frame between their members."""
        run = []
        for index in indices:
            if run and any(run[-1] < anchor <= index for anchor in self._anchors):
                yield run
                run = []
            run.append(index)
        if run:
            yield run


def _promised(container, stream) -> int:
    """Packets an mp4's index lists, edits applied; 0 for containers without such an index."""
    entries = getattr(stream, "index_entries", None)
    return len(entries) if entries is not None and "mp4" in container.format.name else 0


def video_stream(container, label: str):
    """The first stream of moving pictures; cover art does not count.

    Raises:
        VideoError: There is none that can be decoded.
    """
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        kind = "audio only" if container.streams.audio else "no pictures in it"
        raise VideoError(f"{label}: no video stream ({kind}); give a file with pictures")
    codec = streams[0].codec_context
    if codec is None:
        raise VideoError(f"{label}: a codec this FFmpeg lacks; convert it to H.264")
    if codec.name in _TEXT_CODECS:
        raise VideoError(f"{label}: not a video but text; give a file that plays")
    return streams[0]


class _OwnPosition(io.RawIOBase):
    """A reader with its own position in a shared file object, which it never closes."""

    def __init__(self, file):
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self._file.seek(self._position)
        data = self._file.read(size)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            offset = self._file.seek(offset, io.SEEK_END)
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position
