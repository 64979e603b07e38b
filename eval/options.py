"""Command-line options that say what to read of a benchmark."""

import argparse
from pathlib import Path

from eval.benchmarks.ref_davis17 import FOLDERS

DAVIS = "davis"
# Option of a loader -> datasets that have it.
LOADER_OPTIONS = {
    "annotations": ("ref-davis17", DAVIS),
    "object_ids": ("ref-youtube-vos",),
    "masks": ("ref-youtube-vos",),
    "version": ("mevis",),
    "metadata": ("video-folder",),
}
_FLAGS = {"version": "--mevis-version"}  # the others are named as the loader's

# Names of the model package's `CUTIE_SETTINGS`; it is not imported for them, because that is slow.
TRACKER_SETTINGS = ("ref-youtube-vos", "mevis", "davis")


def add_loader_options(parser: argparse.ArgumentParser) -> None:
    """`--videos`, and the options of the benchmarks' loaders."""
    parser.add_argument("--videos", type=Path, metavar="FILE", help="only these, a name per line")
    parser.add_argument(
        "--annotations",
        choices=FOLDERS,
        help="ref-davis17: masks of 2019 (unsupervised, the default) or 2017",
    )
    parser.add_argument(
        "--object-ids",
        type=Path,
        metavar="JSON",
        help="ref-youtube-vos: as meta_expressions.json, with the obj_id of every expression",
    )
    parser.add_argument(
        "--mevis-version", dest="version", type=int, choices=(1, 2), help="mevis: where both lie"
    )
    parser.add_argument("--masks", type=Path, metavar="DIR", help="ref-youtube-vos: label maps")
    parser.add_argument(
        "--metadata", type=Path, metavar="JSONL", help="video-folder: not that of --root"
    )


def loader_options(
    parser: argparse.ArgumentParser, args: argparse.Namespace, dataset: str
) -> dict[str, str | int]:
    """The loader's options that were given; one of another dataset ends the command."""
    given = {name: getattr(args, name) for name in LOADER_OPTIONS}
    given = {
        name: value if isinstance(value, int) else str(value)
        for name, value in given.items()
        if value is not None
    }
    for name in given:
        if dataset not in LOADER_OPTIONS[name]:
            owners = " and ".join(LOADER_OPTIONS[name])
            flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            parser.error(f"{flag} is an option of {owners}, not of {dataset}")
    return given


def video_names(path: Path | None) -> list[str] | None:
    """Names in a file, separated by white space; None without a file.

    Raises:
        ValueError: It holds none.
    """
    if path is None:
        return None
    names = path.read_text(encoding="utf-8").split()
    if not names:
        raise ValueError(f"{path} names no video")
    return names
