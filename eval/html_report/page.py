"""The page as a whole: what is shown, in which order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.benchmarks.base import Benchmark
from eval.conventions import PER_EXPRESSION
from eval.prediction_folder import EXPRESSIONS, PredictionFolder
from eval.report import write_text
from eval.scoring import ExpressionScore, Result
from eval.submission import TOP_FOLDERS

from . import plots
from .elements import Markup, counted, element, percent, spaced
from .examples import example, find_row, ranked_groups, spread_rows
from .tables import answer_table, facts_table, score_table, seconds_table, video_table

HEADLINE = ("J&F", "J", "F", "N-acc", "T-acc", "Final")
_STYLE = Path(__file__).with_name("style.css")
# The page asks for nothing: no script, no request, whatever an expression may contain.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_html(
    path: Path, report: dict, result: Result | None, benchmark: Benchmark, predictions: Path
) -> None:
    """Write one self-contained page about a run: no script, nothing to fetch, light and dark.

    Args:
        path: Of the page; replaced as a whole.
        report: What report.json holds: scores, model, config, benchmark, versions, seconds, videos,
            expressions. Parts that are missing are left out.
        result: The scores; None where the split's masks are not published.
        benchmark: The split that was run.
        predictions: Folder of the predicted masks.

    Raises:
        OSError: A frame or a mask cannot be read.
        ValueError: Scores, predictions and benchmark do not belong together.
    """
    title = benchmark.title
    name = _model_name(report)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", " ".join(filter(None, (title, benchmark.split, name)))),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )
    body = element(
        "body",
        _header(title, report, result, benchmark),
        element(
            "main",
            _scores(result, benchmark),
            _distribution(result.expressions if result else (), report.get("expressions", ())),
            _examples(report, result, benchmark, predictions),
            _run(report),
        ),
    )
    write_text(path, f"<!doctype html>\n{element('html', head, body, lang='en')}\n")


def _model_name(report: dict) -> str | None:
    """A page gets linked: of a folder's absolute path it shows the last part."""
    name = report.get("model", {}).get("name")
    return Path(name).name if name and Path(name).is_absolute() else name


def _header(title: str, report: dict, result: Result | None, benchmark: Benchmark) -> Markup:
    """What was run, and its primary scores."""
    videos, whole = len(benchmark.videos), report.get("benchmark", {}).get("videos_in_split")
    part = whole is not None and whole != videos
    facts = [_model_name(report)]
    facts.append(f"{videos} of {counted(whole, 'video')}" if part else counted(videos, "video"))
    if report.get("expressions"):
        facts.append(counted(len(report["expressions"]), "expression"))
    facts = [element("span", fact) for fact in facts if fact]
    parts = [
        element("h1", title, " ", element("span", benchmark.split)),
        element("p", *spaced(facts), class_="facts"),
    ]
    if result is not None:
        shown = [key for key in HEADLINE if result.scores.get(key) is not None]
        tiles = [
            element("div", element("dt", key), element("dd", percent(result.scores[key])))
            for key in shown
        ]
        parts.append(element("dl", *tiles, class_="headline"))
        parts.append(element("p", "Convention: ", element("code", result.scores["convention"])))
    return element("header", *parts)


def _scores(result: Result | None, benchmark: Benchmark) -> Markup:
    """All scores, the primary ones first."""
    if result is None:
        text = "There are no masks to score against. "
        if benchmark.name in TOP_FOLDERS:
            text = (
                "The masks of this split are not published: the server of the benchmark scores it. "
            )
        text += "This page shows what was predicted."
        return element("section", element("h2", "Scores"), element("p", text, class_="note"))
    note = (
        "All values ×100. J is the overlap of the regions, F the agreement of the boundaries, J&F "
        "the mean of both. Rows of different conventions cannot be compared."
    )
    parts = [score_table(result.scores), element("p", note, class_="note")]
    if result.missing:
        text = f"{counted(result.missing, 'mask')} missing from the predictions counted as empty."
        parts.append(element("p", text, class_="note"))
    return element("section", element("h2", "Scores"), *parts)


def _distribution(expressions: Sequence[ExpressionScore], answers: Sequence[dict]) -> Markup | None:
    """How the scores spread over expressions and videos, and what was answered with a mask."""
    parts = []
    targets = [e for e in expressions if not e.no_target]
    if targets:
        note = (
            "Expressions with a target; each has the convention ",
            element("code", PER_EXPRESSION),
            ".",
        )
        parts.append(element("p", *note, class_="note"))
        videos = _by_video(targets)
        first = plots.histogram(
            [e.scores.jf for e in targets], f"J&F of {counted(len(targets), 'expression')}"
        )
        second = plots.strips(videos, f"J&F of {counted(len(videos), 'video')}")
        parts.append(
            element(
                "div",
                _figure(first, "Expressions by J&F", "A bar counts those within 5 points."),
                _figure(
                    second,
                    "Videos by mean J&F",
                    "A dot is an expression, a dash the mean of a video.",
                ),
                class_="pair",
            )
        )
    parts.append(answer_table(expressions, answers))
    if not any(parts):
        return None
    heading = "Distribution" if targets else "Answers"
    return element("section", element("h2", heading), *parts)


def _by_video(expressions: Sequence[ExpressionScore]):
    """(video, its (label, J&F) pairs), the best video first."""
    videos: dict[str, list[tuple[str, float]]] = {}
    for e in expressions:
        videos.setdefault(e.video_id, []).append((e.expression, e.scores.jf))
    return sorted(videos.items(), key=lambda item: -np.mean([score for _, score in item[1]]))


def _figure(plot: Markup, title: str, note: str) -> Markup:
    caption = element("figcaption", element("b", title), " ", note)
    return element("figure", caption, plot)


def _examples(
    report: dict, result: Result | None, benchmark: Benchmark, predictions: Path
) -> Markup | None:
    """Contact sheets: of the best, median and worst expressions, or of a few without truth."""
    answers = {(a["video_id"], a["exp_id"]): a for a in report.get("expressions", ())}
    if result is None:
        groups = [(None, [(row, None) for row in spread_rows(benchmark)])]
    else:
        groups = [
            (heading, [(find_row(benchmark, e), e) for e in group])
            for heading, group in ranked_groups(result.expressions)
        ]
    if not any(group for _, group in groups):
        return None
    folder = PredictionFolder.find(
        predictions,
        {EXPRESSIONS: benchmark.videos},
        missing_is_empty=result is not None and result.missing > 0,
    )
    parts = []
    for heading, group in groups:
        parts.append(element("h3", heading) if heading else None)
        for row, expression in group:
            answer = answers.get((row["video_id"], row["exp_id"]), {})
            parts.append(example(row, folder, answer, expression))
    return element("section", element("h2", "Examples"), *parts)


def _run(report: dict) -> Markup:
    """How the run was made, and its videos."""
    facts = {name: report.get(name, {}) for name in ("model", "config", "benchmark", "versions")}
    if "name" in facts["model"]:
        facts["model"] = facts["model"] | {"name": _model_name(report)}
    parts = [seconds_table(report.get("seconds"), report.get("videos/s"))]
    parts += [facts_table(name.capitalize(), values) for name, values in facts.items()]
    return element(
        "section",
        element("h2", "Run"),
        element("div", *parts, class_="pair"),
        video_table(report.get("videos", ())),
    )
