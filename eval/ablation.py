"""Does the choice of the key frame matter? One row per way to choose it, all else the same.

    python -m eval.ablation --model tiny --root eval/data/ref_sprites --split valid --out DIR

The ablation of "Find First, Track Next" (arXiv 2503.03492) on Ref-Sprites: the first frame, one of
the K sampled frames at random, and the best of the K by predicted IoU, by alignment with the text,
by the model's score of both, and by the true mask, which no model can know. Each video is searched
once and tracked once, for all rows together. Scores of finished videos are kept under OUT/cache,
so an interrupted run goes on where it stopped.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from eval.benchmarks.base import decode_mask
from eval.benchmarks.ref_sprites import RefSprites
from eval.metrics.jf.core import jaccard
from eval.report import add_model_options, model_digest, positive, run_command
from eval.sprites import (
    Answer,
    draw,
    evaluate,
    kind_columns,
    model_key,
    publish,
    score_masks,
    tabulate,
)
from modeling_findtrack.cli import load_model
from modeling_findtrack.feature_cache import FeatureCache
from modeling_findtrack.keyframes import choose_key_frame
from modeling_findtrack.results import Candidate, MaskSequence
from modeling_findtrack.sweep import KeyMask

CACHE_VERSION = 1  # of what a cached answer means, besides `eval.sprites.CACHE_VERSION`
INTERRUPTED = "interrupted; the same command goes on where it stopped"
NOTE = (
    "J&F, J and F are means over sentences with a target, all frames counted; N-acc is the share "
    "of sentences without a target that are answered with empty masks throughout, T-acc the share "
    "of the others that are not. All rows are tracked alike, from a candidate the model accepts "
    "(its presence, its score, a mask that is not empty); without one every mask is empty. "
    "*random frame* is one of the K sampled frames. *confidence* is the predicted IoU, "
    "*alignment* the cosine of masked region and text, *both* the model's own score. *best by "
    "truth* takes the candidate of the highest IoU with the true mask of its frame, which no model "
    "knows: an upper bound on the mask that is tracked, and nearly so on what becomes of it."
)

# (candidate, true IoU) -> what a method ranks by
Rank = Callable[[Candidate, float], float]
RANKS: dict[str, Rank] = {
    "confidence only": lambda candidate, truth: candidate.iou,
    "alignment only": lambda candidate, truth: candidate.alignment,
    "both": lambda candidate, truth: candidate.score,
    "best by truth (upper bound)": lambda candidate, truth: truth,
}


def ranks(model, count: int) -> dict[str, Rank]:
    """The methods that rank all K candidates, by the label of their row.

    Args:
        model: Without an aligner there is no alignment to rank by.
        count: K.
    """
    kept = {n: r for n, r in RANKS.items() if n != "alignment only" or model.aligner is not None}
    return {f"K = {count}, {name}": rank for name, rank in kept.items()}


def methods(model, count: int) -> list[str]:
    """Labels of all rows."""
    return ["first frame", "random frame", *ranks(model, count)]


def choose(model, candidates: Sequence[Candidate], scores: Sequence[float]) -> Candidate | None:
    """The candidate of the highest score among those the model accepts; None for "not found".

    The model is asked first, since the thresholds of its config are about its own score. Ties and
    scores that are not finite are treated as the model does.
    """
    accepted = [
        (candidate, replace(candidate, score=score))
        for candidate, score in zip(candidates, scores, strict=True)
        if model.choose([candidate]) is not None
    ]
    best = choose_key_frame([ranked for _, ranked in accepted], accept_empty=True)
    return None if best is None else accepted[best][0]


def choices(
    model, row: dict, candidates: Sequence[Candidate], seed: int, count: int
) -> dict[str, Candidate | None]:
    """What every method tracks for one sentence.

    Args:
        model: Says which candidates are acceptable.
        row: The sentence, with its true masks.
        candidates: One per sampled frame, in video order.
        seed: Of the random frame.
        count: K; a shorter video has fewer candidates.

    Returns:
        A candidate, or None for "not found", by the method's label.
    """
    drawn = candidates[draw(row, len(candidates), seed)]
    chosen = {
        "first frame": choose(model, candidates[:1], [candidates[0].score]),
        "random frame": choose(model, [drawn], [drawn.score]),
    }
    truths = [true_iou(row, candidate) for candidate in candidates]
    for label, rank in ranks(model, count).items():
        scores = [rank(*pair) for pair in zip(candidates, truths, strict=True)]
        chosen[label] = choose(model, candidates, scores)
    return chosen


def true_iou(row: dict, candidate: Candidate) -> float:
    """IoU of a candidate with the true mask of its frame; 0 where the target is not in sight."""
    truth = decode_mask(row, candidate.frame)
    # J of two empty masks is 1, but there is nothing to track from an empty one.
    return jaccard(candidate.mask, truth) if truth.any() else 0.0


def score_video(
    benchmark: RefSprites, video: str, model, processor, seed: int, count: int
) -> list[Answer]:
    """Every method's answers to every sentence of one video.

    Args:
        benchmark: Where the video comes from.
        video: Its name.
        model: A `FindTrackModel`.
        processor: The one that belongs to the model.
        seed: Of the random frame.
        count: K, frames to search.
    """
    rows = benchmark.rows(video)
    frames = [frame["path"] for frame in rows[0]["frames"]]
    texts = [row["expression"] for row in rows]
    features = FeatureCache(model.config.feature_cache_bytes)
    found = model.find(frames, texts, processor=processor, key_frames=count, cache=features)
    chosen = [
        choices(model, row, candidates, seed, count)
        for row, candidates in zip(rows, found, strict=True)
    ]
    # Methods that agree on a sentence's key frame share its track.
    wanted = {
        (n, candidate.frame): candidate
        for n, choice in enumerate(chosen)
        for candidate in choice.values()
        if candidate is not None
    }
    keys = [KeyMask(candidate.frame, candidate.mask) for candidate in wanted.values()]
    tracks = model.track(frames, keys, processor=processor, cache=features)
    masks = {key: masks for key, (masks, _) in zip(wanted, tracks, strict=True)}
    answers = []
    for n, (row, choice) in enumerate(zip(rows, chosen, strict=True)):
        mine = {frame: track for (m, frame), track in masks.items() if m == n}
        answers += _answers(row, choice, mine)
    return answers


def _answers(
    row: dict, choice: dict[str, Candidate | None], tracks: dict[int, MaskSequence]
) -> list[Answer]:
    """One answer per method, scored once per key frame; `tracks` are by key frame."""
    nothing = MaskSequence.empty(len(row["frames"]), (row["height"], row["width"]))
    scored: dict[int | None, Answer] = {}
    answers = []
    for label, candidate in choice.items():
        frame = None if candidate is None else candidate.frame
        if frame not in scored:
            scored[frame] = score_masks(row, label, nothing if frame is None else tracks[frame])
        answers.append(replace(scored[frame], method=label))
    return answers


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.ablation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--root", type=Path, default=Path("eval/data/ref_sprites"))
    parser.add_argument("--split", default="valid")
    add_model_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="for table.md, table.json, cache/")
    parser.add_argument("--limit", type=positive, help="only the first N videos")
    parser.add_argument("--seed", type=int, default=0, help="of the random frame")
    parser.add_argument("--key-frames", type=positive, metavar="K", help="(the model's own number)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when the table is written, 2 on unusable input, 130 interrupted."""
    args = _parse(argv)
    return run_command("eval.ablation", lambda: _run(args), INTERRUPTED)


def _run(args: argparse.Namespace) -> int:
    benchmark = RefSprites(args.root, args.split)
    model, processor = load_model(args.model, args.device, args.dtype)
    count = args.key_frames or model.config.num_key_frames
    digest = model_digest(args.model)
    kind = f"ablation-v{CACHE_VERSION}-{count}"
    answers = evaluate(
        benchmark,
        benchmark.videos[: args.limit],
        lambda video: score_video(benchmark, video, model, processor, args.seed, count),
        args.out / "cache" / f"{kind}-{model_key(model, digest)}",
        args.seed,
    )
    table = tabulate(answers, methods(model, count), kind_columns())
    publish(args, str(model.dtype), digest, table, answers, NOTE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
