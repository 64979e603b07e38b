"""Long work as steps: in order, only the newest reported, and stopped when nobody waits."""

import asyncio
import threading
import time
from contextlib import aclosing, closing
from contextvars import ContextVar

import pytest

from space import background
from space.background import Result, Step, Stopped, in_background, in_steps

LONG = 20  # seconds that no test may last


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def at_once(monkeypatch):
    """Reports come as they are; the real pace has tests of its own."""
    monkeypatch.setattr(background, "EVERY", 0.001)


def handshake(count: int):
    """Work of `count` steps and a function that lets it take the next one."""
    turn = threading.Semaphore(0)

    def work(progress):
        for i in range(count):
            assert turn.acquire(timeout=LONG)
            progress("find", i + 1, count)
        assert turn.acquire(timeout=LONG)
        return "done"

    return work, turn.release


def test_steps_come_in_order_and_the_result_last(at_once):
    work, proceed = handshake(5)
    seen = []
    with closing(in_steps(work)) as steps:
        for _ in range(6):
            proceed()
            seen.append(next(steps))
        assert next(steps, None) is None
    assert seen == [*(Step("find", i, 5) for i in range(1, 6)), Result("done")]


@pytest.mark.parametrize("value", [None, 0, [1, 2], Step("find", 1, 1), ValueError("as a value")])
def test_work_without_progress_gives_its_result_alone(value):
    (event,) = in_steps(lambda progress: value)
    assert isinstance(event, Result) and event.value is value


def test_only_the_newest_step_is_reported(at_once):
    go, paused, finish = threading.Event(), threading.Event(), threading.Event()

    def work(progress):
        progress("find", 1, 100)
        assert go.wait(LONG)
        for i in range(2, 101):
            progress("track" if i > 50 else "find", i, 100)
        paused.set()
        assert finish.wait(LONG)
        return 7

    steps = in_steps(work)
    assert next(steps) == Step("find", 1, 100)
    go.set()
    assert paused.wait(LONG)
    assert next(steps) == Step("track", 100, 100)
    finish.set()
    assert list(steps) == [Result(7)]


def test_the_result_overtakes_steps_that_nobody_saw(at_once):
    go, worker = threading.Event(), []

    def work(progress):
        worker.append(threading.current_thread())
        progress("find", 1, 3)
        assert go.wait(LONG)
        progress("find", 2, 3)
        progress("find", 3, 3)
        return "done"

    steps = in_steps(work)
    assert next(steps) == Step("find", 1, 3)
    go.set()
    worker[0].join(LONG)
    assert list(steps) == [Result("done")]


def test_reports_keep_a_distance(monkeypatch):
    """A page that is told of each of 1800 frames would do nothing else."""
    monkeypatch.setattr(background, "EVERY", 0.05)

    began, steps = time.monotonic(), []

    def work(progress):
        while len(steps) < 3 and time.monotonic() - began < LONG:
            progress("track", 1, 200)
            time.sleep(0.001)

    steps.extend(in_steps(work))
    assert 3 <= len(steps) - 1 <= (time.monotonic() - began) / 0.05 + 1


def test_the_result_does_not_wait_for_its_turn(monkeypatch):
    monkeypatch.setattr(background, "EVERY", LONG)
    began, go = time.monotonic(), threading.Event()

    def work(progress):
        progress("find", 1, 1)
        assert go.wait(LONG)
        return 7

    steps = in_steps(work)
    assert next(steps) == Step("find", 1, 1)
    go.set()
    assert list(steps) == [Result(7)]
    assert time.monotonic() - began < LONG / 2


class Odd(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("error", [ValueError("no"), MemoryError(), KeyboardInterrupt(), Odd("x")])
def test_what_the_work_raises_is_raised_here(error, after, at_once):
    turn = threading.Semaphore(0)

    def work(progress):
        for i in range(after):
            progress("find", i + 1, after)
            assert turn.acquire(timeout=LONG)
        raise error

    steps, seen = in_steps(work), []
    with pytest.raises(type(error)) as caught:
        for step in steps:
            seen.append(step)
            turn.release()
    assert caught.value is error
    assert seen == [Step("find", i + 1, after) for i in range(after)]
    assert next(steps, None) is None


class Endless:
    """Work that goes on until it is stopped, tidies up, and swallows every `Exception`."""

    def __init__(self):
        self.calls, self.cleaned, self.ended = 0, False, False

    def __call__(self, progress):
        give_up = time.monotonic() + LONG  # no test is to hang where stopping fails
        try:
            while time.monotonic() < give_up:
                try:
                    self.calls += 1
                    progress("track", self.calls, 10**6)
                except Exception:  # as code on the way might
                    continue
                time.sleep(0.001)
            self.ended = True
        finally:
            time.sleep(0.05)
            self.cleaned = True


def close(steps):
    steps.close()


def throw(steps):
    with pytest.raises(Odd):
        steps.throw(Odd())


@pytest.mark.parametrize("leave", [close, throw])
def test_closing_stops_the_work_and_waits_for_it(leave, at_once):
    work = Endless()
    steps = in_steps(work)
    assert isinstance(next(steps), Step) and isinstance(next(steps), Step)
    assert not work.cleaned
    leave(steps)
    assert work.cleaned, "nothing of it is left when `close` returns"
    assert not work.ended
    calls = work.calls
    time.sleep(0.02)
    assert work.calls == calls


def test_leaving_the_loop_stops_the_work(at_once):
    work = Endless()

    def few():
        for step in in_steps(work):
            yield step
            if step.done > 2:
                return

    assert len(list(few())) >= 1
    assert work.cleaned and not work.ended


def test_the_work_stops_at_its_next_call_of_progress(at_once):
    """Not in the middle of what it does: a thread cannot be ended from outside."""
    reached, go, then = threading.Event(), threading.Event(), []

    def work(progress):
        progress("find", 1, 2)
        reached.set()
        assert go.wait(LONG)
        then.append("worked on")
        progress("find", 2, 2)
        then.append("never")

    steps = in_steps(work)
    next(steps)
    assert reached.wait(LONG)

    def let_go():
        while not steps.gi_running:  # it is being closed
            time.sleep(0.001)
        time.sleep(0.1)
        go.set()

    other = threading.Thread(target=let_go)
    other.start()
    steps.close()
    assert go.is_set() and then == ["worked on"]
    other.join()


def test_work_without_progress_is_waited_for_when_closed(at_once):
    go, ended = threading.Event(), []

    def work(progress):
        progress("find", 1, 1)
        assert go.wait(LONG)
        ended.append(True)
        raise ValueError("nobody waits for this")

    steps = in_steps(work)
    next(steps)
    timer = threading.Timer(0.1, go.set)
    timer.start()
    steps.close()
    assert ended == [True]
    timer.join()


def test_work_that_nobody_asked_for_does_not_begin():
    ran = []
    steps = in_steps(lambda progress: ran.append(True))
    time.sleep(0.02)
    steps.close()
    assert ran == []


def test_closing_after_the_end_is_fine():
    steps = in_steps(lambda progress: 7)
    assert list(steps) == [Result(7)]
    steps.close()


def test_stopped_passes_what_catches_exceptions():
    assert not issubclass(Stopped, Exception)


def test_the_work_sees_the_context_of_the_caller():
    """Gradio keeps in it whose request this is."""
    who = ContextVar("who", default="nobody")
    who.set("me")

    def work(progress):
        seen = who.get()
        who.set("changed")
        return seen

    assert list(in_steps(work)) == [Result("me")]
    assert who.get() == "me"


def test_two_at_a_time_do_not_mix(at_once):
    first, proceed_first = handshake(2)
    second, proceed_second = handshake(3)
    a, b = in_steps(first), in_steps(second)
    seen = {"a": [], "b": []}
    for _ in range(3):
        proceed_first()
        seen["a"].append(next(a))
        proceed_second()
        seen["b"].append(next(b))
    a.close()
    proceed_second()
    seen["b"] += list(b)
    assert seen["a"] == [Step("find", 1, 2), Step("find", 2, 2), Result("done")]
    assert seen["b"] == [*(Step("find", i, 3) for i in (1, 2, 3)), Result("done")]


# Beside an event loop


class Numbers:
    """A generator of 0, 1, .. that says what becomes of it, and waits for `go` and `leave`."""

    def __init__(self, error: Exception | None = None):
        self.error, self.taken, self.closed = error, 0, threading.Event()
        self.working, self.closing = threading.Event(), threading.Event()
        self.go, self.leave = threading.Event(), threading.Event()
        self.go.set()
        self.leave.set()

    def __call__(self):
        try:
            for number in range(3):
                self.working.set()
                assert self.go.wait(LONG)
                self.taken += 1
                yield number
            if self.error:
                raise self.error
        finally:
            self.closing.set()
            time.sleep(0.05)  # so that nobody is faster who does not wait
            assert self.leave.wait(LONG)
            self.closed.set()


def always() -> bool:
    return True


def test_events_come_when_they_are_asked_for():
    """The folder of an answer goes with the next step; by then its files must be taken."""
    numbers, seen = Numbers(), []

    async def use():
        async with aclosing(in_background(numbers(), always)) as events:
            async for event in events:
                await asyncio.sleep(0.01)
                seen.append((event, numbers.taken, numbers.closed.is_set()))

    asyncio.run(use())
    assert seen == [(0, 1, False), (1, 2, False), (2, 3, False)]
    assert numbers.closed.is_set()


def test_an_error_is_raised_where_the_events_are_used():
    numbers, seen = Numbers(KeyError("x")), []

    async def use():
        async for event in in_background(numbers(), always):
            seen.append(event)

    with pytest.raises(KeyError, match="x"):
        asyncio.run(use())
    assert seen == [0, 1, 2] and numbers.closed.is_set()


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_what_nobody_wants_is_closed(limit):
    numbers, seen = Numbers(), []

    async def use():
        async for event in in_background(numbers(), lambda: len(seen) < limit):
            seen.append(event)

    asyncio.run(use())
    assert seen == list(range(limit)) and numbers.taken == limit
    assert numbers.closed.is_set() == (limit > 0)  # what never began has nothing to close


@pytest.mark.parametrize("how", ["closed between", "closed by break", "cancelled at work"])
def test_the_loop_is_free_until_the_work_has_stopped(how):
    numbers = Numbers()
    numbers.leave.clear()

    async def others():
        turns = 0
        while turns < 20:
            turns += numbers.closing.is_set()
            await asyncio.sleep(0.001)
        numbers.leave.set()

    async def use():
        async with aclosing(in_background(numbers(), always)) as events:
            async for _ in events:
                if how == "closed by break":
                    break
                if how == "closed between":
                    await events.aclose()
                    assert numbers.closed.is_set()
                    break
                numbers.working.clear()
                numbers.go.clear()

    async def run():
        other = asyncio.create_task(others())
        task = asyncio.create_task(use())
        if how == "cancelled at work":
            while not (numbers.taken and numbers.working.is_set() and not numbers.go.is_set()):
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.sleep(0.05)
            assert not task.done()  # the work has not stopped yet
            numbers.go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await task
        assert numbers.closed.is_set()
        await other

    asyncio.run(run())
    assert numbers.taken == (2 if how == "cancelled at work" else 1)
