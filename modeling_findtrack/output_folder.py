"""A result folder that is complete or absent, never half-written."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path


class OutputError(ValueError):
    """The output cannot be written there. One line: where, why, what to do."""


class OutputFolder:
    """Hands out a temporary folder and puts its content in place at the end.

    As a context manager it yields the temporary folder. Leaving normally moves its content to
    `path`, where Ctrl-C and SIGTERM come too late; leaving by an exception, Ctrl-C included,
    removes it together with the parents made for it. What cannot be moved leaves things as they
    were. Entering proves that the place is writable, so enter it before the long work.

    A folder that exists already stays the same folder (it may be a mounted one). In an earlier
    result the entries named in `owned` or written anew are replaced and everything else is left
    alone; in any other folder nothing is replaced, entries are only added.

    Args:
        path: The folder to make.
        owned: Names, `*` allowed, of entries an earlier run may have left there; they go when the
            new ones come.
        is_previous: Whether an existing, non-empty folder is an earlier result.
        overwrite: Add to a non-empty folder that is not an earlier result.
        last: Name of the entry moved in last, the one that says the folder is complete.
        expected: Names of entries that will be written, as far as known: where one of them is in
            the way, entering says so, not only leaving.

    Raises:
        OutputError: On entering, if `path` is a file, holds other things, or is not writable. On
            leaving, if an entry to be written is there already and is not an earlier result's.
    """

    def __init__(
        self,
        path: str | Path,
        owned: Iterable[str],
        is_previous: Callable[[Path], bool],
        overwrite: bool = False,
        last: str = "result.json",
        expected: Iterable[str] = (),
    ):
        self.path = Path(os.path.abspath(path))
        self._given = str(path)
        self._owned, self._last, self._expected = tuple(owned), last, tuple(expected)
        self._is_previous, self._overwrite = is_previous, overwrite
        self._made: list[Path] = []  # parents created here, outermost first
        self._partial: Path | None = None
        self._replace = False  # whether what is there is an earlier result

    def __enter__(self) -> Path:
        self._check()
        try:
            if self.path.is_dir():
                self._partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.path))
            else:
                self._make_parents()
                prefix = f"{self.path.name}.partial-"
                self._partial = Path(tempfile.mkdtemp(prefix=prefix, dir=self.path.parent))
            self._partial.chmod(0o777 & ~_umask())  # mkdtemp's 0700 is meant for secrets
        except OSError as error:
            self._discard()
            raise OutputError(
                f"{self._given}: cannot write there ({error.strerror}); choose another --out"
            ) from None
        return self._partial

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            with _undisturbed():
                self._commit()
        except BaseException:
            self._discard()
            raise

    def _check(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise OutputError(f"{self._given}: a file is in the way; choose another --out")
        self._replace = self._is_previous(self.path)
        if self._replace:
            return
        if self._overwrite:
            self._check_free(self._expected)
        elif any(not p.name.startswith(".partial-") for p in self.path.iterdir()):
            raise OutputError(
                f"{self._given}: holds other files; choose another --out, or add --overwrite"
            )

    def _check_free(self, names: Iterable[str]) -> None:
        """Refuse to take the place of an entry that no earlier run made."""
        for name in sorted(names):
            if os.path.lexists(self.path / name):  # a broken link is an entry, too
                raise OutputError(
                    f"{self._given}: {name} is there already and not from an earlier result; "
                    "move it away or choose another --out"
                )

    def _make_parents(self) -> None:
        missing = [p for p in self.path.parents if not p.exists()]
        for parent in reversed(missing):
            parent.mkdir()
            self._made.append(parent)

    def _commit(self) -> None:
        if self._partial.parent != self.path:
            os.replace(self._partial, self.path)
            return
        new = {entry.name for entry in self._partial.iterdir()}
        old = set()
        if self._replace:
            there = {entry.name for entry in self.path.iterdir()}
            old = {name for name in there if self._owns(name) or name in new}
        else:
            self._check_free(new)
        aside = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.path))
        moved: list[tuple[Path, Path]] = []  # from, to
        try:
            # First away goes the entry that vouches for the rest, and it comes last: a kill here
            # leaves no false promise.
            for name in sorted(old, key=lambda name: name != self._last):
                _move(self.path / name, aside / name, moved)
            for name in sorted(new, key=lambda name: name == self._last):
                _move(self._partial / name, self.path / name, moved)
        except BaseException:
            for source, target in reversed(moved):
                os.replace(target, source)
            aside.rmdir()
            raise
        for emptied in (aside, self._partial):
            shutil.rmtree(emptied, ignore_errors=True)

    def _owns(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self._owned)

    def _discard(self) -> None:
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
        for parent in reversed(self._made):
            try:
                parent.rmdir()
            except OSError:
                break  # something else came to live there


def _move(source: Path, target: Path, moved: list[tuple[Path, Path]]) -> None:
    os.replace(source, target)
    moved.append((source, target))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM for the moments that it takes to put a result in place."""
    previous = {}
    try:
        with contextlib.suppress(ValueError):  # not in the main thread, where they do not arrive
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, signal.SIG_IGN)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
