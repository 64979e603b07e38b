"""Plots as inline SVG.

Positions are percentages of the plot's area and sizes are pixels: text, dots and strokes keep
their size on a phone, only distances shrink. A score s in 0..1 lies 100 * (1 - s) percent below
the top. Colours are the page's, by class.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .elements import Markup, element, percent

BINS = 20  # of the histogram, 5 points of J&F each
_MAX_DOTS = 3000  # more would make the page heavy without showing more
_TICKS = (0, 20, 40, 60, 80, 100)


def histogram(scores: Sequence[float], title: str) -> Markup:
    """How many scores (0..1) lie in each twentieth, and their mean as a line."""
    counts, _ = np.histogram(scores, bins=BINS, range=(0, 1))
    top = _round_up(int(counts.max()))
    marks = [_grid_y(100 * (1 - n / top), n) for n in sorted({0, top // 2, top})]
    marks += [_label_x(tick, tick) for tick in _TICKS]
    step = 100 / BINS
    for n, count in enumerate(counts):
        height = 100 * count / top
        tip = f"J&F {n * step:.0f} to {(n + 1) * step:.0f}: {count}"
        marks.append(
            element(
                "rect",
                element("title", tip),
                x=_at(n * step + 0.3),
                width=_at(step - 0.6),
                y=_at(100 - height),
                height=_at(height),
                class_="bar",
            )
        )
    mean = float(np.mean(scores))
    marks.append(_rule_x(100 * mean, "mean", f"mean {percent(mean)}"))
    return _plot(title, marks)


def strips(groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], title: str) -> Markup:
    """One column per group, in the given order: its range, its mean, and a dot per score.

    Args:
        groups: (name, its scores as (label, score 0..1)); names and labels show on hovering.
        title: Says what is plotted.
    """
    marks = [_grid_y(100 - tick, tick) for tick in _TICKS]
    pitch = 100 / len(groups)
    dots = sum(len(scores) for _, scores in groups) <= _MAX_DOTS
    for n, (name, scores) in enumerate(groups):
        x, values = (n + 0.5) * pitch, [score for _, score in scores]
        low, high, mean = (100 * (1 - f(values)) for f in (min, max, np.mean))
        marks.append(_line(x, low, x, high, "range"))
        if dots:
            marks += [
                _dot(x, score, f"{name}: {label}, {percent(score)}") for label, score in scores
            ]
        tip = element("title", f"{name}: mean {percent(np.mean(values))}")
        marks.append(_line(x - 0.4 * pitch, mean, x + 0.4 * pitch, mean, "group-mean", tip))
    return _plot(title, marks)


def lines(
    series: Mapping[str, np.ndarray], ticks: Sequence[int], marked: int | None, title: str
) -> Markup:
    """Scores over frames, one line per series.

    Args:
        series: Class of the line -> T scores, 0..1.
        ticks: Frames that get a vertical line; what lies below the plot names them.
        marked: Index of the key frame, or None.
        title: Says what is plotted.
    """
    count = len(next(iter(series.values())))
    marks = [_grid_y(100 - tick, tick) for tick in (0, 50, 100)]
    for t in ticks:
        marks.append(_line(_time(t, count), 0, _time(t, count), 100, "grid"))
    if marked is not None:
        marks.append(_rule_x(_time(marked, count), "key", "key frame"))
    drawn = []
    for name, scores in series.items():
        points = [(_time(t, count), 100 * (1 - float(s))) for t, s in enumerate(scores)]
        if count == 1:
            marks.append(_dot(points[0][0], float(scores[0]), None, f"dot {name}"))
        text = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        drawn.append(element("polyline", points=text, class_=f"line {name}"))
    # Stretched to the plot's area, so that a polyline may have percentages, too.
    marks.append(element("svg", *drawn, viewBox="0 0 100 100", preserveAspectRatio="none"))
    return _plot(title, marks)


def _plot(title: str, marks: Sequence[Markup]) -> Markup:
    svg = element("svg", element("title", title), *marks, role="img", aria_label=title)
    return element("div", svg, class_="plot")


def _at(value: float) -> str:
    return f"{value:.2f}%"


def _time(t: int, count: int) -> float:
    return 100 * t / (count - 1) if count > 1 else 50.0


def _line(x1, y1, x2, y2, class_: str, *children) -> Markup:
    return element("line", *children, x1=_at(x1), y1=_at(y1), x2=_at(x2), y2=_at(y2), class_=class_)


def _dot(
    x: float, score: float, tip: str | None, class_: str = "dot", radius: float = 2.5
) -> Markup:
    title = None if tip is None else element("title", tip)
    return element("circle", title, cx=_at(x), cy=_at(100 * (1 - score)), r=radius, class_=class_)


def _grid_y(y: float, label) -> Markup:
    text = element("text", label, x="0", y=_at(y), dx=-8, dy=".35em", class_="y")
    return Markup(_line(0, y, 100, y, "grid") + text)


def _label_x(x: float, label) -> Markup:
    return element("text", label, x=_at(x), y="100%", dy="1.5em", class_="x")


def _rule_x(x: float, class_: str, label: str) -> Markup:
    """A vertical line with its label above, kept inside the plot near either side."""
    anchor = "start" if x < 10 else "end" if x > 90 else "middle"
    text = element("text", label, x=_at(x), y="0", dy="-.6em", text_anchor=anchor, class_=class_)
    return Markup(_line(x, 0, x, 100, class_) + text)


def _round_up(value: int) -> int:
    """The next even number with one leading digit, two for those that start with 1."""
    if value <= 10:
        return max(2, value + value % 2)
    unit = 10 ** (len(str(value)) - 1)
    unit = unit // 5 if value < 2 * unit else unit
    return -(-value // unit) * unit
