"""Configurations of training: what is read, what is refused, and in which words."""

import json
import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from training.config import TASKS, BoxTask, Config, FindTask, TrackTask, read_config

CONFIGS = sorted((Path(__file__).parents[1] / "training" / "configs").rglob("*.yaml"))
SMALL = """
train: [finder]
scenes: {}
find:
  weights: {bce: 1.0, dice: 2.0}
  negatives: 0.0
steps: 4
"""


@pytest.fixture
def read(tmp_path):
    """Reads `SMALL` with overrides, or another text."""

    def run(*overrides: str, text: str = SMALL) -> Config:
        path = tmp_path / "small.yaml"
        path.write_text(text)
        return read_config(path, overrides)

    return run


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_is_read(path):
    config = read_config(path)
    assert config.tasks and config.train
    assert config.out.startswith("runs/")


def test_there_are_configs_for_what_the_readme_promises():
    names = {path.stem for path in CONFIGS}
    assert {"ref-youtube-vos", "mevis", "ref-sprites", "lora-24gb", *TASKS} <= names


def test_folders_of_the_tiny_stages_follow_the_environment(monkeypatch):
    (find,) = (path for path in CONFIGS if path.parts[-2:] == ("tiny", "find.yaml"))
    monkeypatch.setenv("TINY_RUNS", "/elsewhere")
    config = read_config(find)
    assert config.out == "/elsewhere/find"
    assert config.model == "/elsewhere/boxes/last"
    assert set(config.parts.values()) == {"/elsewhere/ground/last"}


def test_values_are_of_their_types(read):
    config = read()
    assert isinstance(config.find, FindTask) and config.boxes is None
    assert config.find.weights == {"bce": 1.0, "dice": 2.0}
    assert list(config.tasks) == ["find"] and config.tasks["find"] is config.find
    assert config.scenes.textured == 0 and config.optimizer.betas == [0.9, 0.999]


def test_overrides_change_single_values(read):
    config = read(
        "optimizer.lr=1e-4", "seed=7", "train=[aligner, finder]", "out=a=b", "augment.flip=0.5",
        "find.weights.bce=0.5", "steps=null", "epochs=1.5", "trackers=[tensorboard]",
    )  # fmt: skip
    assert (config.optimizer.lr, config.seed, config.out) == (1e-4, 7, "a=b")
    assert config.optimizer.betas == [0.9, 0.999]
    assert config.train == ["aligner", "finder"] and config.trackers == ["tensorboard"]
    assert config.find.weights == {"bce": 0.5, "dice": 2.0}
    assert (config.steps, config.epochs, config.augment.flip) == (None, 1.5, 0.5)


def test_later_overrides_win(read):
    assert read("seed=1", "seed=2").seed == 2


def test_an_override_of_all_weights_replaces_them(read):
    assert read("find.weights={presence: 1}").find.weights == {"presence": 1.0}


@pytest.mark.parametrize(
    "override, task",
    [
        ("boxes={weights: {bce: 1}, objects: 2}", BoxTask(weights={"bce": 1.0}, objects=2)),
        ("track.weights={iou: 3}", TrackTask(weights={"iou": 3.0})),
        ("track.weights.iou=3", TrackTask(weights={"iou": 3.0})),
    ],
)
def test_an_override_switches_a_task_on(read, override, task):
    assert read(override).tasks[override.partition("=")[0].partition(".")[0]] == task


def test_an_override_switches_a_section_on_and_off(read):
    assert read("validation.videos=3").validation.videos == 3
    assert read("validation.videos=3", "validation=null").validation is None
    benchmarks = read("scenes=null", "benchmarks=[{name: mevis, root: r}]", "workers=0").benchmarks
    assert [(b.name, b.root, b.split) for b in benchmarks] == [("mevis", "r", "train")]


def test_an_override_reaches_into_a_list(read):
    text = SMALL.replace("scenes: {}", "benchmarks: [{name: mevis, root: r}]")
    (benchmark,) = read("benchmarks[0].split=valid_u", text=text).benchmarks
    assert (benchmark.name, benchmark.root, benchmark.split) == ("mevis", "r", "valid_u")


@pytest.mark.parametrize("place", ["benchmarks.0", "benchmarks[0]"])
def test_an_override_gives_an_option_that_a_list_s_entry_did_not_have(read, place):
    text = SMALL.replace("scenes: {}", "benchmarks: [{name: mevis, root: r}]")
    (benchmark,) = read(f"{place}.options.check_frames=false", text=text).benchmarks
    assert (benchmark.name, benchmark.options) == ("mevis", {"check_frames": False})
    for wrong in ("benchmarks.1.root=x", "benchmarks.1={name: mevis}", "benchmarks.x.root=x"):
        with pytest.raises(ValueError, match=re.escape(f"small.yaml: {wrong!r}: ")) as caught:
            read(wrong, text=text)
        assert "\n" not in str(caught.value)


def test_an_override_replaces_what_cannot_be_resolved(read):
    assert read("model=mine", text=SMALL + "model: ${oc.env:NO_SUCH_VARIABLE}\n").model == "mine"


@pytest.mark.parametrize("value, expected", [("no", "no"), ("bf16", "bf16"), ("null", None)])
def test_precision_no_is_not_a_truth_value(read, value, expected):
    assert read(f"precision={value}").precision == expected
    assert read(text=f"{SMALL}precision: {value}\n").precision == expected


@pytest.mark.parametrize(
    "text, reason",
    [
        ("train: [a\nscenes: {}\n", "line 2: expected ',' or ']'"),
        ("a:\n\t- b\n", "line 2: found character '\\t'"),
        (SMALL + "steps: 5\n", "line 8: found duplicate key steps"),
        ("", "no task: give one of find, ground, nouns, words, boxes, align, track"),
        ("hello", "no key 'hello', only model, out, seed"),
        ("- a\n- b\n", "Cannot merge"),
        (SMALL + "stepz: 3\n", "no key 'stepz', only model, out, seed"),
        (
            SMALL + "optimizer: {lrr: 1}\n",
            "no key 'optimizer.lrr', only lr, slow, betas, weight_decay",
        ),
        (SMALL + "benchmarks: [{rot: x}]\n", "no key 'rot', only name, root, split, options"),
        (SMALL + "model: ${oc.env:NO_SUCH_VARIABLE}\n", "'NO_SUCH_VARIABLE' not found"),
    ],
)
def test_a_file_that_says_nonsense_is_told_in_one_line(read, text, reason):
    with pytest.raises(ValueError) as caught:
        read(text=text)
    message = str(caught.value)
    assert "small.yaml" in message and reason in message and "\n" not in message


@pytest.mark.parametrize(
    "overrides, reason",
    [
        # what is no assignment
        (["steps"], "'steps' is not KEY=VALUE"),
        (["train=[a"], "'train=[a' is not YAML"),
        (["optimizer.lrr=1"], "no key 'optimizer.lrr', only lr"),
        (["frobnicate.x=1"], "no key 'frobnicate'"),
        # of another type
        (["steps=many"], "steps: Value 'many'"),
        (["steps=2.5"], "steps: Value '2.5'"),
        (["train=finder"], "train: Invalid value"),
        (["find=3"], "find: Invalid type"),
        (["train=null"], "'train' is not Optional"),
        # out of range
        (["batch_size=0"], "batch_size is 0, it must be at least 1"),
        (["workers=-1"], "workers is -1, it must be at least 0"),
        (["steps=0"], "steps is 0, it must be at least 1"),
        (["steps=null", "epochs=0"], "epochs is 0.0, it must be above 0"),
        (["steps=null", "epochs=.nan"], "epochs is nan"),
        (["optimizer.lr=0"], "optimizer.lr is 0.0, it must be above 0"),
        (["optimizer.lr=.nan"], "optimizer.lr is nan"),
        (["optimizer.hold=1.5"], "optimizer.hold is 1.5, it must be between 0 and 1"),
        (["optimizer.betas=[0.9]"], "optimizer.betas: give two numbers"),
        (["optimizer.betas=[0.9, 1.0]"], "optimizer.betas: give two numbers"),
        (["ema=1"], "ema must be at least 0 and below 1"),
        (["find.pairs=0"], "find.pairs is 0, it must be at least 1"),
        (["find.negatives=1.2"], "find.negatives is 1.2, it must be between 0 and 1"),
        (["augment.crop=0"], "augment.crop is 0.0, it must be above 0"),
        (["augment.crop=1.1"], "augment.crop must be at most 1"),
        (["augment.colour=2"], "augment.colour is 2.0, it must be between 0 and 1"),
        (["scenes.textured=1"], "scenes.textured must be at least 0 and below 1"),
        (["scenes.steps_per_epoch=0"], "scenes.steps_per_epoch is 0"),
        (["validation.videos=0"], "validation.videos is 0, it must be at least 1"),
        (["keep=0"], "keep is 0"),
        (["lora.rank=0"], "lora.rank is 0"),
        (["lora.targets=("], "lora.targets is no regular expression: missing ), unterminated"),
        (["embedding_cache_gigabytes=0"], "embedding_cache_gigabytes is 0.0, it must be above 0"),
        (["track={weights: {bce: 1}, frames: [1]}"], "track.frames: a clip needs at least 2"),
        (["track={weights: {bce: 1}, frames: []}"], "track.frames"),
        (["track={weights: {bce: 1}, strides: [0]}"], "track.strides: give steps of at least 1"),
        # not one of
        (["validation.name=davis"], "no benchmark 'davis', only ref-youtube-vos, ref-davis17"),
        (["scenes=null", "benchmarks=[{name: x}]"], "no benchmark 'x', only ref-youtube-vos"),
        (["precision=yes"], "precision is 'True', not one of no, bf16, fp16"),
        (["attention=flash"], "attention is 'flash', not one of sdpa, eager"),
        (["save_dtype=int8"], "save_dtype is 'int8', not one of float32, bfloat16, float16"),
        (["find.resolution=full"], "find.resolution is 'full', not one of logits, source"),
        # losses
        (["find.weights={bec: 1}"], "find has no loss bec; it has bce, choose, dice, ground, iou"),
        (["find.weights={}"], "find.weights: give one of bce"),
        (["find.weights={bce: 0}"], "find.weights: give one of bce"),
        (["find.weights={bce: 1, iou: -1}"], "find.weights must not be below 0"),
        (["find.weights={bce: .nan}"], "find.weights must not be below 0"),
        (["align.pairs=3"], "align.weights: give one of across, noun, within"),
        (["find.every=0"], "find.every must be at least 1"),
        (["find.every=2"], "steps without any task"),
        (["find.negatives=0.1"], "find.negatives: sentences about nothing teach only presence"),
        (["find.negatives=0.1", "find.weights.presence=0"], "find.negatives: sentences about"),
        (["ground={weights: {box: 1}}"], "ground.negatives: sentences about nothing teach only"),
        # what does not go together
        (["find=null"], "no task: give one of"),
        (["train=[]"], "nothing to train"),
        (["scenes=null"], "give either benchmarks, scenes or photos"),
        (["benchmarks=[{name: mevis}]"], "give either benchmarks, scenes or photos"),
        (["epochs=1"], "give either epochs or steps"),
        (["steps=null"], "give either epochs or steps"),
        (["validate_every=2"], "validate_every must be a multiple of checkpoint_every, which"),
        (["validate_every=3", "checkpoint_every=2"], "validate_every must be a multiple of"),
        (["embedding_cache=c"], "embedding_cache: scenes are never seen twice"),
    ],
)
def test_an_override_that_cannot_be_is_told_in_one_line(read, overrides, reason):
    with pytest.raises(ValueError) as caught:
        read(*overrides)
    message = str(caught.value)
    assert "small.yaml" in message and reason in message and "\n" not in message


BENCHMARK = ["scenes=null", "benchmarks=[{name: ref-sprites}]"]


@pytest.mark.parametrize(
    "overrides, reason",
    [
        (["boxes.weights={bce: 1}"], "boxes: only scenes can teach that"),
        (["nouns.weights={noun: 1}"], "nouns: only scenes can teach that"),
        (["align.weights={within: 1, noun: 1}"], "align.weights.noun: only scenes name"),
        (["heldout=2"], "heldout: only scenes"),
        (["embedding_cache=c", "augment.flip=0.5"], "embedding_cache keeps frames as they are"),
        (["embedding_cache=c", "augment.crop=0.5"], "embedding_cache keeps frames as they are"),
    ],
)
def test_what_a_benchmark_cannot_give_is_refused(read, overrides, reason):
    read(*BENCHMARK)
    with pytest.raises(ValueError, match=f"small.yaml: {reason}"):
        read(*BENCHMARK, *overrides)


@pytest.mark.parametrize("term", ["presence", "ground"])
def test_negatives_are_taken_where_they_teach_something(read, term):
    assert read("find.negatives=0.1", f"find.weights.{term}=0.3").find.negatives == 0.1
    assert read(f"ground.weights.{term}=0.3").ground.negatives == 0.15


@pytest.mark.parametrize("name", ["ref-youtube-vos", "mevis"])
def test_the_papers_recipes_are_what_their_comments_say(name):
    """BCE and Dice, and, unlike the official code, the error of the predicted IoU and clipping."""
    (config,) = (read_config(path) for path in CONFIGS if path.stem == name)
    assert config.find.weights == {"bce": 1.0, "dice": 1.0, "iou": 0.5}
    assert config.find.negatives == 0 and config.optimizer.clip == 1.0


def test_lora_alone_is_something_to_train(read):
    assert read("train=[]", "lora={}").lora.rank == 16


@pytest.mark.parametrize("name", ["no.yaml", "."])
def test_a_file_that_cannot_be_read_is_an_os_error(tmp_path, name):
    with pytest.raises(OSError, match=name if name != "." else str(tmp_path)):
        read_config(tmp_path / name)


def test_bytes_that_are_no_text_are_told_with_their_file(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="bytes.yaml"):
        read_config(tmp_path / "bytes.yaml")


def test_every_key_has_a_default_and_the_defaults_are_json(read):
    """`asdict` is what tells one run from another; see `RunFolder.begin`."""
    values = asdict(read())
    assert json.loads(json.dumps(values)) == values
    assert set(values) == {f.name for f in fields(Config)}
