"""A function mapped over videos by several processes, as if there were one."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool


def map_in_order(function: Callable, items: Iterable, workers: int) -> Iterator:
    """Results in the order of `items`, whatever the number of processes.

    The first error in that order is raised and ends the processes, and so does an interrupt or
    closing the iterator.

    Args:
        function: Can be pickled, and so can what it takes and gives; the processes are spawned.
        items: What to call it with.
        workers: How many processes; with 1 the calls are made in this one.

    Raises:
        OSError: A process was killed.
    """
    items = list(items)
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    started: set = set()
    try:
        with _interrupts_wait():
            futures = [pool.submit(function, item) for item in items]
            started = set(multiprocessing.active_children()) - others
        for future in futures:
            yield future.result()
    except BaseException as error:
        # Nobody waits for what still runs.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in started:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise OSError(
                "a worker process was killed, perhaps for lack of memory; use fewer workers"
            ) from error
        raise
    pool.shutdown()


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back. Processes started meanwhile inherit that until `_start_worker`, so that
    none is caught importing, which it would tell in many lines."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """Ctrl-C reaches every process of a terminal: a worker ends silently, its parent tells. And it
    ends when its parent does, by `kill -9` too."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
