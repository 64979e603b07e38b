"""Make the folder of a Space, and push it: `python -m space.publish --out DIR [--push USER/NAME]`.

A Space has its card and requirements at the top; beside them lie this package and the model's.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.constants import ENDPOINT

from modeling_findtrack.output_folder import OutputError, OutputFolder

HERE = Path(__file__).resolve().parent
AT_TOP = ("README.md", "requirements.txt", "thumbnail.png")
PACKAGES = ("modeling_findtrack", "space")
NAMES = (*AT_TOP, ".gitattributes", "LICENSE", *PACKAGES)
LEAVE = shutil.ignore_patterns("__pycache__", "*.pyc")
# What the Hub keeps in its large file storage; it refuses such files in plain git.
LARGE = "".join(
    f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("mp4", "png", "safetensors")
)


def make_folder(out: str | Path, repo_id: str | None = None, overwrite: bool = False) -> None:
    """Copy everything a Space needs.

    Args:
        out: The folder to make.
        repo_id: Where it will be; the card's thumbnail is an address there.
        overwrite: Add to a folder that holds other things.

    Raises:
        OutputError: `out` holds other things and `overwrite` is off, or they are in the way.
    """
    packages = HERE.parent
    place = Path(out).resolve()
    if place == packages or any(place.is_relative_to(packages / name) for name in PACKAGES):
        raise OutputError(f"{out}: it is made from what lies there; choose another --out")
    with OutputFolder(out, NAMES, is_space_folder, overwrite, "README.md", NAMES) as folder:
        for name in PACKAGES:
            shutil.copytree(packages / name, folder / name, ignore=LEAVE)
        for name in AT_TOP:
            (folder / "space" / name).rename(folder / name)
        if repo_id:
            card = folder / "README.md"
            address = f"{ENDPOINT}/spaces/{repo_id}/resolve/main/thumbnail.png"
            text = card.read_text(encoding="utf-8")
            text = text.replace("thumbnail: thumbnail.png", f"thumbnail: {address}", 1)
            card.write_text(text, encoding="utf-8")
        shutil.copy(packages / "LICENSE", folder)
        (folder / ".gitattributes").write_text(LARGE, encoding="ascii")


def is_space_folder(path: Path) -> bool:
    """Whether an earlier call made the folder `path`."""
    return (path / "space" / "app.py").is_file() and (path / "requirements.txt").is_file()


def push(out: str | Path, repo_id: str):
    """Upload the folder; the Space is created if it is not there.

    What an earlier version had in the packages goes; other files of the Space stay.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi

    api = HfApi()
    inside = [f"{name}/**" for name in PACKAGES]
    try:
        api.create_repo(repo_id, repo_type="space", space_sdk="gradio", exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=out,
            allow_patterns=[*NAMES, *inside],
            delete_patterns=inside,  # but for what is uploaded
        )
    except HTTPError as error:  # no network, and what the Hub refuses
        raise OSError(f"{repo_id}: {error}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 2 with one line on stderr where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m space.publish", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--push", metavar="USER/NAME", help="upload it to this Space")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="write into DIR though it holds other files; of these none is replaced "
        "(an earlier Space folder in DIR is always replaced)",
    )
    args = parser.parse_args(argv)
    try:
        make_folder(args.out, args.push, args.overwrite)
        print(f"Space folder: {args.out}")
        if args.push:
            print(f"uploaded: {push(args.out, args.push)}")
    except (ValueError, OSError) as error:
        print(f"space.publish: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
