"""Putting a result in place: all of it or nothing, whatever comes between."""

import os
import signal
import threading
from pathlib import Path

import pytest

from modeling_findtrack import output_folder
from modeling_findtrack.output_folder import OutputFolder

NEW = {"a.json": "new", "result.json": "new", "b": "new"}
OLD = {"a.json": "old", "result.json": "old", "c.json": "old", "d": {"x": "old"}, "notes": "mine"}


def write(folder: Path, content: dict) -> None:
    for name, value in content.items():
        if isinstance(value, dict):
            (folder / name).mkdir()
            write(folder / name, value)
        else:
            (folder / name).write_text(value)


def read(folder: Path) -> dict:
    return {p.name: read(p) if p.is_dir() else p.read_text() for p in sorted(folder.iterdir())}


def open_folder(path: Path) -> OutputFolder:
    return OutputFolder(path, ("*.json", "d"), lambda folder: (folder / "result.json").exists())


@pytest.fixture
def earlier(tmp_path) -> Path:
    """An earlier result, with a file of someone else's."""
    out = tmp_path / "out"
    out.mkdir()
    write(out, OLD)
    return out


def at_move(number: int, do, monkeypatch) -> None:
    """Call `do` instead of the move with this number."""
    moves, replace = [], os.replace

    def counted(source, target):
        moves.append(target)
        if len(moves) == number:
            do()
        return replace(source, target)

    monkeypatch.setattr(output_folder.os, "replace", counted)


def test_an_earlier_result_is_replaced(earlier):
    with open_folder(earlier) as folder:
        write(folder, NEW)
    assert read(earlier) == {**NEW, "notes": "mine"}


# Four entries go (a.json, c.json, d, result.json), three come.
@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_what_cannot_be_moved_leaves_things_as_they_were(error, number, earlier, monkeypatch):
    def fail():
        raise error

    with pytest.raises(type(error)), open_folder(earlier) as folder:
        write(folder, NEW)
        at_move(number, fail, monkeypatch)
    assert read(earlier) == OLD


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_comes_too_late_while_a_result_is_put_in_place(
    number, exists, earlier, tmp_path, monkeypatch
):
    """To end there would say that nothing was written, or leave a half."""

    class InterruptError(Exception):
        pass

    def interrupt(*_):
        raise InterruptError

    out = earlier if exists else tmp_path / "other"
    before = signal.signal(number, interrupt)
    try:
        with open_folder(out) as folder:
            write(folder, NEW)
            at_move(5 if exists else 1, lambda: os.kill(os.getpid(), number), monkeypatch)
        assert read(out) == ({**NEW, "notes": "mine"} if exists else NEW)
        assert signal.getsignal(number) is interrupt
        with pytest.raises(InterruptError):
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)


def test_a_thread_leaves_signals_alone(earlier):
    before = signal.getsignal(signal.SIGINT)

    def work():
        with open_folder(earlier) as folder:
            write(folder, NEW)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert read(earlier) == {**NEW, "notes": "mine"}
    assert signal.getsignal(signal.SIGINT) is before


def test_a_kill_leaves_no_false_promise(earlier, monkeypatch):
    """At every moment: with result.json there, all is old or all is new."""
    seen = []
    replace = output_folder.os.replace

    def watch(source, target):
        replace(source, target)
        names = {name: text for name, text in read(earlier).items() if ".partial-" not in name}
        seen.append(names)

    monkeypatch.setattr(output_folder.os, "replace", watch)
    with open_folder(earlier) as folder:
        write(folder, NEW)
    assert len(seen) == 7
    assert [names for names in seen if "result.json" in names] == [{**NEW, "notes": "mine"}]
