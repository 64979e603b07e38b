"""Result table on Ref-Sprites, next to baselines that show what its scores are worth.

    python -m eval.sprites --model tiny --root eval/data/ref_sprites --split valid --out DIR

Rows: FindTrack; FindTrack looking for the object in frame 0 alone; and two baselines that are given
the true masks of the objects, so that they are upper bounds of what guessing can reach: the object
with the largest visible area, and one drawn at random. Scores of finished videos are kept under
OUT/cache, so an interrupted run goes on where it stopped.
"""

import argparse
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from eval.benchmarks.base import decode_mask
from eval.benchmarks.ref_sprites import RefSprites
from eval.conventions import per_expression
from eval.report import (
    add_model_options,
    markdown_table,
    model_digest,
    one_line_errors,
    write_json,
    write_text,
)
from modeling_findtrack.cli import load_model, model_name

KINDS = ("noun", "position", "size", "relation", "motion", "motion-only")
CACHE_VERSION = 3  # of what a cached answer means
METHODS = ("FindTrack", "key frame 0 only", "largest object", "random object")
NOTE = (
    "J&F, J and F are means over sentences with a target, all frames counted; N-acc is the share "
    "of sentences without a target that are answered with empty masks throughout, T-acc the share "
    "of the others that are not. *largest object* and *random object* choose among the true masks "
    "of all objects of the video: they are upper bounds. *art* columns count the sentences whose "
    "target is drawn in that style."
)


@dataclass(frozen=True)
class Answer:
    """Scores of one method on one sentence."""

    video: str
    exp_id: str
    text: str
    kind: str
    art: str | None  # art style of the target; None without one
    heldout_art: bool
    heldout_background: bool
    method: str  # one of METHODS
    j: float  # mean over frames
    f: float
    empty: bool  # no pixel in any frame

    @property
    def jf(self) -> float:
        """J&F."""
        return (self.j + self.f) / 2


def score_video(benchmark: RefSprites, video: str, model, processor, seed: int) -> list[Answer]:
    """Every method's answers to every sentence of one video.

    Raises:
        ValueError: The model returns another number of tracks or frames than it was given.
    """
    rows, objects = benchmark.rows(video), benchmark.objects(video)
    frames = [frame["path"] for frame in rows[0]["frames"]]
    texts = [row["expression"] for row in rows]
    tracks = {
        "FindTrack": model.segment(frames, texts, processor=processor),
        "key frame 0 only": model.segment(frames, texts, processor=processor, key_frames=1),
    }
    for found in tracks.values():
        if len(found) != len(texts):
            raise ValueError(f"{len(texts)} sentences gave {len(found)} tracks")
    answers = []
    for n, row in enumerate(rows):
        for method in METHODS:
            if method in tracks:
                masks = tracks[method][n].masks
            else:
                masks = true_masks(row | {"mask_rles": _guess(method, objects, row, seed)})
            answers.append(score_masks(row, method, masks))
    return answers


def true_masks(row: dict) -> Iterator[np.ndarray]:
    """The T masks (H, W) bool of a row."""
    return (decode_mask(row, t) for t in range(len(row["frames"])))


def _guess(method: str, objects: dict[int, list], row: dict, seed: int) -> list[list[dict]]:
    """`mask_rles` of the object a baseline chooses among all of the video; empty without any."""
    if not objects:
        return [[] for _ in row["frames"]]
    if method == "largest object":
        chosen = max(objects, key=lambda a: visible_area(objects[a]))
    else:
        chosen = list(objects)[draw(row, len(objects), seed)]
    return [[rle] if rle else [] for rle in objects[chosen]]


def draw(row: dict, count: int, seed: int) -> int:
    """One of 0 .. count-1 at random, by sentence and seed alone: neither --limit nor the order of
    videos changes a draw."""
    key = zlib.crc32(f"{row['video_id']}/{row['exp_id']}".encode())
    return int(np.random.default_rng([seed, key]).integers(count))


def visible_area(rles: Sequence[dict | None]) -> int:
    """Visible pixels of an object, summed over all frames."""
    return sum(int(coco_mask.area(rle)) for rle in rles if rle)


def score_masks(row: dict, method: str, masks: Iterable[np.ndarray]) -> Answer:
    """Scores of the T masks (H, W) with which `method` answers the sentence of a row."""
    some = False

    def watched():
        nonlocal some
        for mask in masks:
            some = some or bool(mask.any())
            yield mask

    scores = per_expression(watched(), true_masks(row))
    return Answer(
        video=row["video_id"],
        exp_id=row["exp_id"],
        text=row["expression"],
        kind=row["kind"],
        art=row["art"],
        heldout_art=row["heldout_art"],
        heldout_background=row["heldout_background"],
        method=method,
        j=scores.j_mean,
        f=scores.f_mean,
        empty=not some,
    )


def evaluate(
    benchmark: RefSprites,
    videos: Sequence[str],
    score: Callable[[str], list[Answer]],
    cache: Path,
    seed: int,
) -> list[Answer]:
    """Answers of all videos, taken from `cache` where a video and the seed are what they were.

    Args:
        benchmark: Where the videos come from.
        videos: What to score.
        score: Scores one video; see `score_video`.
        cache: Folder of one JSON file per video, of one model.
        seed: Of what is drawn at random.
    """
    answers = []
    for video in tqdm(videos, unit="video", disable=not sys.stderr.isatty()):
        path = cache / f"{video}.json"
        key = f"v{CACHE_VERSION}-{video_digest(benchmark, video)}-{seed}"
        kept = _read_cache(path, key)
        if kept is None:
            kept = score(video)
            write_json(path, {"key": key, "answers": [asdict(a) for a in kept]})
        answers += kept
    return answers


def video_digest(benchmark: RefSprites, video: str) -> str:
    """Changes when the sentences, frames or masks of the video do; SHA-256 as hex."""
    rows = benchmark.rows(video)
    facts = [{k: v for k, v in row.items() if k != "frames"} for row in rows]
    text = json.dumps([facts, benchmark.objects(video)], sort_keys=True)
    sha = hashlib.sha256(text.encode())
    for frame in rows[0]["frames"]:
        sha.update(Path(frame["path"]).read_bytes())
    return sha.hexdigest()


def _read_cache(path: Path, key: str) -> list[Answer] | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return [Answer(**a) for a in stored["answers"]] if stored["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):  # absent, or of another version
        return None


def summarise(answers: Sequence[Answer]) -> tuple[list[str], list[list]]:
    """Header and rows of the table of this command; see `tabulate`."""
    columns = kind_columns() | {
        "trained": lambda a: not (a.heldout_art or a.heldout_background),
        "held-out art": lambda a: a.heldout_art,
        "held-out background": lambda a: a.heldout_background,
    }
    styles = sorted({a.art for a in answers if a.art is not None})
    columns |= {f"art {style}": lambda a, style=style: a.art == style for style in styles}
    return tabulate(answers, METHODS, columns)


def kind_columns() -> dict[str, Callable[[Answer], bool]]:
    """A column per kind of sentence with a target: its name, and which answers belong to it.

    The last has all kinds but the one that a finder of single frames can only guess.
    """
    columns = {kind: lambda a, kind=kind: a.kind == kind for kind in KINDS}
    return columns | {"all but motion-only": lambda a: a.kind != "motion-only"}


def tabulate(
    answers: Sequence[Answer],
    methods: Sequence[str],
    columns: dict[str, Callable[[Answer], bool]],
) -> tuple[list[str], list[list]]:
    """Header and rows of a table: the number of sentences per column, then one row per method.

    Args:
        answers: Of all methods.
        methods: The rows, in their order.
        columns: By name, which of the answers to sentences with a target count there, by J&F.
    """
    header = ["", "J&F", "J", "F", *columns, "N-acc", "T-acc"]
    rows = []
    for method in methods:
        mine = [a for a in answers if a.method == method]
        target = [a for a in mine if a.kind != "no-target"]
        without = [a for a in mine if a.kind == "no-target"]
        groups = [[a for a in target if belongs(a)] for belongs in columns.values()]
        if not rows:
            sizes = [len(target)] * 3 + [len(g) for g in groups] + [len(without), len(target)]
            rows.append(["sentences", *sizes])
        rows.append(
            [
                method,
                _mean([a.jf for a in target]),
                _mean([a.j for a in target]),
                _mean([a.f for a in target]),
                *(_mean([a.jf for a in group]) for group in groups),
                _mean([a.empty for a in without]),
                _mean([not a.empty for a in target]),
            ]
        )
    return header, rows


def _mean(values: Sequence) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.sprites", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--root", type=Path, default=Path("eval/data/ref_sprites"))
    parser.add_argument("--split", default="valid")
    add_model_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="for table.md, table.json, cache/")
    parser.add_argument("--limit", type=int, help="only the first N videos")
    parser.add_argument("--seed", type=int, default=0, help="of the random baseline")
    return parser.parse_args(argv)


@one_line_errors("eval.sprites")
def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when the table is written, 2 on unusable input."""
    args = _parse(argv)
    benchmark = RefSprites(args.root, args.split)
    model, processor = load_model(args.model, args.device, args.dtype)
    digest = model_digest(args.model)
    answers = evaluate(
        benchmark,
        benchmark.videos[: args.limit],
        lambda video: score_video(benchmark, video, model, processor, args.seed),
        args.out / "cache" / model_key(model, digest),
        args.seed,
    )
    publish(args, str(model.dtype), digest, summarise(answers), answers, NOTE)
    return 0


def model_key(model, digest: str) -> str:
    """Name of a cache folder that belongs to a model, its dtype and device."""
    return f"{digest[:16]}-{model.dtype}-{model.device.type}"


def publish(
    args: argparse.Namespace,
    dtype: str,
    digest: str,
    table: tuple[list[str], list[list]],
    answers: Sequence[Answer],
    note: str,
) -> None:
    """Write table.md and table.json to the folder `args.out`, and print the former.

    Args:
        args: Options of the command; `out`, `split`, `model` and `seed` are used.
        dtype: Of the model.
        digest: Of the model; see `model_digest`.
        table: Header and rows.
        answers: All that the table is made of.
        note: What the rows and columns are.
    """
    header, rows = table
    title = f"Ref-Sprites {args.split}, {len({a.video for a in answers})} videos"
    text = f"{title}\n\n{markdown_table(header, rows)}\n\n{note}\n"
    write_text(args.out / "table.md", text)
    write_json(
        args.out / "table.json",
        {
            "title": title,
            "model": {"name": model_name(args.model), "digest": digest, "dtype": dtype},
            "seed": args.seed,
            "header": header,
            "rows": rows,
            "answers": [asdict(a) for a in answers],
        },
    )
    print(text, end="")


if __name__ == "__main__":
    raise SystemExit(main())
