"""Every output format, re-read by an independent reader, and the folder they land in."""

import json
import math
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from modeling_findtrack.contact_sheet import ContactSheet
from modeling_findtrack.drawing import fit_lines, load_font, object_color, paint_mask
from modeling_findtrack.export import KINDS, OUTPUT_NAMES, export, is_result_folder
from modeling_findtrack.output_folder import OutputError, OutputFolder
from modeling_findtrack.overlay import Overlay
from modeling_findtrack.results import Candidate, MaskSequence, Track, encode_mask
from modeling_findtrack.video_io import open_video
from modeling_findtrack.video_writer import VideoWriter

FRAMES, HEIGHT, WIDTH = 10, 45, 61
TIMES = [Fraction(p, 600) for p in (0, 25, 50, 75, 150, 175, 200, 225, 250, 275)]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "source.mp4"
    with VideoWriter(path, (HEIGHT + 1, WIDTH + 1), Fraction(20), TIMES) as writer:
        for i in range(FRAMES):
            writer.write(np.full((HEIGHT + 1, WIDTH + 1, 3), 40 + 5 * i, np.uint8))
    return open_video(path)


def make_track(video, text="the dog", found=True, shift=0, score=0.75) -> Track:
    """A square that moves one pixel a frame; absent on frame 4."""
    size = (video.height, video.width)
    masks = np.zeros((video.num_frames, *size), bool)
    if found:
        for t in range(video.num_frames):
            masks[t, 10 + shift : 20 + shift, 5 + t : 17 + t] = t != 4
    indices = [0, (video.num_frames - 1) // 2, video.num_frames - 1]
    candidates = tuple(
        Candidate(i, 0.5 + i / 100, 0.25, None, score, encode_mask(masks[i])) for i in indices
    )
    presence = np.linspace(0, 1, video.num_frames, dtype=np.float32)
    key = indices[-1] if found else None
    sequence = MaskSequence.from_masks(masks)
    unknown = ("“ł”", "猫") if "猫" in text else ()
    return Track(text, found, score, key, candidates, sequence, presence, unknown)


@pytest.fixture
def tracks(video):
    return [
        make_track(video),
        make_track(video, "the cat “Ł” 猫", shift=12),
        make_track(video, "a ghost", found=False, score=math.nan),
    ]


@pytest.fixture
def folder(video, tracks, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export(video, tracks, out, kinds=KINDS, model="tiny", source="some/source.mp4")
    return out


def test_writes_what_is_named_and_nothing_else(video, tracks, folder, tmp_path):
    assert set(os.listdir(folder)) == OUTPUT_NAMES
    little = tmp_path / "little"
    little.mkdir()
    export(video, tracks, little, kinds=["coco"])
    assert set(os.listdir(little)) == {"coco.json", "contact_sheet.png", "result.json"}
    with pytest.raises(ValueError, match="cannot write .'polygons'"):
        export(video, tracks, little, kinds=["polygons"])


def test_mask_pngs(tracks, folder, video):
    for number, track in enumerate(tracks):
        names = sorted(os.listdir(folder / "masks" / str(number)))
        assert names == [f"{t:05d}.png" for t in range(FRAMES)]
        for t in range(FRAMES):
            with Image.open(folder / "masks" / str(number) / f"{t:05d}.png") as image:
                assert image.mode == "L"
                pixels = np.asarray(image)
            np.testing.assert_array_equal(pixels, track.masks[t] * 255)


def test_overlay_plays_with_the_times_of_the_source(video, folder):
    with av.open(str(folder / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == video.fps
        frames = [frame.pts * stream.time_base for frame in container.decode(stream)]
    assert frames == list(video.timestamps) == TIMES


def test_overlay_shows_masks_and_leaves_the_rest(video, tracks):
    overlay = Overlay(video, tracks)
    frame = next(video.frames(1))
    masks = [track.masks[1] for track in tracks]
    drawn = overlay.draw(1, frame, masks)
    assert drawn.shape == (*overlay.size, 3)
    picture = drawn[: video.height]
    outside = ~(masks[0] | masks[1])
    np.testing.assert_array_equal(picture[outside], frame[outside])
    for number in (0, 1):
        toward = np.array(object_color(number), float) - frame[masks[number]].mean(axis=0)
        moved = picture[masks[number]].mean(axis=0) - frame[masks[number]].mean(axis=0)
        assert np.dot(moved, toward) > 0.3 * np.dot(toward, toward)
    assert (frame == next(video.frames(1))).all(), "the frame itself is not drawn on"


def interior(mask: np.ndarray) -> np.ndarray:
    """The mask without its contour, which is drawn in full colour, and the blur of the codec."""
    inner = mask.copy()
    for axis in (0, 1):
        for shift in (-3, 3):
            inner &= np.roll(mask, shift, axis)
    return inner


@pytest.mark.parametrize("opacity", [0, 0.25, 1])
def test_overlay_tints_by_the_opacity(video, tracks, opacity):
    frame, masks = next(video.frames(1)), [track.masks[1] for track in tracks]
    drawn = Overlay(video, tracks, opacity).draw(1, frame, masks)[: video.height]
    for number in (0, 1):
        inner, color = interior(masks[number]), np.array(object_color(number))
        assert inner.sum() >= 16
        mixed = (1 - opacity) * frame[inner] + opacity * color
        assert np.abs(drawn[inner] - mixed).max() <= 1
        rim = masks[number] & ~np.roll(masks[number], 1, axis=1)
        assert (drawn[rim] == color).all(), "the contour is always there"


def test_export_hands_the_opacity_to_the_overlay(video, tracks, tmp_path):
    inner = interior(tracks[0].masks[1])
    shown = {}
    for opacity in (None, 0, 0.4, 1):
        out = tmp_path / str(opacity)
        out.mkdir()
        given = {} if opacity is None else {"opacity": opacity}
        export(video, tracks, out, kinds=["overlay"], **given)
        shown[opacity] = next(open_video(out / "overlay.mp4").frames(1))[: video.height][inner]
    frame, color = next(video.frames(1))[inner].mean(axis=0), np.array(object_color(0))
    for opacity in (0, 0.4, 1):
        mixed = (1 - opacity) * frame + opacity * color
        assert np.abs(shown[opacity].mean(axis=0) - mixed).max() < 14, opacity
    np.testing.assert_array_equal(shown[None], shown[0.4])  # the default


def test_overlay_marks_the_key_frame_and_the_present(video, tracks):
    overlay = Overlay(video, tracks)
    frame = np.zeros((video.height, video.width, 3), np.uint8)
    empty = [np.zeros((video.height, video.width), bool)] * 3
    ordinary, key = overlay.draw(5, frame, empty), overlay.draw(9, frame, empty)
    assert ordinary[: video.height].max() == 0
    assert (key[video.height - 1, video.width // 2] == object_color(0)).all()
    assert (ordinary[video.height :] != key[video.height :]).any(), "the time line moves"


@pytest.mark.parametrize("times", [1, 2, 7])
def test_the_time_line_of_more_frames_than_pixels(times):
    count, size = 64 * times + 1, (48, 64)
    clip = open_video(np.broadcast_to(np.zeros(3, np.uint8), (count, *size, 3)))
    mask = np.ones(size, bool)
    shown = [mask if count // 2 <= i else ~mask for i in range(count)]
    candidate = Candidate(count - 1, 0.9, None, None, 0.9, encode_mask(mask))
    presence = np.ones(count, np.float32)
    masks = MaskSequence.from_masks(shown)
    track = Track("a square", True, 0.9, count - 1, (candidate,), masks, presence)
    overlay = Overlay(clip, [track])
    band = overlay.draw(0, next(clip.frames()), [shown[0]])[size[0] :]
    colored = (band == object_color(0)).all(axis=-1)
    rail = colored[colored.sum(axis=1).argmax()]
    assert not rail[: 64 // 2 - 4].any() and rail[64 // 2 + 4 : -12].all()


def test_legend_greys_what_is_not_found(video, tracks):
    found = Overlay(video, tracks[:1]).draw(0, np.zeros((video.height, video.width, 3), "u1"), [])
    ghost = Overlay(video, tracks[2:]).draw(0, np.zeros((video.height, video.width, 3), "u1"), [])

    def colourful(band):
        return (np.ptp(band.astype(int), axis=-1) > 60).sum()

    assert colourful(found[video.height :]) > 50
    assert colourful(ghost[video.height :]) == 0


@pytest.mark.parametrize("size", [(16, 16), (40, 400), (300, 90), (96, 128)])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_drawing_copes_with_every_shape_and_number(size, count):
    video = open_video(np.zeros((3, *size, 3), np.uint8))
    text = "a sentence of many words and averyveryverylongwordwithoutanyspaceatall " * 3
    mask = np.ones(size, bool)
    answers = [
        Track(
            text + str(n), True, 0.5, 1, (Candidate(1, 0.5, None, 0.1, 0.5, encode_mask(mask)),),
            MaskSequence.from_masks([mask] * 3), np.ones(3),
        )
        for n in range(count)
    ]  # fmt: skip
    overlay = Overlay(video, answers)
    drawn = overlay.draw(1, next(video.frames()), [mask] * count)
    assert drawn.shape == (*overlay.size, 3)
    sheet = ContactSheet(answers, size)
    for index, frame in enumerate(video.frames()):
        sheet.add(index, frame)
    assert sheet.draw().width > 0


def test_contact_sheet_frames_the_chosen_one(video, tracks):
    sheet = ContactSheet(tracks[:1], (video.height, video.width))
    for index, frame in enumerate(video.frames()):
        sheet.add(index, frame)
    pixels = np.asarray(sheet.draw()).astype(int)
    third = pixels.shape[1] // 3
    painted = (np.abs(pixels - object_color(0)).max(axis=-1) == 0).sum(axis=0)
    tall = painted > pixels.shape[0] // 2  # a frame's vertical sides
    assert tall[2 * third :].any()
    assert not tall[: 2 * third].any()
    with_ghost = ContactSheet(tracks[2:], (video.height, video.width)).draw()
    assert np.ptp(np.asarray(with_ghost).astype(int), axis=-1).max() < 30, "all grey"


def test_npz(tracks, folder, video):
    with np.load(folder / "masks.npz", allow_pickle=False) as data:
        assert list(data["size"]) == [video.height, video.width]
        assert list(data["expressions"]) == [track.expression for track in tracks]
        assert list(data["found"]) == [True, True, False]
        assert list(data["key_frame"]) == [9, 9, -1]
        for number, track in enumerate(tracks):
            bits = np.unpackbits(data[f"masks_{number}"], axis=-1, count=video.width)
            np.testing.assert_array_equal(bits.astype(bool), track.masks.to_array())


def test_coco(tracks, folder, video):
    data = json.loads((folder / "coco.json").read_text(encoding="utf-8"))
    entry = data["videos"][0]
    assert (entry["width"], entry["height"], entry["length"]) == (video.width, video.height, FRAMES)
    names = {category["id"]: category["name"] for category in data["categories"]}
    assert [names[a["category_id"]] for a in data["annotations"]] == ["the dog", "the cat “Ł” 猫"]
    annotation = data["annotations"][0]
    masks = tracks[0].masks
    for t, rle in enumerate(annotation["segmentations"]):
        if t == 4:
            assert (rle, annotation["bboxes"][t], annotation["areas"][t]) == (None, None, None)
            continue
        np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), masks[t])
        assert annotation["bboxes"][t] == [5 + t, 10, 12, 10]
        assert annotation["areas"][t] == 120


def test_matte(tracks, folder, video):
    for number, track in enumerate(tracks):
        matte = open_video(folder / "matte" / f"{number}.mp4")
        assert matte.timestamps == video.timestamps
        for frame, mask in zip(matte.frames(), track.masks, strict=True):
            grey = frame[..., 0].astype(int)
            assert np.abs(grey - mask * 255).mean() < 6
            if mask.any():
                assert grey[mask].mean() > 225


def test_result_json(folder, video):
    text = (folder / "result.json").read_text(encoding="utf-8")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads(text, parse_constant=refuse)
    assert data["model"] == "tiny"
    assert data["video"] == {
        "name": "source.mp4",
        "path": "some/source.mp4",
        "frames": FRAMES,
        "height": video.height,
        "width": video.width,
        "fps": "20/1",
        "duration": 0.5,
        "timestamps": [round(float(t), 6) for t in TIMES],
    }
    dog, cat, ghost = data["expressions"]
    assert [e["unknown_words"] for e in (dog, cat, ghost)] == [[], ["“ł”", "猫"], []]
    assert (dog["id"], dog["text"], dog["found"]) == ("0", "the dog", True)
    assert (dog["score"], dog["key_frame"]) == (0.75, 9)
    assert dog["candidates"][2] == {
        "frame": 9, "score": 0.75, "iou": 0.59, "alignment": 0.25, "presence": None,
    }  # fmt: skip
    assert len(dog["presence"]) == FRAMES and dog["presence"][-1] == 1.0
    assert (ghost["found"], ghost["score"], ghost["key_frame"]) == (False, None, None)
    assert max(len(line) for line in text.splitlines()) > 60, "numbers share a line"


def test_images_have_no_times(tmp_path):
    video = open_video(np.zeros((3, 20, 20, 3), np.uint8))
    export(video, [make_track_small(video)], tmp_path, kinds=["overlay"])
    data = json.loads((tmp_path / "result.json").read_text())
    assert (data["video"]["fps"], data["video"]["duration"]) == (None, None)
    assert open_video(tmp_path / "overlay.mp4").num_frames == 3


def make_track_small(video) -> Track:
    masks = MaskSequence.empty(video.num_frames, (video.height, video.width))
    return Track("x", False, None, None, (), masks, np.zeros(video.num_frames))


def test_late_start_does_not_delay_the_overlay(tmp_path):
    """A recording whose clock starts an hour in gives an overlay that starts at once."""
    times = [Fraction(3600) + Fraction(i, 10) for i in range(5)]
    video = open_video(np.zeros((5, 20, 20, 3), np.uint8))
    video.fps, video.timestamps = Fraction(10), tuple(times)
    export(video, [make_track_small(video)], tmp_path, kinds=["overlay"])
    overlay = open_video(tmp_path / "overlay.mp4")
    assert overlay.timestamps == tuple(Fraction(i, 10) for i in range(5))


def test_masks_of_another_video_are_refused(video, tmp_path):
    other = open_video(np.zeros((3, 20, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="does not belong"):
        export(video, [make_track_small(other)], tmp_path)


def test_the_video_is_read_once(video, tracks, tmp_path, monkeypatch):
    calls = []
    frames = video.frames
    monkeypatch.setattr(video, "frames", lambda *a: calls.append(a) or frames(*a))
    monkeypatch.setattr(video, "read", None)
    export(video, tracks, tmp_path, kinds=KINDS)
    assert calls == [()]


def test_progress_counts_frames(video, tracks, tmp_path):
    seen = []
    export(video, tracks, tmp_path, kinds=[], progress=lambda *step: seen.append(step))
    assert seen == [("write", t + 1, FRAMES) for t in range(FRAMES)]


# Drawing


def test_paint_mask_draws_a_contour_on_the_mask_only():
    frame = np.zeros((20, 20, 3), np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    paint_mask(frame, mask, (200, 100, 50), opacity=0.5, edge=2)
    assert (frame[~mask] == 0).all()
    assert (frame[5, 5:15] == (200, 100, 50)).all()
    assert (frame[6, 6:14] == (200, 100, 50)).all()
    assert (frame[10, 10] == (100, 50, 25)).all()


def test_colours_are_distinct():
    colours = [object_color(n) for n in range(20)]
    assert len(set(colours)) == 20
    near = min(
        np.abs(np.subtract(a, b)).sum() for i, a in enumerate(colours[:8]) for b in colours[:i]
    )
    assert near > 60


def test_fit_lines():
    font = load_font(14)
    text = "the quick brown fox jumps over the lazy dog"
    lines = fit_lines(text, font, 150, 9)
    assert " ".join(lines) == text
    assert all(font.getlength(line) <= 150 for line in lines)
    short = fit_lines(text, font, 150, 2)
    assert len(short) == 2 and short[1].endswith("…") and font.getlength(short[1]) <= 150
    assert fit_lines("", font, 100, 2) == [""]
    assert "".join(fit_lines("猫" * 50, font, 100, 99)) == "猫" * 50


# The folder


def open_folder(path, overwrite=False):
    return OutputFolder(path, OUTPUT_NAMES, is_result_folder, overwrite)


def fill(folder: Path, mark: str, masks: bool = True):
    if masks:
        (folder / "masks").mkdir()
        (folder / "masks" / "a.png").write_text(mark)
    (folder / "result.json").write_text(json.dumps({"format": "findtrack-result/1", "mark": mark}))


def test_new_folder_appears_complete(tmp_path):
    out = tmp_path / "deep" / "er" / "out"
    with open_folder(out) as folder:
        fill(folder, "one")
        assert not out.exists()
    assert json.loads((out / "result.json").read_text())["mark"] == "one"
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("exists", [False, True])
def test_nothing_is_left_behind(error, exists, tmp_path):
    out = tmp_path / "deep" / "out"
    if exists:
        out.mkdir(parents=True)
    with pytest.raises(error), open_folder(out) as folder:
        fill(folder, "one")
        raise error
    assert os.listdir(tmp_path) == (["deep"] if exists else [])
    assert not exists or os.listdir(out) == []


def test_previous_result_is_replaced_and_other_files_stay(tmp_path):
    out = tmp_path / "out"
    with open_folder(out) as folder:
        fill(folder, "one")
    (out / "notes.txt").write_text("mine")
    before = out.stat().st_ino
    with open_folder(out) as folder:
        fill(folder, "two", masks=False)
    assert sorted(os.listdir(out)) == ["notes.txt", "result.json"], "old masks do not mix with new"
    assert json.loads((out / "result.json").read_text())["mark"] == "two"
    assert out.stat().st_ino == before, "a mounted folder must stay the same folder"


def test_foreign_folder_is_not_touched(tmp_path):
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    (out / "result.json").write_text('{"other": "program"}')
    with pytest.raises(OutputError, match="holds other files"), open_folder(out):
        raise AssertionError
    assert sorted(os.listdir(out)) == ["masks", "result.json"]
    (out / "result.json").unlink()
    (out / "masks" / "gt.png").write_text("mine")
    with (
        pytest.raises(OutputError, match="masks is there already"),
        open_folder(out, overwrite=True) as folder,
    ):
        fill(folder, "ours")
    assert os.listdir(out) == ["masks"] and os.listdir(out / "masks") == ["gt.png"]
    with open_folder(out, overwrite=True) as folder:
        fill(folder, "ours", masks=False)
    assert sorted(os.listdir(out)) == ["masks", "result.json"]
    assert os.listdir(out / "masks") == ["gt.png"]


def test_file_in_the_way(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="a file is in the way"), open_folder(tmp_path / "out"):
        raise AssertionError
    with (
        pytest.raises(OutputError, match="cannot write there"),
        open_folder(tmp_path / "out" / "below"),
    ):
        raise AssertionError
