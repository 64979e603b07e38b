"""The sprites of Ref-Sprites: named pictures with alpha in several art styles.

A bank is a folder: `<bank>/<style>/<noun>.png` (RGBA) and `<bank>/manifest.json`. `build_art`
makes one from published emoji packages; any folder of that layout works as well. Nouns that the
manifest lists under `new_nouns` are kept for fine-tuning: they are left out unless asked for.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np

from training.folders import complete_folder, replaceable
from training.sprite_nouns import NEW_NOUN_CODES, NOUN_CODES

MAX_SIDE = 96  # pixels, longest side of a stored sprite
TRAIN_STYLES = ("noto", "fluent3d")
HELDOUT_STYLES = ("fluentflat",)  # never trained on
ENVIRONMENT = "FINDTRACK_SPRITES"
Nouns = Literal["trained", "new", "all"]  # "trained": what findtrack-tiny knows; all but the new


@dataclass(frozen=True)
class ArtSource:
    """One published art style."""

    style: str
    package: str  # name in the npm registry
    version: str
    folder: str  # inside the package
    suffix: str
    licence: str
    attribution: str


SOURCES = (
    ArtSource(
        "noto", "emoji-datasource-google", "16.0.0", "img/google/64", ".png",
        "Apache-2.0", "Noto Emoji, Google; packaged by Cal Henderson (MIT)",
    ),
    ArtSource(
        "fluent3d", "@lobehub/fluent-emoji-3d", "1.1.0", "assets", ".webp",
        "MIT", "Fluent Emoji 3D, Microsoft; packaged by LobeHub (MIT)",
    ),
    ArtSource(
        "fluentflat", "@lobehub/fluent-emoji-flat", "1.1.0", "assets", ".svg",
        "MIT", "Fluent Emoji Flat, Microsoft; packaged by LobeHub (MIT)",
    ),
)  # fmt: skip


class ArtError(RuntimeError):
    """The sprite art is missing or cannot be built; the message says what to do."""


@dataclass(frozen=True)
class SpriteBank:
    """Sprites by noun and style.

    Attributes:
        nouns: Nouns drawn in every style, sorted; an index into it is a `noun_id`.
        styles: Style names, sorted.
        images: (noun, style) -> (h, w, 4) uint8 RGBA, straight alpha, tight around the drawing.
        new_nouns: Those of `nouns` that are kept for fine-tuning, sorted.
    """

    nouns: tuple[str, ...]
    styles: tuple[str, ...]
    images: dict[tuple[str, str], np.ndarray] = field(repr=False)
    new_nouns: tuple[str, ...] = ()

    def image(self, noun: str, style: str) -> np.ndarray:
        """(h, w, 4) uint8 RGBA of `noun` in `style`; KeyError if the bank lacks it."""
        return self.images[noun, style]


def default_art_dir() -> Path:
    """Where the bank is cached: `$FINDTRACK_SPRITES`, else `~/.cache/findtrack/sprites`."""
    return Path(os.environ.get(ENVIRONMENT) or Path.home() / ".cache" / "findtrack" / "sprites")


def load_art(path: str | os.PathLike | None = None, nouns: Nouns = "trained") -> SpriteBank:
    """Read a bank from a folder.

    Args:
        path: The folder; `default_art_dir()` if None.
        nouns: Which of the bank's nouns to take.

    Raises:
        ArtError: No bank is there, no noun is drawn in every style, or new nouns are asked for
            and the bank has none.
        ValueError: Unknown `nouns`.
    """
    if nouns not in get_args(Nouns):
        raise ValueError(f"unknown choice of nouns {nouns!r}: choose from {get_args(Nouns)}")
    root = Path(path) if path is not None else default_art_dir()
    remedy = f"fetch it with `python -m training.sprites --fetch-art --art {root}`"
    if not (root / "manifest.json").is_file():
        raise ArtError(f"no sprite art in {root}: {remedy}")
    styles = tuple(sorted(p.name for p in root.iterdir() if p.is_dir()))
    names = [{p.stem for p in (root / style).glob("*.png")} for style in styles]
    there = set.intersection(*names) if names else set()
    new = there.intersection(_manifest(root).get("new_nouns", ()))
    if nouns != "trained" and not new:
        raise ArtError(f"no new nouns in {root}, maybe art of an earlier version: {remedy}")
    chosen = {"trained": there - new, "new": new, "all": there}[nouns]
    if not chosen:
        raise ArtError(f"no noun in {root} is drawn in every style: build the art again")
    images = {}
    for style in styles:
        for noun in chosen:
            image = cv2.imread(str(root / style / f"{noun}.png"), cv2.IMREAD_UNCHANGED)
            if image is None or image.ndim != 3 or image.shape[2] != 4:
                raise ArtError(f"{root / style / noun}.png is not an RGBA image")
            images[noun, style] = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    return SpriteBank(tuple(sorted(chosen)), styles, images, tuple(sorted(new & chosen)))


def save_art(root: Path, images: dict[tuple[str, str], np.ndarray], manifest: dict) -> None:
    """Write a bank as `root`, complete or not at all; an earlier bank there is replaced.

    Raises:
        ArtError: `root` holds something else.
    """
    _check_root(root)
    with complete_folder(root, _is_bank) as part:
        for (noun, style), image in images.items():
            (part / style).mkdir(exist_ok=True)
            bgra = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA)
            cv2.imwrite(str(part / style / f"{noun}.png"), bgra)
        (part / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def ready_art(path: Path | None = None, nouns: Nouns = "trained") -> SpriteBank:
    """`load_art`, after building the bank if it is missing from the cache in the home folder.

    A folder that someone named, by argument or environment, is never filled unasked: a mistyped
    path should be an error, not a download.

    Raises:
        ArtError: See `load_art` and `build_art`.
    """
    named = path is not None or os.environ.get(ENVIRONMENT)
    if not named and not (default_art_dir() / "manifest.json").is_file():
        build_art()
    return load_art(path, nouns)


def build_art(root: Path | None = None) -> Path:
    """Fetch the emoji packages with `npm pack` and make the bank; returns its folder.

    Raises:
        ArtError: `npm` or `resvg_py` is missing, a package cannot be fetched, art is absent, or
            `root` holds something other than a bank.
    """
    root = Path(root) if root is not None else default_art_dir()
    _check_root(root)  # before the download
    print(f"fetching sprite art into {root}", file=sys.stderr)
    images, packages = {}, []
    with tempfile.TemporaryDirectory() as scratch:
        for source in SOURCES:
            folder = _fetch(source, Path(scratch) / source.style)
            for noun, code in (NOUN_CODES | NEW_NOUN_CODES).items():
                images[noun, source.style] = _read_sprite(folder, code, source)
            packages.append({
                "style": source.style, "package": source.package, "version": source.version,
                "licence": source.licence, "attribution": source.attribution,
                "heldout": source.style in HELDOUT_STYLES,
            })  # fmt: skip
    nouns = {"nouns": NOUN_CODES, "new_nouns": NEW_NOUN_CODES}
    save_art(root, images, {"sources": packages, **nouns, "max_side": MAX_SIDE})
    return root


def _manifest(folder: Path) -> dict:
    """The manifest in `folder`; empty if there is none or it cannot be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _is_bank(folder: Path) -> bool:
    """Whether `folder` has a manifest of ours; other programs also name a file manifest.json."""
    return "sources" in _manifest(folder)


def _check_root(root: Path) -> None:
    if not replaceable(root, _is_bank):
        raise ArtError(f"{root} holds something other than sprite art: name another folder")


def _fetch(source: ArtSource, scratch: Path) -> Path:
    """Download and unpack one package; the folder with its pictures."""
    scratch.mkdir()
    spec = f"{source.package}@{source.version}"
    try:
        subprocess.run(
            ["npm", "pack", "--silent", "--pack-destination", str(scratch), spec],
            check=True, capture_output=True, text=True, cwd=scratch,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ArtError("fetching the sprite art needs `npm` (install Node.js)") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[0]
        raise ArtError(f"`npm pack {spec}` failed: {reason}") from error
    (archive,) = scratch.glob("*.tgz")
    prefix = f"package/{source.folder}/"
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith(prefix):
                name = Path(member.name).name
                (scratch / name).write_bytes(tar.extractfile(member).read())
    return scratch


def _read_sprite(folder: Path, code: str, source: ArtSource) -> np.ndarray:
    """(h, w, 4) uint8, cropped to the drawing, at most MAX_SIDE on the longer side."""
    names = [folder / f"{code}{variant}{source.suffix}" for variant in ("", "-fe0f")]
    path = next((p for p in names if p.is_file()), None)
    if path is None:
        raise ArtError(f"{source.package} {source.version} has no picture {names[0].name}")
    from PIL import Image

    if source.suffix == ".svg":
        try:
            import resvg_py
        except ImportError as error:
            raise ArtError("drawing SVG art needs resvg: pip install resvg-py") from error
        raw = resvg_py.svg_to_bytes(svg_path=str(path), width=4 * MAX_SIDE, height=4 * MAX_SIDE)
        image = Image.open(io.BytesIO(bytes(raw)))
    else:
        image = Image.open(path)
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox())
    scale = min(1.0, MAX_SIDE / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    # PIL resizes RGBA premultiplied, so transparent pixels do not bleed colour into the edge.
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
