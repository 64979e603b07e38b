"""What reading a tree on disk takes: checks that name all that is missing, names, order, caches."""

import functools
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath

from PIL import Image as PILImage


class LayoutError(ValueError):
    """A tree on disk is not the benchmark's. The message lists what was expected and is missing."""


def checked_name(name, where: str) -> str:
    """`name` if it is a plain file or folder name: names from JSON become paths.

    Raises:
        LayoutError: It is not.
    """
    if not isinstance(name, str) or name in ("", "..") or PureWindowsPath(name).name != name:
        raise LayoutError(f"{where}: {name!r} is no plain file or folder name")
    return name


def read_json(path: Path):
    """Content of a JSON file.

    Raises:
        LayoutError: It is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LayoutError(f"{path} is not JSON: {error}") from error


def require(root: Path, name: str, paths: Sequence[Path], remedy: str = "") -> None:
    """Check that all of `paths` are there.

    Raises:
        LayoutError: One message with everything that was expected, and what of it is missing.
    """
    missing = [p for p in paths if not p.exists()]
    if missing:
        shown = [os.path.relpath(p, root) for p in paths]
        absent = [os.path.relpath(p, root) for p in missing]
        raise LayoutError(
            f"{root} is not {name}: expected {', '.join(shown)}; missing {', '.join(absent)}"
            + (f"; {remedy}" if remedy else "")
        )


def check_files(
    root: Path, name: str, folders: Mapping[Path, Iterable[str]], remedy: str = ""
) -> None:
    """Check that every folder holds the files listed for it, with one look into each.

    Raises:
        LayoutError: One message with how many are missing, and the first of them.
    """
    missing = []
    for folder, files in folders.items():
        shown = Path(os.path.relpath(folder, root)).as_posix()
        try:
            found = set(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            missing.append(f"{shown}/")
            continue
        missing += [f"{shown}/{file}" for file in files if file not in found]
    if missing:
        raise LayoutError(
            f"{root} is not {name}: expected every listed frame in its video's folder; "
            f"{len(missing)} missing: {few(missing)}" + (f"; {remedy}" if remedy else "")
        )


def few(names: Sequence[str], count: int = 3) -> str:
    """The first names of many, for a message."""
    more = f" ... ({len(names)} in all)" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def by_number(names: Iterable[str]) -> list[str]:
    """Names in natural order: "10" after "2", and "frame_10" after "frame_2"."""

    def key(name: str) -> tuple:
        parts = re.split(r"(\d+)", name)
        return [(int(p), "") if p.isdecimal() else (-1, p.lower()) for p in parts], name

    return sorted(names, key=key)


def list_files(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Names of the files of a kind in natural order, hidden ones left out; none of no folder."""
    found = os.listdir(folder) if folder.is_dir() else ()
    kind = [n for n in found if Path(n).suffix.lower() in suffixes and not n.startswith(".")]
    return by_number(kind)


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of an image, from its header alone."""
    with PILImage.open(path) as image:
        return image.size[::-1]


def cached_by_file(maxsize: int) -> Callable:
    """Decorate a function of one path: results are shared until the file changes.

    At most `maxsize` are kept, and none is pickled along with whoever asked.
    """

    def decorate(read: Callable) -> Callable:
        cached = functools.lru_cache(maxsize)(lambda path, stamp: read(path))

        @functools.wraps(read)
        def current(path):
            stat = os.stat(path)
            return cached(path, (stat.st_mtime_ns, stat.st_size, stat.st_ino))

        return current

    return decorate
