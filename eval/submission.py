"""The zip a benchmark's server takes, from a folder of predictions."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from eval.benchmarks.base import Benchmark
from eval.report import whole_file

# Benchmark -> folder at the top of the zip, as its server wants it.
TOP_FOLDERS = {"ref-youtube-vos": "Annotations/", "mevis": ""}


def write_submission(benchmark: Benchmark, predictions: str | Path, path: str | Path) -> None:
    """Zip `<video>/<exp_id>/<frame>.png` of every expression and frame of a split.

    Everything is checked before the zip gets its name. The same masks give the same bytes.

    Args:
        benchmark: The whole split.
        predictions: Folder of `<video>/<exp_id>/<frame>.png`.
        path: The zip to write.

    Raises:
        ValueError: The benchmark has no server, or a mask is missing or not as the server wants
            it: 8-bit grey, of its frame's size.
    """
    if benchmark.name not in TOP_FOLDERS:
        raise ValueError(
            f"{benchmark.name} has no server; one of {', '.join(TOP_FOLDERS)} takes a zip"
        )
    predictions, path = Path(predictions), Path(path)
    names = sorted(_checked_masks(benchmark, predictions))
    top = TOP_FOLDERS[benchmark.name]
    # Stored as they are: PNGs are compressed.
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(top + name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # the same anywhere
            archive.writestr(entry, (predictions / name).read_bytes())


def _checked_masks(benchmark: Benchmark, predictions: Path) -> Iterator[str]:
    """`<video>/<exp_id>/<frame>.png` of every mask of the split, each looked at."""
    missing = []
    for video in benchmark.videos:
        for row in benchmark.rows(video):
            for frame in row["frame_names"]:
                name = f"{video}/{row['exp_id']}/{frame}.png"
                try:
                    with Image.open(predictions / name) as image:
                        kind = (image.format, image.mode, image.size)
                        image.verify()  # checksums; pixels are not decoded
                except FileNotFoundError:
                    missing.append(name)
                    continue
                except (SyntaxError, OSError) as error:
                    if getattr(error, "errno", None):  # the disk's fault
                        raise
                    raise ValueError(f"{predictions / name} is damaged; write it anew") from error
                if kind != ("PNG", "L", (row["width"], row["height"])):
                    raise ValueError(
                        f"{predictions / name} is {kind[0]}, mode {kind[1]}, {kind[2]}; the server "
                        f"takes PNG, mode L, {(row['width'], row['height'])} (width, height)"
                    )
                yield name
    if missing:
        raise ValueError(
            f"{predictions}: {len(missing)} masks of the split are missing, {missing[0]} first; "
            "the server takes complete submissions only"
        )
