"""What the page does with requests that nobody waits for any more."""

import asyncio
from types import SimpleNamespace

import pytest

gr = pytest.importorskip("gradio", reason="gradio is not installed")

from space.answer import Answer  # noqa: E402
from space.background import Step  # noqa: E402
from space.limits import Limits  # noqa: E402
from space.page import Page, _hero  # noqa: E402

OPTIONS = (5, 0.7, 0, 0, 0.45)
VISITOR = SimpleNamespace(session_hash="visitor")
ANSWER = Answer("overlay.mp4", "<ul></ul>", [], "", [], {}, [])


@pytest.fixture
def page() -> Page:
    segmenter = SimpleNamespace(name="x", key_frames=5, threshold=0.7, shared_gpu=False)
    return Page(segmenter, Limits())


def show(page, ticket, steps, monkeypatch) -> list[tuple]:
    """All that `show` yields while `steps` are what is answered."""
    monkeypatch.setattr(page, "_answers", lambda *_: steps)

    async def use():
        return [e async for e in page.show(ticket, "clip.mp4", "a dog", *OPTIONS, VISITOR)]

    return asyncio.run(use())


def test_who_waits_gets_the_answer_and_is_forgotten(page, monkeypatch):
    ticket, *_ = page.ask(VISITOR)
    *_, last = show(page, ticket, iter_steps(Step("find", 1, 2), ANSWER), monkeypatch)
    assert last[3] == "overlay.mp4" and not page._wanted


def test_who_asked_again_or_gave_up_gets_nothing(page, monkeypatch):
    first, *_ = page.ask(VISITOR)
    second, *_ = page.ask(VISITOR)
    assert show(page, first, iter_steps(ANSWER), monkeypatch) == []
    page.give_up(VISITOR)
    assert show(page, second, iter_steps(ANSWER), monkeypatch) == []


def test_an_error_is_told_to_who_waits_for_it_alone(page, monkeypatch):
    """The page takes an error for the end of what it waits for."""

    def fails(meanwhile):
        yield Step("find", 1, 2)
        meanwhile()
        raise gr.Error("no")

    ticket, *_ = page.ask(VISITOR)
    with pytest.raises(gr.Error):
        show(page, ticket, fails(lambda: None), monkeypatch)
    assert not page._wanted
    ticket, *_ = page.ask(VISITOR)
    assert len(show(page, ticket, fails(lambda: page.ask(VISITOR)), monkeypatch)) == 1
    assert list(page._wanted) == ["visitor"] and page._wanted["visitor"] != ticket


def test_a_closed_page_is_forgotten(page, monkeypatch):
    ticket, *_ = page.ask(VISITOR)
    monkeypatch.setattr(page, "_answers", lambda *_: iter_steps(Step("find", 1, 2), ANSWER))

    async def use():
        events = page.show(ticket, "clip.mp4", "a dog", *OPTIONS, VISITOR)
        await anext(events)
        await events.aclose()

    asyncio.run(use())
    assert not page._wanted


def test_what_is_said_of_a_model_is_of_that_model():
    assert "emoji" in _hero("findtrack-tiny")
    assert not [name for name in ("findtrack-small", "someone/tiny") if "emoji" in _hero(name)]


def iter_steps(*steps):
    yield from steps
