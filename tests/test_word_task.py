"""Nouns all over pictures, and the stages of `findtrack-small`: what is learnt, what it becomes."""

import copy
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file, save_file
from torch.nn.functional import softplus

from modeling_findtrack import FindTrackModel, cli
from modeling_findtrack.hub_folder import save_weights
from tests import photo_trees as trees
from tests.small_models import SIZE, needs_imagenet, small
from tests.tiny_models import moving_square, tiny
from training import finetune, small_model
from training import small as recipe
from training.config import read_config
from training.frame_batch import Reads, encode
from training.learner import Learner, build_objectives
from training.parameters import choose_trained
from training.photos.nouns import confusable, nouns, true_of
from training.photos.rows import read_photos
from training.photos.source import PhotoSource
from training.run_folder import STATE
from training.samples import FrameSample, Pair, Place
from training.word_task import PRESENT_WEIGHT, WordObjective

CONFIGS = recipe.RECIPE.configs
NOUNS = tuple(nouns())
CELLS = SIZE // 8
WORDS = CONFIGS / "words.yaml"


@pytest.fixture(scope="module")
def base():
    return small()


@pytest.fixture
def made(base):
    return copy.deepcopy(base)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return trees.make_prepared(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def source(folder) -> PhotoSource:
    return PhotoSource(folder, 0, SIZE, mosaic=0.3, pasted=0.3, named=0.4)


def blocks(*things: tuple[str, int, int, int, int], absent=(), partial=(), name="blocks"):
    """A frame with things (noun, row, column, height, width), in cells of the word map."""
    masks = np.zeros((len(things), SIZE, SIZE), bool)
    for mask, (_, y, x, height, width) in zip(masks, things, strict=True):
        mask[8 * y : 8 * (y + height), 8 * x : 8 * (x + width)] = True
    frame = np.random.default_rng(0).integers(0, 99, (SIZE, SIZE, 3), dtype=np.uint8)
    frame[masks.any(axis=0)] = (240, 220, 40)
    pairs = (Pair("the dog", (), "no-target"),)
    return FrameSample(
        name, frame, masks, pairs, tuple(n for n, *_ in things), tuple(absent), tuple(partial)
    )


def batch_of(objective: WordObjective, *samples: FrameSample) -> dict:
    return objective.collator(Reads(True, maps=True))(samples)


@pytest.fixture
def objective(base) -> WordObjective:
    return WordObjective(base[1], NOUNS)


# ---- batches -----------------------------------------------------------------------------------


def test_a_batch_says_what_is_shown_where(objective):
    first = blocks(("duck", 2, 3, 4, 5), ("dog", 8, 8, 2, 2), ("", 0, 0, 1, 1),
                   absent=("cat", "bus"), partial=("bird",))  # fmt: skip
    batch = batch_of(objective, first, blocks(), blocks(("dog", 0, 0, 2, 2), ("dog", 0, 4, 2, 2)))
    shown = list(zip(batch["shown_frame"].tolist(), batch["shown_noun"].tolist(), strict=True))
    wanted = [(0, n) for n in ("duck", "bird", "animal", "dog")] + [(2, "dog"), (2, "animal")]
    assert shown == [(frame, NOUNS.index(noun)) for frame, noun in wanted]
    assert batch["certain"].tolist() == [True, False, True, True, True, True]
    cells = batch["cells"]
    assert cells.shape == (6, CELLS, CELLS) and batch["pixels"].shape == (3, 3, SIZE, SIZE)
    truth = torch.zeros(CELLS, CELLS)
    truth[2:6, 3:8] = 1
    assert torch.equal(cells[0], truth) and torch.equal(cells[1], truth)
    truth[8:10, 8:10] = 1
    assert torch.equal(cells[2], truth), "a duck and a dog are animals"
    assert cells[4].sum() == 8, "all that are one"
    absent = [(i, NOUNS[n]) for i, n in batch["absent"].nonzero().tolist()]
    assert sorted(absent) == [(0, "bus"), (0, "cat")]
    frame, noun = batch["object_frame"].tolist(), batch["object_noun"].tolist()
    objects = [(i, NOUNS[n]) for i, n in zip(frame, noun, strict=True)]
    assert objects == [(0, "duck"), (0, "dog"), (2, "dog"), (2, "dog")]
    for rivals, (_, noun) in zip(batch["rivals"], objects, strict=True):
        told_from = {NOUNS[n] for n in rivals.nonzero()[:, 0].tolist()}
        assert told_from == (set(NOUNS) - confusable(noun)) | {noun}
    assert batch["names"] == ["blocks"] * 3 and "beit3" not in batch


def test_a_speck_is_shown_but_its_noun_is_not_asked_for(objective):
    sample = blocks(("dog", 0, 0, 4, 4))
    sample.masks[0] = False
    sample.masks[0, 5:8, 5:8] = True  # 9 of the 64 pixels of a cell
    batch = batch_of(objective, sample)
    assert len(batch["shown_noun"]) == 2 and len(batch["object_noun"]) == 0
    assert float(batch["cells"][0].sum()) == pytest.approx(9 / 64)


def test_a_noun_that_the_tokenizer_lacks_is_named(base):
    with pytest.raises(ValueError, match="words: the tokenizer lacks zorkblob, xylophone$"):
        WordObjective(base[1], ("dog", "zorkblob", "cat", "xylophone"))


@pytest.mark.parametrize(
    ("stage", "changes", "reason"),
    [
        ("words", [], "words: this model has no word map"),
        ("find", ["words=null", "boxes={weights: {bce: 1}}"], "boxes: this model has no decoder"),
    ],
)
def test_models_that_cannot_learn_a_task_are_told(base, stage, changes, reason):
    model, processor = tiny() if stage == "words" else base
    settings = read_config(CONFIGS / f"{stage}.yaml", changes)
    with pytest.raises(ValueError, match=reason):
        build_objectives(settings, model, processor, NOUNS, None)


# ---- losses ------------------------------------------------------------------------------------

EXAMPLE = (
    blocks(("duck", 2, 3, 4, 5), ("dog", 8, 8, 3, 3), absent=("cat", "horse", "bus")),
    blocks(("car", 1, 1, 5, 4), absent=("person",), partial=("car", "vehicle")),
)


def test_losses_are_means_over_frames(base, objective, source):
    """So several processes, or several forwards, see the loss that one would see."""
    model = base[0]
    samples = [source.frame(Place(0, n), 1, 0.5) for n in range(5)] + [blocks()]
    with torch.no_grad():
        whole = objective(model, batch_of(objective, *samples))
        parts = [objective(model, batch_of(objective, sample)) for sample in samples]
        assert set(whole) == {"dense", "dice", "which"}
        for name, value in whole.items():
            assert value.ndim == 0 and value.isfinite() and value.dtype == torch.float32
            each = torch.stack([part[name] for part in parts])
            torch.testing.assert_close(value, each.mean(), rtol=1e-3, atol=1e-4)
            assert each.std() > 0
        with torch.autocast("cpu", torch.bfloat16):
            half = objective(model, batch_of(objective, *samples))
    for name, value in whole.items():
        assert half[name].dtype == torch.float32
        assert float(half[name]) == pytest.approx(float(value), rel=0.1, abs=0.05)


@pytest.mark.parametrize(
    "samples",
    [(blocks(),), (blocks(absent=("dog",)),), (blocks(("", 1, 1, 3, 3)),), (blocks(), EXAMPLE[0])],
    ids=["nothing", "only absent", "nameless", "one of two"],
)
def test_frames_without_anything_cost_nothing_but_what_is_absent(base, objective, samples):
    model = base[0]
    batch = batch_of(objective, *samples)
    losses = objective(model, batch)
    metrics = objective.metrics(model, batch)
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    model.zero_grad()
    if len(samples) == 1:
        assert losses["which"] == losses["dice"] == 0
        assert (losses["dense"] > 0) == bool(samples[0].absent)
        assert metrics["IoU"] == metrics["noun right"] == (0.0, 0)
        assert metrics["absent silent"][1] == len(samples[0].absent)


def gradients(model, objective, batch, term: str) -> dict[str, float]:
    """Noun -> how much a loss pulls at its word."""
    model.zero_grad()
    objective(model, batch)[term].backward()
    moved = model.finder.beit3.text_embed.weight.grad[objective.ids].abs().sum(dim=1)
    model.zero_grad()
    return dict(zip(NOUNS, moved.tolist(), strict=True))


def test_nouns_of_which_nothing_is_known_learn_nothing(made, objective):
    model = made[0]
    shown = {"duck", "bird", "animal", "dog", "car", "vehicle"}
    absent = {"cat", "horse", "bus", "person"}
    batch = batch_of(objective, *EXAMPLE)
    for term, learns in (("dense", shown | absent), ("dice", shown)):
        moved = gradients(model, objective, batch, term)
        assert {noun for noun, how in moved.items() if how} == learns
    # Inside a mask its noun is told from all others but those that may be true as well.
    told = {noun for noun, how in gradients(model, objective, batch, "which").items() if how}
    kin = {n for n in NOUNS if all(n in confusable(o) - {o} for o in ("duck", "dog", "car"))}
    assert told == set(NOUNS) - kin and {"duck", "dog", "car", "cat"} <= told
    alone = batch_of(objective, EXAMPLE[1])
    told = {noun for noun, how in gradients(model, objective, alone, "which").items() if how}
    assert told == (set(NOUNS) - confusable("car")) | {"car"} and "truck" not in told


def dense_by_hand(model, objective, batch) -> float:
    """Of one frame: cross-entropy of what is shown, and silence of what is absent."""
    embeddings, _ = model.finder.word_map(encode(model, batch))
    words = model.finder.beit3.text_embed(objective.ids)
    logits = model.finder.word_map.similarity(embeddings, words)[0].double()
    total = 0.0
    for noun, cells, certain in zip(
        batch["shown_noun"], batch["cells"].double(), batch["certain"], strict=True
    ):
        own = logits[noun]
        cost = cells * softplus(-own) + (1 - cells) * softplus(own)
        cost = torch.where(cells > 0.2, PRESENT_WEIGHT * cost, cost)
        if not certain:  # outside of the mask there may be more of it
            cost = torch.where(cells > 0.05, cost, 0.2 * cost)
        total += float(cost.mean()) / len(batch["shown_noun"])
    absent = batch["absent"][0].nonzero()[:, 0]
    for noun in absent:
        silence = softplus(logits[noun])
        total += 4 * float(silence.mean() + 0.05 * silence.max()) / len(absent)
    return total


@pytest.mark.parametrize("sample", EXAMPLE, ids=["certain", "partial"])
@torch.no_grad()
def test_the_dense_loss_is_what_it_says(base, objective, sample):
    batch = batch_of(objective, sample)
    assert batch["certain"].all() == (not sample.partial)
    loss = objective(base[0], batch)["dense"]
    assert float(loss) == pytest.approx(dense_by_hand(base[0], objective, batch), rel=1e-4)


@torch.no_grad()
def test_what_more_there_may_be_costs_less(base, objective):
    """The same frame, once with all of its nouns annotated and once with perhaps not all."""
    dog = ("dog", 8, 8, 3, 3)
    known, perhaps = (blocks(dog, partial=partial) for partial in ((), true_of("dog")))
    sure, unsure = (objective(base[0], batch_of(objective, s)) for s in (known, perhaps))
    assert unsure["dense"] < sure["dense"] and unsure["dice"] == sure["dice"]
    metrics = [objective.metrics(base[0], batch_of(objective, s)) for s in (known, perhaps)]
    assert metrics[0]["IoU"][1] == 2 and metrics[1]["IoU"][1] == 0


def test_it_can_be_learnt(made, objective):
    """Two frames by heart: every noun where it is, nothing of what is absent."""
    model = made[0]
    choose_trained(model, ["finder.word_map", "finder.beit3.text_embed"])
    settings = read_config(WORDS)
    learner = Learner(model, {"words": objective}, settings.tasks).train()
    samples = (EXAMPLE[0], blocks(("car", 1, 1, 5, 4), absent=("person",)))
    samples[1].frame[:] = samples[1].frame[::-1, ::-1]
    samples[1].masks[:] = samples[1].masks[:, ::-1, ::-1]
    batch = batch_of(objective, *samples)
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(60):
        loss = learner({"words": batch})
        losses.append({name: float(value.detach()) for name, value in loss.items()})
        loss["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
    for name in ("words/dense", "words/dice", "words/which"):
        assert losses[-1][name] < 0.4 * losses[0][name], name
    metrics = objective.metrics(learner.eval().model, batch)
    (iou, count), right, silent = (metrics[n] for n in ("IoU", "noun right", "absent silent"))
    assert count == 6 and iou / count > 0.7 and right == (3, 3) and silent == (4, 4)


# ---- the stages --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Runs of one process must not inherit each other's Accelerator."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


QUICK = [
    "steps=2", "batch_size=2", "device_batch_size=2", "workers=0", "heldout=1", "ema=0", "keep=2",
    "checkpoint_every=1", "validate_every=2", "log_every=1", "photos.side=64",
    "optimizer.warmup=0",
]  # fmt: skip


def train(stage: str, *changes: str) -> int:
    torch.set_num_threads(1)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    config = str(CONFIGS / f"{stage}.yaml")
    return finetune.main(["--config", config, "--set", *QUICK, *changes])


def short(stage: str) -> list[str]:
    return ["track.frames=[2]", "track.objects=1"] if "track" in stage else []


def rows(out: Path, kind: str = "losses") -> dict[int, dict]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return {row["step"]: row[kind] for row in map(json.loads, lines) if kind in row}


@pytest.fixture(scope="module")
def runs(folder, base, tmp_path_factory):
    """All stages, one after the other, each from what its configuration names."""
    out = tmp_path_factory.mktemp("runs")
    save_weights(*base, base[0].state_dict(), out / "start")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(recipe.RECIPE.variable, str(out))
        patch.setenv("PHOTOS", str(folder))
        for stage in recipe.STAGES:
            assert train(stage, *short(stage)) == 0, stage
        yield out


def test_every_stage_learns_what_it_says(runs, base):
    start = base[0].state_dict()
    for stage in recipe.STAGES:
        settings = read_config(CONFIGS / f"{stage}.yaml")
        for step, losses in rows(runs / stage).items():
            due = {name for name, task in settings.tasks.items() if (step - 1) % task.every == 0}
            wanted = {f"{name}/{term}" for name in due for term in settings.tasks[name].weights}
            assert set(losses) == wanted | {"total"}
            assert all(np.isfinite(value) for value in losses.values())
        assert set(rows(runs / stage)) == {1, 2} and set(rows(runs / stage, "validation")) == {2}
        before = load_file(Path(settings.model) / "model.safetensors")
        for part, origin in settings.parts.items():
            taken = load_file(Path(origin) / "model.safetensors")
            before |= {n: t for n, t in taken.items() if n.startswith(part)}
        after = load_file(runs / stage / "last" / "model.safetensors")
        assert after.keys() == before.keys() <= start.keys()
        moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
        beginnings = tuple(settings.train)
        assert moved and all(
            any(name == b or name.startswith(f"{b}.") for b in beginnings) for name in moved
        )
        for beginning in beginnings:
            assert any(n == beginning or n.startswith(f"{beginning}.") for n in after), beginning


def test_each_stage_goes_on_from_another(runs):
    """The names of the configurations are those that the recipe waits for."""
    for stage, needed in recipe.STAGES.items():
        settings = read_config(CONFIGS / f"{stage}.yaml")
        assert settings.out == str(runs / stage)
        origins = {settings.model, *settings.parts.values()}
        named = {Path(o).relative_to(runs).parts[0] for o in origins}
        assert named - {"start"} == set(needed) and set(needed) <= set(recipe.STAGES)
        assert list(recipe.STAGES).index(stage) > max(
            (list(recipe.STAGES).index(n) for n in needed), default=-1
        )
    assert set(recipe.JOINED.values()) | {recipe.LAST} <= set(recipe.STAGES)
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(recipe.STAGES)
    seeds = [read_config(CONFIGS / f"{stage}.yaml").seed for stage in recipe.STAGES]
    assert len(set(seeds)) == len(seeds)


def test_the_result_s_parts_are_from_the_last_stage_that_trains_them(runs):
    trained = {s: read_config(CONFIGS / f"{s}.yaml").train for s in recipe.STAGES}
    for part in ("finder", "tracker"):
        stage = recipe.JOINED.get(part, recipe.LAST)
        assert any(name.split(".")[0] == part for name in trained[stage])
        later = [s for s, needed in recipe.STAGES.items() if stage in needed]
        assert not any(n.split(".")[0] == part for s in later for n in trained[s])
    # Finder and tracker share a backbone: both must have learnt on the same one.
    finder, tracker = (
        load_file(runs / stage / "last" / "model.safetensors")
        for stage in (recipe.LAST, recipe.JOINED["tracker"])
    )
    backbone = [name for name in finder if "vision_encoder.backbone" in name]
    assert backbone and all(torch.equal(finder[name], tracker[name]) for name in backbone)


def test_what_learns_slowly_moves_less(runs, base):
    before, after = base[0].state_dict(), load_file(runs / "words/last/model.safetensors")

    def furthest(part: str) -> float:
        return max(float((t - before[n]).abs().max()) for n, t in after.items() if part in n)

    rate = yaml.safe_load(WORDS.read_text())["optimizer"]["lr"]
    # Adam moves every number by about the rate.
    assert 1.2 * rate < furthest("finder.word_map") < 3 * rate
    assert 0.12 * rate < furthest("vision_encoder.backbone") < 0.3 * rate


@pytest.mark.parametrize("stage", ["words", "track"])
def test_interrupted_a_stage_goes_on_as_if_nothing_had_happened(stage, runs, tmp_path):
    out = tmp_path / stage
    shutil.copytree(runs / stage, out, symlinks=True)
    shutil.rmtree(out / "checkpoints" / "step-00000002")
    for link in ("last", "best"):
        (out / link).unlink()
    assert (out / "checkpoints" / "step-00000001" / STATE).is_dir()
    assert train(stage, *short(stage), f"out={out}") == 0
    assert rows(out) == rows(runs / stage)
    files = [folder / "last" / "model.safetensors" for folder in (out, runs / stage)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert os.readlink(out / "last") == "checkpoints/step-00000002"


def test_what_the_stages_become_segments(runs):
    model, processor = cli.load_model(str(runs / "find" / "last"), "cpu", "float32")
    model.config.presence_threshold = None
    (track,) = model.segment(moving_square(3), "the dog on the left", processor=processor)
    assert len(track.masks) == 3 and track.found


# ---- the recipe --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Stages of the real size, as if trained: weights drawn at random."""
    out = tmp_path_factory.mktemp("trained")
    processor = small_model.build_processor()
    for number, stage in enumerate(recipe.STAGES):
        last = out / stage / "last"
        last.mkdir(parents=True)
        row = {"step": 1, "epoch": 0.1, "lr": 1e-3, "grad_norm": 1.0, "seconds": 1.0}
        (out / stage / "log.jsonl").write_text(json.dumps(row | {"losses": {"total": 1.0}}) + "\n")
        if stage in (recipe.LAST, *recipe.JOINED.values()):
            torch.manual_seed(number)
            model = FindTrackModel(small_model.small_config(len(processor.tokenizer)))
            save_file(model.state_dict(), last / "model.safetensors", {"format": "pt"})
    return out


def test_stages_are_joined_to_one_checkpoint(trained, tmp_path):
    out = tmp_path / recipe.NAME
    recipe.join(trained, out)
    assert (out / "training.png").is_file() and not list(tmp_path.glob(".*"))
    final = load_file(out / "model.safetensors")
    stages = {
        stage: load_file(trained / stage / "last" / "model.safetensors")
        for stage in (recipe.LAST, *recipe.JOINED.values())
    }
    for name, tensor in final.items():
        part = name.partition(".")[0]
        own = stages[recipe.JOINED.get(part, recipe.LAST)][name]
        assert tensor.dtype == torch.float16 and torch.equal(tensor, own.half()), name
    assert {name.partition(".")[0] for name in final} == {"finder", "tracker"}
    assert (out / "model.safetensors").stat().st_size < 25e6
    model, processor = cli.load_model(str(out), "cpu", "auto")
    assert processor.finder_size == small_model.SHIPPED_SIZE
    assert model.config.presence_threshold == small_model.PRESENCE
    assert processor.tokenizer.unk_token_id not in processor.tokenizer("the race_cars")["input_ids"]
    (track,) = model.segment(moving_square(2), "the dog", processor=processor, threshold=0)
    assert len(track.masks) == 2
    recipe.join(trained, out)  # an earlier one is replaced


@needs_imagenet
def test_the_start_is_scaled_by_the_pictures(folder, tmp_path):
    photos = read_photos(folder, "train")
    recipe._start(photos[:3], tmp_path / "a" / "start", 0)
    recipe._start(photos[3:6], tmp_path / "b" / "start", 0)
    first, second = (load_file(tmp_path / n / "start" / "model.safetensors") for n in "ab")
    assert first.keys() == second.keys()
    scale = "finder.word_map.scale"
    assert first[scale] > 0 and not torch.equal(first[scale], second[scale])
    name = "tracker.sam2.vision_encoder.backbone.stem.weight"
    assert torch.equal(first[name], second[name])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([], "holds no photos.jsonl"),
        (["batch_size=none"], "words.yaml: 'batch_size=none'"),
        (["photos.sid=3"], "there is no key 'photos.sid'"),
        (["photos.mosaic=2"], "photos.mosaic is 2.0, it must be between 0 and 1"),
    ],
)
def test_what_the_recipe_cannot_use_is_one_line(changes, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(recipe.RECIPE.variable, "")
    options = ["--photos", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    assert recipe.main([*options, *(["--set", *changes] if changes else [])]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and reason in error and "training.small" in error
    assert not (tmp_path / "out").exists()


def test_a_folder_of_withheld_pictures_alone_is_told(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(recipe.RECIPE.variable, "")
    trees.write_index(read_photos(folder, "val"), tmp_path / "val")
    out = tmp_path / "out"
    assert recipe.main(["--photos", str(tmp_path / "val"), "--out", str(out)]) == 2
    assert "has no train pictures" in capsys.readouterr().err and not out.exists()
