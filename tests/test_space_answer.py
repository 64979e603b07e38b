"""A request from upload to downloads: the files, the HTML, the pictures, and how it is stopped."""

import io
import json
import re
import threading
import time
import xml.etree.ElementTree as ET
import zipfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from modeling_findtrack.drawing import object_color
from modeling_findtrack.export import to_result
from modeling_findtrack.keyframes import sample_frames
from modeling_findtrack.results import Candidate, MaskSequence, Track, encode_mask
from modeling_findtrack.video_io import open_video
from space import answer as answer_module
from space import background
from space import segmenter as segmenter_module
from space.answer import Answer, answer, verdict
from space.background import Result, Step, Stopped, in_steps
from space.gallery import caption, gallery
from space.intake import Options, RequestError
from space.limits import Limits
from space.segmenter import Segmenter, estimated_seconds
from space.timeline import css_color, seconds_of, timeline
from space.video_part import VideoPart
from tests.test_video_io import write
from tests.tiny_models import moving_square, tiny

LIMITS, OPTIONS = Limits(), Options(key_frames=4.0, threshold=0.25, start=0, end=0, opacity=0.5)
FPS, FRAMES, SIZE, ABSENT = 16, 12, (48, 64), 2
LONG = 20  # seconds that no test may last
SCRIPT, QUOTES = "<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>&amp;"
TEXTS = ["the dog", SCRIPT, "a ghost", QUOTES]  # a ghost is never found
ALL = "\n".join(TEXTS)


def square(index: int, number: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    if index != ABSENT:
        top, left = 2 + 11 * number, 3 + 2 * index
        mask[top : top + 10, left : left + 20] = True
    return mask


def make_track(video, text: str, number: int = 0, key_frames: int = 4) -> Track:
    """A square that drifts to the right, absent on frame 2; its last candidate is the best."""
    found = "ghost" not in text
    masks = [square(t, number) if found else np.zeros(SIZE, bool) for t in range(video.num_frames)]
    indices = sample_frames(video.num_frames, key_frames)
    candidates = tuple(
        Candidate(t, 0.5 + t / 100, 0.25, None, 0.3 + t / 50, encode_mask(square(t, number)))
        for t in indices
    )
    presence = np.linspace(0, 1, video.num_frames, dtype=np.float32) * found
    key = indices[-1] if found else None
    sequence = MaskSequence.from_masks(masks)
    return Track(text, found, candidates[-1].score, key, candidates, sequence, presence)


class Stub:
    """A segmenter that answers with squares, and can be endless or fail."""

    def __init__(self, endless: bool = False, error: Exception | None = None):
        self.endless, self.error, self.shared_gpu, self.name = endless, error, False, "stub"
        self.asked, self.calls, self.left, self.end = [], 0, False, None

    def segment(self, video, expressions, key_frames, threshold):
        self.asked.append((video, expressions, key_frames, threshold))
        yield from in_steps(lambda progress: self._work(video, expressions, key_frames, progress))

    def remark(self, expression):
        return f"unknown word {expression!r}" if expression == QUOTES else None

    def seconds(self, video, expressions, key_frames, threshold):
        return video.num_frames * len(expressions) * key_frames

    def _work(self, video, expressions, key_frames, progress):
        try:
            give_up = time.monotonic() + LONG  # no test is to hang where stopping fails
            while self.endless and time.monotonic() < give_up:
                self.calls += 1
                progress("track", self.calls, 10**6)
                time.sleep(0.001)
            assert not self.endless, "it was not stopped"
            progress("find", 1, 1)
            time.sleep(0.02)
            if self.error:
                raise self.error
            return [make_track(video, t, n, key_frames) for n, t in enumerate(expressions)]
        except BaseException as error:
            self.end = type(error)
            raise
        finally:
            self.left = True


@pytest.fixture(scope="module", autouse=True)
def _at_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "EVERY", 0.001)
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("upload-of-a-visitor") / "clip.mp4"
    return Path(write(str(path), range(FRAMES), time_base=Fraction(1, FPS), size=SIZE))


def ask(clip, folder, text=ALL, segmenter=None, options=OPTIONS, limits=LIMITS):
    upload = None if clip is None else str(clip)
    return answer(
        upload, text, options, segmenter=segmenter or Stub(), limits=limits, folder=folder
    )


@pytest.fixture(scope="module")
def asked(clip, tmp_path_factory):
    """(folder, steps, answer) of a request with four expressions, one of them not found."""
    folder = tmp_path_factory.mktemp("folder-of-a-request")
    *steps, last = ask(clip, folder)
    return folder, steps, last


@pytest.fixture(scope="module")
def tracks(clip):
    video = open_video(clip)
    return [make_track(video, text, n) for n, text in enumerate(TEXTS)]


def parse(html: str) -> ET.Element:
    """HTML as a tree. That it is well-formed says that what is written in it was escaped."""
    return ET.fromstring(f"<div>{html}</div>")


def of_class(tree: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in tree.iter() if name in e.get("class", "").split()]


def texts(elements) -> list[str]:
    return ["".join(e.itertext()) for e in elements]


# The flow


def test_steps_come_first_and_one_answer_last(asked):
    _, steps, last = asked
    assert steps[0] == Step("read", 0, 1)
    assert isinstance(last, Answer) and all(isinstance(step, Step) for step in steps)
    order = ["read", "find", "track", "write"]  # some pass too quickly to be told
    stages = [order.index(step.stage) for step in steps]
    assert stages == sorted(stages) and len(stages) > 1


def test_the_model_is_asked_for_the_part_with_the_options(clip, tmp_path):
    stub = Stub()
    options = Options(key_frames=3.0, threshold=0.4, start=0.125, end=0.5, opacity=0.5)
    *_, last = ask(clip, tmp_path, " the  dog \r\n\r\ncat", stub, options)
    ((video, expressions, key_frames, threshold),) = stub.asked
    assert (expressions, threshold) == (["the dog", "cat"], 0.4)
    assert key_frames == 3 and type(key_frames) is int
    whole = open_video(clip).read(range(2, 8))
    for frame, expected in zip(video.frames(), whole, strict=True):
        np.testing.assert_array_equal(frame, expected)
    assert last.result["video"]["frames"] == 6
    first = last.result["part"]["first_frame"]
    assert first and last.result["part"]["start"] == first / FPS
    assert f"count from Start, {first / FPS:.1f} s" in last.timeline
    overlay = open_video(last.overlay)
    assert overlay.timestamps == tuple(Fraction(i, FPS) for i in range(6))
    with zipfile.ZipFile(last.files[0]) as file:
        assert "masks/0/00005.png" in file.namelist()
        assert "masks/0/00006.png" not in file.namelist()


@pytest.mark.parametrize(
    ("changed", "message", "steps"),
    [
        ({"text": "\n"}, "No text", 0),
        ({"text": "a\nb", "limits": Limits(max_expressions=1)}, "at most 1", 0),
        ({"options": Options(0, 0.5, 0, 0, 0.5)}, "Key frames is 0", 0),
        ({"clip": None}, "No video", 1),
        ({"clip": Path("gone.mp4")}, "not there any more", 1),
        ({"options": Options(5, 0.5, 9, 0, 0.5)}, "starts at 9 s", 1),
        ({"limits": Limits(max_frames=3)}, "too much at a time", 1),
    ],
)
def test_what_cannot_be_answered_is_told_before_the_model_is_asked(
    changed, message, steps, clip, tmp_path
):
    stub, seen = Stub(), []
    with pytest.raises(RequestError, match=message):
        seen += ask(**{"clip": clip, "folder": tmp_path, "segmenter": stub, **changed})
    assert not stub.asked and not list(tmp_path.iterdir())
    events = ask(**{"clip": clip, "folder": tmp_path, "segmenter": stub, **changed})
    for _ in range(steps):
        assert next(events) == Step("read", 0, 1)
    with pytest.raises(RequestError, match=message):
        next(events)


def test_an_error_of_the_model_is_raised(clip, tmp_path):
    error = MemoryError("too much")
    with pytest.raises(MemoryError) as caught:
        list(ask(clip, tmp_path, segmenter=Stub(error=error)))
    assert caught.value is error and not list(tmp_path.iterdir())


def test_a_segmenter_without_a_result_is_an_error(clip, tmp_path):
    stub = Stub()
    stub.segment = lambda *_: iter([Step("find", 1, 1)])
    with pytest.raises((RuntimeError, AttributeError)):  # not an answer of nothing
        list(ask(clip, tmp_path, segmenter=stub))


@pytest.mark.parametrize("steps", [1, 3])
def test_closing_midway_stops_the_model(steps, clip, tmp_path):
    before, stub = set(threading.enumerate()), Stub(endless=True)
    segment, kept = stub.segment, []  # something may still refer to it, as a traceback does
    stub.segment = lambda *given: kept.append(segment(*given)) or kept[-1]
    events = ask(clip, tmp_path, segmenter=stub)
    assert next(events) == Step("read", 0, 1)
    assert [next(events).stage for _ in range(steps)] == ["track"] * steps
    assert not stub.left
    events.close()
    assert stub.left and stub.end is Stopped, "`close` returns when it has stopped"
    calls = stub.calls
    time.sleep(0.02)
    assert stub.calls == calls and set(threading.enumerate()) <= before
    assert not list(tmp_path.iterdir()), "nothing is written"
    assert next(events, None) is None


def test_closing_while_files_are_written_stops_that(clip, tmp_path, monkeypatch):
    left = []

    def endless(*_, progress, **__):
        give_up = time.monotonic() + LONG
        try:
            while time.monotonic() < give_up:
                progress("write", 1, 10**6)
                time.sleep(0.001)
        except Stopped:
            left.append(True)
            raise

    monkeypatch.setattr(answer_module, "export", endless)
    before = set(threading.enumerate())
    events = ask(clip, tmp_path)
    while next(events).stage != "write":
        assert not left
    events.close()
    assert left == [True] and set(threading.enumerate()) <= before


def test_requests_do_not_share_anything(clip, asked, tmp_path):
    *_, last = ask(clip, tmp_path, "the dog")
    assert all(Path(path).parent == tmp_path for path in (last.overlay, *last.files))
    assert [track["text"] for track in last.result["expressions"]] == ["the dog"]
    assert len(asked[2].files) == 6 and all(Path(path).is_file() for path in asked[2].files)


# The files


def test_the_downloads(asked):
    folder, _, last = asked
    assert [Path(path).name for path in last.files] == [
        "masks.zip",
        "masks-coco-rle.json",
        *(f"matte-{n}.mp4" for n in range(4)),
    ]
    for path in (last.overlay, *last.files, *(path for path, _ in last.pictures)):
        assert Path(path).parent == folder and Path(path).is_file()


def test_the_zip_holds_a_png_per_frame_and_expression(asked, tracks):
    _, _, last = asked
    with zipfile.ZipFile(last.files[0]) as file:
        assert file.testzip() is None
        names = [f"masks/{n}/{t:05d}.png" for n in range(len(TEXTS)) for t in range(FRAMES)]
        assert file.namelist() == [*names, "result.json"]
        for name in names:
            _, number, frame = name.removesuffix(".png").split("/")
            with Image.open(io.BytesIO(file.read(name))) as image:
                assert image.mode == "L"
                mask = tracks[int(number)].masks[int(frame)]
                np.testing.assert_array_equal(np.asarray(image), mask * 255)
        assert json.loads(file.read("result.json")) == last.result


def test_the_rle_of_the_json_are_the_masks(asked, tracks):
    data = json.loads(Path(asked[2].files[1]).read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in data["categories"]}
    assert [names[a["category_id"]] for a in data["annotations"]] == ["the dog", SCRIPT, QUOTES]
    found = [track for track in tracks if track.found]
    for annotation, track in zip(data["annotations"], found, strict=True):
        assert len(annotation["segmentations"]) == FRAMES
        for t, rle in enumerate(annotation["segmentations"]):
            if t == ABSENT:
                assert rle is None
            else:
                np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), track.masks[t])


def test_a_matte_per_expression(asked, clip, tracks):
    times = open_video(clip).timestamps
    for path, track in zip(asked[2].files[2:], tracks, strict=True):
        matte = open_video(path)
        assert matte.timestamps == times
        for frame, mask in zip(matte.frames(), track.masks, strict=True):
            assert np.abs(frame[..., 0].astype(int) - mask * 255).mean() < 6


def test_the_overlay_is_tinted_by_the_opacity(clip, tmp_path):
    """In the overlay and in the pictures of the find step alike."""
    for opacity in (0, 1):
        folder = tmp_path / str(opacity)
        folder.mkdir()
        options = Options(4, 0.5, 0, 0, opacity)
        *_, last = ask(clip, folder, "the dog", options=options)
        frame = next(open_video(clip).frames(7))[5:9, 22:32].mean((0, 1))
        expected = object_color(0) if opacity else frame
        shown = next(open_video(last.overlay).frames(7))[5:9, 22:32]
        assert np.abs(shown.mean((0, 1)) - expected).max() < 14
        path, said = last.pictures[2]
        assert "frame 7" in said
        with Image.open(path) as image:
            found = np.asarray(image)[5:9, 22:32]
        assert np.abs(found.mean((0, 1)) - expected).max() < 14


def test_the_result_is_that_of_the_command_without_paths(asked, clip, tracks):
    folder, _, last = asked
    whole = {"first_frame": 0, "start": 0}
    assert last.result == to_result(open_video(clip), tracks, model="stub") | {"part": whole}
    text = json.dumps(last.result, allow_nan=False) + Path(last.files[1]).read_text("utf-8")
    with zipfile.ZipFile(last.files[0]) as file:
        written = file.read("result.json").decode()
        text += written + "".join(file.namelist())
    assert json.loads(written) == last.result
    for path in (folder, clip.parent):
        assert str(path) not in text and path.name not in text
    assert last.missing == ["a ghost"]


# The verdict


def test_a_line_per_expression_with_what_became_of_it(asked):
    lines = of_class(parse(asked[2].verdict), "verdict")[0].findall("li")
    assert [line.find("b").text for line in lines] == TEXTS
    assert [line.get("class") for line in lines] == ["found", "found", "missing", "found"]
    for number, (line, said) in enumerate(zip(lines, texts(lines), strict=True)):
        style = line.find("i").get("style")
        if number == 2:
            assert css_color(number) not in style and "not found" in said
            continue
        assert css_color(number) in style
        for part in ("found", "score 0.52", "frame 11", "0.7 s", "92 %"):  # 11 frames of 12
            assert part in said
        assert "not found" not in said


def test_a_remark_on_the_words_stands_with_its_expression(asked):
    lines = parse(asked[2].verdict).iter("li")
    remarks = ["".join(line.find("small").itertext()) if line.find("small") is not None else None
               for line in lines]  # fmt: skip
    assert remarks == [None, None, None, f"unknown word {QUOTES!r}"]
    assert all(answer["unknown_words"] == [] for answer in asked[2].result["expressions"])


def test_not_found_tells_the_best_candidates(tracks, clip):
    video = open_video(clip)
    scores = [0.1, 0.4, 0.3, -0.2, 0.2]
    candidates = tuple(
        Candidate(10 + n, 0.5, 0.2, None, score, encode_mask(square(0, 0)))
        for n, score in enumerate(scores)
    )
    empty = Candidate(9, 0.5, 0.2, 0.08, 0.9, encode_mask(np.zeros(SIZE, bool)))

    def said(candidates):
        track = make_track(video, "a ghost")
        track = Track("a ghost", False, 0.4, None, candidates, track.masks, track.presence)
        (line,) = of_class(parse(verdict(video, [track], 0.7, [None])), "missing")
        return "".join(line.itertext())

    text = said(candidates)
    assert re.findall(r"frame (\d+) with (-?[\d.]+)", text) == [
        ("11", "0.40"),
        ("12", "0.30"),
        ("14", "0.20"),
    ]
    assert re.findall(r"frame (\d+) with", said(candidates[:1])) == ["10"]
    text = said((empty, *candidates[:1]))
    assert re.findall(r"frame (\d+) with", text) == ["10", "9"]  # where there is nothing, last
    assert text.endswith("; presence at most 0.08, threshold 0.70")
    assert said(()).split("a ghost")[1].strip() == "not found"


@pytest.mark.parametrize("part", ["verdict", "timeline"])
def test_text_of_the_visitor_stays_text(part, asked):
    html = getattr(asked[2], part)
    tree = parse(html)
    kinds = {element.tag for element in tree.iter()}
    assert not kinds & {"script", "img"}
    assert not any(name.startswith("on") for e in tree.iter() for name in e.keys())  # noqa: SIM118
    assert "<script" not in html and "<img" not in html
    assert SCRIPT in "".join(tree.itertext()) and QUOTES in "".join(tree.itertext())


# The timeline


def test_a_row_per_expression_says_in_words_what_it_shows(asked):
    tree = parse(asked[2].timeline)
    rows = list(tree.iter("figure"))
    expected = [f"{text} not found" if "ghost" in text else text for text in TEXTS]
    assert texts(row.find("figcaption") for row in rows) == expected
    drawings = [row.find(".//svg") for row in rows]
    labels = [drawing.get("aria-label") for drawing in drawings]
    assert all(drawing.get("role") == "img" for drawing in drawings)
    for number, (text, label) in enumerate(zip(TEXTS, labels, strict=True)):
        assert text in label
        if number == 2:
            assert label.endswith("not found")
            continue
        for said in ("92 % of the frames", "from 0.0 s to 0.7 s of 0.8 s", "key frame at 0.7 s"):
            assert said in label
        assert css_color(number) in {e.get("fill") for e in drawings[number].iter()}


def test_the_row_of_what_is_not_found_is_grey(asked):
    for number, row in enumerate(parse(asked[2].timeline).iter("figure")):
        shapes = list(row.find(".//svg"))
        used = {shape.get(name) for shape in shapes for name in ("fill", "stroke")}
        found = number != 2
        assert row.get("class") == ("found" if found else "missing")
        assert used - {"none", None} == {css_color(number) if found else "#868c96"}
        square = row.find("figcaption/i").get("style")
        assert square == f"background:{css_color(number) if found else 'transparent'}"


def positions(row: ET.Element, kind: str) -> list[float]:
    """Shares of the row's width, 0..1, at which its marks of a kind stand."""
    styles = [mark.get("style") for mark in of_class(row, kind)]
    return [float(re.search(r"left:\s*([\d.]+)%", style)[1]) / 100 for style in styles]


def test_marks_stand_at_their_frames(asked):
    rows = list(parse(asked[2].timeline).iter("figure"))
    for number, row in enumerate(rows):
        ticks = [t / FRAMES for t in sample_frames(FRAMES, 4)]
        assert positions(row, "tick") == pytest.approx(ticks, abs=2e-4)
        key = [] if number == 2 else [11 / FRAMES]
        assert positions(row, "key") == pytest.approx(key, abs=2e-4)
        for mark in of_class(row, "key"):
            assert css_color(number) in mark.get("style")


def curve(row: ET.Element) -> np.ndarray:
    """(P, 2) of the presence: time and presence, both 0..1."""
    _, _, width, height = map(float, row.find(".//svg").get("viewBox").split())
    points = row.find(".//polyline").get("points").split()
    x, y = np.array([point.split(",") for point in points], float).T
    return np.stack([x / width, 1 - y / height], axis=1)


def test_presence_over_time(asked):
    rows = list(parse(asked[2].timeline).iter("figure"))
    expected = [(t / FRAMES, t / (FRAMES - 1)) for t in range(FRAMES)] + [(1, 1)]
    expected[2] = (2 / FRAMES, 0)  # its mask is empty there
    np.testing.assert_allclose(curve(rows[0]), expected, atol=2e-3)
    assert curve(rows[2])[:, 1].max() == 0


def uneven(times) -> VideoPart:
    video = open_video(np.zeros((len(times), *SIZE, 3), np.uint8))
    video.fps, video.timestamps = Fraction(4), tuple(map(Fraction, times))
    return video


def test_the_timeline_follows_uneven_times_from_the_first_picture():
    video = uneven([100, 101, 105, 109])
    assert seconds_of(video) == [0, 1, 5, 9]
    track = make_track(video, "the dog", key_frames=4)
    (row,) = parse(timeline(video, [track])).iter("figure")
    end = 9 + 1 / 4
    assert positions(row, "tick") == pytest.approx([0, 1 / end, 5 / end, 9 / end], abs=1e-4)
    assert "to 9.0 s of 9.2 s" in row.find(".//svg").get("aria-label")  # 9.25, to even


def test_images_get_times_by_a_rate():
    video = open_video(np.zeros((48, *SIZE, 3), np.uint8))
    assert seconds_of(video)[24] == 1
    assert "of 2.0 s" in timeline(video, [make_track(video, "the dog")])


def test_a_long_video_is_drawn_with_few_points():
    count = 3000
    video = open_video(np.broadcast_to(np.zeros(3, np.uint8), (count, *SIZE, 3)))
    masks = MaskSequence.from_masks([square(0, 0)] * count)
    track = Track("x", True, 0.5, 9, (), masks, np.linspace(0, 1, count))
    html = timeline(video, [track])
    (row,) = parse(html).iter("figure")
    points = curve(row)
    assert len(points) <= 501 and len(html) < 20_000
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [1, 1]
    assert (np.diff(points[:, 0]) > 0).all() and np.abs(points[:, 0] - points[:, 1]).max() < 0.01
    bare = Track("x", True, 0.5, 9, (), MaskSequence.empty(count, SIZE), track.presence)
    (row,) = parse(timeline(video, [bare])).iter("figure")
    assert row.find(".//svg").get("aria-label").endswith("no mask in any frame")
    assert curve(row)[:, 1].max() == 0


@pytest.mark.parametrize("seconds", [0.0625, 0.5, 1, 7, 60, 299, 3600])
def test_the_axis_has_a_handful_of_marks(seconds):
    video = uneven([0, Fraction(seconds)])
    video.fps = Fraction(1000)
    tree = parse(timeline(video, [make_track(video, "the dog")]))
    (axis,) = of_class(tree, "axis")
    marks = axis.findall("span")
    assert 1 <= len(marks) <= 31 and marks[0].text == "0 s"
    shown = [float(mark.text.removesuffix(" s")) for mark in marks]
    assert shown == sorted(set(shown)) and shown[-1] <= seconds + 0.001
    end = seconds + 0.001
    for mark, value in zip(marks, shown, strict=True):
        left = float(re.search(r"left:\s*([\d.]+)%", mark.get("style"))[1])
        assert left == pytest.approx(100 * value / end, abs=0.01)
        assert mark.get("class") == ("end" if left > 95 else None)  # or it would stick out


# The pictures


def test_pictures_of_every_candidate_in_the_order_of_the_video(asked):
    pictures = asked[2].pictures
    assert len({path for path, _ in pictures}) == len(pictures) == len(TEXTS) * 4
    for number, text in enumerate(TEXTS):
        for t, (_, said) in zip(
            sample_frames(FRAMES, 4), pictures[4 * number : 4 * number + 4], strict=True
        ):
            assert said.startswith(text) and f"frame {t}" in said
            for part in (f"score {0.3 + t / 50:.2f}", f"confidence {0.5 + t / 100:.2f}"):
                assert part in said
            assert ("★" in said) == (t == 11 and number != 2), said


def test_a_single_expression_is_not_repeated_under_each_picture(clip, tmp_path):
    video = open_video(clip)
    for path, said in gallery(video, [make_track(video, "the dog")], tmp_path, 0.5):
        assert "the dog" not in said and Path(path).parent == tmp_path


@pytest.mark.parametrize(
    ("candidate", "chosen", "has", "lacks"),
    [
        ((7, 0.5, 0.25, 0.75, 0.625), True,
         ["★", "chosen", "frame 7", "score 0.62", "confidence 0.50", "alignment 0.25",
          "presence 0.75"], ["empty"]),
        ((7, 0.5, None, None, 0.5), False,
         ["frame 7", "score 0.50", "confidence 0.50"],
         ["★", "chosen", "alignment", "presence", "None", "empty"]),
        ((0, 0.5, -0.001, 0.0, 0.25), False, ["alignment 0.00", "presence 0.00"], ["-0.00"]),
        ((0, 0.5, -0.3, None, 0.1), False, ["alignment -0.30"], []),
    ],
)  # fmt: skip
def test_captions(candidate, chosen, has, lacks):
    said = caption(Candidate(*candidate, encode_mask(square(0, 0))), chosen)
    assert all(part in said for part in has), said
    assert not any(part in said for part in lacks), said
    assert said == said.strip() and "\n\n" not in said


def test_an_empty_mask_is_told():
    candidate = Candidate(0, 0.5, 0.1, 0.2, 0.3, encode_mask(square(ABSENT, 0)))
    assert "empty mask" in caption(candidate, False)


def ring(path: str, width: int = 2) -> np.ndarray:
    """(P, 3) pixels of the outermost `width` rows and columns."""
    with Image.open(path) as image:
        pixels = np.asarray(image).astype(int)
    inner = np.zeros(pixels.shape[:2], bool)
    inner[width:-width, width:-width] = True
    return pixels[~inner]


def test_the_chosen_frame_is_framed_in_the_colour_of_its_object(asked):
    for n, (path, said) in enumerate(asked[2].pictures):
        color = np.array(object_color(n // 4))
        if "★" in said:
            assert np.abs(ring(path).mean(axis=0) - color).max() < 30
            assert np.abs(ring(path) - color).max(axis=1).mean() < 40
        else:
            assert np.abs(ring(path) - color).max(axis=1).mean() > 90


def test_candidates_of_what_is_not_found_can_be_seen(clip, tmp_path):
    video = open_video(clip)
    pictures = gallery(video, [make_track(video, "a ghost")], tmp_path, 1.0)
    with Image.open(pictures[-1][0]) as image:
        inside = np.asarray(image)[5:10, 30:40].mean((0, 1))
    assert np.abs(inside - object_color(0)).max() < 12


def test_large_pictures_are_made_smaller_and_masks_with_them(tmp_path):
    size = (400, 1600)
    video = open_video(np.full((1, *size, 3), 90, np.uint8))
    mask = np.zeros(size, bool)
    mask[100:300, 800:1200] = True
    candidate = Candidate(0, 0.5, None, None, 0.5, encode_mask(mask))
    masks = MaskSequence.from_masks([mask])
    track = Track("x", True, 0.5, 0, (candidate,), masks, np.ones(1))
    ((path, _),) = gallery(video, [track], tmp_path, 1.0)
    with Image.open(path) as image:
        assert image.size == (640, 160)
        pixels = np.asarray(image).astype(int)
    painted = np.abs(pixels - object_color(0)).max(axis=-1) < 60
    expected = np.zeros((160, 640), bool)
    expected[40:120, 320:480] = True
    inner = painted[8:-8, 8:-8]
    assert (inner == expected[8:-8, 8:-8]).mean() > 0.99


def test_a_track_without_candidates_has_no_pictures(clip, tmp_path):
    video = open_video(clip)
    track = make_track(video, "a ghost")
    bare = Track("a ghost", False, None, None, (), track.masks, track.presence)
    assert gallery(video, [bare], tmp_path, 0.5) == []
    assert positions(next(parse(timeline(video, [bare])).iter("figure")), "tick") == []


# The model


@pytest.fixture(scope="module")
def parts():
    """A small random model with its processor."""
    return tiny(presence_threshold=0.25, num_key_frames=3)


@pytest.fixture
def real(parts, monkeypatch):
    loaded = []
    monkeypatch.setattr(segmenter_module, "load_model", lambda *a: loaded.append(a) or parts)
    segmenter = Segmenter("some/model", "cpu")
    assert loaded == [("some/model", "cpu")]
    return segmenter


def test_a_real_model_answers_a_request(real, clip, tmp_path):
    assert (real.key_frames, real.threshold) == (3, 0.25)
    options = Options(2, 0, 0, 0.25, 0.5)
    *steps, last = ask(clip, tmp_path, "the dog\nthe cat", real, options)
    assert {step.stage for step in steps} >= {"read"}
    direct = real.model.segment(
        VideoPart(open_video(clip), 0, 4),
        ["the dog", "the cat"],
        processor=real.processor,
        key_frames=2,
        threshold=0,
    )
    assert all(track.found and track.masks.areas().any() for track in direct)
    expected = to_result(VideoPart(open_video(clip), 0, 4), direct, model="some/model")
    assert last.result == expected | {"part": {"first_frame": 0, "start": 0}}
    with zipfile.ZipFile(last.files[0]) as file:
        for number, track in enumerate(direct):
            for t, mask in enumerate(track.masks):
                with Image.open(io.BytesIO(file.read(f"masks/{number}/{t:05d}.png"))) as image:
                    np.testing.assert_array_equal(np.asarray(image), mask * 255)


def test_the_threshold_reaches_the_model(real, clip, tmp_path):
    *_, last = ask(clip, tmp_path, "the dog", real, Options(1, 1, 0, 0.1, 0.5))
    assert last.missing == ["the dog"]
    assert "not found; " in last.verdict


def test_stopping_reaches_the_model(real):
    before, video = set(threading.enumerate()), open_video(moving_square(40))
    steps = real.segment(video, ["the dog"], 2, 0)
    assert next(steps).stage == "find"
    steps.close()
    assert set(threading.enumerate()) <= before
    kinds = [type(event) for event in real.segment(video, ["the dog"], 1, 1)]
    assert kinds[-1] is Result, "the next request is answered"


@pytest.mark.parametrize(
    ("presence", "score", "expected"),
    [(0.7, None, 0.7), (None, 0.3, 0.3), (None, None, 0.0), (0.7, 0.3, 0.7)],
)
def test_the_page_starts_with_the_thresholds_of_the_model(
    presence, score, expected, parts, monkeypatch
):
    monkeypatch.setattr(segmenter_module, "load_model", lambda *_: parts)
    monkeypatch.setattr(parts[0].config, "presence_threshold", presence)
    monkeypatch.setattr(parts[0].config, "score_threshold", score)
    assert Segmenter("x").threshold == expected


def test_the_gpu_is_asked_for_as_long_as_the_request_is_large():
    def seconds(frames, count, key_frames=5, parameters=1e9):
        return estimated_seconds(frames, count, key_frames, parameters)

    assert 1 <= seconds(1, 1) < seconds(100, 1) < seconds(100, 4) < seconds(100, 4, 20)
    assert seconds(100, 4, parameters=2e7) < seconds(100, 4)
    assert type(seconds(10, 1)) is int


def test_a_lent_gpu_is_asked_for_the_time_of_the_request(parts, monkeypatch, clip):
    """As ZeroGPU calls it: the function's own arguments give the duration."""
    asked = []

    def lend(function, duration):
        def lent(*given):
            asked.append(duration(*given))
            yield from function(*given)

        return lent

    zero = SimpleNamespace(GPU=lend, config=SimpleNamespace(Config=SimpleNamespace(zero_gpu=True)))
    monkeypatch.setattr(segmenter_module, "spaces", zero)
    monkeypatch.setattr(segmenter_module, "load_model", lambda *_: parts)
    segmenter, video = Segmenter("x"), open_video(clip)
    assert segmenter.shared_gpu
    parameters = segmenter.model.num_parameters()
    # Meanwhile `spaces` has put the weights away, and may refuse to be asked about them.
    monkeypatch.setattr(segmenter.model, "num_parameters", None)
    *_, last = segmenter.segment(video, ["the dog", "the cat"], 2, 0)
    assert len(last.value) == 2
    assert asked == [estimated_seconds(video.num_frames, 2, 2, parameters)]


def test_more_than_a_gpu_is_lent_for_is_refused_before(clip, tmp_path):
    stub = Stub()
    stub.shared_gpu = True
    request = {"text": "a\nb", "segmenter": stub, "options": Options(3, 0.5, 0, 0, 0.5)}
    seconds = FRAMES * 2 * 3
    *_, last = ask(clip, tmp_path, **request, limits=Limits(max_gpu_seconds=seconds))
    assert isinstance(last, Answer)
    stub.asked.clear()
    limits = Limits(max_gpu_seconds=seconds - 1)
    message = f"about {seconds} s of GPU time: at most {seconds - 1} s; choose a shorter part"
    with pytest.raises(RequestError, match=message):
        list(ask(clip, tmp_path, **request, limits=limits))
    assert not stub.asked
    stub.shared_gpu = False
    (tmp_path / "again").mkdir()
    *_, last = ask(clip, tmp_path / "again", **request, limits=limits)
    assert isinstance(last, Answer)
