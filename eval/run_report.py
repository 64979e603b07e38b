"""What a benchmark run found, as plain JSON values: the content of report.json."""

import platform
from importlib.metadata import PackageNotFoundError, version

from eval.benchmarks.base import Benchmark, own_columns
from eval.prediction_writer import RunFolder
from eval.scoring import ExpressionScore, Result

_PACKAGES = (
    "findtrack",
    "torch",
    "transformers",
    "numpy",
    "pillow",
    "pycocotools",
    "opencv-python-headless",
    "scipy",
    "accelerate",
)
_STAGES = ("find", "track", "write")  # of a video, as its record has them


def build_report(
    benchmark: Benchmark,
    folder: RunFolder,
    result: Result | None,
    about: dict,
    score_seconds: float | None,
) -> dict:
    """Everything known of the finished videos of a run.

    Args:
        benchmark: What was run; all of its videos are finished.
        folder: Where the records of the videos are.
        result: The scores; None where the truth is not published.
        about: The entries "model", "config" and "benchmark".
        score_seconds: What scoring took; None without scores.

    Returns:
        {"scores", *about, "versions", "seconds", "videos/s", "videos", "expressions"}. Scores are
        fractions. Seconds are summed over videos and so over processes and over the runs that
        were interrupted; "videos/s" is what one process does, scoring and loading left out.
    """
    scored = {(e.video_id, e.exp_id): e for e in result.expressions} if result else {}
    videos = {v["video_id"]: v for v in result.videos} if result else {}
    records = [folder.record(video) for video in benchmark.videos]
    expressions = []
    for record in records:
        facts = {} if result else _facts(benchmark, record["video_id"])
        for answer in record["expressions"]:
            key = (record["video_id"], answer["exp_id"])
            expressions.append(_expression(*key, answer, scored.get(key), facts.get(key[1], {})))
    seconds = {stage: sum(r["seconds"][stage] for r in records) for stage in _STAGES}
    busy = sum(seconds.values())
    seconds |= {"score": score_seconds, "total": busy + (score_seconds or 0.0)}
    return {
        "scores": result.scores if result else None,
        **about,
        "versions": versions(),
        "seconds": seconds,
        "videos/s": len(records) / busy if busy else None,
        "videos": [
            {"video_id": r["video_id"], "J&F": None, "J": None, "F": None}
            | videos.get(r["video_id"], {})
            | {"frames": r["frames"], "seconds": r["seconds"]}
            for r in records
        ],
        "expressions": expressions,
    }


def versions() -> dict[str, str | None]:
    """Python and the packages results may depend on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # FindTrack itself may run from a checkout
            found[name] = None
    return found


def _facts(benchmark: Benchmark, video: str) -> dict[str, dict]:
    """Per expression what the scorer would tell of it without its masks."""
    own = own_columns(benchmark.features)
    return {
        row["exp_id"]: {
            "no_target": None if row["obj_ids"] is None else not row["obj_ids"],
            **{k: row[k] for k in own},
        }
        for row in benchmark.rows(video)
    }


def _expression(
    video: str, exp_id: str, answer: dict, scored: ExpressionScore | None, facts: dict
) -> dict:
    entry = {"video_id": video, "exp_id": exp_id, "expression": answer["expression"]}
    entry |= dict.fromkeys(("J&F", "J", "F", "no_target")) | facts
    if scored is not None:
        entry = scored.as_dict()
    return entry | {k: answer[k] for k in ("empty", "found", "score", "key_frame")}
