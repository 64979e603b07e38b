"""Examples of a run: which expressions are shown, and how: J and F over time above the frames."""

from collections.abc import Sequence

import numpy as np

from eval.benchmarks.base import Benchmark, decode_mask, own_columns
from eval.benchmarks.frames import read_frames
from eval.prediction_folder import PredictionFolder
from eval.scoring import ExpressionScore

from . import plots
from .elements import Markup, element, percent, spaced
from .sheet import draw_sheet, pick_frames

PER_GROUP = 3  # examples per heading; there are three headings
WITHOUT_TRUTH = 6  # examples where there is no truth to rank by


def ranked_groups(
    expressions: Sequence[ExpressionScore],
) -> list[tuple[str, list[ExpressionScore]]]:
    """The best, the median and the worst expressions with a target, under their headings.

    No expression comes twice, and in a group no video does.
    """
    ranked = sorted((e for e in expressions if not e.no_target), key=lambda e: -e.scores.jf)
    if not ranked:
        return []
    count = min(PER_GROUP, max(1, len(ranked) // 3))
    middle = ranked[len(ranked) // 2].scores.jf
    orders = {
        "Best": ranked,
        "Worst": ranked[::-1],
        "Around the median": sorted(ranked, key=lambda e: abs(e.scores.jf - middle)),
    }
    groups, taken = {}, set()
    for heading, order in orders.items():
        group, videos = [], set()
        for expression in order:
            key = (expression.video_id, expression.exp_id)
            if len(group) < count and expression.video_id not in videos and key not in taken:
                group.append(expression)
                videos.add(expression.video_id)
                taken.add(key)
        groups[heading] = group
    order = ("Best", "Around the median", "Worst")
    return [(heading, groups[heading]) for heading in order if groups[heading]]


def spread_rows(benchmark: Benchmark) -> list[dict]:
    """Rows of evenly picked videos, another expression each time."""
    count = min(WITHOUT_TRUTH, len(benchmark.videos))
    picked = np.linspace(0, len(benchmark.videos) - 1, count).round().astype(int)
    rows = []
    for n, index in enumerate(picked):
        own = benchmark.rows(benchmark.videos[index])
        rows += own[n % len(own) :][:1] if own else []
    return rows


def find_row(benchmark: Benchmark, expression: ExpressionScore) -> dict:
    """The row that an expression's scores belong to.

    Raises:
        ValueError: The benchmark has none.
    """
    for row in benchmark.rows(expression.video_id):
        if row["exp_id"] == expression.exp_id:
            return row
    raise ValueError(
        f"video {expression.video_id} has no expression {expression.exp_id}: "
        "the scores are of another tree"
    )


def example(
    row: dict,
    folder: PredictionFolder,
    answer: dict,
    expression: ExpressionScore | None = None,
) -> Markup:
    """One expression: its sentence, its facts, its scores over time, and its contact sheet.

    Args:
        row: Of the benchmark.
        folder: Of predictions per expression.
        answer: Its entry in the report's expressions; {} if there is none.
        expression: Its scores; None where there is no truth.
    """
    names, key_frame = row["frame_names"], answer.get("key_frame")
    if key_frame is not None and not 0 <= key_frame < len(names):
        raise ValueError(f"key frame {key_frame} of a video with {len(names)} frames")
    picked = pick_frames(len(names), key_frame)
    label = f"Frames of {row['video_id']}, expression {row['exp_id']}"
    return element(
        "article",
        element("h4", "“", row["expression"], "”"),
        _scores_line(row, answer, expression),
        _origin_line(row),
        element(
            "div",
            _film(row, folder, picked, key_frame, expression),
            class_="wide",
            role="region",
            aria_label=label,
            tabindex=0,
        ),
        class_="example",
    )


def _film(row, folder, picked, key_frame, expression: ExpressionScore | None) -> Markup:
    """Scores over time, the names of the frames, and below them the contact sheet."""
    names, legend = row["frame_names"], ["frame", "prediction"]
    parts, truth = [], None
    if expression is not None:
        parts.append(_score_plot(names, picked, key_frame, expression))
        truth = [decode_mask(row, t) for t in picked]
        legend.append("truth")
    sheet = draw_sheet(
        read_frames(row, picked),
        [_predicted(row, names[t], folder) for t in picked],
        truth,
    )
    alt = (
        f"Frames {', '.join(names[t] for t in picked)} of video {row['video_id']}. "
        f"Rows: {', '.join(legend)}. Expression: {row['expression']}"
    )
    image = element(
        "img",
        src=sheet.uri,
        alt=alt,
        width=sheet.size[0],
        height=sheet.size[1],
    )
    parts += [
        element("div", *_heads(names, picked, key_frame, expression), class_="heads"),
        element("div", *(element("span", text, class_=text) for text in legend), class_="rows"),
        image,
    ]
    style = f"--columns:{len(picked)};--width:{sheet.size[0]}px"
    return element("div", *parts, class_="film", style=style)


def _predicted(row: dict, frame: str, folder: PredictionFolder) -> np.ndarray:
    """The predicted mask (H, W) bool of one frame."""
    size = (row["height"], row["width"])
    return folder.read(row["video_id"], row["exp_id"], frame, size=size) > 0


def _score_plot(names, picked, key_frame, expression: ExpressionScore) -> Markup:
    scores = expression.scores
    if len(scores.j) != len(names):
        raise ValueError(
            f"video {expression.video_id} has {len(names)} frames, its scores {len(scores.j)}"
        )
    title = f"J and F over time: {expression.expression}"
    return plots.lines({"j": scores.j, "f": scores.f}, picked, key_frame, title)


def _heads(names, picked, key_frame, expression: ExpressionScore | None) -> list[Markup]:
    """Above each column: the frame's name and its scores."""
    heads = []
    for t in picked:
        lines = [element("b", names[t]), " key" if t == key_frame else None]
        if expression is not None:
            j, f = float(expression.scores.j[t]), float(expression.scores.f[t])
            lines += [element("br"), element("span", "J ", percent(j), class_="j")]
            lines += [" ", element("span", "F ", percent(f), class_="f")]
        heads.append(element("span", *lines))
    return heads


def _scores_line(row: dict, answer: dict, expression: ExpressionScore | None) -> Markup | None:
    """The scores, and what the model made of the expression."""
    facts = []
    if expression is not None:
        scores = expression.scores
        facts += [
            element("b", "J&F ", percent(scores.jf)),
            element("span", "J ", percent(scores.j_mean), class_="j"),
            element("span", "F ", percent(scores.f_mean), class_="f"),
        ]
    if answer.get("found") is False:
        facts.append(element("span", "not found"))
    elif answer.get("key_frame") is not None:
        name = row["frame_names"][answer["key_frame"]]
        facts.append(element("span", "tracked from frame ", element("code", name)))
    if answer.get("score") is not None:
        facts.append(element("span", f"model's score {answer['score']:.2f}"))
    return element("p", *spaced(facts), class_="facts") if facts else None


def _origin_line(row: dict) -> Markup:
    """Where the expression is from, and the benchmark's own facts about it."""
    facts = [
        element("span", "video ", element("code", row["video_id"])),
        element("span", "expression ", element("code", row["exp_id"])),
        *(
            element("span", _fact(k, row[k]))
            for k in own_columns(row)
            if row[k] is not None and row[k] is not False
        ),
    ]
    return element("p", *spaced(facts), class_="facts")


def _fact(name: str, value) -> str:
    name = name.replace("_", " ").replace("heldout", "held-out")
    return name if value is True else f"{name} {value}"
