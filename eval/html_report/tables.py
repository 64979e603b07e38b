"""The tables of the page."""

from collections.abc import Iterator, Mapping, Sequence

from eval.scoring import ExpressionScore

from .elements import Markup, counted, element, percent, table

COLUMNS = (
    "J&F",
    "J",
    "F",
    "N-acc",
    "T-acc",
    "Final",
    "count",
    "J_recall",
    "J_decay",
    "F_recall",
    "F_decay",
)


def score_table(scores: dict) -> Markup:
    """The primary scores, each annotator's below them, then the other conventions and subsets."""
    rows = [row for part in (scores, *scores.get("others", ())) for row in _score_rows(part)]
    keys = [key for key in COLUMNS if any(row.get(key) is not None for _, row in rows)]
    header = ["subset", "convention", *(key.replace("_", " ") for key in keys)]
    cells = [
        [name, element("code", row["convention"]), *(_score(row.get(key)) for key in keys)]
        for name, row in rows
    ]
    return table("Scores", header, cells, class_="scores")


def _score_rows(scores: dict) -> Iterator[tuple[str, dict]]:
    yield str(scores.get("subset", "all")), scores
    for part in scores.get("annotators", ()):
        yield f"annotator {part['annotator']}", part


def _score(value) -> str:
    return percent(value) if isinstance(value, float) or value is None else str(value)


def answer_table(expressions: Sequence[ExpressionScore], answers: Sequence[dict]) -> Markup | None:
    """Which expressions were answered with a mask, apart for those with and without a target."""
    if expressions:
        kinds = [(e.no_target, e.empty) for e in expressions]
    else:
        kinds = [(a.get("no_target"), a["empty"]) for a in answers if "empty" in a]
    if not kinds:
        return None
    names = {False: "with a target", True: "without a target", None: "all expressions"}
    rows = []
    for kind, name in names.items():
        empties = [empty for no_target, empty in kinds if no_target is kind]
        if empties:
            masked = len(empties) - sum(empties)
            share = masked / len(empties)
            cells = [(masked, share), (sum(empties), 1 - share)]
            rows.append([name, len(empties), *(f"{n} ({percent(s)}%)" for n, s in cells)])
    header = ["expressions", "count", "some mask", "empty"]
    return table("Expressions by answer", header, rows)


def seconds_table(seconds: Mapping | None, rate: float | None = None) -> Markup | None:
    """Seconds per stage and their share of the total; `rate` is in videos per second."""
    seconds = {k: v for k, v in (seconds or {}).items() if isinstance(v, (int, float))}
    if not seconds:
        return None
    total = seconds.pop("total", None) or sum(seconds.values())
    rows = [[k, f"{v:.1f}", f"{percent(v / total)}%" if total else "–"] for k, v in seconds.items()]
    rows.append(["total", f"{total:.1f}", ""])
    if rate is not None:
        rows.append(["videos per second", f"{rate:.2f}", ""])
    return table("Seconds", ["stage", "seconds", "share"], rows)


_PLACES = ("root", "object_ids", "masks", "metadata")  # such pages are passed on


def facts_table(caption: str, facts: Mapping | None) -> Markup | None:
    """Names and values; nested names are joined with dots. Where data lay is not shown."""
    shown = [(name, value) for name, value in _flat(facts or {}) if name not in _PLACES]
    rows = [[name, element("code", value)] for name, value in shown]
    return table(caption, ["name", "value"], rows, class_="plain") if rows else None


def _flat(facts: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ", ".join(map(str, value)) or "–"
        else:
            yield f"{prefix}{name}", "–" if value is None else str(value)


def video_table(videos: Sequence[dict]) -> Markup | None:
    """One row per video, folded away."""
    if not videos:
        return None
    scored = any(video.get("J&F") is not None for video in videos)
    keys = ("J&F", "J", "F") if scored else ()
    rows = [
        [
            element("code", video["video_id"]),
            video.get("frames", "–"),
            *(percent(video.get(key)) for key in keys),
            _video_seconds(video.get("seconds")),
        ]
        for video in sorted(videos, key=lambda v: v["video_id"])
    ]
    header = ["video", "frames", *keys, "seconds"]
    counted_are = "objects" if any("objects" in video for video in videos) else "expressions"
    caption = f"Videos, means over {counted_are} with a target" if scored else "Videos"
    summary = element("summary", counted(len(videos), "video"))
    return element("details", summary, table(caption, header, rows))


def _video_seconds(seconds) -> str:
    if isinstance(seconds, Mapping):
        seconds = seconds.get("total", sum(seconds.values()))
    return "–" if seconds is None else f"{seconds:.1f}"
