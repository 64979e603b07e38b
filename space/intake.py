"""From what a visitor sends to what the model takes. Everything wrong is told in one line."""

import math
import os
import shutil
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av

from modeling_findtrack.video_base import Video, VideoError
from modeling_findtrack.video_io import open_video, video_stream

from .limits import Limits, duration
from .video_part import VideoPart

LATEST = 10**9  # seconds
DECODED = 4  # times the pixels of the limit; codecs may pad a width of 16 to 64
PROBED = str(8192 * 8192)  # FFmpeg decodes the first picture to know a file; above, it does not
SLACK = 1e-3  # seconds; a picture that is shown "at 1 s" may be stated at .9999
# Kinds of file that hold all they show, by FFmpeg's names, and of sound, to say that it is. Others
# are lists of files: of this server's, then.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,h264,hevc,"
    "wav,mp3,flac,aac"
)


class RequestError(ValueError):
    """The message is what the visitor reads."""


@dataclass(frozen=True)
class Options:
    """What can be set beside video and text. The page sends None for a field that is empty."""

    key_frames: int  # K, frames to search
    threshold: float  # 0..1, below: not found
    start: float | None  # seconds
    end: float | None  # seconds; 0 is the end of the video
    opacity: float  # 0..1, of the masks' colour


def read_expressions(text: str | None, limits: Limits) -> list[str]:
    """One expression per line; blank lines do not count.

    Raises:
        RequestError: There is none, or too many, or one is too long.
    """
    text = (text or "").encode(errors="replace").decode()  # JSON can hold halves of characters
    lines = [" ".join(line.split()) for line in text.splitlines()]
    expressions = [line for line in lines if line]
    if not expressions:
        raise RequestError("No text: say what to look for, as in “the dog on the left”.")
    if len(expressions) > limits.max_expressions:
        raise RequestError(
            f"{len(expressions)} lines: at most {limits.max_expressions} objects at a time."
        )
    for number, expression in enumerate(expressions, 1):
        if len(expression) > limits.max_characters:
            raise RequestError(
                f"Line {number} has {len(expression)} characters: "
                f"at most {limits.max_characters}; name one object."
            )
    return expressions


def check_options(options: Options, limits: Limits) -> Options:
    """The options to work with: an empty start or end is 0.

    Raises:
        RequestError: Another one is empty, a number is outside its range, or the part ends before
            it starts.
    """
    most = limits.max_key_frames
    checked = Options(
        key_frames=int(_number("Key frames", options.key_frames, 1, most, whole=True)),
        threshold=_number("Threshold", options.threshold, 0, 1),
        start=_number("Start", options.start, 0, LATEST, empty=0),
        end=_number("End", options.end, 0, LATEST, empty=0),
        opacity=_number("Opacity", options.opacity, 0, 1),
    )
    if checked.end and checked.end <= checked.start:
        raise RequestError(
            f"The part ends at {checked.end:g} s, before it starts at {checked.start:g} s."
        )
    return checked


def _number(label: str, value, low: int, high: int, *, whole=False, empty=None) -> float:
    if value is None:
        value = empty
    fits = type(value) in (int, float) and low <= value <= high  # NaN does not
    if not fits or (whole and value % 1):
        shown = "empty" if value is None else repr(value)[:20]
        kind = "whole number" if whole else "number"
        raise RequestError(f"{label} is {shown}: give a {kind} from {low} to {high}.")
    return value


def own_upload(path: str | None, folder: Path) -> str | None:
    """An upload under a name of this request's, in `folder`: the other one may be swept away.

    What is no file stays what it is, for `open_upload` to refuse.
    """
    if not path or not os.path.isfile(path):
        return path
    own = folder / Path(path).name
    try:
        os.link(path, own)
    except OSError:  # another disk
        shutil.copyfile(path, own)
    return str(own)


def open_upload(path: str | None, options: Options, limits: Limits) -> Video:
    """The part of the uploaded video that is asked for.

    What is cheap to see is checked first, so that a file made to hurt is not decoded.

    Raises:
        RequestError: There is none, it is no video, or above a limit.
    """
    if not path:
        raise RequestError("No video: upload or record one.")
    if not os.path.isfile(path):  # unlike Path's, it takes names that no file can have
        raise RequestError("The video is not there any more: upload it again.")
    file = Path(path)
    size = file.stat().st_size
    if size > limits.max_bytes:
        megabytes = math.ceil(size / 1e5) / 10  # rounded up: above the limit as told, too
        raise RequestError(f"The file has {megabytes:g} MB: at most {limits.max_megabytes} MB.")
    _check_header(file, limits)
    try:
        video = open_video(file, max_pixels=DECODED * limits.max_pixels)
    except (VideoError, OSError) as error:
        raise RequestError(_unreadable(error, file)) from None
    _check_size(video.width, video.height, limits)
    return _cut(video, options, limits)


def check_gpu_seconds(seconds: int, limits: Limits) -> None:
    """Raises:
    RequestError: More than a GPU is lent for; it would be taken away in the middle.
    """
    if seconds > limits.max_gpu_seconds:
        raise RequestError(
            f"This would take about {seconds} s of GPU time: at most {limits.max_gpu_seconds} s; "
            "choose a shorter part under Options, or fewer objects."
        )


def _check_header(file: Path, limits: Limits) -> None:
    """Kind of file, size of the picture and number of frames, without decoding any."""
    try:
        options = {"format_whitelist": FORMATS, "max_pixels": PROBED}
        with av.open(str(file), metadata_errors="replace", options=options) as container:
            if not container.streams.video:
                raise RequestError("The file has no picture: only sound, or not a video.")
            stream = video_stream(container, file.name)
            if stream.width and stream.height:
                _check_size(stream.width, stream.height, limits)
            if container.duration and container.duration / 1e6 > limits.max_upload_seconds + 1:
                raise RequestError(_too_long(container.duration / 1e6, limits))
            most = 120 * limits.max_upload_seconds  # a header may lie about the length
            packets = (packet for packet in container.demux(stream) if packet.size)
            if sum(1 for _ in islice(packets, most + 1)) > most:
                raise RequestError(
                    f"The video has more than {most} frames: cut it before you upload it."
                )
    except (VideoError, av.FFmpegError, OSError) as error:
        raise RequestError(_unreadable(error, file)) from None


def _too_long(seconds: float, limits: Limits) -> str:
    return (
        f"The video is {seconds:.0f} s long: at most {duration(limits.max_upload_seconds)}; "
        "cut it before you upload it."
    )


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise RequestError(
            f"The video is too large, {width}×{height}: at most {limits.max_pixels / 1e6:.1f} "
            "megapixels, as 1920×1080 has 2.1; scale it down first."
        )
    if min(width, height) < limits.min_side:
        raise RequestError(
            f"The video is too small, {width}×{height}: at least {limits.min_side} pixels a side."
        )


def _unreadable(error: Exception, file: Path) -> str:
    """What is wrong with a file, without the path it has on the server."""
    reason = str(error)
    if isinstance(error, av.FFmpegError) or not isinstance(error, VideoError):
        reason = "damaged, cut off, or of a kind that FFmpeg does not know"
    reason = reason.removeprefix(str(file)).removeprefix(file.name).strip(" :;")
    return f"This is not a video that can be read ({reason}): try another file, mp4 for instance."


def _cut(video: Video, options: Options, limits: Limits) -> Video:
    """Frames from start to before end."""
    times = [float(t - video.timestamps[0]) for t in video.timestamps]
    length = times[-1] + 1 / float(video.fps)
    if length > limits.max_upload_seconds + 1:
        raise RequestError(_too_long(length, limits))
    if options.start >= length:
        raise RequestError(
            f"The part starts at {options.start:g} s, but the video is {length:.1f} s long."
        )
    # From the picture that is shown at the start to the last one before the end.
    first = max(bisect_right(times, options.start + SLACK) - 1, 0)
    stop = bisect_left(times, options.end - SLACK) if options.end else len(times)
    count = max(stop - first, 1)
    seconds = min(options.end or length, length) - options.start
    if seconds > limits.max_seconds + 0.5 or count > limits.max_frames:
        raise RequestError(
            f"{seconds:.0f} s with {count} frames are too much at a time: at most "
            f"{duration(limits.max_seconds)} and {limits.max_frames} frames; "
            "choose a part with “Start” and “End” under Options."
        )
    return VideoPart(video, first, count)
