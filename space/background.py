"""Long work as a generator of its steps, so that it can be shown, and stopped between two."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

EVERY = 0.2  # seconds between two reports, at least


class Stopped(BaseException):  # so that no `except Exception` on the way swallows it
    """Raised inside the work when nobody waits for it any more."""


@dataclass(frozen=True)
class Step:
    """The work goes on."""

    stage: str  # "find", "track", "write"
    done: int
    total: int


@dataclass(frozen=True)
class Result:
    """The work is done."""

    value: Any


def in_steps(work: Callable[[Callable[[str, int, int], None]], Any]) -> Iterator[Step | Result]:
    """Run `work(progress)` in a thread; yield its steps, the last of them a `Result`.

    Closing the generator stops the work at its next call of `progress`, and waits for that. What
    `work` raises is raised here.
    """
    events: queue.Queue = queue.Queue()
    stop, over = threading.Event(), threading.Event()

    def progress(stage: str, done: int, total: int) -> None:
        if stop.is_set():
            raise Stopped
        events.put(Step(stage, done, total))

    def run() -> None:
        try:
            events.put(Result(work(progress)))
        except Stopped:
            pass
        except BaseException as error:  # it belongs to whoever waits
            events.put(error)
        finally:
            over.set()

    thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
    thread.start()
    try:
        while True:
            event = events.get()
            while isinstance(event, Step) and not events.empty():
                event = events.get()  # only the newest is worth showing
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, Result):
                return
            over.wait(EVERY)
    finally:
        stop.set()
        thread.join()


async def in_background(steps: Generator, wanted: Callable[[], bool]) -> AsyncIterator:
    """What `steps` yields, as long as it is wanted; the event loop is free meanwhile.

    At the end, or when this is closed or cancelled before, it waits until `steps` is closed.
    """
    end, step = object(), None
    try:
        while wanted():
            step = asyncio.ensure_future(asyncio.to_thread(next, steps, end))
            event = await asyncio.shield(step)
            if event is end:
                return
            yield event
    finally:
        await asyncio.shield(_close(steps, step))


async def _close(steps: Generator, step: asyncio.Future | None) -> None:
    if step:
        await asyncio.gather(step, return_exceptions=True)  # it cannot be closed while it works
    await asyncio.to_thread(steps.close)
