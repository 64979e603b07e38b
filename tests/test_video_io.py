"""Video reading: exact counts, times and pixels for every kind of input, one-line errors."""

import io
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from modeling_findtrack import video_io
from modeling_findtrack.video_base import VideoError
from modeling_findtrack.video_io import open_video
from modeling_findtrack.video_writer import VideoWriter

ROOT = Path(__file__).parents[1]


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A frame unlike its neighbours: a gradient, with a bright block that moves with `index`."""
    y, x = np.mgrid[:height, :width]
    frame = np.stack([y * 3 % 256, x * 2 % 256, np.full_like(x, index * 9 % 256)], axis=-1)
    left = index * 5 % (width - 8)
    frame[8:16, left : left + 8] = 255
    return frame.astype(np.uint8)


def write(path, pts, *, time_base=Fraction(1, 30), codec="libx264", size=(48, 64), **settings):
    """Encode one `picture` per pts; settings: options, pix_fmt, rotation, format, container."""
    options = settings.get("options", {"bf": "0", "g": "10"})
    container_options = settings.get("container", {})
    with av.open(path, "w", format=settings.get("format"), options=container_options) as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width = size
        stream.pix_fmt = settings.get("pix_fmt", "yuv420p")
        stream.time_base = stream.codec_context.time_base = time_base
        stream.options = options
        if "rotation" in settings:
            stream.set_display_rotation(settings["rotation"])
        for index, p in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = p, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path, codec):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16000)
        stream.layout = "mono"
        for _ in range(8):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.int16), format="s16", layout="mono"
            )
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def assert_all_paths_agree(video, step: int = 7):
    """Every way to reach a frame gives the same pixels, and there are num_frames of them."""
    forward = list(video.frames())
    count = video.num_frames
    assert len(forward) == count
    assert all(f.shape == (video.height, video.width, 3) and f.dtype == np.uint8 for f in forward)
    backward = list(video.frames_reversed())
    assert len(backward) == count
    for a, b in zip(forward, reversed(backward), strict=True):
        np.testing.assert_array_equal(a, b)
    for start in range(0, count, step):
        np.testing.assert_array_equal(next(video.frames(start)), forward[start])
        np.testing.assert_array_equal(next(video.frames_reversed(start)), forward[start])
    indices = [count - 1, 0, count // 2, count // 3, count // 2]
    for i, frame in zip(indices, video.read(indices), strict=True):
        np.testing.assert_array_equal(frame, forward[i])
    assert len(list(video.frames(count // 3, count // 2))) == count // 2 - count // 3
    if video.timestamps is not None:
        assert len(video.timestamps) == count
        times = video.timestamps
        assert all(a < b for a, b in zip(times, times[1:], strict=False))


FILES = {
    "cfr": (dict(pts=range(40)), ".mp4"),
    "b_frames_long_gop": (dict(pts=range(60), options={"bf": "3", "g": "250"}), ".mp4"),
    "b_frames_short_gop": (dict(pts=range(60), options={"bf": "3", "g": "9"}), ".mp4"),
    "open_gop": (
        dict(pts=range(60), options={"bf": "3", "x264-params": "open-gop=1:keyint=9:min-keyint=9"}),
        ".mp4",
    ),
    "hevc_open_gop": (
        dict(
            pts=range(50),
            codec="libx265",
            options={"x265-params": "open-gop=1:keyint=10:log-level=none:pools=none"},
        ),
        ".mp4",
    ),
    "vfr": (dict(pts=[0, 1, 2, 7, 8, 20, 21, 22, 40, 41, 42, 43, 60, 61, 62]), ".mp4"),
    "starts_late": (dict(pts=range(15, 45)), ".mp4"),
    "starts_early": (dict(pts=range(-5, 30)), ".mkv"),
    # mp4 cuts the five frames before 0 by an edit list, though the decoder needs them
    "edit_list": (dict(pts=range(-5, 30), options={"bf": "3", "g": "12"}, count=30), ".mp4"),
    "intra_only": (dict(pts=range(20), options={"g": "1"}), ".mp4"),
    "transport_stream": (dict(pts=range(40), options={"bf": "2", "g": "12"}), ".ts"),
    "raw_h264_without_times": (dict(pts=range(20)), ".h264"),
    "odd_size": (
        dict(pts=range(12), codec="libx264", size=(35, 51), pix_fmt="yuv444p"),
        ".mp4",
    ),
    "mpeg4_avi": (dict(pts=range(30), codec="mpeg4", options={"g": "8", "bf": "2"}), ".avi"),
    "vp9": (dict(pts=range(12), codec="libvpx-vp9", options={"g": "5"}), ".webm"),
    "mjpeg": (dict(pts=range(8), codec="mjpeg", pix_fmt="yuvj420p", options={}), ".mov"),
    "gif": (dict(pts=range(8), codec="gif", pix_fmt="rgb8", options={}), ".gif"),
    "one_frame": (dict(pts=[0]), ".mp4"),
}


@pytest.mark.parametrize("name", FILES)
def test_frame_is_the_same_however_reached(name, tmp_path, monkeypatch):
    settings, suffix = FILES[name]
    path = write(str(tmp_path / f"clip{suffix}"), **settings)
    monkeypatch.setattr(video_io, "CHUNK_BYTES", 0)  # the smallest chunk, 8 frames
    with open_video(path) as video:
        assert video.num_frames == settings.get("count", len(settings["pts"]))
        assert (video.height, video.width) == settings.get("size", (48, 64))
        assert_all_paths_agree(video)


def test_decoded_pixels_are_the_encoded_ones(tmp_path):
    path = write(str(tmp_path / "a.mp4"), range(20), options={"crf": "1", "g": "7"})
    video = open_video(path)
    for i in (0, 6, 7, 13, 19):
        difference = np.abs(video.read([i])[0].astype(int) - picture(i))
        assert difference.mean() < 6, "a neighbouring frame would differ by far more"
        other = np.abs(video.read([i])[0].astype(int) - picture(i + 1))
        assert difference.mean() < other.mean()


def test_times_are_exact(tmp_path):
    pts = [0, 1001, 2002, 7007, 8008]
    path = write(str(tmp_path / "a.mp4"), pts, time_base=Fraction(1, 30000))
    assert open_video(path).timestamps == tuple(Fraction(p, 30000) for p in pts)
    late = write(str(tmp_path / "b.mp4"), range(15, 25))
    assert open_video(late).timestamps == tuple(Fraction(p, 30) for p in range(15, 25))


def test_ntsc_rate_is_rational(tmp_path):
    pts = range(0, 30 * 1001, 1001)
    video = open_video(write(str(tmp_path / "a.mp4"), pts, time_base=Fraction(1, 30000)))
    assert video.fps == Fraction(30000, 1001)
    assert video.timestamps[29] == Fraction(29 * 1001, 30000)


def test_no_times_in_the_stream_gives_even_ones(tmp_path):
    video = open_video(write(str(tmp_path / "a.h264"), range(10)))
    assert video.timestamps == tuple(i / video.fps for i in range(10))


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_rotation_is_applied(degrees, tmp_path):
    path = write(str(tmp_path / "a.mp4"), range(10), rotation=degrees, options={"crf": "1"})
    video = open_video(path)
    upright = np.rot90(picture(3), degrees // 90)  # both count counter-clockwise
    assert (video.height, video.width) == upright.shape[:2]
    assert np.abs(video.read([3])[0].astype(int) - upright).mean() < 6
    assert_all_paths_agree(video, step=3)


def test_phone_portrait_metadata_turns_clockwise(tmp_path):
    """An mp4 matrix of (0, 1, -1, 0) is what a phone held upright writes: turn 90° clockwise."""
    path = Path(write(str(tmp_path / "a.mp4"), range(3), rotation=-90, options={"crf": "1"}))
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    one = 0x10000
    matrix = [int.from_bytes(data[at + 4 * i : at + 4 * i + 4], "big", signed=True) for i in (0, 1)]
    assert matrix == [0, one]
    upright = np.rot90(picture(0), -1)
    assert np.abs(open_video(path).read([0])[0].astype(int) - upright).mean() < 6


def test_a_seek_that_misbehaves_changes_nothing(tmp_path, monkeypatch):
    """Containers whose seeks land too late fall back to earlier ones, at last to the start."""
    video = open_video(write(str(tmp_path / "a.mp4"), range(60), options={"g": "6", "bf": "0"}))
    expected = list(video.frames())
    opened = video._open

    class LateSeek:
        def __init__(self, container):
            self._container = container

        def __enter__(self):
            self._container.__enter__()
            return self

        def __exit__(self, *error):
            return self._container.__exit__(*error)

        def __getattr__(self, name):
            return getattr(self._container, name)

        def seek(self, pts, **settings):
            self._container.seek(pts + pts // 3 + 1, **settings)

    monkeypatch.setattr(video, "_open", lambda: LateSeek(opened()))
    for i in (0, 17, 31, 59):
        np.testing.assert_array_equal(video.read([i])[0], expected[i])
    for a, b in zip(video.frames_reversed(), reversed(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_walking_backwards_holds_one_chunk(tmp_path, monkeypatch):
    video = open_video(write(str(tmp_path / "a.mp4"), range(100), options={"g": "250"}))
    held = []
    decoded = video._decoded

    def watched(start, stop):
        held.append(stop - start)
        return decoded(start, stop)

    monkeypatch.setattr(video, "_decoded", watched)
    monkeypatch.setattr(video_io, "CHUNK_BYTES", int(10 * 1.5 * 48 * 64))
    assert sum(1 for _ in video.frames_reversed()) == 100
    assert held == [10] * 10


def test_iterators_do_not_disturb_each_other(tmp_path):
    path = write(str(tmp_path / "a.mp4"), range(20))
    with open(path, "rb") as file:
        for video in (open_video(path), open_video(file)):
            expected = list(video.frames())
            pairs = zip(video.frames(), video.frames_reversed(), strict=True)
            for i, (a, b) in enumerate(pairs):
                np.testing.assert_array_equal(a, expected[i])
                np.testing.assert_array_equal(b, expected[19 - i])


def test_file_object(tmp_path):
    path = write(str(tmp_path / "a.mp4"), range(20), options={"bf": "2", "g": "6"})
    data = io.BytesIO(Path(path).read_bytes())
    video = open_video(data)
    assert video.num_frames == 20
    assert_all_paths_agree(video)
    np.testing.assert_array_equal(video.read([11])[0], open_video(path).read([11])[0])
    video.close()
    assert not data.closed, "the caller's file stays the caller's"
    with open(path, "rb") as file:
        assert open_video(file).name == "a.mp4"


def test_video_passes_through(tmp_path):
    video = open_video(np.zeros((2, 4, 4, 3), np.uint8))
    assert open_video(video) is video


def test_index_errors():
    video = open_video(np.zeros((3, 4, 4, 3), np.uint8))
    for call in (
        lambda: video.read([3]),
        lambda: video.read([-1]),
        lambda: video.frames(4),
        lambda: video.frames_reversed(3),
    ):
        with pytest.raises(IndexError, match="3 frames"):
            call()


def test_cover_art_is_not_the_video(tmp_path):
    """A song with a cover has a video stream by the letter only."""
    song = str(tmp_path / "song.mp4")
    with av.open(song, "w") as container:
        sound = container.add_stream("aac", rate=16000)
        sound.layout = "mono"
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(picture(0), format="rgb24")
        container.mux(cover.encode(frame))
        container.mux(cover.encode(None))
        for _ in range(8):
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.int16), format="s16", layout="mono"
            )
            silence.sample_rate = 16000
            container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    with pytest.raises(VideoError, match="audio only"):
        open_video(song)


# Images


def test_folder_in_natural_order_with_every_mode(tmp_path):
    colour = picture(0)
    modes = ["RGB", "RGBA", "L", "P", "CMYK", "1", "LA"]
    for i, mode in enumerate(modes):
        suffix = "jpg" if mode == "CMYK" else "png"
        image = Image.fromarray(colour).convert("RGB" if mode == "LA" else mode)
        (image.convert("LA") if mode == "LA" else image).save(tmp_path / f"f_{8 + i}.{suffix}")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a frame")
    video = open_video(tmp_path)
    assert (video.num_frames, video.fps, video.timestamps) == (len(modes), None, None)
    assert video.name == tmp_path.name
    assert_all_paths_agree(video, step=1)
    frames = list(video.frames())
    np.testing.assert_array_equal(frames[0], colour)  # f_8 comes before f_10
    np.testing.assert_array_equal(frames[1], colour)
    assert np.ptp(frames[2], axis=-1).max() == 0
    assert np.abs(frames[4].astype(int) - colour).mean() < 12


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 0x8040, np.uint16)).save(tmp_path / "0.png")
    assert (next(open_video(tmp_path).frames()) == 0x80).all()


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90° clockwise
    for i in range(2):
        image = Image.fromarray(picture(i))
        image.save(tmp_path / f"{i}.jpg", exif=exif, quality=100, subsampling=0)
    video = open_video(tmp_path)
    assert (video.height, video.width) == (64, 48)
    upright = np.rot90(picture(1), -1)
    assert np.abs(video.read([1])[0].astype(int) - upright).mean() < 3


def test_lists_and_arrays_agree():
    frames = np.stack([picture(i) for i in range(5)])
    sources = [frames, list(frames), [Image.fromarray(f) for f in frames], tuple(frames)]
    for source in sources:
        video = open_video(source)
        assert (video.num_frames, video.height, video.width) == (5, 48, 64)
        np.testing.assert_array_equal(np.stack(list(video.frames())), frames)
        assert_all_paths_agree(video, step=1)
    grey = open_video([frames[0][..., 0]])
    np.testing.assert_array_equal(next(grey.frames())[..., 2], frames[0][..., 0])


def test_frames_are_copies():
    """A caller may draw on a frame; the source keeps its pixels."""
    source = np.zeros((2, 4, 4, 3), np.uint8)
    next(open_video(source).frames())[:] = 9
    assert source.max() == 0


# Errors


def bad_inputs(folder: Path) -> dict:
    """Name -> (source, pattern the message must match)."""
    whole = Path(write(str(folder / "whole.mp4"), range(60), container={"movflags": "+faststart"}))
    plain = Path(write(str(folder / "plain.mp4"), range(60)))
    (folder / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    (folder / "headless.mp4").write_bytes(plain.read_bytes()[: plain.stat().st_size // 2])
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    (folder / "notes.txt").write_text("this is not a video\n" * 50)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "folder").mkdir()
    mixed = folder / "mixed"
    mixed.mkdir()
    for i, size in enumerate([(8, 8), (8, 8), (8, 10)]):
        Image.new("RGB", size).save(mixed / f"{i}.png")
    broken = folder / "broken"
    broken.mkdir()
    (broken / "0.png").write_bytes(b"no image")
    frame = np.zeros((4, 4, 3), np.uint8)
    return {
        "missing": (folder / "missing.mp4", "missing.mp4: no such file"),
        "truncated": (folder / "cut.mp4", "cut.mp4: truncated or damaged"),
        "headless": (folder / "headless.mp4", "headless.mp4: not a video, or"),
        "text as mp4": (folder / "text.mp4", "text.mp4: not a video"),
        "text": (folder / "notes.txt", "notes.txt: not a video"),
        "empty file": (folder / "empty.mp4", "empty.mp4: not a video"),
        "wav": (write_audio(folder / "a.wav", "pcm_s16le"), "a.wav: no video stream .audio only"),
        "m4a": (write_audio(folder / "a.m4a", "aac"), "a.m4a: no video stream .audio only"),
        "empty folder": (folder / "folder", "folder: a folder without images"),
        "sizes": (mixed, "mixed: frames of different sizes .*0.png is 8x8, 2.png is 8x10|10x8"),
        "broken image": (broken, "0.png: not a readable image"),
        "garbage stream": (io.BytesIO(b"abc" * 99), "stream: not a video"),
        "no images": ([], "no frames"),
        "array of 3 dimensions": (np.zeros((4, 4, 3), np.uint8), r"\(T, H, W, 3\)"),
        "channels first": (np.zeros((2, 3, 9, 9), np.uint8), r"\(H, W, 3\)"),
        "floats": (np.zeros((2, 4, 4, 3)), "uint8"),
        "list of sizes": ([frame, frame[:2]], "different sizes"),
    }


def test_bad_input_is_told_in_one_line(tmp_path):
    for name, (source, pattern) in bad_inputs(tmp_path).items():
        with pytest.raises(VideoError, match=pattern) as caught:
            open_video(source)
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize("part", [0.35, 0.5, 0.75])
def test_truncation_is_seen_wherever_the_cut_falls(part, tmp_path):
    """Also inside the sound, which leaves every picture that is there whole."""
    whole = tmp_path / "whole.mp4"
    with av.open(str(whole), "w", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("aac", rate=48000)
        sound.layout = "mono"
        noise = np.random.default_rng(0).integers(-9000, 9000, (50, 1, 1920), dtype=np.int16)
        for i in range(50):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
            chunk = av.AudioFrame.from_ndarray(noise[i], format="s16", layout="mono")
            chunk.sample_rate = 48000
            container.mux(sound.encode(chunk))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    assert open_video(whole).num_frames == 50
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    media = data.index(b"mdat")
    cut.write_bytes(data[: media + int(part * (len(data) - media))])
    with pytest.raises(VideoError, match="truncated or damaged|no frames"):
        open_video(cut)


def change_of_size(folder: Path, size: tuple[int, int], suffix: str = ".h264") -> Path:
    """20 frames of 48x64, then 100 of another size (H, W)."""
    parts = (
        write(str(folder / f"a{suffix}"), range(20)),
        write(str(folder / f"b{suffix}"), range(100), size=size),
    )
    path = folder / f"changing{suffix}"
    path.write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("suffix", [".h264", ".ts"])
def test_nothing_is_read_after_a_change_of_size(suffix, tmp_path, monkeypatch):
    path = change_of_size(tmp_path, (96, 128), suffix)
    decode, decoded = video_io._FileVideo._decode, []

    def watched(*args, **settings):
        for frame in decode(*args, **settings):
            decoded.append(frame.width)
            yield frame

    monkeypatch.setattr(video_io._FileVideo, "_decode", watched)
    message = "different sizes .frame 0 is 64x48, frame 20 is 128x96.; resize"
    with pytest.raises(VideoError, match=message):
        open_video(path)
    assert decoded == [64] * 20 + [128]


def test_frames_of_too_many_pixels_are_not_decoded(tmp_path):
    path = change_of_size(tmp_path, (96, 128))
    with pytest.raises(VideoError, match="different sizes"):
        open_video(path, max_pixels=96 * 128)
    with pytest.raises(VideoError, match="damaged after 20 frames, or larger from there on;"):
        open_video(path, max_pixels=96 * 128 - 1)
    small = open_video(tmp_path / "a.h264", max_pixels=48 * 64)
    assert_all_paths_agree(small)
    with pytest.raises(VideoError, match="no frames"):
        open_video(io.BytesIO((tmp_path / "b.h264").read_bytes()), max_pixels=48 * 64)


def test_not_a_kind_of_video():
    with pytest.raises(TypeError, match="a video is a path"):
        open_video(42)


# Writing


@pytest.mark.parametrize("size", [(48, 64), (35, 51)])
def test_writer_round_trip(size, tmp_path):
    times = [Fraction(p, 25000) for p in (0, 775, 1775, 2775, 9000, 9775)]
    path = tmp_path / "out.mp4"
    with VideoWriter(path, size, Fraction(6 * 25000, 10000), times) as writer:
        for i in range(6):
            writer.write(picture(i, *size))
        assert not path.exists(), "the name appears when the file is complete"
    assert os.listdir(tmp_path) == ["out.mp4"]
    video = open_video(path)
    assert video.timestamps == tuple(times)
    assert video.fps == 15
    assert (video.height, video.width) == tuple(s + s % 2 for s in size)
    for i, frame in enumerate(video.frames()):
        difference = np.abs(frame[: size[0], : size[1]].astype(int) - picture(i, *size))
        assert difference.mean() < 8
        if size[0] % 2:
            assert np.abs(frame[-1].astype(int) - frame[-2]).mean() < 12  # repeated, not black


def test_writer_makes_files_for_browsers(tmp_path):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, (48, 64), Fraction(30000, 1001)) as writer:
        for i in range(30):
            writer.write(picture(i))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(30000, 1001)
        assert sum(1 for _ in container.decode(stream)) == 30
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index comes first"


def test_writer_keeps_colours(tmp_path):
    colour = np.full((48, 64, 3), (220, 60, 40), np.uint8)
    with VideoWriter(tmp_path / "out.mp4", (48, 64), Fraction(10)) as writer:
        writer.write(colour)
    frame = next(open_video(tmp_path / "out.mp4").frames())
    assert np.abs(frame.astype(int) - colour).max() <= 4


def test_writer_leaves_nothing_when_interrupted(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        VideoWriter(tmp_path / "out.mp4", (48, 64), Fraction(10)) as writer,
    ):
        writer.write(picture(0))
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_writer_refuses_a_wrong_number_of_frames(tmp_path):
    with (
        pytest.raises(ValueError, match="1 frames, expected 3"),
        VideoWriter(tmp_path / "a.mp4", (48, 64), Fraction(1), [0, 1, 2]) as writer,
    ):
        writer.write(picture(0))
    with (
        pytest.raises(ValueError, match="2 frames but 1 timestamps"),
        VideoWriter(tmp_path / "a.mp4", (48, 64), Fraction(1), [Fraction(0)]) as writer,
    ):
        writer.write(picture(0))
        writer.write(picture(1))
    assert os.listdir(tmp_path) == []


def test_an_image_too_large_for_pil_is_told(tmp_path, monkeypatch):
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    video = open_video(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(VideoError, match="0.png: too large an image"):
        open_video(tmp_path)
    with pytest.raises(VideoError, match="0.png: too large an image"):
        list(video.frames())


# Real footage, where it is


@pytest.mark.parametrize(
    ("name", "count", "fps"),
    [
        ("agility", 252, Fraction(252000, 10063)),
        ("dog", 289, Fraction(30000, 1001)),
        ("juggle", 247, Fraction(24)),
    ],
)
def test_real_clip(name, count, fps):
    folder = Path(os.environ.get("FINDTRACK_VIDEO", ROOT / ".." / "shared" / "video"))
    path = folder / "clips" / f"{name}.mp4"
    if not path.exists():
        pytest.skip(f"no {name}.mp4 (set FINDTRACK_VIDEO to the folder that holds clips/)")
    video = open_video(path)
    assert (video.num_frames, video.fps) == (count, fps)
    assert (video.height, video.width) == (720, 1280)
    forward = [hash(frame.tobytes()) for frame in video.frames()]
    assert len(forward) == count
    backward = [hash(frame.tobytes()) for frame in video.frames_reversed()]
    assert backward == forward[::-1]
    indices = [count - 1, 100, 3]
    assert [hash(f.tobytes()) for f in video.read(indices)] == [forward[i] for i in indices]


def test_a_list_of_image_paths_is_a_video_in_the_given_order(tmp_path):
    for i in range(3):
        Image.new("RGB", (20, 10), (i * 40, 0, 0)).save(tmp_path / f"{i}.png")
    paths = [str(tmp_path / "2.png"), tmp_path / "0.png", str(tmp_path / "1.png")]
    with open_video(paths) as video:
        assert (video.num_frames, video.height, video.width) == (3, 10, 20)
        assert [int(frame[0, 0, 0]) for frame in video.frames()] == [80, 0, 40]
    with pytest.raises(VideoError, match="missing.png"):
        open_video([tmp_path / "0.png", tmp_path / "missing.png"])
