"""How well a model finds things in real pictures it was not trained on.

    python -m eval.pictures --photos data/photos [--model M] [--out DIR]

The `val` pictures of a prepared folder (`training.photos.prepare`) that people drew masks for, and
sentences about them that are generated, the same ones every time. Three tables: mean IoU per group
of nouns and per kind of sentence; how often the right one of several of a kind is marked; and how
often a noun is found that is there, or isn't found that is not. Beside the model, two answers with
perfect masks that do not listen: the largest object of the picture, and a random one. OUT/sheet.png
shows answers, the worst kinds of mistakes first.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from eval.report import add_model_options, markdown_table, one_line_errors
from modeling_findtrack.cli import load_model
from training.photos.nouns import GROUPS, nouns, true_of
from training.photos.rows import Photo, read_photos
from training.photos.sentences import Describer
from training.photos.source import certain, load
from training.samples import Pair

PER_KIND = {"noun": 4, "all": 2, "position": 4, "size": 2, "relation": 2, "no-target": 3}
TWINS = {"left": "left", "right": "right", "big": "largest", "small": "smallest"}


@dataclass(frozen=True)
class Answer:
    """What a model said to one sentence about one picture.

    Attributes:
        photo, text, kind: Of the sentence.
        noun: That it is about.
        word: "left", "right", "largest", "smallest" where that tells it from others of its noun.
        iou: With what is meant; with nothing where nothing is.
        found: Whether it says that it is there.
        right: Whether of all objects of the noun the meant one is marked best; None where there are
            no others, or several are meant.
        rivals: Others of the noun.
        largest: IoU of the largest object of the picture with what is meant.
        largest_twin: Whether the meant one is the largest of its noun.
        random: Mean IoU of the objects of the picture with what is meant.
        mask: The answer (H, W) bool.
    """

    photo: Photo
    text: str
    kind: str
    noun: str
    word: str
    iou: float
    found: bool
    right: bool | None
    rivals: int
    largest: float
    largest_twin: bool
    random: float
    mask: np.ndarray


@dataclass(frozen=True)
class Question:
    """One sentence about one picture."""

    pair: Pair
    noun: str
    word: str


def questions(photo: Photo, masks: np.ndarray, seed: int) -> list[Question]:
    """Sentences about a picture, the same for the same seed; a few of each kind."""
    rng = np.random.default_rng((7, seed))
    names = [thing.noun for thing in photo.objects]
    complete, absent = certain(photo)
    describer = Describer(masks, names, np.ones(len(masks)), frozenset(complete), rng)
    asked = []
    for kind, options in describer.sentences().items():
        options = [o for o in options if o[2] in names]  # not "animal" of a dog
        for i in rng.permutation(len(options))[: PER_KIND[kind]]:
            key, objects, noun, other, rivals = options[i]
            text = describer.word(key, noun, other, rivals)
            word = TWINS.get(key.partition(".")[2], "") if rivals else ""
            asked.append(Question(Pair(text, objects, kind), noun, word))
    nowhere = sorted(absent)
    for i in rng.permutation(len(nowhere))[: PER_KIND["no-target"]]:
        text = describer.word("noun", nowhere[i])
        asked.append(Question(Pair(text, (), "no-target"), nowhere[i], ""))
    return asked


def answers(photos: Sequence[Photo], model, processor) -> list[Answer]:
    """Ask a model about every picture."""
    found = []
    bar = tqdm(photos, "pictures", unit="picture", disable=not sys.stderr.isatty())
    for number, photo in enumerate(bar):
        masks = np.stack([thing.mask(photo.size) for thing in photo.objects])
        asked = questions(photo, masks, number)
        if not asked:
            continue
        texts = [question.pair.text for question in asked]
        candidates = model.find([load(photo)], texts, processor=processor)
        for question, (candidate,) in zip(asked, candidates, strict=True):
            there = model.choose([candidate]) is not None
            found.append(_judge(photo, masks, question, candidate.mask, there))
    return found


def _judge(
    photo: Photo, masks: np.ndarray, asked: Question, mask: np.ndarray, there: bool
) -> Answer:
    objects = asked.pair.objects
    truth = masks[list(objects)].any(axis=0)
    each = [iou(mask, own) for own in masks]
    twins = [i for i, o in enumerate(photo.objects) if o.noun and asked.noun in true_of(o.noun)]
    right = None
    if len(objects) == 1 and len(twins) > 1:
        best = max(twins, key=lambda i: each[i])
        right = bool(best == objects[0] and each[best] > 0.1)
    area = masks.sum(axis=(1, 2))
    perfect = [iou(own, truth) for own in masks]
    return Answer(
        photo=photo,
        text=asked.pair.text,
        kind=asked.pair.kind,
        noun=asked.noun,
        word=asked.word,
        iou=iou(mask, truth),
        found=there,
        right=right,
        rivals=len(twins) - 1,
        largest=perfect[int(area.argmax())],
        largest_twin=bool(objects) and objects[0] == max(twins, key=lambda i: area[i]),
        random=float(np.mean(perfect)),
        mask=mask,
    )


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks; 1 where both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def tables(found: Sequence[Answer]) -> str:
    """Markdown."""
    shown = [a for a in found if a.kind != "no-target"]
    rows = []
    for group in GROUPS:
        rows.append(_row(group, [a for a in shown if nouns()[a.noun].group == group]))
    kinds = [kind for kind in PER_KIND if any(a.kind == kind for a in shown)]
    rows += [_row(f"sentences: {kind}", [a for a in shown if a.kind == kind]) for kind in kinds]
    rows.append(_row("all", shown))
    text = markdown_table(
        ["mean IoU", "sentences", "model", "largest object", "random object"], rows
    )
    twins = [a for a in shown if a.right is not None]
    rows = []
    for word in (*TWINS.values(), ""):
        own = [a for a in twins if a.word == word] if word else [a for a in twins if a.word]
        rows.append([
            word or "these four", len(own), _mean([a.right for a in own]),
            _mean([a.largest_twin for a in own]), _mean([1 / (1 + a.rivals) for a in own]),
        ])  # fmt: skip
    text += "\n\n" + markdown_table(
        ["right one of several", "sentences", "model", "largest of the noun", "random of the noun"],
        rows,
    )
    absent = [a for a in found if a.kind == "no-target"]
    for told, right in (
        ("found where it is there (T-acc)", [a.found for a in shown]),
        ("not found where it is not (N-acc)", [not a.found for a in absent]),
    ):
        text += "\n" if told.startswith("not") else "\n\n"
        text += f"{told}: " + ("-" if not right else f"{_mean(right):.3f} ({len(right)} sentences)")
    return text


def _row(name: str, own: Sequence[Answer]) -> list:
    return [
        name, len(own), _mean([a.iou for a in own]), _mean([a.largest for a in own]),
        _mean([a.random for a in own]),
    ]  # fmt: skip


def _mean(values: Sequence) -> float | None:
    return float(np.mean(values)) if len(values) else None


def sheet(found: Sequence[Answer], path: Path, columns: int = 8, rows: int = 8) -> None:
    """Answers as pictures: the answer in red, evenly from the worst to the best."""
    order = sorted((a for a in found if a.kind != "no-target"), key=lambda a: a.iou)
    places = np.linspace(0, len(order) - 1, columns * rows).astype(int) if order else ()
    picked = [order[i] for i in places]
    side = 150
    image = Image.new("RGB", (columns * side, rows * (side + 26)), "white")
    draw = ImageDraw.Draw(image)
    for number, answer in enumerate(picked):
        left, top = number % columns * side, number // columns * (side + 26)
        pixels = load(answer.photo).astype(np.float32)
        pixels[answer.mask] = 0.45 * pixels[answer.mask] + 0.55 * np.array([230, 40, 40])
        tile = Image.fromarray(pixels.astype(np.uint8))
        tile.thumbnail((side - 4, side - 4))
        image.paste(tile, (left + 2, top + 2))
        draw.text((left + 2, top + side), answer.text[:24], fill="black")
        draw.text((left + 2, top + side + 12), f"{answer.iou:.2f}", fill="black")
    image.save(path)


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.pictures", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--photos", type=Path, default=Path("data/photos"), metavar="DIR")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write sheet.png and answers.json")
    add_model_options(parser)
    return parser.parse_args(argv)


@one_line_errors("eval.pictures")
def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when the tables are printed, 2 on unusable input."""
    args = _parse(argv)
    photos = [p for p in read_photos(args.photos, "val") if p.known and p.objects]
    if not photos:
        raise ValueError(f"{args.photos} has no val pictures with masks")
    found = answers(photos, *load_model(args.model, args.device, args.dtype))
    if not found:
        raise ValueError(f"nothing can be asked about the val pictures of {args.photos}")
    print(tables(found))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        sheet(found, args.out / "sheet.png")
        rows = [
            {"picture": a.photo.path, "text": a.text, "kind": a.kind, "iou": round(a.iou, 4),
             "found": a.found, "right": a.right}
            for a in found
        ]  # fmt: skip
        (args.out / "answers.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
