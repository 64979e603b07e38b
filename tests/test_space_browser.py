"""The demo app as a visitor meets it, in headless Chromium.

Every page is watched: an error on its console or a request to anywhere else fails its test.
Pictures of its states are kept in `FINDTRACK_ARTIFACTS`, by default in `outputs/space-screenshots`.
"""

import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.demo import SAMPLE
from modeling_findtrack.drawing import object_color
from tests.space_server import FPS, PATIENCE, ROOT, files_in, needs_space, wait_until, write_clip

pytest_plugins = ["tests.space_server"]

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [needs_space, pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")]

ARTIFACTS = Path(os.environ.get("FINDTRACK_ARTIFACTS") or ROOT / "outputs" / "space-screenshots")
DESKTOP, PHONE = (1280, 900), (390, 844)
SWAN, SHEEP, ABSENT = "the leftmost swan", "the sheep", "the car"
LONG_WORK = "\n".join(["the leftmost swan", "the sheep", "the rightmost swan", "the swan"] * 2)
CONTROLS = {"button", "checkbox", "combobox", "link", "slider", "spinbutton", "textbox"}


@pytest.fixture(scope="module")
def browser():
    """Not longer than this file: while Playwright runs, nobody else can start an event loop."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server"]
    # A camera that shows a clock, and nobody has to be asked for it.
    arguments += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def wrong() -> list[str]:
    """What went wrong on the pages of a test."""
    return []


@pytest.fixture
def visit(browser, space_server, wrong) -> Iterator[Callable]:
    """Opens the page; nothing it does may go wrong, nor go elsewhere."""

    def watch(page) -> None:
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        page.on("response", lambda r: r.status >= 400 and wrong.append(f"{r.status}: {r.url}"))
        ours = (f"{space_server.url}/", "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(ours) or wrong.append(f"outside: {r.url}"))

    def open_page(size: tuple[int, int] = DESKTOP, theme: str = "light"):
        width, height = size
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE * 1000)
        watch(page)
        page.goto(f"{space_server.url}/?__theme={theme}")
        page.wait_for_selector("#find")
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert not wrong


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Half a second of the sample."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 8)


def upload(page, file: Path) -> None:
    if page.locator("#video video").count():  # another one was there
        page.click("#video [aria-label=Clear]")
    page.set_input_files("#video input[type=file]", file)
    page.wait_for_selector("#video video", state="attached")


def start(page, text: str) -> None:
    page.fill("#expressions textarea", text)
    page.click("#find")


def wait_for_answer(page, text: str) -> None:
    """Returns when the answer about the lines of `text` is all there."""
    lines = text.splitlines()
    page.wait_for_function(
        """lines => {
            const told = [...document.querySelectorAll("#verdict li b")].map(b => b.innerText);
            return JSON.stringify(told) == JSON.stringify(lines);
        }""",
        arg=lines,
    )
    page.wait_for_selector("#overlay video")
    page.wait_for_function(  # what is far down is else not loaded before someone scrolls there
        """() => {
            const pictures = [...document.querySelectorAll("#pictures img")];
            pictures.forEach(picture => { picture.loading = "eager"; });
            return pictures.length && pictures.every(picture => picture.naturalWidth);
        }"""
    )
    wait_until_idle(page)


def wait_until_idle(page) -> None:
    page.wait_for_selector("#cancel", state="hidden")
    page.wait_for_selector("#find:not([disabled])")
    page.wait_for_selector(".progress-line", state="hidden")


def check_it_plays(page) -> None:
    video = "document.querySelector('#overlay video')"
    page.wait_for_function(f"{video}.readyState >= 3")
    now = page.evaluate(f"{video}.currentTime")
    page.wait_for_function(f"now => {video}.currentTime != now", arg=now)  # it loops
    assert page.evaluate(f"{video}.videoWidth") > 0


def wait_for_toast(page, said: str) -> str:
    """The message that has `said` in it; Gradio may show others."""
    toast = page.locator(".toast-body", has_text=said).last
    toast.wait_for()
    return toast.inner_text()


# An answer


def test_an_upload_is_answered(visit, clip, reference):
    page = visit()
    upload(page, clip)
    start(page, f"{SWAN}\n{SHEEP}")
    wait_for_answer(page, f"{SWAN}\n{SHEEP}")
    check_it_plays(page)
    tracks = reference(clip, f"{SWAN}\n{SHEEP}")
    assert all(track.found for track in tracks)
    check_the_pictures(page, tracks)
    rows = page.locator("#timeline svg")
    assert rows.count() == len(tracks)
    for number, track in enumerate(tracks):
        assert track.expression in rows.nth(number).get_attribute("aria-label")
        box = rows.nth(number).bounding_box()
        assert box["width"] > 200 and box["height"] > 20
    assert page.locator("#timeline .key").count() == len(tracks)
    names = page.eval_on_selector_all(
        "#files .filename", "cells => cells.map(cell => cell.getAttribute('aria-label'))"
    )
    assert names == ["masks.zip", "masks-coco-rle.json", "matte-0.mp4", "matte-1.mp4"]


def check_the_pictures(page, tracks) -> None:
    """Every candidate in order; the chosen ones, and no others, with a star and a frame."""
    expected = [
        (track.expression, candidate.frame, candidate.frame == track.key_frame, number)
        for number, track in enumerate(tracks)
        for candidate in track.candidates
    ]
    pictures = page.locator("#pictures img")
    assert pictures.count() == len(expected)
    for image, (expression, frame, chosen, number) in zip(pictures.all(), expected, strict=True):
        caption = image.get_attribute("alt")
        assert expression in caption and f"frame {frame}" in caption
        assert ("★" in caption) == chosen
        reply = page.request.get(image.get_attribute("src"))
        edge = np.asarray(Image.open(io.BytesIO(reply.body())).convert("RGB"))[1].astype(int)
        framed = np.abs(edge - np.array(object_color(number))).max() < 60  # it is a JPEG
        assert framed == chosen


def test_what_is_not_there_is_said_to_be_missing(visit, clip):
    page = visit()
    upload(page, clip)
    start(page, ABSENT)
    wait_for_toast(page, f"Not found: “{ABSENT}”")
    wait_for_answer(page, ABSENT)
    assert page.locator("#verdict li.missing").count() == 1
    assert "not found; the best candidates were frame" in page.inner_text("#verdict")
    assert page.locator("#timeline .key").count() == 0
    assert "★" not in page.inner_text("#pictures")
    check_it_plays(page)


def test_an_unusable_file_is_explained_and_the_next_one_works(visit, clip, tmp_path, space_server):
    page = visit()
    text = tmp_path / "video.mp4"
    text.write_text("This is no video.\n" * 20)
    upload(page, text)
    start(page, SWAN)
    said = wait_for_toast(page, "This is not a video that can be read")
    assert str(space_server.files) not in said and "Traceback" not in said
    wait_until_idle(page)
    assert page.locator("#overlay video").count() == 0
    upload(page, clip)
    start(page, SWAN)
    wait_for_answer(page, SWAN)
    check_it_plays(page)


def test_what_is_missing_in_a_request_is_explained(visit):
    page = visit()
    page.click("#find")
    wait_for_toast(page, "No text: say what to look for")
    wait_until_idle(page)
    start(page, SWAN)
    wait_for_toast(page, "No video: upload or record one")
    wait_until_idle(page)


def wait_for_step(page) -> None:
    """Returns when the model has something to say."""
    page.locator(".progress-line", has_text=re.compile("Finding|Tracking")).wait_for()


def test_cancel_stops_the_work(visit, clip, space_server, tmp_path):
    page = visit()
    # Long enough to be far from its end when the click comes, however busy the machine.
    upload(page, write_clip(tmp_path / "long.mp4", 240))
    start(page, LONG_WORK)
    wait_for_step(page)
    (folder,) = space_server.request_folders()
    written = set()

    def gone() -> bool:
        written.update(path.name for path in files_in(folder / "results"))
        return not folder.exists()

    page.click("#cancel")
    wait_until(gone, "the cancelled request has no folder", every=0.01)
    assert not written  # work that goes on unseen would have come to the masks
    wait_until_idle(page)
    assert page.locator("#overlay video").count() == 0
    upload(page, clip)
    start(page, SHEEP)
    wait_for_answer(page, SHEEP)


def test_the_button_works_as_soon_as_it_can_be_pressed_after_cancel(visit, clip):
    page = visit()
    upload(page, SAMPLE / "sample.mp4")
    start(page, LONG_WORK)
    wait_for_step(page)
    page.click("#cancel")
    page.wait_for_selector("#cancel", state="hidden")
    start(page, SHEEP)
    wait_for_answer(page, SHEEP)


def test_who_waits_sees_it_and_can_cancel(visit, clip, space_server, tmp_path):
    first, second = visit(), visit()
    upload(first, write_clip(tmp_path / "long.mp4", 240))
    start(first, LONG_WORK)
    wait_for_step(first)
    (busy,) = space_server.request_folders()
    upload(second, clip)
    start(second, SHEEP)
    second.locator(".progress-line", has_text="Waiting for its turn").wait_for()
    second.locator("#status", has_text="queue: 1/1").wait_for()
    assert second.is_disabled("#find")
    watch_answers(second)
    second.click("#cancel")
    wait_until_idle(second)
    first.click("#cancel")  # now it would be the second one's turn
    wait_until(lambda: not busy.exists(), "the first one's work is over")
    wait_until_idle(first)
    upload(first, clip)
    start(first, SWAN)
    wait_for_answer(first, SWAN)
    start(second, SWAN)
    wait_for_answer(second, SWAN)
    assert SHEEP not in answers_seen(second)


def test_who_waits_is_answered_when_the_work_before_is_cancelled(visit, clip, tmp_path):
    first, second = visit(), visit()
    upload(first, write_clip(tmp_path / "long.mp4", 240))
    start(first, LONG_WORK)
    wait_for_step(first)
    upload(second, clip)
    start(second, f"{SWAN}\n{SHEEP}")
    second.locator("#status", has_text="queue: 1/1").wait_for()
    first.click("#cancel")
    wait_for_answer(second, f"{SWAN}\n{SHEEP}")
    wait_until_idle(first)
    assert first.locator("#verdict li").count() == 0
    upload(first, clip)
    start(first, ABSENT)
    wait_for_answer(first, ABSENT)


def watch_answers(page) -> None:
    """From now on, for `answers_seen`."""
    page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(
                () => seen.push(document.querySelector("#verdict")?.innerText ?? "")
            ).observe(document.body, {subtree: true, childList: true, characterData: true});
        }"""
    )


def answers_seen(page) -> str:
    """All that was said of objects since `watch_answers`."""
    return "\n".join(page.evaluate("seen"))


def test_cancel_before_the_queue_has_the_request(visit, clip):
    """As on a slow line."""
    page = visit()
    upload(page, clip)
    held = []
    page.route(
        "**/gradio_api/queue/join*",
        lambda route: route.continue_() if held else held.append(route),
    )
    start(page, SHEEP)
    page.wait_for_selector("#cancel")
    wait_until(lambda: page.wait_for_timeout(100) or held, "the request is on its way")
    page.click("#cancel")
    page.wait_for_selector("#cancel", state="hidden")
    watch_answers(page)
    held[0].continue_()
    start(page, SWAN)  # its turn is after that of the cancelled one
    wait_for_answer(page, SWAN)
    assert SWAN in answers_seen(page) and SHEEP not in answers_seen(page)


def test_a_request_that_the_queue_refuses_can_be_made_again(visit, clip, wrong):
    """As when it is full."""
    page = visit()
    upload(page, clip)
    full = {"status": 503, "json": {"detail": "Queue is full."}}
    page.route("**/gradio_api/queue/join*", lambda route: route.fulfill(**full))
    start(page, SHEEP)
    wait_for_toast(page, "busy")
    wait_until_idle(page)
    assert wrong and all("503" in said for said in wrong)
    wrong.clear()
    page.unroute("**/gradio_api/queue/join*")
    start(page, SWAN)
    wait_for_answer(page, SWAN)


def choose_example(page, number: int) -> None:
    page.click(f".tr-body >> nth={number}")


def test_an_example_chosen_at_work_takes_its_place(visit, clip, tmp_path):
    page = visit()
    upload(page, write_clip(tmp_path / "long.mp4", 240))
    start(page, LONG_WORK)
    wait_for_step(page)
    watch_answers(page)
    for number, word in ((1, "helmet"), (2, "spoon")):
        choose_example(page, number)
        page.wait_for_function(
            "word => document.querySelector('#expressions textarea').value.includes(word)", arg=word
        )
    wait_for_answer(page, page.input_value("#expressions textarea"))
    seen = answers_seen(page)
    assert "spoon" in seen and "swan" not in seen


def test_an_example_is_computed_once_and_then_there_at_once(visit, space_server, tmp_path):
    page = visit()
    page.click("#options button")
    page.get_by_label("Start").fill("2")  # an example is asked for with the options of the start
    choose_example(page, 0)
    wait_for_step(page)
    assert page.is_disabled("#find")
    text = page.input_value("#expressions textarea")
    wait_for_answer(page, text)
    assert page.get_by_label("Start").input_value() == "0"
    check_it_plays(page)
    assert page.locator("#verdict li.found").count() >= 1
    kept = {path: path.stat().st_mtime_ns for path in space_server.kept_answers()}
    told = page.inner_text("#verdict")
    assert kept
    upload(page, write_clip(tmp_path / "long.mp4", 240))
    start(page, LONG_WORK)
    wait_for_step(page)
    other = visit()
    choose_example(other, 0)
    wait_for_answer(other, text)
    check_it_plays(other)
    assert page.is_visible("#cancel")  # the model is still busy with the other page
    page.click("#cancel")
    assert other.inner_text("#verdict") == told
    assert kept == {path: path.stat().st_mtime_ns for path in space_server.kept_answers()}


def test_emptied_numbers_are_the_whole_video(visit, clip):
    page = visit()
    upload(page, clip)
    page.click("#options button")
    for label in ("Start", "End"):
        page.get_by_label(label).fill("")
    start(page, SHEEP)
    wait_for_answer(page, SHEEP)


def test_a_part_before_the_start_is_explained(visit, clip):
    page = visit()
    upload(page, clip)
    page.click("#options button")
    page.get_by_label("Start").fill("-1")
    start(page, SHEEP)
    wait_for_toast(page, "Start is -1: give a number from 0")
    wait_until_idle(page)


def test_a_recording_is_answered(visit):
    page = visit()
    page.click("#video [aria-label='Capture from camera']")
    page.click("#video [title='grant webcam access'] button")
    page.click("#video [title='start recording']")
    page.wait_for_selector("#video [title='stop recording']")
    shown = (
        "document.querySelector('[data-testid=webcam-video]')"
        ".getVideoPlaybackQuality().totalVideoFrames"
    )
    page.wait_for_function(f"{shown} >= {page.evaluate(shown) + FPS}")
    page.click("#video [title='stop recording']")
    page.wait_for_selector("#video video:not([data-testid=webcam-video])", state="attached")
    start(page, ABSENT)
    wait_for_answer(page, ABSENT)
    check_it_plays(page)
    assert page.evaluate("document.querySelector('#overlay video').videoWidth") == 1280


# How it looks and who can use it


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_state_fits_its_screen(visit, size, theme, tmp_path):
    clip = write_clip(tmp_path / "swans.mp4", 16, size=(240, 320))
    page = visit(size, theme)
    name = f"{'desktop' if size == DESKTOP else 'phone'}-{theme}"
    picture = check_and_keep(page, f"{name}-1-start")
    assert (np.median(picture) < 80) == (theme == "dark")
    upload(page, clip)
    start(page, LONG_WORK)
    page.wait_for_selector(".progress-line [role=progressbar]:not([aria-valuenow='0'])")
    check_and_keep(page, f"{name}-2-working")
    page.click("#cancel")
    page = visit(size, theme)
    upload(page, clip)
    start(page, f"{SWAN}\n{SHEEP}")
    wait_for_answer(page, f"{SWAN}\n{SHEEP}")
    check_it_plays(page)
    check_and_keep(page, f"{name}-3-result")
    start(page, ABSENT)
    wait_for_answer(page, ABSENT)
    check_it_plays(page)
    check_and_keep(page, f"{name}-4-not-found")


def check_and_keep(page, name: str) -> np.ndarray:
    """Nothing sticks out to the side; a picture of the whole page, (H, W), stays as an artifact."""
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True, animations="disabled")
    return np.asarray(Image.open(ARTIFACTS / f"{name}.png").convert("L"))


def test_the_keyboard_is_enough(visit, clip):
    page = visit()
    upload(page, clip)

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert page.evaluate(outline) != "none"
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#expressions textarea")
    page.keyboard.type(SWAN)
    tab_to("#find")
    page.keyboard.press("Enter")
    wait_for_answer(page, SWAN)


def test_everything_has_a_name(visit, clip):
    """What a screen reader says: of pictures their text, of controls what Chromium computes."""
    page = visit()
    page.click("#options button")
    page.wait_for_selector("#options input[type=range]")
    check_names(page)
    upload(page, clip)
    start(page, f"{SWAN}\n{ABSENT}")
    wait_for_answer(page, f"{SWAN}\n{ABSENT}")
    check_names(page)


def check_names(page) -> None:
    silent = page.eval_on_selector_all("img:not([alt])", "images => images.map(i => i.outerHTML)")
    assert not silent
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if not node["ignored"] and node["role"]["value"] in CONTROLS]
    assert {"textbox", "button", "slider"} <= {node["role"]["value"] for node in controls}
    assert not [node for node in controls if not node.get("name", {}).get("value", "").strip()]


# What is left


def test_nothing_of_an_answer_is_left(visit, clip, space_server):
    page = visit()
    upload(page, clip)
    start(page, SWAN)
    wait_for_answer(page, SWAN)
    page.close()  # or its video would be missed
    space_server.let_files_age()
    assert space_server.leftovers() == []
