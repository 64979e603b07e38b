"""Progress bars of the commands."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

_LABELS = {"find": "finding", "track": "tracking", "write": "writing"}


@contextlib.contextmanager
def progress_bars(quiet: bool, in_bytes: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback that shows one bar per stage, on a terminal only.

    Args:
        quiet: Show none.
        in_bytes: What is counted: bytes, or pieces.
    """
    bars: dict[str, tqdm] = {}
    unit = {"unit": "B", "unit_scale": True} if in_bytes else {}

    def close() -> None:
        for bar in bars.values():
            bar.close()

    def show(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            close()
            label = _LABELS.get(stage, stage)
            disabled = quiet or not sys.stderr.isatty()
            bars[stage] = tqdm(total=total, desc=label, disable=disabled, **unit)
        bars[stage].update(done - bars[stage].n)

    try:
        yield show
    finally:
        close()
