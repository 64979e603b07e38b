"""Curves and the model card of a training run, from real files."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from training import card, plot
from training.card import BEGIN, END, RunFacts, write_card
from training.plot import DPI, LOG, WIDTH, read_log, running_mean
from training.wording import counted

SCORES = {"J&F": 0.61, "J": 0.58, "F": 0.64, "N-acc": 0.8, "T-acc": 0.95}
VALIDATION = SCORES | {"videos": 8, "expressions": 60, "benchmark": "ref-sprites", "split": "valid"}
FACTS = RunFacts(
    base_model="someone/findtrack-sam2",
    config_name="sprites.yaml",
    benchmark="ref-sprites",
    split="valid",
    train_data=["ref-sprites"],
    steps=4000,
    epochs=3.0,
    samples=64000,
    global_batch=16,
    processes=2,
    precision="bf16",
    learning_rate=5e-4,
    trained_parts=["finder", "tracker"],
    trained_parameters=4_590_123,
    seconds=2400.0,
    losses={"find/bce": 0.094, "total": 0.921},
    validation=VALIDATION,
    best_step=3600,
    command="accelerate launch -m training.finetune --config training/configs/sprites.yaml",
    versions={"torch": "2.14.1"},
)
BASE_TEXT = """
# A model

What it is.

```text
## no heading
```

## What it scores

A lot.
"""


def training_row(step: int, total: float = 2.0, **changes) -> dict:
    losses = {"find/bce": total / 4, "track/dice": total / 2, "total": total}
    facts = {"epoch": step / 100, "lr": 5e-4, "grad_norm": 1.2, "seconds": step * 0.6}
    return {"step": step, **facts, "losses": losses} | changes


def validation_row(step: int, jf: float = 0.6) -> dict:
    return {"step": step, "validation": VALIDATION | {"J&F": jf, "N-acc": None}}


def write_log(folder, rows, end: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOG
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return path


def long_run(folder, steps: int = 300, validate: int | None = 100) -> Path:
    rows = []
    for step in range(10, steps + 1, 10):
        rows.append(training_row(step, 4 * np.exp(-step / steps)))
        if validate and step % validate == 0:
            rows.append(validation_row(step, 0.3 + step / 1000))
    return write_log(folder, rows)


def card_folder(folder, front: str = "license: apache-2.0", text: str = BASE_TEXT):
    folder.mkdir()
    (folder / "README.md").write_text(f"---\n{front}\n---\n{text}")
    return folder


def no_hub(*args, **kwargs):
    raise AssertionError("a card must not ask the Hub")


# ---- the log


def test_the_last_row_of_a_step_and_kind_counts(tmp_path):
    rows = [
        training_row(100, 3.0),
        validation_row(100, 0.4),
        training_row(150, 2.5),
        training_row(50, 4.0),  # resumed
        training_row(100, 3.1),
        validation_row(100, 0.5),
    ]
    log = read_log(write_log(tmp_path / "run", rows))
    assert [(row["step"], row["losses"]["total"]) for row in log.training] == [
        (50, 4.0),
        (100, 3.1),
        (150, 2.5),
    ]
    assert [(row["step"], row["validation"]["J&F"]) for row in log.validation] == [(100, 0.5)]
    assert log.name == "run" and read_log(tmp_path / "run") == log


def test_scores_of_an_earlier_judge_are_left_out(tmp_path, drawn):
    """A run may be resumed with other videos of validation: a curve compares."""
    rows = [training_row(10)]
    for step, judge, jf in ((10, "a", 0.9), (20, "a", 0.8), (20, "b", 0.3), (30, "b", 0.4)):
        rows.append(validation_row(step, jf) | {"judge": judge})
    path = write_log(tmp_path / "run", rows)
    log = read_log(path)
    assert [row["validation"]["J&F"] for row in log.validation] == [0.3, 0.4]
    plot.plot(path, tmp_path / "a.png", "")
    assert drawn[0].axes[2].get_title("left") == "best J&F 0.400 at step 30"
    write_log(tmp_path / "run", [*rows, validation_row(40, 0.7) | {"judge": "a"}])
    scores = {row["step"]: row["validation"]["J&F"] for row in read_log(path).validation}
    assert scores == {10: 0.9, 20: 0.8, 40: 0.7}


@pytest.mark.parametrize("end", ['{"step": 20, "los', "\0\0\0\0", '{"step": 20, "losses": {"é'])
def test_half_a_last_line_is_ignored(tmp_path, end):
    log = read_log(write_log(tmp_path, [training_row(10)], end))
    assert [row["step"] for row in log.training] == [10] and log.validation == ()


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 20, "los',
        "[20]",
        '{"step": "20", "losses": {}}',
        '{"step": 20, "loss": 1.0}',
        '{"step": 20, "losses": {"total": null}}',
        '{"step": 20, "validation": {"J&F": "high"}}',
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = write_log(tmp_path, [training_row(10)], f"{line}\n{json.dumps(training_row(30))}\n")
    with pytest.raises(ValueError, match="line 2") as error:
        read_log(path)
    assert str(path) in str(error.value)


def test_a_whole_last_line_of_another_kind_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="line 2"):
        read_log(write_log(tmp_path, [training_row(10), {"step": 20, "loss": 1.0}]))


# ---- the picture


def test_the_running_mean_keeps_length_and_level():
    assert np.array_equal(running_mean(np.arange(5.0)), np.arange(5.0))  # too few to smooth
    assert np.allclose(running_mean(np.full(100, 2.5)), 2.5)  # to both ends
    line, noise = np.linspace(1, 0, 300), np.random.default_rng(0).normal(0, 0.1, 300)
    smooth = running_mean(line + noise)
    assert smooth.shape == (300,)
    assert np.abs(smooth - line).max() < np.abs(noise).max() / 2  # and does not lag behind


def open_png(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def drawn(monkeypatch):
    """Figures as they were saved."""
    figures = []
    draw = plot._draw
    monkeypatch.setattr(plot, "_draw", lambda *args: figures.append(draw(*args)) or figures[-1])
    return figures


def test_one_run_is_drawn(tmp_path, drawn):
    path = long_run(tmp_path / "sprites")
    plot.plot(path, tmp_path / "new/training.png", "A run")
    height, width, _ = open_png(tmp_path / "new/training.png").shape
    assert width == WIDTH * DPI and width / 3 < height < width
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["training.png"]  # nothing temporary

    losses, rate, scores = drawn[0].axes
    assert losses.get_yscale() == "log" and losses.get_title("left").startswith(
        "sprites: 300 steps"
    )
    terms = [text.get_text().split()[0] for text in losses.get_legend().get_texts()]
    assert terms == ["total", "find/bce", "track/dice"]
    bold = {line.get_label().split()[0]: line for line in losses.lines if line.get_lw() > 1}
    assert len({bold[term].get_color() for term in terms}) == 3
    thin = [line for line in losses.lines if line.get_lw() < 1]
    assert len(thin) == 3 and all(len(line.get_xdata()) == 30 for line in thin)
    assert rate.lines[0].get_ydata()[0] == 5e-4
    assert [text.get_text() for text in scores.get_legend().get_texts()] == [
        *("J&F", "J", "F", "T-acc"),  # N-acc was null
    ]
    assert scores.get_title("left") == "best J&F 0.600 at step 300"


def test_legends_lie_beside_the_curves(tmp_path, drawn):
    plot.plot(long_run(tmp_path / "run"), tmp_path / "a.png", "")
    losses, _, scores = drawn[0].axes
    for axes in (losses, scores):
        assert axes.get_legend().get_window_extent().x0 > axes.get_window_extent().x1
    assert scores.get_legend().get_window_extent().x1 <= drawn[0].bbox.x1


def test_the_first_of_equal_scores_is_the_best(tmp_path, drawn):
    rows = [training_row(10), *(validation_row(step, 0.7) for step in (20, 30))]
    plot.plot(write_log(tmp_path / "run", rows), tmp_path / "a.png", "")
    assert drawn[0].axes[2].get_title("left") == "best J&F 0.700 at step 20"


def test_a_run_without_validation_says_so(tmp_path, drawn):
    plot.plot(long_run(tmp_path / "run", validate=None), tmp_path / "a.png", "")
    texts = [text.get_text() for text in drawn[0].axes[2].texts]
    assert texts == ["no validation\nin this run"]


@pytest.mark.parametrize(
    "rows",
    [
        [training_row(10), training_row(20)],
        [training_row(1)],
        [training_row(1, 0.0)],  # nothing a logarithm could show
        [validation_row(0)],
        [training_row(n, losses={f"term-{i}": 1.0 + i for i in range(20)}) for n in (1, 2)],
    ],
)
@pytest.mark.filterwarnings("error")
def test_little_odd_and_much_are_drawn(tmp_path, drawn, rows):
    title = r"$\no mathematics$"
    plot.plot(write_log(tmp_path / title, rows), tmp_path / "a.png", title)
    assert open_png(tmp_path / "a.png").std() > 1
    for axes in drawn[0].axes:
        assert axes.get_window_extent().width > 100
    assert drawn[0].axes[0].get_window_extent().height > 100  # a long legend leaves it room


def test_runs_are_drawn_below_one_another(tmp_path, drawn):
    names = ["sam", "words", "find"]
    runs = [long_run(tmp_path / name, validate=100 if name == "find" else None) for name in names]
    plot.plot(runs, tmp_path / "a.png", "")
    assert [axes.get_title("left").split(":")[0] for axes in drawn[0].axes[::3]] == names
    tops = [axes.get_position().y1 for axes in drawn[0].axes[::3]]
    assert tops == sorted(tops, reverse=True)
    alone = tmp_path / "b.png"
    plot.plot(runs[:1], alone, "")
    assert len(open_png(tmp_path / "a.png")) > 1.5 * len(open_png(alone))


def test_a_failed_picture_leaves_the_old_one(tmp_path, monkeypatch):
    path, out = long_run(tmp_path / "run"), tmp_path / "a.png"
    plot.plot(path, out, "")
    before = out.read_bytes()

    def half(figure, target, **options):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(plot.Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        plot.plot(path, out, "")
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "run"]


def test_drawing_changes_nothing_for_others(tmp_path):
    """Neither pyplot is loaded, nor a backend chosen, nor a default changed."""
    program = (
        "import sys, matplotlib; before = dict(dict.items(matplotlib.rcParams))\n"
        "from training.plot import plot\n"
        f"plot({str(long_run(tmp_path / 'run'))!r}, {str(tmp_path / 'a.png')!r}, '')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert dict(dict.items(matplotlib.rcParams)) == before\n"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


def test_the_command(tmp_path, capsys):
    long_run(tmp_path / "sam"), long_run(tmp_path / "find")
    runs = [str(tmp_path / "sam"), str(tmp_path / "find" / LOG)]
    assert plot.main([*runs, "--out", str(tmp_path / "a.png"), "--title", "Two"]) == 0
    assert open_png(tmp_path / "a.png").shape[1] == WIDTH * DPI

    write_log(tmp_path / "broken", [], "{\n{}\n")
    write_log(tmp_path / "empty", [])
    for run, told in (("broken", "line 1"), ("empty", "no rows"), ("absent", "absent")):
        assert plot.main([str(tmp_path / run), "--out", str(tmp_path / "b.png")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and told in error
    with pytest.raises(SystemExit) as stop:
        plot.main([*runs, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert not (tmp_path / "b.png").exists()


# ---- the model card


def test_a_card_from_scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(ModelCard, "validate", no_hub)
    monkeypatch.setattr("socket.socket.connect", no_hub)
    path = write_card(tmp_path / "run", FACTS)
    read = ModelCard.load(path)
    data = read.data
    assert (data.base_model, data.library_name) == ("someone/findtrack-sam2", "transformers")
    assert data.pipeline_tag == "mask-generation"
    assert "referring-video-object-segmentation" in data.tags
    assert data.license is None and data.datasets is None  # neither is known
    assert {r.metric_name.split()[0]: r.metric_value for r in data.eval_results} == {
        name: SCORES[name] for name in ("J&F", "J", "F")
    }
    result = data.eval_results[0]
    assert (result.dataset_type, result.dataset_split) == ("ref-sprites", "valid")
    assert result.metric_args == {"convention": "per-expression"}
    assert result.dataset_args == {"videos": 8, "expressions": 60}  # which may be a part of it

    text = read.text
    assert text.count(BEGIN) == text.count(END) == 1
    for told in ("4,000", "64,000", "16, over 2 processes", "4.59 M", "40 min", "step 3,600"):
        assert told in text, told
    for told in (
        "find/bce",
        ".094",
        ".610",
        ".800",
        "`per-expression`",
        "8 videos, 60 expressions",
    ):
        assert told in text, told
    assert FACTS.command in text and "torch 2.14.1" in text
    assert "findtrack segment clip.mp4" in text and "--model FOLDER" in text
    assert "look its terms up" in text
    assert "outside of this section" not in text  # there is nothing


@pytest.mark.parametrize("base", [None, "license: apache-2.0", "license: other\nlicense_name: own"])
@pytest.mark.parametrize("data", [["ref-sprites"], ["MeViS-train", "ref-sprites"]])
def test_writing_twice_changes_nothing(tmp_path, base, data):
    facts = replace(FACTS, train_data=data)
    if base:
        facts = replace(facts, base_model=str(card_folder(tmp_path / "base", base)))
    first = write_card(tmp_path / "run", facts).read_bytes()
    assert write_card(tmp_path / "run", facts).read_bytes() == first
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["README.md"]


def test_the_text_of_the_base_card_is_kept(tmp_path):
    front = "license: mit\nlanguage:\n- en\ntags:\n- mine\nbase_model:\n- a/b\nextra: 1"
    base = card_folder(tmp_path / "base", front)
    before = (base / "README.md").read_text()
    read = ModelCard.load(write_card(tmp_path / "run", replace(FACTS, base_model=str(base))))
    assert (base / "README.md").read_text() == before
    assert (read.data.license, read.data.language, read.data["extra"]) == ("mit", ["en"], 1)
    assert read.data.tags[0] == "mine" and "video-segmentation" in read.data.tags
    assert read.data.base_model == ["a/b"]  # a folder is no name on the Hub
    start, end = read.text.index(BEGIN), read.text.index(END) + len(END)
    assert read.text[:start].rstrip() + read.text[end:] == BASE_TEXT
    section = read.text[start:end]
    assert "outside of this section" in section
    assert "`mit`" in section and str(tmp_path) not in section


def test_a_folder_that_looks_like_a_hub_name_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone").mkdir()
    card_folder(tmp_path / FACTS.base_model)
    read = ModelCard.load(write_card("run", FACTS))
    assert read.data.base_model is None and "`someone/findtrack-sam2`" in read.text


def test_a_base_without_sections_or_front_matter(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_bytes("\ufeff# A model\r\n\r\nWhat it is.\r\n".encode())
    read = ModelCard.load(write_card(tmp_path / "run", replace(FACTS, base_model=str(base))))
    assert read.text.startswith(f"\n# A model\n\nWhat it is.\n\n{BEGIN}\n")
    assert read.text.endswith(f"{END}\n") and read.data.license is None


def test_the_folders_own_card_is_renewed_in_place(tmp_path):
    base = card_folder(tmp_path / "base")
    facts = replace(FACTS, base_model=str(base))
    path = write_card(tmp_path / "run", facts)
    path.write_text(path.read_text().replace("A lot.", "A lot, and by hand."))
    write_card(tmp_path / "run", replace(facts, validation=None, best_step=None, steps=77))
    read = ModelCard.load(path)
    assert "by hand" in read.text and read.text.count("## Fine-tuning") == 1
    assert "| 77 (" in read.text and "| 4,000 (" not in read.text
    assert "Not validated" in read.text
    assert read.data.eval_results is None  # those of other weights are gone


def test_results_of_the_base_model_are_not_claimed(tmp_path):
    path = write_card(tmp_path / "base", FACTS)
    assert ModelCard.load(path).data.eval_results
    facts = replace(FACTS, base_model=str(tmp_path / "base"), validation=None, best_step=None)
    read = ModelCard.load(write_card(tmp_path / "run", facts))
    assert read.data.eval_results is None and "model-index" not in read.content


def test_training_on_mevis_decides_the_licence(tmp_path):
    base = card_folder(tmp_path / "base", "license: other\nlicense_name: own\nlicense_link: L")
    facts = replace(FACTS, base_model=str(base), train_data=["ref-youtube-vos", "MeViS:train"])
    read = ModelCard.load(write_card(tmp_path / "run", facts))
    assert read.data.license == "cc-by-nc-sa-4.0"
    assert read.data.license_name is None and read.data.license_link is None
    assert "MeViS is among the data of this run" in read.text
    assert "(`own`) hold beside it" in read.text

    # Weights that come from those inherit it; what replaces them in the folder does not.
    heir = replace(FACTS, base_model=str(tmp_path / "run"))
    read = ModelCard.load(write_card(tmp_path / "heir", heir))
    assert read.data.license == "cc-by-nc-sa-4.0"
    assert "MeViS is among" not in read.text and "`cc-by-nc-sa-4.0`" in read.text
    again = ModelCard.load(write_card(tmp_path / "run", replace(facts, train_data=["ref-sprites"])))
    assert (again.data.license, again.data.license_name) == ("other", "own")


def test_scores_that_do_not_exist_are_left_out(tmp_path):
    scores = VALIDATION | {"N-acc": None, "J&F": None, "F": 1}
    read = ModelCard.load(write_card(tmp_path, replace(FACTS, validation=scores)))
    assert [r.metric_type for r in read.data.eval_results] == ["jaccard", "boundary_f"]
    assert "| N-acc" not in read.text and "| T-acc" in read.text


def test_another_convention_is_named(tmp_path):
    scores = VALIDATION | {"convention": "davis-unsupervised", "benchmark": "ref-davis17"}
    read = ModelCard.load(write_card(tmp_path, replace(FACTS, validation=scores)))
    assert read.data.eval_results[0].metric_args == {"convention": "davis-unsupervised"}
    assert read.data.eval_results[0].dataset_name == "Ref-DAVIS17"
    assert "The convention is `davis-unsupervised`." in read.text


def test_the_picture_is_shown_if_it_is_there(tmp_path):
    assert "training.png" not in write_card(tmp_path, FACTS).read_text()
    plot.plot(long_run(tmp_path / "log"), tmp_path / card.PICTURE, "")
    assert write_card(tmp_path, FACTS).read_text().count("![training](training.png)") == 1


def test_one_is_not_many(tmp_path):
    scores = VALIDATION | {"videos": 1, "expressions": 1}
    facts = replace(FACTS, validation=scores, epochs=1.0, samples=1, processes=1)
    text = write_card(tmp_path, facts).read_text()
    assert "(1 epoch, 1 sample)" in text and "(1 video, 1 expression)" in text
    assert not re.search(r"\b1 (epochs|samples|videos|expressions|processes)", text)


@pytest.mark.parametrize(
    "number, noun, told",
    [
        (1, "video", "1 video"), (0, "video", "0 videos"), (2000, "video", "2,000 videos"),
        (1, "process", "1 process"), (2, "process", "2 processes"),
        (1.0, "epoch", "1 epoch"), (0.25, "epoch", "0.25 epochs"),
    ],
)  # fmt: skip
def test_numbers_are_told_with_their_nouns(number, noun, told):
    assert counted(number, noun) == told


def test_odd_names_do_not_break_the_table(tmp_path):
    facts = replace(FACTS, train_data=["a|b", "c`d"], command="echo '```'")
    text = write_card(tmp_path, facts).read_text()
    assert "| training data | `a\\|b`, `` c`d `` |" in text
    assert "````sh\necho '```'\n````" in text


@pytest.mark.parametrize(
    "text", [f"# A\n{BEGIN}\n", f"# A\n{END}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n" * 2]
)
def test_half_a_section_is_an_error(tmp_path, text):
    folder = card_folder(tmp_path / "run", text=text)
    before = (folder / "README.md").read_bytes()
    with pytest.raises(ValueError, match=r"README\.md.*repair"):
        write_card(folder, FACTS)
    assert (folder / "README.md").read_bytes() == before


@pytest.mark.parametrize("front", ["- a\n- list", "license: [", "1: 2"])
def test_a_broken_front_matter_is_named(tmp_path, front):
    folder = card_folder(tmp_path / "run", front)
    with pytest.raises(ValueError, match=r"front matter of .*README\.md"):
        write_card(folder, FACTS)
