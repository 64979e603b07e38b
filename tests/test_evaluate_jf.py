"""The metric as a module of `evaluate`: loaded as users load it, and what it says of bad input."""

import ast
import doctest
import json
import os
import re
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from pycocotools import mask as coco_mask

from eval.conventions import PER_EXPRESSION, summarise
from eval.metrics.jf.core import sequence_scores
from eval.metrics.jf.rle import decode, run_lengths

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "eval/metrics/jf"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
SCORES = ["J&F", "J", "F", "J_recall", "F_recall", "J_decay", "F_decay"]


def encode(mask) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def blobs(seed: int, frames: int) -> np.ndarray:
    """Masks (frames, 40, 60) of a moving box with some noise, the last one empty."""
    rng = np.random.default_rng(seed)
    masks = rng.random((frames, 40, 60)) < 0.01
    for t in range(frames - 1):
        masks[t, 8:24, 5 + 3 * t : 25 + 3 * t] = True
    masks[-1] = False
    return masks


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """The library, unable to reach any network and with all of its caches in a folder of ours."""
    home = tmp_path_factory.mktemp("hf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(home))
        patch.setenv("HF_MODULES_CACHE", str(home / "modules"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        library = pytest.importorskip("evaluate")
        # Its settings date from its first import, which another test may have caused.
        patch.setattr(library.config, "HF_MODULES_CACHE", str(home / "modules"))
        patch.setattr(library.config, "HF_METRICS_CACHE", str(home / "metrics"))
        patch.setattr(library.config, "DOWNLOADED_EVALUATE_PATH", home / "downloads")
        patch.setattr(sys, "path", list(sys.path))

        def refuse(*_):
            raise OSError("a test reached for the network")

        patch.setattr(socket.socket, "connect", refuse)
        yield library
        for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def masks_metric(evaluate):
    return evaluate.load(str(FOLDER))


@pytest.fixture(scope="module")
def scores_metric(evaluate):
    return evaluate.load(str(FOLDER), "scores")


@pytest.fixture
def clips():
    """Predictions and references of three clips of 1, 5 and 9 frames, as RLEs, and their scores."""
    preds, gts = [blobs(n, n) for n in (1, 5, 9)], [blobs(n + 50, n) for n in (1, 5, 9)]
    rles = [[[encode(mask) for mask in clip] for clip in side] for side in (preds, gts)]
    return *rles, [sequence_scores(p, g) for p, g in zip(preds, gts, strict=True)]


def test_loads_offline_by_relative_and_absolute_path(evaluate, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert evaluate.load("eval/metrics/jf").name == "jf"
    monkeypatch.chdir(tmp_path)
    assert evaluate.load(str(FOLDER)).name == "jf"
    assert evaluate.load(str(FOLDER / "jf.py")).name == "jf"
    assert evaluate.load(os.path.relpath(FOLDER)).name == "jf"
    assert not list(tmp_path.iterdir())


def test_a_changed_core_is_picked_up(evaluate, tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "jf")
    box = encode(np.eye(12))
    clip = {"predictions": [[box]], "references": [[box]]}
    assert evaluate.load(str(folder)).compute(**clip)["J"] == 1
    with (folder / "core.py").open("a") as file:
        file.write("\n\ndef sequence_scores(preds, gts):\n")
        file.write("    return SequenceScores(j=np.array([0.25]), f=np.array([0.5]))\n")
    assert evaluate.load(str(folder)).compute(**clip)["J"] == 0.25
    assert evaluate.load(str(FOLDER)).compute(**clip)["J"] == 1


@pytest.mark.parametrize("config", ["masks_metric", "scores_metric"])
def test_documented_examples_run(config, request, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = request.getfixturevalue(config).inputs_description
    example = doctest.DocTestParser().get_doctest(text, {}, config, None, 0)
    outcome = doctest.DocTestRunner().run(example)
    assert outcome.attempted > 5 and outcome.failed == 0


def test_readme_runs_and_cites_as_the_module_does(masks_metric, monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    exec(blocks[0], names)
    assert names["scores"]["J"] == 0.9 and names["scores"]["clips"] == 1
    exec(blocks[1], names)
    assert names["scores"]["J"] == pytest.approx(0.65)
    assert masks_metric.citation.strip() in README


def test_scores_are_the_means_of_the_core(masks_metric, clips):
    predictions, references, expected = clips
    result = masks_metric.compute(predictions=predictions, references=references, per_clip=True)
    assert list(result) == [*SCORES, "convention", "clips", "per_clip"]
    assert (result["convention"], result["clips"]) == ("per-expression", 3)
    assert result["per_clip"]["J&F"] == [s.jf for s in expected]
    assert result["per_clip"]["F_decay"] == [s.f_decay for s in expected]
    assert len({*result["per_clip"]["J"]}) == 3
    whole = summarise(expected, PER_EXPRESSION)
    assert {name: result[name] for name in SCORES} == {name: whole[name] for name in SCORES}
    assert json.loads(json.dumps(result)) == result


def test_clips_added_in_pieces_give_the_same_and_are_then_forgotten(masks_metric, clips):
    predictions, references, _ = clips
    whole = masks_metric.compute(predictions=predictions, references=references)
    masks_metric.add(prediction=predictions[0], reference=references[0])
    masks_metric.add_batch(predictions=predictions[1:2], references=references[1:2])
    assert len(masks_metric) == 2
    assert masks_metric.compute(predictions=predictions[2:], references=references[2:]) == whole
    assert len(masks_metric) == 0


def test_scores_per_frame_give_what_their_masks_give(masks_metric, scores_metric, clips):
    predictions, references, scored = clips
    for scores in scored:
        scores_metric.add(j=scores.j, f=scores.f.tolist())
    expected = masks_metric.compute(predictions=predictions, references=references, per_clip=True)
    assert scores_metric.compute(per_clip=True) == expected


def test_means_alone_have_no_recall(scores_metric):
    result = scores_metric.compute(j=[0.75, np.float32(0.25)], f=[1, 0.5], per_clip=True)
    assert [result[name] for name in SCORES] == [0.625, 0.5, 0.75, None, None, None, None]
    assert result["per_clip"]["J&F"] == [0.875, 0.375]
    assert result["per_clip"]["J_recall"] == [None, None]


BOX = encode(np.pad(np.ones((3, 4)), 5))
TURNED = encode(np.pad(np.ones((4, 3)), 5))


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "no clips"),
        (None, None, "no clips"),
        ([[BOX]], None, "takes predictions and references, not predictions"),
        ([[BOX]], [[BOX], [BOX]], "predictions has 1 clips, references has 2"),
        ([[BOX], [BOX]], [[BOX], [BOX, BOX]], "clip 1 has 1 frames in predictions, 2 in ref"),
        ([[]], [[]], "clip 0 of predictions has no frames"),
        ([[BOX, TURNED]], [[BOX, BOX]], r"frame 1 of clip 0 is \[14, 13\] .* \[13, 14\]"),
        ([[BOX | {"counts": b"000"}]], [[BOX]], r"frame 0 .* bytes; give counts.decode"),
        ([[BOX | {"counts": "b'000'"}]], [[BOX]], "not compressed as by pycocotools"),
        ([[BOX | {"counts": [182]}]], [[BOX]], "frPyObjects"),
        ([[BOX | {"size": [13, 15]}]], [[BOX]], "is 13 x 15, but its runs cover 182 pixels"),
        ([[BOX | {"size": None}]], [[BOX]], "no COCO RLE"),
        ([[BOX]], [[None]], "frame 0 of clip 0 of references is of type NoneType"),
        ([BOX], [BOX], "a list within a list"),
        ([np.ones((1, 4, 4))], [[BOX]], "of type ndarray, not a COCO RLE"),
    ],
)
def test_unusable_masks_are_named_and_not_added(masks_metric, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        masks_metric.compute(predictions=predictions, references=references)
    assert len(masks_metric) == 0
    assert masks_metric.compute(predictions=[[BOX]], references=[[BOX]])["J&F"] == 1


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ({"j": [71.0], "f": [0.5]}, "j of clip 0 goes from 71 to 71; give fractions"),
        ({"j": [[0.5, float("nan")]], "f": [[0.5, 0.5]]}, "give fractions"),
        ({"j": [[0.5, 0.5]], "f": [[0.5]]}, r"shape \(2,\) and f of shape \(1,\)"),
        ({"j": [[]], "f": [[]]}, "one value each, or one per frame"),
        ({"j": ["high"], "f": [0.5]}, "clip 0: j and f are numbers"),
        ({"j": [0.5, [0.5]], "f": [0.5, [0.5]]}, "give one kind"),
        ({"j": [0.5]}, "takes j and f, not j"),
        ({"predictions": [[BOX]], "references": [[BOX]]}, "inputs are missing.*j.*f"),
    ],
)
def test_unusable_scores_are_named_and_not_added(scores_metric, clips, message):
    with pytest.raises(ValueError, match=message):
        scores_metric.compute(**clips)
    assert scores_metric.compute(j=[[0.5]], f=[[0.5]])["J"] == 0.5


def test_unknown_options_and_configurations_are_refused(evaluate, masks_metric):
    masks_metric.add(prediction=[BOX], reference=[BOX])
    with pytest.raises(ValueError, match="does not know per_frame"):
        masks_metric.compute(per_frame=True)
    assert masks_metric.compute()["clips"] == 1  # the clip was not lost
    with pytest.raises(ValueError, match="there are .*default.*scores"):
        evaluate.load(str(FOLDER), "boxes")


def test_rles_are_read_as_pycocotools_writes_them():
    rng = np.random.default_rng(0)
    for share in (0, 0.01, 0.3, 0.99, 1):
        for _ in range(40):
            mask = rng.random(rng.integers(1, 70, 2)) < share
            assert np.array_equal(decode(encode(mask)), mask)
    large = np.zeros((1500, 2000), dtype=bool)
    large[:, 800:], large[3, 5] = True, True  # runs of a million pixels
    assert np.array_equal(decode(encode(large)), large)
    for counts in ("", "é", "P", "PPPPPPPPPPPPP0", "5@"):
        with pytest.raises(ValueError, match="counts"):
            run_lengths(counts)


def test_the_folder_is_a_space():
    front = yaml.safe_load(README.split("---\n")[1])
    assert front["sdk"] == "gradio" and {"evaluate", "metric"} <= set(front["tags"])
    assert (FOLDER / front["app_file"]).is_file()
    listed = {line.split(">=")[0] for line in (FOLDER / "requirements.txt").read_text().split()}
    imported = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    foreign = imported - sys.stdlib_module_names - {p.stem for p in FOLDER.glob("*.py")}
    assert {{"PIL": "pillow"}.get(name, name) for name in foreign} == listed | {"gradio"}
