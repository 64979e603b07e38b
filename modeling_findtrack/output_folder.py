"""A result folder that is complete or absent, never half-written."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path


class OutputError(ValueError):
    """The output cannot be written there. One line: where, why, what to do."""


class OutputFolder:
    """Hands out a temporary folder and puts its content in place at the end.

    As a context manager it yields the temporary folder. Leaving normally moves its content to
    `path`; leaving by an exception, Ctrl-C included, removes it together with the parents made for
    it. Entering proves that the place is writable, so enter it before the long work.

    A folder that exists already stays the same folder (it may be a mounted one): only entries named
    in `owned` or written anew are replaced, everything else in it is left alone.

    Args:
        path: The folder to make.
        owned: Names of entries an earlier run may have left there; they go when the new ones come.
        is_previous: Whether an existing, non-empty folder is an earlier result.
        overwrite: Write into a non-empty folder that is not an earlier result.
        last: Name of the entry moved in last, the one that says the folder is complete.

    Raises:
        OutputError: On entering, if `path` is a file, holds other things, or is not writable.
    """

    def __init__(
        self,
        path: str | Path,
        owned: Iterable[str],
        is_previous: Callable[[Path], bool],
        overwrite: bool = False,
        last: str = "result.json",
    ):
        self.path = Path(os.path.abspath(path))
        self._given = str(path)
        self._owned, self._last = set(owned), last
        self._is_previous, self._overwrite = is_previous, overwrite
        self._made: list[Path] = []  # parents created here, outermost first
        self._partial: Path | None = None

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
            self._commit()
        except BaseException:
            self._discard()
            raise

    def _check(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise OutputError(f"{self._given}: a file is in the way; choose another --out")
        if self._overwrite:
            return
        others = any(not p.name.startswith(".partial-") for p in self.path.iterdir())
        if others and not self._is_previous(self.path):
            raise OutputError(
                f"{self._given}: holds other files; choose another --out, or add --overwrite"
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
        # First the entry that vouches for the rest, so that a kill here leaves no false promise.
        for name in sorted(self._owned | new, key=lambda name: name != self._last):
            _remove(self.path / name)
        for name in sorted(new, key=lambda name: name == self._last):
            os.replace(self._partial / name, self.path / name)
        self._partial.rmdir()

    def _discard(self) -> None:
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
        for parent in reversed(self._made):
            try:
                parent.rmdir()
            except OSError:
                break  # something else came to live there


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
