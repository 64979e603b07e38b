"""Examples: which requests are one, and that their answers are kept whole or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest

from space.answer import Answer
from space.background import Step
from space.example_answers import ExampleAnswers
from space.intake import Options

DEFAULT = Options(5, 0.7, 0, 0, 0.45)


@pytest.fixture
def answers(tmp_path) -> ExampleAnswers:
    examples = []
    for name, data in (("a.mp4", b"first"), ("b.mp4", b"other")):
        (tmp_path / name).write_bytes(data)
        examples.append((tmp_path / name, "the swan\nthe sheep"))
    return ExampleAnswers(examples, DEFAULT)


def test_an_example_is_known_by_what_is_in_the_file(answers, tmp_path):
    upload = tmp_path / "whatever.mp4"
    upload.write_bytes(b"other")
    assert answers.match(str(upload), "the swan\nthe sheep", DEFAULT) == answers.examples[1]
    upload.write_bytes(b"0ther")  # as long
    assert answers.match(str(upload), "the swan\nthe sheep", DEFAULT) is None


@pytest.mark.parametrize(
    ("video", "text", "options"),
    [
        (None, "the swan\nthe sheep", DEFAULT),
        ("", "the swan\nthe sheep", DEFAULT),
        ("gone.mp4", "the swan\nthe sheep", DEFAULT),
        ("a\0.mp4", "the swan\nthe sheep", DEFAULT),
        ("a" * 5000, "the swan\nthe sheep", DEFAULT),
        ("a.mp4", "the swan", DEFAULT),
        ("a.mp4", None, DEFAULT),
        *(
            ("a.mp4", "the swan\nthe sheep", replace(DEFAULT, **{name: value}))
            for name, value in {
                "key_frames": 6, "threshold": 0.6, "start": 1, "end": 1, "opacity": 0.5
            }.items()
        ),
    ],
)  # fmt: skip
def test_other_requests_are_no_example(answers, tmp_path, video, text, options):
    assert answers.match(video and str(tmp_path / video), text, options) is None


def answer(folder: Path) -> Answer:
    (folder / "overlay.mp4").write_bytes(b"x")
    return Answer(str(folder / "overlay.mp4"), "", [], "", [], {}, [])


def work(folder: Path):
    yield Step("find", 1, 2)
    yield answer(folder)


def test_an_answer_is_kept(answers):
    example = answers.examples[0]
    assert answers.get(example) is None
    *steps, last = answers.compute(example, work)
    assert steps == [Step("find", 1, 2)]
    assert answers.get(example) is last and Path(last.overlay).is_file()
    assert answers.get(answers.examples[1]) is None and answers.get(None) is None


def test_an_answer_stays_whole_if_nobody_waits_for_the_end(answers):
    """As when the page is closed in the moment of its answer."""
    steps = answers.compute(answers.examples[0], work)
    next(steps), next(steps)
    steps.close()
    assert Path(answers.get(answers.examples[0]).overlay).is_file()


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "cancelled"])
def test_work_that_does_not_end_leaves_nothing(answers, fails):
    folders, stopped = [], []

    def half(folder: Path):
        folders.append(folder)
        try:
            yield Step("find", 1, 2)
            if fails:
                raise ValueError
        finally:  # work takes its time to stop; until then it may write
            (folder / "overlay.mp4").write_bytes(b"x")
            stopped.append(folder)

    steps = answers.compute(answers.examples[0], half)
    next(steps)
    if fails:
        with pytest.raises(ValueError):
            next(steps)
    else:
        steps.close()
    assert (
        stopped == folders and not folders[0].exists() and answers.get(answers.examples[0]) is None
    )
