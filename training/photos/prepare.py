"""Make a folder to train on from real pictures: `python -m training.photos.prepare`.

Reads COCO trees, class-named pictures and pictures with label maps where they lie, cuts out the
main object of the class-named ones, and writes OUT/photos.jsonl (what is where) and
OUT/contact_sheet.png (some of it, to look at). Stopped at any moment, the same command goes on.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from eval.report import run_command

from .readers import read_coco, read_maps, read_named
from .rows import INDEX, Photo, PhotoObject, encode
from .sheet import contact_sheet

CUTS = "cuts.jsonl"  # one line per class-named picture, as they are done


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.photos.prepare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    several = {"type": Path, "action": "append", "default": [], "metavar": "DIR"}
    parser.add_argument("--coco", help="images/ and instances.json; repeatable", **several)
    parser.add_argument("--named", help="NOUN/*.jpg; repeatable", **several)
    parser.add_argument("--maps", help="images/, masks/, index.json; repeatable", **several)
    parser.add_argument("--out", type=Path, default=Path("data/photos"), help="(data/photos)")
    parser.add_argument("--cutter", type=Path, metavar="ONNX", help="another U2-NetP")
    args = parser.parse_args(argv)
    if not (args.coco or args.named or args.maps):
        parser.error("name pictures with --coco, --named or --maps")
    return args


def _run(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    photos = [photo for root in args.coco for photo in read_coco(root.resolve())]
    photos += [photo for root in args.maps for photo in read_maps(root.resolve())]
    named = [row for root in args.named for row in read_named(root.resolve())]
    photos += _cut_out(named, args.out / CUTS, args.cutter)
    part = args.out / f"{INDEX}.part"
    part.write_text("".join(photo.line() + "\n" for photo in photos), encoding="ascii")
    os.replace(part, args.out / INDEX)
    contact_sheet(photos, args.out / "contact_sheet.png")
    for split in ("train", "val"):
        told = Counter(p.origin for p in photos if p.split == split)
        objects = sum(len(p.objects) for p in photos if p.split == split)
        by_origin = ", ".join(f"{n} {origin}" for origin, n in sorted(told.items()))
        print(f"{split}: {sum(told.values())} pictures ({by_origin}), {objects} objects")
    print(f"look at {args.out / 'contact_sheet.png'}")
    return 0


def _cut_out(named: list[tuple[Path, str, str]], log: Path, cutter: Path | None) -> list[Photo]:
    """Class-named pictures with the mask of their main object; those without a usable one drop."""
    done = {}
    if log.is_file():
        for line in log.read_text(encoding="ascii").splitlines():
            try:
                row = json.loads(line)
                done[row["path"]] = row
            except (ValueError, KeyError, TypeError):  # the line an interrupt cut off
                continue
    left = [row for row in named if str(row[0]) not in done]
    if left:
        from .salient import Cutter, NameCheck

        cut, check = Cutter(cutter), NameCheck()
        with log.open("a", encoding="ascii") as file:
            for path, noun, _ in tqdm(left, "cut out", unit="picture", disable=None):
                row = {"path": str(path)} | _cut(path, noun, cut, check)
                done[row["path"]] = row
                file.write("\n" + json.dumps(row))
                file.flush()
    photos = []
    for path, noun, split in named:
        row = done[str(path)]
        if row["rle"]:
            # People are not the noun that a picture of theirs is cut out for: it takes the ball,
            # the horse and the board along.
            name = "" if noun == "person" or not row["named"] else noun
            thing = PhotoObject(name, row["rle"], "salient")
            photos.append(Photo(str(path), tuple(row["size"]), split, "named", (), (thing,)))
    return photos


def _cut(path: Path, noun: str, cut, check) -> dict:
    """Size, mask ("" if it is not usable) and whether the classifier agrees with the noun."""
    from .salient import usable

    try:
        image = np.array(Image.open(path).convert("RGB"))
    except OSError as error:
        print(f"left out: {path} cannot be read ({error})", file=sys.stderr)
        return {"size": [0, 0], "rle": "", "named": False}
    mask = usable(cut(image))
    row = {"size": list(image.shape[:2]), "rle": "", "named": False}
    if mask is not None:
        row |= {"rle": encode(mask), "named": bool(noun) and check(image, mask, noun)}
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when prepared, 2 on unusable input, 130 when interrupted."""
    args = _parse(argv)
    note = "interrupted; the same command goes on"
    return run_command("training.photos.prepare", lambda: _run(args), note)


if __name__ == "__main__":
    raise SystemExit(main())
