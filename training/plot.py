"""Curves of training runs, from their `log.jsonl`.

    python -m training.plot RUN [RUN ...] --out FILE.png

RUN is the folder of a run, or its log. Of every run: the loss terms and the learning rate, and what
validation said. Several runs, as the stages of one recipe, are drawn below one another.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from eval.report import run_command, whole_file

from .run_folder import comparable
from .wording import counted, duration

LOG = "log.jsonl"
WIDTH, DPI = 10.0, 180  # inches, dots per inch: 1800 px, twice what a README gives a picture
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#777777",
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}
HEADING = {"fontsize": 10, "fontweight": "bold", "parse_math": False}  # "$" is a "$"
INK, FAINT = "#222222", "#666666"
COLOURS = (  # of the terms; "total" is INK. Terms beyond these are dashed
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#b5b60c", "#17becf"),
)
JF = "J&F"
SCORES = {  # as validation names them: colour, width, line style, marker
    JF: ("#0b4f9e", 2.6, "-", "o"),
    "J": ("#4a9bd9", 1.2, "-", "o"),
    "F": ("#9bc4e8", 1.2, "-", "o"),
    "N-acc": ("#d9730d", 1.2, "--", "s"),
    "T-acc": ("#2a9d62", 1.2, "--", "s"),
}


@dataclass(frozen=True)
class Log:
    """What a run wrote down, by step ascending; no step comes twice in a list."""

    name: str  # of the run: its folder's
    training: tuple[
        dict, ...
    ]  # "step", "losses" by name, and "epoch", "lr", "grad_norm", "seconds"
    validation: tuple[dict, ...]  # "step" and "validation": scores by name, 0..1 or None


def read_log(path: str | Path) -> Log:
    """Read the log of a run.

    A resumed run repeats the steps since its last checkpoint: the later row counts. Of scores that
    cannot be compared the newest kind is kept. A run that was killed may leave half a line at the
    end, which is ignored.

    Args:
        path: `log.jsonl`, or the folder it lies in.

    Raises:
        OSError: There is no such file.
        ValueError: A line, other than half a last one, is no row; file and line are named.
    """
    path = Path(path)
    path = path / LOG if path.is_dir() else path
    lines = path.read_bytes().split(b"\n")
    last = max((n for n, line in enumerate(lines, 1) if line.strip()), default=0)
    kept: dict[str, list[dict]] = {"losses": [], "validation": []}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == last:
                break
            raise ValueError(f"{path}, line {number} is damaged: {error}; remove it") from error
        kind = _kind(row)
        if kind is None:
            raise ValueError(
                f"{path}, line {number} is no row of a training run: it wants a whole number as "
                'its "step", and "losses" or "validation" by name'
            )
        kept[kind].append(row)
    training, validation = kept["losses"], comparable(kept["validation"])
    return Log(path.resolve().parent.name, _by_step(training), _by_step(validation))


def _by_step(rows: Sequence[dict]) -> tuple[dict, ...]:
    """Ascending; of several rows of a step the last."""
    return tuple(row for _, row in sorted({row["step"]: row for row in rows}.items()))


def _kind(row) -> str | None:
    """Which kind of row this is, by the key that only that kind has; None if it is none."""
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    if isinstance(row.get("validation"), dict):
        scores = (row["validation"].get(name) for name in SCORES)
        return "validation" if all(s is None or _is_number(s) for s in scores) else None
    losses = row.get("losses")
    return "losses" if isinstance(losses, dict) and all(map(_is_number, losses.values())) else None


def _is_number(value) -> bool:
    return isinstance(value, int | float)


def plot(
    logs: str | Path | Log | Sequence[str | Path | Log], out_png: str | Path, title: str = ""
) -> None:
    """Draw runs below one another, and write the picture whole or not at all.

    Per run, left: every loss term, as logged (thin) and as a running mean (bold), on a logarithmic
    axis, above the learning rate. Right: scores of the validation. 1800 pixels wide.

    Args:
        logs: Logs, or where `read_log` finds them; one, or several in the order to draw them in.
        out_png: The picture; its folder is made if need be.
        title: Above everything; none if empty.

    Raises:
        OSError: A log cannot be read, or the picture not be written.
        ValueError: A log is damaged or has no rows.
    """
    logs = [logs] if isinstance(logs, str | Path | Log) else logs
    logs = [log if isinstance(log, Log) else read_log(log) for log in logs]
    for log in logs:
        if not log.training and not log.validation:
            raise ValueError(f"the log of {log.name} has no rows yet: nothing to draw")
    if not logs:
        raise ValueError("no log: nothing to draw")
    with matplotlib.rc_context(STYLE):
        figure = _draw(logs, title)
        out_png = Path(out_png)
        out_png.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out_png) as partial:
            figure.savefig(partial, format="png", dpi=DPI)


def _draw(logs: Sequence[Log], title: str) -> Figure:
    least = 4.0 if len(logs) == 1 else 2.7
    heights = [max(least, 1.1 + 0.23 * len(_terms(log))) for log in logs]  # room for the legend
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3 * bool(title)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05, hspace=0.01, wspace=0)
    if title:
        figure.suptitle(title, x=0.012, ha="left", **HEADING | {"fontsize": 13}, color=INK)
    validated = any(log.validation for log in logs)
    grid = figure.add_gridspec(
        2 * len(logs),
        2,
        width_ratios=(1.35, 1) if validated else (5, 1),
        height_ratios=[share * height for height in heights for share in (5, 1)],
    )
    for n, log in enumerate(logs):
        losses = figure.add_subplot(grid[2 * n, 0])
        rate = figure.add_subplot(grid[2 * n + 1, 0], sharex=losses)
        scores = figure.add_subplot(grid[2 * n : 2 * n + 2, 1], sharex=losses)
        _draw_losses(losses, log)
        _draw_rate(rate, log)
        _draw_scores(scores, log)
        for axes in (rate, scores):
            axes.set_xlabel("step", fontsize=9, color=FAINT, labelpad=1)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        losses.tick_params(labelbottom=False)
        steps = [row["step"] for rows in (log.training, log.validation) for row in rows]
        last = max(1, *steps)
        losses.set_xlim(-0.02 * last, 1.03 * last)
        losses.set_title(f"{log.name}: {_heading(log)}", loc="left", **HEADING, color=INK)
    return figure


def _heading(log: Log) -> str:
    """Steps, epochs and time of a run."""
    if not log.training:
        return "no training step logged"
    row = log.training[-1]
    facts = [counted(row["step"], "step")]
    if row.get("epoch") is not None:
        facts.append(counted(float(row["epoch"]), "epoch"))
    if row.get("seconds") is not None:
        facts.append(duration(row["seconds"]))
    return ", ".join(facts)


def _terms(log: Log) -> list[str]:
    """The losses as they appear, the total first."""
    names = dict.fromkeys(name for row in log.training for name in row["losses"])
    return sorted(names, key=lambda name: name != "total")


def _draw_losses(axes: Axes, log: Log) -> None:
    """Every term over steps; each one's last mean is in the legend."""
    names = _terms(log)
    if not names:
        return _say(axes, "no losses in this log")
    colours = [name for name in names if name != "total"]
    for name in reversed(names):  # the total on top
        rows = [row for row in log.training if name in row["losses"]]
        steps = [row["step"] for row in rows]
        raw = np.array([row["losses"][name] for row in rows], dtype=float)
        smooth = running_mean(raw)
        place = colours.index(name) if name in colours else 0
        colour = INK if name == "total" else COLOURS[place % len(COLOURS)]
        style = "-" if place < len(COLOURS) else "--"
        few = "o" if len(rows) <= 12 else None
        if len(raw) > 12:
            axes.plot(steps, _positive(raw), color=colour, lw=0.7, alpha=0.35)
        end = smooth[-1]
        label = f"{name}  {end:.3f}" if end >= 0.01 else f"{name}  {end:.2g}"
        width = 2.2 if name == "total" else 1.7
        axes.plot(
            steps, _positive(smooth), style, c=colour, lw=width, label=label, marker=few, ms=4
        )
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    low = max(low, high / 1e4)  # a term that has vanished would flatten all others
    axes.set_ylim(low, high)
    ticks = LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(4)
    axes.yaxis.set_major_locator(ticks)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    handles, labels = axes.get_legend_handles_labels()
    _legend(axes, handles[::-1], labels[::-1], "mean at the end")
    axes.set_ylabel("loss", color=FAINT)


def running_mean(values: np.ndarray) -> np.ndarray:
    """Centred mean over a fifteenth of the values, over fewer near the ends."""
    half = len(values) // 30
    window = np.ones(2 * half + 1)
    counts = np.convolve(np.ones(len(values)), window, "full")
    sums = np.convolve(values, window, "full")
    return (sums / counts)[half : half + len(values)]


def _positive(values: np.ndarray) -> np.ndarray:
    """With gaps where a logarithm has no place for them."""
    return np.where(values > 0, values, np.nan)


def _draw_rate(axes: Axes, log: Log) -> None:
    rows = [row for row in log.training if row.get("lr") is not None]
    axes.set_ylabel("lr", color=FAINT)
    if not rows:
        return _say(axes, "no learning rate in this log")
    rates = [row["lr"] for row in rows]
    steps = [row["step"] for row in rows]
    axes.fill_between(steps, rates, color="#dddddd", lw=0)
    axes.plot(steps, rates, color=FAINT, lw=1.2)
    top = max(rates) or 1.0
    axes.set_ylim(0, 1.15 * top)
    axes.set_yticks([0, top], ["0", f"{top:.2g}"])


def _draw_scores(axes: Axes, log: Log) -> None:
    """Every score over steps; the best J&F is ringed and told above."""
    if not log.validation:
        return _say(axes, "no validation\nin this run")
    shown = SCORES if _points(log, JF) else _others(log)
    for name, (colour, width, style, marker) in shown.items():
        points = _points(log, name)
        if points:
            axes.plot(
                *zip(*points, strict=True),
                *(style,),
                color=colour,
                lw=width,
                marker=marker,
                ms=2.2 + 1.4 * width,
                label=name,
                zorder=3 if name == JF else 2,
            )
    points = _points(log, JF)
    if points:
        step, best = max(points, key=lambda point: point[1])  # the first of equals
        colour = SCORES[JF][0]
        ring = {"marker": "o", "ms": 11, "mfc": "none", "mec": colour, "mew": 1.6}
        axes.plot([step], [best], ls="", zorder=4, clip_on=False, **ring)
        told = f"best J&F {best:.3f} at step {step:,}"
        axes.set_title(told, loc="left", **HEADING, color=colour)
    _legend(axes, *axes.get_legend_handles_labels())
    facts = log.validation[-1]["validation"]
    of = " ".join(str(facts[key]) for key in ("benchmark", "split") if facts.get(key))
    axes.set_ylabel(of or "unseen scenes", color=FAINT)
    axes.margins(y=0.08)


def _others(log: Log) -> dict[str, tuple]:
    """Colour, width, line and marker of what was measured where there is no J&F."""
    facts = {k: v for row in log.validation for k, v in row["validation"].items()}
    names = [k for k, v in facts.items() if "/" in k and _is_number(v)]
    return {k: (COLOURS[n % len(COLOURS)], 1.4, "-", "o") for n, k in enumerate(names)}


def _points(log: Log, name: str) -> list[tuple[int, float]]:
    """Step and score, where there is one."""
    scores = ((row["step"], row["validation"].get(name)) for row in log.validation)
    return [(step, score) for step, score in scores if score is not None]


def _legend(axes: Axes, handles, labels, title: str | None = None) -> None:
    """Right of the axes, where no curve is."""
    where = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.02), "borderaxespad": 0}
    legend = axes.legend(handles, labels, title=title, alignment="left", **where)
    legend.get_title().set(color=FAINT, fontsize=9)


def _say(axes: Axes, text: str) -> None:
    """In place of curves."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT)
    axes.set_axis_off()


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.plot", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=f"folder with a {LOG}")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.png")
    parser.add_argument("--title", default="", help="above the picture (none)")
    args = parser.parse_args(argv)
    if args.out.is_dir() or args.out.suffix.lower() != ".png":
        parser.error(f"--out {args.out}: name a .png file")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when drawn, 2 on unusable input, 130 when interrupted."""
    args = _parse(argv)

    def work() -> int:
        plot(args.runs, args.out, args.title)
        return 0

    return run_command("training.plot", work, "interrupted")


if __name__ == "__main__":
    raise SystemExit(main())
