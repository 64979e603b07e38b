"""Folders that are written whole or not at all, and that never replace anyone else's."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath


def replaceable(path: Path, ours: Callable[[Path], bool]) -> bool:
    """Whether nothing is lost with `path`: absent, an empty folder, or one `ours` is true of."""
    if not os.path.lexists(path):
        return True
    if path.is_symlink() or not path.is_dir():
        return False
    return ours(path) or not any(path.iterdir())


@contextmanager
def complete_folder(target: Path, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `target` if the block ends well.

    Args:
        target: The folder to make; its parents are made as needed.
        ours: Tells an earlier result, which may be replaced, from any other folder.

    Raises:
        FileExistsError: On entering or at the end: `target` is not `replaceable`.
    """
    target = Path(os.path.abspath(target))  # "." has neither a name nor a parent to write in
    _check(target, ours)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        part.chmod(0o755)  # mkdtemp makes it private
        yield part
        _check(target, ours)  # again: the block may have run for hours
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_plain_name(name: str) -> bool:
    """Whether `name` is one path component on every system, neither empty nor a step upwards."""
    return name not in ("", "..") and PureWindowsPath(name).name == name


def _check(target: Path, ours: Callable[[Path], bool]) -> None:
    if not replaceable(target, ours):
        raise FileExistsError(f"{target} is no earlier result of this command: choose another")
