"""Score a folder of predictions against a benchmark, with the convention named at every number.

Every benchmark has its primary protocol. Ref-YouTube-VOS, MeViS, Ref-Sprites and folders of videos:
per-expression, the mean over expressions that have a target. Ref-DAVIS17: davis-unsupervised, the
mean over its four sets of expressions, one per annotator; the masks of a set are merged into one
label map, where they overlap for the object with the lower number. DAVIS itself: what its
annotations are for.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eval.benchmarks.base import Benchmark
from eval.conventions import (
    CONVENTIONS,
    DAVIS_SEMI,
    DAVIS_UNSUPERVISED,
    PER_EXPRESSION,
    no_target_scores,
    summarise,
)
from eval.davis_tree import PROTOCOLS, DavisTree
from eval.prediction_folder import (
    ANNOTATORS,
    EXPRESSIONS,
    LABEL_MAPS,
    NUM_ANNOTATORS,
    PredictionFolder,
)
from eval.report import markdown_table
from eval.submission import TOP_FOLDERS
from eval.video_scoring import ExpressionScore, ObjectScore, VideoScores, score_video
from eval.worker_pool import map_in_order

__all__ = ["ExpressionScore", "ObjectScore", "Result", "format_scores", "score_predictions"]

_DAVIS = (DAVIS_SEMI, DAVIS_UNSUPERVISED)
_RATES = ("N-acc", "T-acc", "Final")
_NO_SCORES = ("convention", "count")  # of what `summarise` gives
MISSING = ("error", "empty")


@dataclass(frozen=True)
class Result:
    """Scores of a split; all of them fractions."""

    # The primary ones: what `summarise` gives, from "J&F", "J", "F", "convention" on; "subset",
    # "benchmark", "split"; on Ref-DAVIS17 "annotators", a dict each; "N-acc", "T-acc" and "Final"
    # where some expressions have no target; "others", a list of those of other conventions and
    # subsets.
    scores: dict
    expressions: tuple[ExpressionScore, ...]  # () where predictions are label maps
    missing: int  # PNGs treated as empty
    videos: tuple[dict, ...] = ()  # "video_id", "J&F", "J", "F", "count"; see `_video`


def score_predictions(
    benchmark: Benchmark | DavisTree,
    predictions: str | Path,
    *,
    protocol: str | None = None,
    missing: str = "error",
    workers: int = 1,
) -> Result:
    """Score every expression, or every object, of a benchmark.

    Args:
        benchmark: What to score against.
        predictions: Folder in one of the layouts of `eval.prediction_folder`.
        protocol: One of `eval.conventions.CONVENTIONS`; the benchmark's primary one if None.
        missing: What a PNG that is not there is: an "error", or "empty" and counted.
        workers: Processes to spread the videos over; the numbers do not depend on it.

    Raises:
        ValueError: There is nothing to score against, the protocol does not suit the benchmark or
            the predictions, or a PNG is missing or cannot be used.
        OSError: A file cannot be read.
    """
    if missing not in MISSING:
        raise ValueError(f"missing is {' or '.join(MISSING)}, not {missing!r}")
    protocol = _choose_protocol(benchmark, protocol)
    if not benchmark.has_truth:
        if benchmark.name in TOP_FOLDERS:
            remedy = "`python -m eval.benchmark` makes the zip that the server scores"
        else:
            remedy = "its rows need `masks`"
        raise ValueError(
            f"{benchmark.name} {benchmark.split} has no published masks to score against; {remedy}"
        )
    folder = PredictionFolder.find(predictions, _tops(benchmark), missing == "empty")
    if folder.layout == ANNOTATORS and protocol == PER_EXPRESSION:
        raise ValueError(
            f"{folder.base} holds label maps, in which masks no longer overlap: they can be scored "
            f"as {' or '.join(_DAVIS)}; {PER_EXPRESSION} wants {EXPRESSIONS}"
        )
    absent = folder.check(_expected(benchmark, folder))
    score = functools.partial(score_video, benchmark, folder, protocol)
    results = map_in_order(score, benchmark.videos, workers)
    bar = tqdm(results, total=len(benchmark.videos), unit="video", disable=not sys.stderr.isatty())
    videos = list(bar)
    expressions = tuple(e for video in videos for e in video.expressions)
    objects = [o for video in videos for o in video.objects]
    if folder.layout == EXPRESSIONS:
        lost = [e for e in expressions if e.absent and not e.no_target]
        benchmark.tell_empty([(e.video_id, e.exp_id) for e in lost])
    elif folder.layout == ANNOTATORS:  # no expression was scored, so their masks are read for it
        benchmark.warn_empty()
    if protocol == PER_EXPRESSION:
        primary, others = _of_expressions(expressions, benchmark.name)
    else:
        primary, others = _of_objects(objects, protocol), []
        if expressions:
            primary_of_expressions, _ = _of_expressions(expressions, benchmark.name)
            others = [primary_of_expressions]
    scores = primary | {"benchmark": benchmark.name, "split": benchmark.split, "others": others}
    return Result(scores, expressions, absent, tuple(_video(v, protocol) for v in videos))


def _choose_protocol(benchmark: Benchmark | DavisTree, protocol: str | None) -> str:
    if isinstance(benchmark, DavisTree):
        primary, possible = PROTOCOLS[benchmark.annotations], _DAVIS
    elif benchmark.name == "ref-davis17":
        primary, possible = DAVIS_UNSUPERVISED, CONVENTIONS
    else:
        primary, possible = PER_EXPRESSION, (PER_EXPRESSION,)
    if protocol is not None and protocol not in possible:
        raise ValueError(
            f"{benchmark.name} can be scored as {' or '.join(possible)}, not {protocol!r}"
        )
    return protocol or primary


def _tops(benchmark: Benchmark | DavisTree) -> dict[str, Sequence[str]]:
    """Layouts predictions may have, with the folders each begins with."""
    if isinstance(benchmark, DavisTree):
        return {LABEL_MAPS: benchmark.videos}
    if benchmark.name == "ref-davis17":
        return {
            ANNOTATORS: [f"anno_{a}" for a in range(NUM_ANNOTATORS)],
            EXPRESSIONS: benchmark.videos,
        }
    return {EXPRESSIONS: benchmark.videos}


def _expected(
    benchmark: Benchmark | DavisTree, folder: PredictionFolder
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Folders of PNGs and their names; see `PredictionFolder.check`."""
    for video in benchmark.videos:
        if isinstance(benchmark, DavisTree):
            yield (video,), [path.stem for path in benchmark.label_maps(video)]
            continue
        rows = benchmark.rows(video)
        if folder.layout == ANNOTATORS:
            for annotator in range(NUM_ANNOTATORS):
                yield (f"anno_{annotator}", video), rows[0]["frame_names"]
        else:
            for row in rows:
                yield (video, row["exp_id"]), row["frame_names"]


def _of_expressions(
    expressions: Sequence[ExpressionScore], benchmark: str
) -> tuple[dict, list[dict]]:
    """Scores of the expressions with a target, then those of other subsets."""
    target = [e for e in expressions if not e.no_target]
    if not expressions:
        raise ValueError("there is not one expression to score")
    if len(target) == len(expressions):
        primary, others = _of_subset(target, "all expressions"), []
    else:
        primary = _of_subset(target, "expressions with a target")
        # The script of MeViS v1 would count an expression without a target like any other.
        others = [_of_subset(expressions, "expressions with and without a target")]
        answers = [e.empty for e in expressions], [e.no_target for e in expressions]
        for scores in (primary, *others):
            scores |= no_target_scores(scores["J&F"], *answers)
    if benchmark == "ref-sprites":
        for name, belongs in _sprite_groups(target).items():
            group = [e for e in target if belongs(e.facts)]
            if group:
                others.append(_of_subset(group, name))
    return primary, others


def _of_subset(expressions: Sequence[ExpressionScore], name: str) -> dict:
    if not expressions:  # none of a few videos' expressions has a target
        nothing = dict.fromkeys(("J&F", "J", "F")) | {"convention": PER_EXPRESSION, "count": 0}
        return nothing | {"subset": name}
    return summarise([e.scores for e in expressions], PER_EXPRESSION) | {"subset": name}


def _sprite_groups(expressions: Sequence[ExpressionScore]) -> dict[str, Callable[[dict], bool]]:
    """What Ref-Sprites knows of a sentence, as groups by name; of facts, whether they belong."""
    kinds = dict.fromkeys(e.facts["kind"] for e in expressions)
    styles = sorted({e.facts["art"] for e in expressions if e.facts["art"] is not None})
    return {
        "all but motion-only": lambda facts: facts["kind"] != "motion-only",
        **{f"kind {k}": lambda facts, k=k: facts["kind"] == k for k in sorted(kinds)},
        **{f"art {s}": lambda facts, s=s: facts["art"] == s for s in styles},
        "held-out art": lambda facts: facts["heldout_art"],
        "held-out background": lambda facts: facts["heldout_background"],
        "neither held out": lambda f: not (f["heldout_art"] or f["heldout_background"]),
    }


def _of_objects(objects: Sequence[ObjectScore], protocol: str) -> dict:
    """Scores over the objects of all videos; on Ref-DAVIS17 the mean over the annotators' sets."""
    if not objects:
        raise ValueError(
            "the true label maps show no object in any first frame: their pixels must be the "
            "numbers of objects, 1 and up, with 255 for void; 0/255 masks are not label maps"
        )
    annotators = sorted({o.annotator for o in objects} - {None})
    if not annotators:
        return summarise([o.scores for o in objects], protocol) | {"subset": "all objects"}
    sets = [
        summarise([o.scores for o in objects if o.annotator == a], protocol) for a in annotators
    ]
    means = {k: float(np.mean([s[k] for s in sets])) for k in sets[0] if k not in _NO_SCORES}
    return (
        sets[0]
        | means
        | {
            "subset": f"mean of {len(sets)} annotators",
            "annotators": [s | {"annotator": a} for s, a in zip(sets, annotators, strict=True)],
        }
    )


def _video(video: VideoScores, protocol: str) -> dict:
    """Means over what counts of a video: its objects, or its expressions with a target.

    Under a DAVIS convention also "objects": "object", "annotator", "J&F", "J" and "F" of each.
    """
    if protocol == PER_EXPRESSION:
        counted = [e.scores for e in video.expressions if not e.no_target]
    else:
        counted = [o.scores for o in video.objects]
    scores = summarise(counted, protocol) if counted else dict.fromkeys(("J&F", "J", "F"))
    entry = {"video_id": video.video_id, **{k: scores[k] for k in ("J&F", "J", "F")}}
    entry["count"] = len(counted)
    if protocol != PER_EXPRESSION:
        entry["objects"] = [
            {"object": o.obj_id, "annotator": o.annotator}
            | {"J&F": o.scores.jf, "J": o.scores.j_mean, "F": o.scores.f_mean}
            for o in video.objects
        ]
    return entry


def format_scores(scores: dict) -> str:
    """`Result.scores` as a Markdown table of percentages, one row per convention and subset."""
    rows = []
    for entry in (scores, *scores.get("others", ())):
        rows.append((str(entry.get("subset", "all")), entry))
        for part in entry.get("annotators", ()):
            rows.append((f"annotator {part['annotator']}", part))
    rates = [key for key in _RATES if any(key in entry for _, entry in rows)]
    columns = ("J&F", "J", "F", *rates)

    def percent(value: float | None) -> str | None:
        return None if value is None else f"{100 * value:4.1f}"

    return markdown_table(
        ["subset", "convention", *columns, "count"],
        [
            [name, e["convention"], *(percent(e.get(k)) for k in columns), e["count"]]
            for name, e in rows
        ],
    )
