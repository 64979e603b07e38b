"""What the Space takes: limits, expressions, options, uploads, and the part of a video."""

import math
import pickle
import re
import struct
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from modeling_findtrack.video_io import open_video
from space import intake
from space.intake import Options, RequestError, check_options, open_upload, read_expressions
from space.limits import PREFIX, Limits, duration
from space.video_part import VideoPart
from tests.test_video_io import (
    assert_all_paths_agree,
    change_of_size,
    picture,
    write,
    write_audio,
)

LIMITS = Limits()
FPS, FRAMES, SIZE = 16, 32, (48, 64)
UNREADABLE = r"This is not a video that can be read \(.+\): try another file, mp4 for instance\."
# An uneven clock, as of a screen recording: 5 s of one picture, then 30 of them a second.
UNEVEN = [0, *range(150, 161)]


def options(**changed) -> Options:
    return replace(Options(key_frames=5, threshold=0.5, start=0, end=0, opacity=0.4), **changed)


def clip_at(path: Path, frames=FRAMES, fps=FPS, size=SIZE, **settings) -> Path:
    return Path(write(str(path), range(frames), time_base=Fraction(1, fps), size=size, **settings))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """2 s: 32 frames at 16 a second."""
    return clip_at(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Path:
    return Path(write(str(tmp_path_factory.mktemp("uneven") / "uneven.mp4"), UNEVEN))


def refusal(path, opts: Options | None = None, limits: Limits = LIMITS) -> str:
    """What the visitor reads; it is one line without the server's path."""
    with pytest.raises(RequestError) as caught:
        open_upload(None if path is None else str(path), opts or options(), limits)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    if path:
        assert str(path) not in message
        assert str(Path(path).parent) == "." or str(Path(path).parent) not in message
    return message


# Limits


@pytest.fixture
def environment(monkeypatch):
    """Sets variables; nothing of the machine's own settings is seen."""
    for field in fields(Limits):
        monkeypatch.delenv(PREFIX + field.name.upper(), raising=False)
    return monkeypatch


def test_limits_without_settings_are_the_defaults(environment):
    environment.setenv("FINDTRACK_SPACE_MODEL", "somewhere/else")
    environment.setenv("MAX_SECONDS", "7")
    assert Limits.from_environment() == Limits()


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_every_limit_can_be_set(name, environment):
    environment.setenv(f"FINDTRACK_SPACE_{name.upper()}", " 7 ")
    assert Limits.from_environment() == replace(Limits(), **{name: 7})


@pytest.mark.parametrize(
    "text", ["", " ", "0", "-1", "+1", "1.5", "1e3", "ten", "1_000", "²", "nan"]
)
def test_a_limit_that_is_no_whole_number_above_0_is_refused(text, environment):
    environment.setenv("FINDTRACK_SPACE_MAX_FRAMES", text)
    with pytest.raises(ValueError) as caught:
        Limits.from_environment()
    expected = f"FINDTRACK_SPACE_MAX_FRAMES={text!r}: give a whole number above 0"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "1 s"), (45, "45 s"), (60, "1 min"), (90, "90 s"), (300, "5 min"), (1000, "1000 s"),
     (3600, "60 min")],
)  # fmt: skip
def test_duration_in_words(seconds, words):
    assert duration(seconds) == words


TOLD = {  # a setting and how a visitor reads it
    "max_megabytes": (7, "up to .* 7 MB"),
    "max_upload_seconds": (240, "up to 4 min, "),
    "max_seconds": (20, "up to 20 s and .* at a time"),
    "max_frames": (77, "up to .* 77 frames at a time"),
    "max_pixels": (640 * 480, r"up to .* 0\.3 megapixels"),
    "min_side": (24, "at least 24 pixels a side"),
    "max_expressions": (3, "up to 3 lines"),
    "max_characters": (70, "lines of 70 characters"),
    "max_key_frames": (9, "up to 9 key frames"),
    "max_gpu_seconds": (45, "up to 45 s of GPU time"),
}


@pytest.mark.parametrize(
    "name", sorted({field.name for field in fields(Limits)} - {"max_queue", "keep_seconds"})
)
def test_a_visitor_is_told_every_limit(name):
    value, words = TOLD[name]
    told = replace(Limits(), **{name: value}).describe(shared_gpu=True)
    assert re.search(words, told) and not re.search(words, Limits().describe(shared_gpu=True))
    assert "\n" not in told and "GPU" not in Limits().describe()


def test_a_megabyte_is_a_million_bytes():
    assert Limits(max_megabytes=3).max_bytes == 3_000_000


# Expressions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the dog", ["the dog"]),
        ("the dog\nthe cat", ["the dog", "the cat"]),
        ("\n\n  the dog  \n \t \nthe cat\n\n", ["the dog", "the cat"]),
        ("the dog\r\n\r\nthe cat\r\n", ["the dog", "the cat"]),
        ("the dog\rthe cat", ["the dog", "the cat"]),
        ("the  big\tdog", ["the big dog"]),
        ("the dog\nthe dog", ["the dog", "the dog"]),  # asked twice, answered twice
        (
            "das Mädchen\n猫とロボット\n👩‍👩‍👧 on the left",
            ["das Mädchen", "猫とロボット", "👩‍👩‍👧 on the left"],
        ),
        ("\u3000猫\u00a0と\u3000犬 ", ["猫 と 犬"]),
        ("<b>the dog</b>", ["<b>the dog</b>"]),
        ("\n".join("abcdefgh"), list("abcdefgh")),
        ("x" * 200, ["x" * 200]),
        ("猫" * 200 + "  ", ["猫" * 200]),  # characters, not bytes, and no blanks
        (" ".join("x" * 100) + " " * 99, [" ".join("x" * 100)]),
    ],
)
def test_one_expression_per_line(text, expected):
    assert read_expressions(text, LIMITS) == expected


def test_what_is_no_character_does_not_get_through():
    """JSON can hold half of one; no tokenizer and no file can."""
    for expression in read_expressions("the dog \ud83d\ncat", LIMITS):
        assert expression.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No text: say what to look for, as in “the dog on the left”."),
        ("", "No text: say what to look for, as in “the dog on the left”."),
        (" \r\n\t\u3000\n\n", "No text: say what to look for, as in “the dog on the left”."),
        ("\n".join("abcdefghi"), "9 lines: at most 8 objects at a time."),
        ("x" * 201, "Line 1 has 201 characters: at most 200; name one object."),
        ("cat\r\n" + "猫" * 300, "Line 2 has 300 characters: at most 200; name one object."),
        ("\n".join(["x" * 201] * 9), "9 lines: at most 8 objects at a time."),
    ],
)
def test_expressions_that_are_refused(text, message):
    with pytest.raises(RequestError) as caught:
        read_expressions(text, LIMITS)
    assert str(caught.value) == message


def test_expressions_are_held_to_the_limits_given():
    narrow = Limits(max_expressions=2, max_characters=3)
    assert read_expressions("dog\n\ncat\n", narrow) == ["dog", "cat"]
    with pytest.raises(RequestError, match="3 lines: at most 2 objects"):
        read_expressions("dog\ncat\ncow", narrow)
    with pytest.raises(RequestError, match="Line 1 has 4 characters: at most 3;"):
        read_expressions("deer\ncat", narrow)


# Options

LABELS = {  # on the page
    "key_frames": "Key frames",
    "threshold": "Threshold",
    "start": "Start",
    "end": "End",
    "opacity": "Opacity",
}


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"key_frames": 1},
        {"key_frames": 20},
        {"key_frames": 5.0},  # what a slider sends
        {"threshold": 0},
        {"threshold": 1.0},
        {"opacity": 0},
        {"opacity": 1},
        {"start": 0.25, "end": 0.5},
        {"start": 1e9},
        {"end": 1e9},
    ],
)
def test_options_in_their_range(good):
    assert check_options(options(**good), LIMITS) == options(**good)


@pytest.mark.parametrize("value", [3, 3.0])
def test_key_frames_are_counted(value):
    checked = check_options(options(key_frames=value), LIMITS)
    assert checked == options(key_frames=3) and type(checked.key_frames) is int


@pytest.mark.parametrize(
    ("empty", "filled"),
    [
        ({"start": None, "end": None}, {"start": 0, "end": 0}),
        ({"start": None, "end": 0.5}, {"start": 0, "end": 0.5}),
        ({"start": 0.5, "end": None}, {"start": 0.5, "end": 0}),
    ],
)
def test_an_empty_start_or_end_is_that_of_the_video(empty, filled):
    assert check_options(options(**empty), LIMITS) == options(**filled)


@pytest.mark.parametrize("name", ["key_frames", "threshold", "opacity"])
def test_other_options_cannot_be_empty(name):
    with pytest.raises(RequestError, match=f"^{LABELS[name]} is empty: give a "):
        check_options(options(**{name: None}), LIMITS)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, -0.01, "1", "", "1\n2", True, False, [1], 10**400],
    ids=lambda value: f"{type(value).__name__} {str(value)[:6]!r}",
)  # fmt: skip
def test_options_that_are_no_finite_numbers_are_refused(value):
    for name, label in LABELS.items():
        with pytest.raises(RequestError) as caught:
            check_options(options(**{name: value}), LIMITS)
        words = rf"{label} is .{{1,20}}: give a (whole )?number from \d to \d+\."
        assert re.fullmatch(words, str(caught.value))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"key_frames": 0}, "Key frames is 0: give a whole number from 1 to 20."),
        ({"key_frames": 21}, "Key frames is 21: give a whole number from 1 to 20."),
        ({"key_frames": 2.5}, "Key frames is 2.5: give a whole number from 1 to 20."),
        ({"threshold": 1.01}, "Threshold is 1.01: give a number from 0 to 1."),
        ({"start": -1}, "Start is -1: give a number from 0 to 1000000000."),
        ({"end": "2"}, "End is '2': give a number from 0 to 1000000000."),
        ({"opacity": 2}, "Opacity is 2: give a number from 0 to 1."),
        ({"start": None, "end": -1}, "End is -1: give a number from 0 to 1000000000."),
        ({"start": 2, "end": 1.5}, "The part ends at 1.5 s, before it starts at 2 s."),
        ({"start": 2, "end": 2}, "The part ends at 2 s, before it starts at 2 s."),
    ],
)
def test_options_outside_their_range_are_refused(wrong, message):
    with pytest.raises(RequestError) as caught:
        check_options(options(**wrong), LIMITS)
    assert str(caught.value) == message


def test_key_frames_are_held_to_the_limits_given():
    check_options(options(key_frames=3), Limits(max_key_frames=3))
    with pytest.raises(RequestError, match="from 1 to 3"):
        check_options(options(key_frames=4), Limits(max_key_frames=3))


# Uploads of one's own


@pytest.mark.parametrize("linked", [True, False])
def test_an_upload_outlives_the_file_it_came_in(linked, clip, tmp_path, monkeypatch):
    if not linked:
        monkeypatch.setattr(intake.os, "link", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    upload = tmp_path / "upload.mp4"
    upload.write_bytes(clip.read_bytes())
    (tmp_path / "own").mkdir()
    own = intake.own_upload(str(upload), tmp_path / "own")
    upload.unlink()
    assert open_upload(own, options(), LIMITS).num_frames == FRAMES


@pytest.mark.parametrize("path", [None, "", "gone.mp4", "/", "clip\0.mp4", "x" * 5000])
def test_what_is_no_file_is_nobodys_own(path, tmp_path):
    assert intake.own_upload(path, tmp_path) == path and not list(tmp_path.iterdir())


# Uploads that are no video


@pytest.mark.parametrize("path", [None, ""])
def test_no_upload(path):
    assert refusal(path) == "No video: upload or record one."


@pytest.mark.parametrize(
    "path",
    [
        "gone.mp4",
        "/nowhere/gone.mp4",
        "/nowhere/../nowhere/gone.mp4",
        "/",
        "..",
        "http://127.0.0.1:9/clip.mp4",
        "file:///etc/hosts",
        "concat:a.mp4|b.mp4",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "-",
        "gone-%05d.png",
        "clip\0.mp4",
        "x" * 5000,
    ],
    ids=lambda path: path[:24],
)
def test_what_is_no_file_is_told_as_vanished(path):
    assert refusal(path) == "The video is not there any more: upload it again."


def test_only_files_are_opened_and_what_they_hold_is_not_told():
    for path in ("../" * 30 + "etc/passwd", "/etc/passwd", __file__):
        assert Path(path).is_file()
        message = refusal(path)
        assert "root" not in message and "passwd" not in message
        assert Path(__file__).name not in message


@pytest.mark.parametrize(("size", "shown"), [(3_000_000, "3"), (1_000_001, "1.1")])
def test_a_file_too_large_is_not_opened(size, shown, tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "av", None)
    monkeypatch.setattr(intake, "open_video", None)
    path = tmp_path / "large.mp4"
    with path.open("wb") as file:
        file.truncate(size)
    message = refusal(path, limits=Limits(max_megabytes=1))
    number, rest = message.removeprefix("The file has ").split(" MB: ")
    assert rest == "at most 1 MB."
    assert number == shown, "above the limit, as told"


def test_a_file_as_large_as_the_limit_is_opened(tmp_path):
    path = tmp_path / "zeros.mp4"
    with path.open("wb") as file:
        file.truncate(1_000_000)
    assert "damaged" in refusal(path, limits=Limits(max_megabytes=1))


def broken(kind: str, clip: Path, folder: Path) -> Path:
    data = clip.read_bytes()
    path = folder / f"{kind}.mp4"
    if kind == "text":
        path.write_text("this is not a video\n" * 50)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "headless":  # the index is at the end, which is gone
        path.write_bytes(data[: len(data) // 2])
    elif kind == "cut":
        whole = clip_at(folder / "whole.mp4", container={"movflags": "+faststart"})
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    elif kind == "notes":
        path = folder / "notes.txt"  # FFmpeg "plays" these
        path.write_text("this is not a video\n" * 50)
    elif kind == "codec":
        assert data.count(b"avc1") >= 1
        path.write_bytes(data.replace(b"avc1", b"zzz1"))
    elif kind == "changing":
        path = folder / "changing.ts"
        parts = clip_at(folder / "a.ts"), clip_at(folder / "b.ts", size=(64, 48))
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text", "damaged, cut off, or of a kind that FFmpeg does not know"),
        ("empty", "damaged, cut off, or of a kind that FFmpeg does not know"),
        ("headless", "damaged, cut off, or of a kind that FFmpeg does not know"),
        ("cut", "truncated or damaged after .* frames"),
        ("notes", "not a video but text|damaged, cut off"),
        ("codec", "codec this FFmpeg lacks|kind that FFmpeg does not know"),
        ("changing", "frames of different sizes"),
    ],
)
def test_damaged_and_misnamed_files(kind, reason, clip, tmp_path):
    path = broken(kind, clip, tmp_path)
    message = refusal(path)
    assert path.name not in message
    assert re.fullmatch(UNREADABLE, message) and re.search(reason, message)


@pytest.mark.parametrize(("name", "codec"), [("song.m4a", "aac"), ("song.wav", "pcm_s16le")])
def test_sound_alone(name, codec, tmp_path):
    message = refusal(write_audio(tmp_path / name, codec))
    assert message == "The file has no picture: only sound, or not a video."


def with_cover(path: Path, sound: bool, frames: int = 0) -> Path:
    """A file whose first picture is a cover: before a song, or before a video of 240x320."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        if sound:
            other = container.add_stream("aac", rate=16000)
            other.layout = "mono"
        else:
            other = container.add_stream("libx264", rate=25)
            other.height, other.width, other.pix_fmt = 240, 320, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        container.mux(cover.encode(None))
        if sound:
            silence = np.zeros((1, 1024), np.int16)
            frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux(other.encode(frame))
        for _ in range(frames):
            container.mux(other.encode(av.VideoFrame(320, 240, "yuv420p")))
        container.mux(other.encode(None))
    path.write_bytes(_cover_first(path.read_bytes()))
    return path


def _boxes(data: bytes):
    """(kind, whole box) of an mp4."""
    at = 0
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        yield data[at + 4 : at + 8], data[at : at + size]
        at += size


def _cover_first(data: bytes) -> bytes:
    """What holds the cover goes before the tracks: nothing says that it cannot."""
    out = b""
    for kind, box in _boxes(data):
        if kind == b"moov":
            inner = sorted(_boxes(box[8:]), key=lambda b: (b[0] != b"mvhd", b[0] != b"udta"))
            box = box[:8] + b"".join(part for _, part in inner)
        out += box
    return out


def test_a_song_with_a_cover_is_no_video(tmp_path):
    message = refusal(with_cover(tmp_path / "song.mp4", sound=True))
    assert "only sound" in message or "audio only" in message
    assert "song.mp4" not in message


def test_a_cover_does_not_hide_the_size_of_the_video(tmp_path, monkeypatch):
    """The video's own size and frames are checked before anything is decoded."""
    path = with_cover(tmp_path / "film.mp4", sound=False, frames=130)
    with av.open(str(path)) as container:
        assert [(s.width, s.height) for s in container.streams.video] == [(64, 48), (320, 240)]
    assert open_upload(str(path), options(), LIMITS).num_frames == 130
    monkeypatch.setattr(intake, "open_video", None)
    assert "too large, 320×240" in refusal(path, limits=Limits(max_pixels=64 * 48))
    assert "long" in refusal(path, limits=Limits(max_upload_seconds=1))


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
@pytest.mark.parametrize("kind", ["hls", "concat"])
def test_a_list_of_other_files_is_not_followed(kind, name, clip, tmp_path):
    """Such a text makes FFmpeg read what lies on the server, or open itself without end."""
    (tmp_path / "other.mp4").write_bytes(clip.read_bytes())
    path = tmp_path / name
    if kind == "hls":
        head = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n"
        path.write_text(f"{head}{tmp_path}/other.mp4\n#EXT-X-ENDLIST\n")
    else:
        path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    refusal(path)


def test_metadata_in_another_encoding_do_no_harm(tmp_path):
    path = tmp_path / "old.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "cafeteria"
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert b"cafeteria" in data
    path.write_bytes(data.replace(b"cafeteria", "caf\xe9teria".encode("latin-1")))
    assert open_upload(str(path), options(), LIMITS).num_frames == 1


@pytest.mark.parametrize("name", ["a", "video", "not a video"])
def test_the_reason_is_whole_whatever_the_file_is_called(name, clip, tmp_path):
    path = broken("changing", clip, tmp_path)
    expected = refusal(path)
    assert refusal(path.rename(tmp_path / name)) == expected


# Uploads above a limit


def test_a_long_video_is_seen_by_its_header(tmp_path, monkeypatch):
    path = clip_at(tmp_path / "long.mp4", frames=12, fps=4)
    assert open_upload(str(path), options(), Limits(max_upload_seconds=3)).num_frames == 12
    monkeypatch.setattr(intake, "open_video", None)
    assert refusal(path, limits=Limits(max_upload_seconds=1)) == (
        "The video is 3 s long: at most 1 s; cut it before you upload it."
    )


def test_a_long_video_without_a_length_in_its_header(tmp_path):
    """As browsers record them."""
    path = clip_at(tmp_path / "live.mkv", frames=12, fps=4, container={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    assert open_upload(str(path), options(), Limits(max_upload_seconds=3)).num_frames == 12
    assert refusal(path, limits=Limits(max_upload_seconds=1)) == (
        "The video is 3 s long: at most 1 s; cut it before you upload it."
    )


@pytest.mark.parametrize("frames", [120, 121])
def test_frames_are_counted_without_decoding(frames, tmp_path, monkeypatch):
    path = clip_at(tmp_path / "fast.mp4", frames=frames, fps=120, size=(32, 32))
    limits = Limits(max_upload_seconds=1)
    if frames == 120:
        assert open_upload(str(path), options(), limits).num_frames == 120
        return
    monkeypatch.setattr(intake, "open_video", None)
    assert refusal(path, limits=limits) == (
        "The video has more than 120 frames: cut it before you upload it."
    )


def test_8k_is_refused_by_its_header(tmp_path, monkeypatch):
    path = tmp_path / "8k.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=25)
        stream.width, stream.height, stream.pix_fmt = 7680, 4320, "gray"
        container.mux(stream.encode(av.VideoFrame(7680, 4320, "gray")))
        container.mux(stream.encode(None))
    monkeypatch.setattr(intake, "open_video", None)
    assert refusal(path) == (
        "The video is too large, 7680×4320: at most 2.1 megapixels, as 1920×1080 has 2.1; "
        "scale it down first."
    )


def test_as_many_pixels_as_the_limit_are_taken(clip):
    pixels = SIZE[0] * SIZE[1]
    assert open_upload(str(clip), options(), Limits(max_pixels=pixels)).num_frames == FRAMES
    assert "too large, 64×48:" in refusal(clip, limits=Limits(max_pixels=pixels - 1))


def test_the_decoded_size_counts_where_the_header_states_none(clip, monkeypatch):
    monkeypatch.setattr(intake, "_check_header", lambda *_: None)
    assert "too large, 64×48:" in refusal(clip, limits=Limits(max_pixels=64 * 48 - 1))


def test_pictures_far_above_the_limit_are_not_decoded_wherever_they_come(tmp_path):
    """The header tells the size of the first; nothing tells that others have another."""
    limits = Limits(max_pixels=64 * 48)
    assert "different sizes" in refusal(change_of_size(tmp_path, (96, 128)), limits=limits)
    path = change_of_size(tmp_path, (192, 256))
    assert "after 20 frames, or larger from there on;" in refusal(path, limits=limits)


@pytest.mark.parametrize("size", [(14, 64), (64, 14)])
def test_a_tiny_video_is_refused(size, tmp_path):
    path = clip_at(tmp_path / "tiny.mp4", frames=2, size=size)
    height, width = size
    assert refusal(path) == (
        f"The video is too small, {width}×{height}: at least 16 pixels a side."
    )
    assert open_upload(str(path), options(), Limits(min_side=14)).num_frames == 2


# The part that is asked for


def cut(path: Path, start: float, end: float, limits: Limits = LIMITS) -> tuple[int, int]:
    """(first frame, number of frames) of the part, found by its pictures."""
    part = open_upload(str(path), options(start=start, end=end), limits)
    whole = [frame.tobytes() for frame in open_video(path).frames()]
    assert len(set(whole)) == len(whole)
    indices = [whole.index(frame.tobytes()) for frame in part.frames()]
    assert len(indices) == part.num_frames
    assert indices == list(range(indices[0], indices[0] + len(indices)))
    return indices[0], part.num_frames


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 0, (0, 32)),
        (0.5, 0, (8, 24)),
        (0.5, 1, (8, 8)),  # the frame at 1 s is not in it
        (0, 0.0625, (0, 1)),
        (0, 2, (0, 32)),
        (0, 99, (0, 32)),
        (1.9375, 0, (31, 1)),
        (1.9375, 99, (31, 1)),
        (1.9999, 0, (31, 1)),
        (0.4999, 1.0001, (8, 8)),  # as good as on the frame
        (0.5001, 0.9999, (8, 8)),
        # between two frames: from the one that is shown then
        (0.45, 0, (7, 25)),
        (0.45, 0.6, (7, 3)),
        # shorter than a frame
        (0.5, 0.51, (8, 1)),
        (0.51, 0.52, (8, 1)),
        (0.53, 0.54, (8, 1)),
        (0.001, 0.002, (0, 1)),
    ],
)
def test_part_of_an_even_video(start, end, expected, clip):
    assert cut(clip, start, end) == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 0, (0, 12)),
        (0, 5, (0, 1)),
        (5, 0, (1, 11)),
        (5, 5.1, (1, 3)),
        (5.1, 5.2, (4, 3)),  # frames of 1/30 s, however rare they are on the average
        (5.1, 0, (4, 8)),
        (1, 2, (0, 1)),  # nothing begins there, but a picture is shown
        (4.9, 4.95, (0, 1)),
        (2, 5.05, (0, 3)),
    ],
)
def test_part_of_an_uneven_video(start, end, expected, uneven):
    assert cut(uneven, start, end) == expected


def test_part_of_a_video_whose_clock_starts_late(tmp_path):
    """Seconds count from the first picture."""
    path = Path(write(str(tmp_path / "late.mp4"), range(15, 45)))
    assert cut(path, 0.5, 0.8) == (15, 9)


@pytest.mark.parametrize("start", [2, 2.5, 1e6])
def test_a_part_beyond_the_end_is_refused(start, clip):
    message = refusal(clip, options(start=start))
    assert message == f"The part starts at {start:g} s, but the video is 2.0 s long."


def test_a_part_that_is_too_long_is_refused(clip):
    limits = Limits(max_seconds=1)
    assert refusal(clip, limits=limits) == (
        "2 s with 32 frames are too much at a time: at most 1 s and 1800 frames; "
        "choose a part with “Start” and “End” under Options."
    )
    assert "2 s with 32" in refusal(clip, options(end=99), limits)
    assert cut(clip, 0.5, 1.5, limits) == (8, 16)
    assert cut(clip, 1, 99, limits) == (16, 16)


def test_a_part_with_too_many_frames_is_refused(clip):
    limits = Limits(max_frames=8)
    message = refusal(clip, options(start=0.5, end=1.0625), limits)
    assert message.startswith(
        "1 s with 9 frames are too much at a time: at most 1 min and 8 frames"
    )
    assert cut(clip, 0.5, 1, limits) == (8, 8)


# A part is a video


@pytest.mark.parametrize(("first", "count"), [(0, 32), (8, 8), (5, 20), (31, 1)])
def test_frames_and_times_of_a_part_are_those_of_the_whole(first, count, clip):
    whole = open_video(clip)
    expected = list(whole.frames())[first : first + count]
    part = VideoPart(whole, first, count)
    assert (part.name, part.num_frames, len(part)) == ("clip.mp4", count, count)
    assert (part.height, part.width, part.fps) == (*SIZE, FPS)
    assert part.timestamps == tuple(Fraction(i, FPS) for i in range(count))
    for i, frame in enumerate(part.frames()):
        np.testing.assert_array_equal(frame, expected[i])
    backwards = list(part.frames_reversed())
    assert len(backwards) == count
    for frame, other in zip(backwards, reversed(expected), strict=True):
        np.testing.assert_array_equal(frame, other)
    wanted = [count - 1, 0, count // 2, 0]
    for i, frame in zip(wanted, part.read(wanted), strict=True):
        np.testing.assert_array_equal(frame, expected[i])
    assert_all_paths_agree(part, step=3)


def test_a_stretch_of_a_part(clip):
    whole = open_video(clip)
    part, expected = VideoPart(whole, 8, 8), list(whole.frames())[8:16]

    def same(frames, indices):
        for frame, i in zip(frames, indices, strict=True):
            np.testing.assert_array_equal(frame, expected[i])

    same(part.frames(2), range(2, 8))
    same(part.frames(2, 5), range(2, 5))
    same(part.frames(3, 3), [])
    same(part.frames_reversed(4), range(4, -1, -1))
    same(part.frames_reversed(0), [0])
    same(part.read([]), [])


def test_what_lies_outside_a_part_is_out_of_reach(clip):
    part = VideoPart(open_video(clip), 8, 8)
    for reach in (
        lambda: part.frames(0, 9),
        lambda: part.frames(-1),
        lambda: part.frames_reversed(8),
        lambda: part.read([8]),
        lambda: part.read([-1]),
    ):
        with pytest.raises(IndexError, match="with 8 frames"):
            reach()


def test_times_of_an_uneven_part(uneven):
    whole = open_video(uneven)
    part = VideoPart(whole, 3, 5)
    assert part.timestamps == tuple(Fraction(i, 30) for i in range(5))
    assert VideoPart(whole, 0, 3).timestamps == (0, Fraction(150, 30), Fraction(151, 30))
    assert_all_paths_agree(part, step=2)


def test_a_part_of_images_has_no_times():
    frames = np.stack([picture(i) for i in range(6)])
    part = VideoPart(open_video(frames), 2, 3)
    assert (part.fps, part.timestamps) == (None, None)
    np.testing.assert_array_equal(np.stack(list(part.frames())), frames[2:5])


def test_a_part_closes_the_whole():
    whole = open_video(np.zeros((4, 8, 8, 3), np.uint8))
    closed = []
    whole.close = lambda: closed.append(True)
    with VideoPart(whole, 1, 2):
        assert not closed
    assert closed == [True]


def test_an_upload_can_be_sent_to_another_process(clip):
    """ZeroGPU runs the model in one."""
    part = open_upload(str(clip), options(start=0.5, end=1), LIMITS)
    again = pickle.loads(pickle.dumps(part))
    assert again.timestamps == part.timestamps
    for frame, other in zip(again.frames(), part.frames(), strict=True):
        np.testing.assert_array_equal(frame, other)
