"""The report page: whole and harmless HTML, plots at the scores, sheets that show the masks."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from eval.benchmarks import load_benchmark
from eval.benchmarks.base import decode_mask
from eval.html_report import write_html
from eval.html_report.elements import VOID, element, percent
from eval.html_report.examples import ranked_groups
from eval.html_report.plots import BINS, histogram, lines, strips
from eval.html_report.sheet import (
    CELL,
    COLUMNS,
    GAP,
    PREDICTION,
    SHEET_BYTES,
    TRUTH,
    draw_sheet,
    pick_frames,
)
from eval.metrics.jf.core import SequenceScores
from eval.scoring import ExpressionScore, score_predictions

from .benchmark_trees import edit_json, make_mevis, make_ref_davis17, make_ref_sprites, write_truth

HOSTILE = '<script>alert("1")</script> & "the" dog\ud800'


class Page(HTMLParser):
    """Elements of a page as (tag, attributes, text), in the order they close; checks nesting."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict, str]] = []
        self._open: list[tuple[str, dict, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        if tag in VOID:
            self.elements.append((tag, dict(attrs), ""))
        else:
            self._open.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        name, attributes, text = self._open.pop()
        assert name == tag
        self.elements.append((tag, attributes, "".join(text)))

    def handle_data(self, data):
        for _, _, text in self._open:
            text.append(data)

    def all(self, tag: str, class_: str | None = None) -> list[tuple[dict, str]]:
        return [
            (attributes, text)
            for name, attributes, text in self.elements
            if name == tag and (class_ is None or class_ in attributes.get("class", "").split())
        ]

    def pictures(self) -> list[np.ndarray]:
        """The contact sheets, decoded."""
        uris = [attributes["src"] for attributes, _ in self.all("img")]
        assert all(uri.startswith("data:image/jpeg;base64,") for uri in uris)
        files = [io.BytesIO(base64.b64decode(uri.partition(",")[2])) for uri in uris]
        return [np.asarray(Image.open(file)).astype(int) for file in files]


@pytest.fixture
def sprites(tmp_path):
    """(benchmark, predictions): the truth, but the green disk of the first video is answered with
    the masks of the red square, and the cat that is not there with all shapes."""
    root = make_ref_sprites(tmp_path / "tree")
    first = "5f09f43c409b"

    def spoil(meta):
        meta["videos"][first]["expressions"]["0"]["exp"] = HOSTILE

    edit_json(root / "valid" / "meta_expressions.json", spoil)
    benchmark = load_benchmark("ref-sprites", root, "valid")
    predictions = tmp_path / "predictions"
    write_truth(benchmark, predictions)
    for source, target in (("0", "1"), ("10", "5")):
        for path in (predictions / first / source).iterdir():
            (predictions / first / target / path.name).write_bytes(path.read_bytes())
    return benchmark, predictions


def _report(benchmark, result) -> dict:
    """What a runner would write of a model that found everything from the last frame but one."""
    answers = [
        {
            "video_id": row["video_id"],
            "exp_id": row["exp_id"],
            "expression": row["expression"],
            "empty": False,
            "found": True,
            "score": 0.75,
            "key_frame": len(row["frame_names"]) - 2,
        }
        for video in benchmark.videos
        for row in benchmark.rows(video)
    ]
    videos = [
        {"video_id": v, "J&F": 0.5, "J": 0.25, "F": 0.75, "frames": 5, "seconds": {"find": 1.5}}
        for v in benchmark.videos
    ]
    return {
        "scores": result.scores if result else None,
        "model": {"name": "/home/someone/models/tiny-<b>", "digest": "ab" * 32},
        "config": {"key_frames": 5, "score_threshold": None},
        "benchmark": {"name": benchmark.name, "root": "/home/someone/data"},
        "versions": {"python": "3.12.1"},
        "seconds": {"find": 3.0, "track": 1.0, "write": 0.0, "score": None, "total": 4.0},
        "videos/s": 0.5,
        "videos": videos if result else [v | dict.fromkeys(("J&F", "J", "F")) for v in videos],
        "expressions": answers,
    }


def _write(tmp_path, benchmark, predictions, result) -> tuple[str, Page]:
    path = tmp_path / "out" / "report.html"
    write_html(path, _report(benchmark, result), result, benchmark, predictions)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    html = path.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>\n")
    return html, Page(html)


def test_page_is_complete_and_loads_nothing(sprites, tmp_path):
    benchmark, predictions = sprites
    result = score_predictions(benchmark, predictions)
    html, page = _write(tmp_path, benchmark, predictions, result)
    loaded = {a[k] for _, a, _ in page.elements for k in ("src", "href", "srcset") if k in a}
    assert all(url.startswith("data:") for url in loaded)
    assert not re.search(r"@import|url\(|https?://", html)
    assert not page.all("script") and not any(
        k.startswith("on") for _, a, _ in page.elements for k in a
    )
    (policy,) = [a["content"] for a, _ in page.all("meta") if "http-equiv" in a]
    assert "default-src 'none'" in policy
    assert [text for _, text in page.all("h3")] == ["Best", "Around the median", "Worst"]
    assert [text for _, text in page.all("h1")] == ["Ref-Sprites valid"]
    assert page.all("details") and "prefers-color-scheme: dark" in html
    assert "/home/someone" not in html  # a page gets linked
    assert len(html) < 3e6


def test_expressions_cannot_become_markup(sprites, tmp_path):
    benchmark, predictions = sprites
    html, page = _write(tmp_path, benchmark, predictions, score_predictions(benchmark, predictions))
    shown = HOSTILE.replace("\ud800", "?")
    assert f"“{shown}”" in [text for _, text in page.all("h4")]
    assert any(a["alt"].endswith(f"Expression: {shown}") for a, _ in page.all("img"))
    assert "<script" not in html and "tiny-<b>" not in html
    assert element("p", HOSTILE, title='" onload="x') == (
        '<p title="&quot; onload=&quot;x">&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; '
        "&amp; &quot;the&quot; dog?</p>"
    )


def test_page_is_accessible(sprites, tmp_path):
    benchmark, predictions = sprites
    _, page = _write(tmp_path, benchmark, predictions, score_predictions(benchmark, predictions))
    assert {a.get("scope") for a, _ in page.all("th")} == {"col", "row"}
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(a["alt"] for a, _ in page.all("img"))
    plots = [a for a, _ in page.all("svg") if a.get("role") == "img"]
    assert len(plots) == 2 + len(page.all("img")) and all(a["aria-label"] for a in plots)
    scrolling = page.all("div", "wide")
    assert all(a["tabindex"] == "0" and a["aria-label"] for a, _ in scrolling)


def _luminance(color: str) -> float:
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_text_has_contrast_in_both_modes(sprites, tmp_path):
    benchmark, predictions = sprites
    html, _ = _write(tmp_path, benchmark, predictions, score_predictions(benchmark, predictions))
    modes = [
        dict(re.findall(r"--(\w+): (#\w{6})", b)) for b in re.findall(r":root {(.*?)}", html, re.S)
    ]
    assert len(modes) == 2
    for colors in modes:
        for text in ("ink", "dim", "j", "f", "key"):
            for ground in ("ground", "card"):
                light, dark = sorted(map(_luminance, (colors[text], colors[ground])))[::-1]
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def _table(page: Page, html: str, caption: str) -> list[list[str]]:
    """Cells of the body of the table with that caption."""
    (body,) = re.findall(rf"<caption>{caption}</caption>.*?<tbody>(.*?)</tbody>", html, re.S)
    rows = [Page(row) for row in re.findall(r"<tr>.*?</tr>", body, re.S)]
    return [[text for tag, _, text in row.elements if tag in ("th", "td")] for row in rows]


def test_tables_hold_the_scores(sprites, tmp_path):
    benchmark, predictions = sprites
    result = score_predictions(benchmark, predictions)
    html, page = _write(tmp_path, benchmark, predictions, result)
    rows = _table(page, html, "Scores")
    keys = ("J&F", "J", "F", "N-acc", "T-acc", "Final")
    for row, scores in zip(rows, [result.scores, *result.scores["others"]], strict=True):
        values = [percent(scores.get(key)) for key in keys]
        assert row[:9] == [scores["subset"], "per-expression", *values, str(scores["count"])]
    assert rows[0][5] == "50.0"  # one of the two cats that are not there was answered
    assert [text for _, text in page.all("dd")] == [percent(result.scores[key]) for key in keys]
    assert _table(page, html, "Expressions by answer") == [
        ["with a target", "7", "7 (100.0%)", "0 (0.0%)"],
        ["without a target", "2", "1 (50.0%)", "1 (50.0%)"],
    ]
    assert _table(page, html, "Seconds")[:2] == [
        ["find", "3.0", "75.0%"],
        ["track", "1.0", "25.0%"],
    ]
    videos = _table(page, html, "Videos, means over expressions with a target")
    assert videos[0] == ["5f09f43c409b", "5", "50.0", "25.0", "75.0", "1.5"]


def test_annotators_have_their_rows(tmp_path):
    benchmark = load_benchmark("ref-davis17", make_ref_davis17(tmp_path / "tree"), "valid")
    write_truth(benchmark, tmp_path / "predictions")
    result = score_predictions(benchmark, tmp_path / "predictions")
    html, page = _write(tmp_path, benchmark, tmp_path / "predictions", result)
    rows = _table(page, html, "Scores")
    assert [row[0] for row in rows[1:5]] == [f"annotator {a}" for a in range(4)]
    assert {row[1] for row in rows[:5]} == {"davis-unsupervised"}
    assert rows[5][1] == "per-expression"
    facts = [text for _, text in page.all("p", "facts")]
    assert any("annotator 0" in text and "style first" in text for text in facts)


def _percent_of(text: str) -> float:
    assert text.endswith("%")
    return float(text[:-1])


def test_line_plot_lies_at_the_scores():
    j, f = np.array([0.25, 1.0, 0.0, 0.5]), np.array([0.5, 0.75, 0.125, 1.0])
    page = Page(lines({"j": j, "f": f}, [0, 3], 1, "a & b"))
    for name, scores in (("j", j), ("f", f)):
        ((attributes, _),) = page.all("polyline", name)
        points = [tuple(map(float, p.split(","))) for p in attributes["points"].split()]
        np.testing.assert_allclose([x for x, _ in points], [0, 100 / 3, 200 / 3, 100], atol=0.01)
        np.testing.assert_allclose([y for _, y in points], 100 * (1 - scores), atol=0.01)
    # What the axis says is where the points are.
    labels = {text: _percent_of(a["y"]) for a, text in page.all("text", "y")}
    assert labels == {"0": 100, "50": 50, "100": 0}
    ((key, _),) = page.all("line", "key")
    assert _percent_of(key["x1"]) == pytest.approx(100 / 3, abs=0.01)
    assert [text for _, text in page.all("title")] == ["a & b"]


def test_one_frame_is_a_dot():
    page = Page(lines({"j": np.array([0.25])}, [0], None, ""))
    ((dot, _),) = page.all("circle", "j")
    assert (dot["cx"], dot["cy"]) == ("50.00%", "75.00%")
    assert not page.all("line", "key")


def test_histogram_counts():
    scores = [0.0, 0.01, 0.05, 0.5, 1.0, 1.0]
    page = Page(histogram(scores, ""))
    bars = page.all("rect")
    assert len(bars) == BINS
    counts = [int(text.rpartition(" ")[2]) for _, text in bars]
    assert [n for n, count in enumerate(counts) if count] == [0, 1, 10, 19]
    top = max(float(text) for _, text in page.all("text", "y"))
    for (bar, _), count in zip(bars, counts, strict=True):
        assert _percent_of(bar["height"]) == pytest.approx(100 * count / top, abs=0.01)
        assert _percent_of(bar["y"]) + _percent_of(bar["height"]) == pytest.approx(100, abs=0.02)
    ((mean, _),) = page.all("line", "mean")
    assert _percent_of(mean["x1"]) == pytest.approx(100 * np.mean(scores), abs=0.01)


def test_strips_show_every_score():
    groups = [("b", [("x", 1.0), ("y", 0.5)]), ("a", [("z", 0.125)])]
    page = Page(strips(groups, ""))
    dots = [(_percent_of(a["cx"]), _percent_of(a["cy"]), text) for a, text in page.all("circle")]
    assert dots == [
        (25, 0, "b: x, 100.0"),
        (25, 50, "b: y, 50.0"),
        (75, 87.5, "a: z, 12.5"),
    ]
    assert [_percent_of(a["y1"]) for a, _ in page.all("line", "group-mean")] == [25, 87.5]


def test_page_plots_the_scores_of_the_expressions(sprites, tmp_path):
    benchmark, predictions = sprites
    result = score_predictions(benchmark, predictions)
    _, page = _write(tmp_path, benchmark, predictions, result)
    shown = [e for _, group in ranked_groups(result.expressions) for e in group]
    drawn = [
        [100 - float(point.split(",")[1]) for point in attributes["points"].split()]
        for attributes, _ in page.all("polyline", "j")
    ]
    assert len(shown) == len(drawn) == 6
    for expression, values in zip(shown, drawn, strict=True):
        np.testing.assert_allclose(values, 100 * expression.scores.j, atol=0.01)
    worst = shown[-2]  # that with the masks of another object
    assert (worst.video_id, worst.exp_id) == ("5f09f43c409b", "1") and worst.scores.jf < 0.5
    dots = page.all("circle", "dot")
    assert len(dots) == 7  # expressions with a target


def test_sheet_shows_the_masks(sprites, tmp_path):
    benchmark, predictions = sprites
    result = score_predictions(benchmark, predictions)
    _, page = _write(tmp_path, benchmark, predictions, result)
    groups = dict(ranked_groups(result.expressions))
    shown = [(e.video_id, e.exp_id) for group in groups.values() for e in group]
    position = shown.index(("5f09f43c409b", "1"))
    sheet = page.pictures()[position]
    (row,) = [r for r in benchmark.rows("5f09f43c409b") if r["exp_id"] == "1"]
    (other,) = [r for r in benchmark.rows("5f09f43c409b") if r["exp_id"] == "0"]
    width, height = CELL[0], CELL[0] * row["height"] // row["width"]
    T = len(row["frame_names"])
    assert T < COLUMNS and sheet.shape == (3 * (height + GAP) - GAP, T * (width + GAP) - GAP, 3)
    for t in range(T):
        cells = [
            sheet[y * (height + GAP) :][:height, t * (width + GAP) :][:, :width] for y in range(3)
        ]
        with Image.open(row["frames"][t]["path"]) as frame:
            assert np.abs(cells[0] - np.asarray(frame.resize((width, height)))).mean() < 8
        predicted, truth = decode_mask(other, t), decode_mask(row, t)
        for cell, mask, color in ((cells[1], predicted, PREDICTION), (cells[2], truth, TRUTH)):
            big = np.asarray(
                Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
            )
            inside, outside = _eroded(big, 6), _eroded(~big, 6)
            tinted = 0.6 * cells[0] + 0.4 * np.array(color)
            assert inside.any() == mask.any()
            if inside.any():
                assert np.abs(cell - tinted)[inside].mean() < 8
            assert np.abs(cell - 0.6 * cells[0])[outside].mean() < 8


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """Without what lies near the contour, where JPEG blurs."""
    for _ in range(steps):
        padded = np.pad(mask, 1, constant_values=True)
        mask = mask & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return mask


def test_sheet_is_bounded():
    noise = np.random.default_rng(0).integers(0, 256, (720, 405, 3), dtype=np.uint8)
    masks = [np.ones((720, 405), dtype=bool)] * 6
    sheet = draw_sheet([noise] * 6, masks, masks)
    assert len(sheet.jpeg) <= SHEET_BYTES
    assert sheet.size == (6 * (135 + GAP) - GAP, 3 * (240 + GAP) - GAP)


def test_picked_frames_are_spread_and_hold_the_key_frame():
    assert pick_frames(11, None) == [0, 2, 4, 6, 8, 10]
    assert pick_frames(11, 5) in ([0, 2, 5, 6, 8, 10], [0, 2, 4, 5, 8, 10])
    assert pick_frames(3, 1) == [0, 1, 2]
    assert pick_frames(1, 0) == [0]


def _expression(video: str, exp_id: str, score: float, no_target: bool = False) -> ExpressionScore:
    scores = SequenceScores(np.array([score]), np.array([score]))
    return ExpressionScore(
        video_id=video,
        exp_id=exp_id,
        expression="",
        no_target=no_target,
        empty=False,
        absent=no_target,
        scores=scores,
        facts={},
    )


def test_examples_are_best_median_and_worst_of_different_videos():
    expressions = [_expression(f"v{n // 4}", str(n), n / 100) for n in range(100)]
    expressions.append(_expression("x", "no-target", 0.0, no_target=True))
    groups = {heading: group for heading, group in ranked_groups(expressions)}
    assert [e.exp_id for e in groups["Best"]] == ["99", "95", "91"]
    assert [e.exp_id for e in groups["Worst"]] == ["0", "4", "8"]
    middle = [e.scores.jf for e in groups["Around the median"]]
    assert len(middle) == 3 and all(abs(score - 0.5) < 0.06 for score in middle)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_few_expressions_come_once(count):
    groups = ranked_groups([_expression("v", str(n), n / 10) for n in range(count)])
    shown = [e.exp_id for _, group in groups for e in group]
    assert len(set(shown)) == len(shown) == min(count, 3)
    if count >= 2:
        assert groups[0][1][0].exp_id == str(count - 1) and groups[-1][1][0].exp_id == "0"


def test_split_without_masks(tmp_path):
    benchmark = load_benchmark("mevis", make_mevis(tmp_path / "tree"), "valid")
    assert not benchmark.has_truth
    for row in benchmark.rows(benchmark.videos[0]):
        folder = tmp_path / "predictions" / row["video_id"] / row["exp_id"]
        folder.mkdir(parents=True)
        for name in row["frame_names"]:
            mask = np.zeros((row["height"], row["width"]), dtype=np.uint8)
            mask[:, :32] = 255
            Image.fromarray(mask).save(folder / f"{name}.png")
    html, page = _write(tmp_path, benchmark, tmp_path / "predictions", None)
    assert "the server of the benchmark scores it" in html
    assert not page.all("svg") and not page.all("h3")
    (sheet,) = page.pictures()
    height = CELL[0] * 48 // 64
    assert sheet.shape[0] == 2 * (height + GAP) - GAP  # frame and prediction only
    cell = sheet[height + GAP :, : CELL[0]]
    assert np.abs(cell[20:-20, 20:100, 2] - sheet[20 : height - 20, 20:100, 2]).mean() > 10
    assert np.abs(cell[20:-20, 140:220] - 0.6 * sheet[20 : height - 20, 140:220]).mean() < 8
    assert "not found" not in html and "tracked from frame" in html


def test_missing_masks_are_told(sprites, tmp_path):
    benchmark, predictions = sprites
    for path in (predictions / "5f09f43c409b" / "1").iterdir():
        path.unlink()
    result = score_predictions(benchmark, predictions, missing="empty")
    html, _ = _write(tmp_path, benchmark, predictions, result)
    assert "5 masks missing from the predictions counted as empty" in html


def test_scores_of_another_tree_are_refused(sprites, tmp_path):
    benchmark, predictions = sprites
    result = score_predictions(benchmark, predictions)
    foreign = dataclasses.replace(result.expressions[0], exp_id="77")
    other = dataclasses.replace(result, expressions=(foreign,))
    with pytest.raises(ValueError, match="no expression 77"):
        _write(tmp_path, benchmark, predictions, other)
    assert not (tmp_path / "out").exists()
