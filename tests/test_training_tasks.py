"""What is learnt: tasks, losses, parameters, words, averages, and the folder of a run."""

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from modeling_findtrack import FindTrackModel, FindTrackProcessor
from modeling_findtrack.finder import FinderOutput
from tests import tiny_cutie
from tests.tiny_models import tiny
from training import box_task, config, find_task, track_task
from training.align_task import AlignCollator
from training.averaging import MovingAverage
from training.config import read_config
from training.embedding_cache import EmbeddingCache, encoder_digest
from training.expressions import vocabulary
from training.frame_batch import Reads, encode, frame_tensors, vision_encoder
from training.learner import Learner, build_objectives
from training.losses import hard_iou, mask_bce, mask_dice, mask_terms, weighted_sum
from training.new_words import add_new_words
from training.noun_task import NounCollator, NounObjective
from training.parameters import add_lora, choose_trained, merged, take_parts
from training.run_folder import STATE, RunFolder
from training.samples import ClipSample, FrameSample, Pair, Place
from training.scene_samples import SceneSource
from training.sprite_art import load_art
from training.targets import boxes_of, coverage, finder_targets
from training.track_task import roughened

CONFIGS = Path(__file__).parents[1] / "training/configs/tiny"
STAGES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
# Parts that `track.yaml` names and that no loss reaches: SAM 2 adds this one where no memory is.
UNUSED = {"tracker.sam2.no_memory_embedding"}


@pytest.fixture(scope="module")
def source(art_dir) -> SceneSource:
    return SceneSource(load_art(art_dir), 0, textured=0.2, crossing=0.3)


@pytest.fixture(scope="module")
def base(source):
    """A small random model that knows the words of the scenes, and its processor."""
    model, processor = tiny()
    add_new_words(model, processor, vocabulary(source.bank))
    return model, processor


@pytest.fixture
def made(base):
    """A copy of `base`, to be changed."""
    return copy.deepcopy(base[0]), base[1]


def drawn(source, task, count: int, first: int = 0) -> list:
    """Samples of a task, as `TaskSamples` draws them."""
    places = [Place(0, first + n) for n in range(count)]
    if isinstance(task, config.TrackTask):
        return [source.clip(place, 3, task.objects, [1, 2]) for place in places]
    # More negatives than in earnest, so that few sentences have some too.
    negatives = 0.4 if hasattr(task, "negatives") else 0.0
    return [source.frame(place, getattr(task, "pairs", 1), negatives) for place in places]


def learner_of(stage: str, model, processor, source) -> Learner:
    """What `training/configs/tiny` trains at a stage."""
    settings = read_config(CONFIGS / f"{stage}.yaml")
    choose_trained(model, settings.train)
    objectives = build_objectives(settings, model, processor, source.bank.nouns, None)
    return Learner(model, objectives, settings.tasks).train()


def batches_of(learner: Learner, stage: str, source, count: int = 2, first: int = 0) -> dict:
    tasks = read_config(CONFIGS / f"{stage}.yaml").tasks
    return {
        name: learner.objectives[name].collator(Reads(True))(drawn(source, task, count, first))
        for name, task in tasks.items()
    }


# ---- every task --------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_reach_exactly_what_is_trained(made, source, stage):
    model, processor = made
    settings = read_config(CONFIGS / f"{stage}.yaml")
    # Some objects count as gone, so that what stands for those takes part.
    with torch.no_grad():
        model.tracker.sam2.mask_decoder.pred_obj_score_head.proj_out.bias -= 5.7
    learner = learner_of(stage, model, processor, source)
    losses = learner(batches_of(learner, stage, source, count=4))
    weights = {f"{n}/{t}": w for n, task in settings.tasks.items() for t, w in task.weights.items()}
    assert set(losses) == {*weights, "total"}
    values = {name: loss.detach() for name, loss in losses.items()}
    assert all(value.ndim == 0 and value.isfinite() for value in values.values())
    total = sum(weight * float(values[name]) for name, weight in weights.items())
    assert float(values["total"]) == pytest.approx(total, rel=1e-5)
    losses["total"].backward()
    reached = set()
    for name, parameter in model.named_parameters():
        fits = {b for b in settings.train if name == b or name.startswith(f"{b}.")}
        assert parameter.requires_grad == bool(fits), name
        if parameter.grad is not None:
            assert fits, name
            assert parameter.grad.isfinite().all(), name
            reached |= fits if parameter.grad.any() else set()
    assert set(settings.train) - reached == UNUSED & set(settings.train)
    # Heads that only training has learn as well.
    assert all(p.grad is not None and p.grad.any() for p in learner.objectives.parameters())


@pytest.mark.parametrize("stage", STAGES)
def test_half_precision_changes_losses_little(made, source, stage):
    learner = learner_of(stage, *made, source)
    batches = batches_of(learner, stage, source)
    with torch.no_grad():
        full = learner(batches)
        with torch.autocast("cpu", torch.bfloat16):
            half = learner(batches)
    assert all(value.dtype == torch.float32 for value in half.values())
    for name, value in full.items():
        # The random logits of `align` are large: within a few percent.
        assert float(half[name]) == pytest.approx(float(value), rel=0.1, abs=0.05), name


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_of_a_batch_is_the_mean_of_its_halves(made, source, stage):
    """So several processes, or several forwards, see the loss that one would see."""
    learner = learner_of(stage, *made, source)
    with torch.no_grad():
        whole = learner(batches_of(learner, stage, source, count=4, first=8))
        halves = [learner(batches_of(learner, stage, source, first=first)) for first in (8, 10)]
    names = set(whole) - {"total", "align/across"}
    assert names
    for name in names:
        parts = [float(half[name]) for half in halves]
        assert float(whole[name]) == pytest.approx(sum(parts) / 2, rel=2e-4), name
        # Or a loss that is the same everywhere would pass.
        assert parts[0] != pytest.approx(parts[1], rel=1e-3), name


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_are_shares(made, source, stage):
    learner = learner_of(stage, *made, source).eval()
    batches = batches_of(learner, stage, source, first=20)
    for name, batch in batches.items():
        metrics = learner.objectives[name].metrics(learner.model, batch)
        assert metrics
        for total, count in metrics.values():
            assert isinstance(total, float) and 0 <= total <= count
    assert not any(p.grad is not None for p in learner.parameters())


def test_an_item_is_named_in_its_batch(made, source):
    """A loss that is no number is told with the names of its samples."""
    for stage in STAGES:
        learner = learner_of(stage, *made, source)
        for batch in batches_of(learner, stage, source, first=30).values():
            assert batch["names"] == ["scene 30", "scene 31"]


# ---- masks -------------------------------------------------------------------------------------


def square_mask(side: int = 12) -> torch.Tensor:
    mask = torch.zeros(1, side, side)
    mask[:, 2:6, 3:9] = 1
    return mask


def test_losses_rank_right_half_right_and_wrong():
    target = square_mask()
    right, wrong = 20 * (target - 0.5), -20 * (target - 0.5)
    half = right.clone()
    half[:, 4:6] = -10
    for loss in (mask_bce, mask_dice):
        assert loss(right, target) < 0.01 < loss(half, target) < loss(wrong, target)
    assert hard_iou(right, target) == 1 and hard_iou(half, target) == 0.5
    assert hard_iou(-right.abs(), torch.zeros_like(target)) == 1
    assert mask_dice(torch.full_like(target, -20), torch.zeros_like(target)) < 1e-3


def test_the_predicted_iou_is_compared_with_the_real_one():
    target = square_mask()
    half = 20 * (target - 0.5)
    half[:, 4:6] = -10
    for predicted in (0.2, 0.5, 0.9):
        error = mask_terms(half, target, torch.tensor([predicted]))["iou"]
        assert float(error) == pytest.approx(abs(predicted - 0.5))


def test_what_has_no_weight_may_be_no_number():
    terms = {"a": torch.tensor([1.0, float("nan"), 3.0])}
    assert weighted_sum(terms, torch.tensor([0.5, 0.0, 0.5]))["a"] == 2
    assert weighted_sum(terms, torch.zeros(3))["a"] == 0


def test_boxes_and_coverage():
    mask = square_mask()
    assert boxes_of(mask)[0].tolist() == pytest.approx([3 / 12, 2 / 12, 9 / 12, 6 / 12])
    assert boxes_of(torch.zeros(1, 5, 5)).tolist() == [[0, 0, 0, 0]]
    cells = coverage(mask, (6, 6))
    assert cells.shape == (1, 6, 6) and cells.sum() * 4 == mask.sum()
    assert cells.max() <= 1 and coverage(mask, (24, 24)).sum() == 4 * mask.sum()


@pytest.mark.parametrize("geometry", ["squash", "pad"])
@pytest.mark.parametrize("size", [(96, 160), (160, 96), (50, 50)])
def test_targets_lie_where_the_finder_s_masks_do(base, geometry, size):
    processor = copy.copy(base[1])
    processor.finder_geometry = geometry
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, size[0] // 4 : size[0] // 2, size[1] // 3 : size[1] // 3 * 2] = True
    target = finder_targets(mask, processor, 48)
    assert target.shape == (1, 48, 48) and target.min() >= 0 and target.max() == 1
    back = processor.masks_to_source(target - 0.5, size, "finder") > 0
    assert float((back & mask).sum() / (back | mask).sum()) > 0.85


def blocks(size: tuple[int, int] = (192, 192)) -> FrameSample:
    """Objects that fill whole cells of every grid, so that targets are 0 or 1."""
    frame = np.zeros((*size, 3), np.uint8)
    masks = np.zeros((2, *size), bool)
    masks[0, size[0] // 8 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    masks[1, size[0] // 2 :, size[1] // 8 * 5 :] = True
    pairs = (
        Pair("the dog on the left", (0,), "position"),
        Pair("a cat", (), "no-target"),
        Pair("the big car", (1,), "size"),
        Pair("the dog", (0, 1), "noun"),
    )
    return FrameSample("blocks", frame, masks, pairs, ("dog", "car"))


class Answers:
    """Stands in for the model: gives the logits it is told to."""

    def __init__(self, monkeypatch, batch: dict):
        sign = 2 * batch["target"] - 1
        self.logits = 40 * sign
        self.iou = torch.ones(len(sign))
        self.presence = 40 * (2 * batch["present"] - 1)
        self.heat = 40 * (2 * batch["cells"] - 1)
        monkeypatch.setattr(
            find_task,
            "run_finder",
            lambda *_: FinderOutput(self.logits, self.iou, self.presence, self.heat),
        )


@pytest.fixture(params=["logits", "source"])
def find_blocks(request, base, monkeypatch):
    """The objective at either resolution, a batch of two sizes, and right answers to it."""
    task = config.FindTask(weights={"bce": 1.0}, pairs=4, resolution=request.param)
    objective = find_task.FindObjective(task, base[1])
    batch = objective.collator(Reads(True))([blocks(), blocks((96, 160))])
    return objective, batch, Answers(monkeypatch, batch)


def test_right_answers_cost_nothing(find_blocks):
    objective, batch, _ = find_blocks
    losses = objective(None, batch)
    assert set(losses) == {"bce", "dice", "iou", "presence", "ground", "choose"}
    # At the size of the video, edges are soft: logits are interpolated.
    most = 0.03 if objective.at_source else 1e-3
    assert all(0 <= float(value) < most for value in losses.values()), losses
    metrics = objective.metrics(None, batch)
    assert metrics["IoU"] == (6, 6) and metrics["IoU noun"] == (2, 2)
    assert metrics["presence right"] == (8, 8) and "IoU no-target" not in metrics


def test_wrong_answers_cost(find_blocks):
    objective, batch, answers = find_blocks
    answers.logits, answers.presence, answers.heat = (
        -x for x in (answers.logits, answers.presence, answers.heat)
    )
    losses = objective(None, batch)
    for name, least in {"bce": 20, "dice": 0.5, "iou": 0.7, "presence": 39, "ground": 40}.items():
        assert float(losses[name]) > least, name
    metrics = objective.metrics(None, batch)
    assert metrics["IoU"] == (0, 6) and metrics["presence right"] == (0, 8)


def test_an_absent_target_trains_presence_and_heat_map_alone(find_blocks):
    objective, batch, answers = find_blocks
    absent = batch["present"] == 0
    assert absent.sum() == 2
    answers.logits = torch.randn(answers.logits.shape, generator=torch.Generator().manual_seed(0))
    before = objective(None, batch)
    answers.logits = answers.logits.clone()
    answers.logits[absent] = float("nan")
    answers.presence, answers.heat = answers.presence.clone(), answers.heat.clone()
    answers.presence[absent] = 40.0
    answers.heat[absent] = 40.0
    after = objective(None, batch)
    assert all(before[name] == after[name] for name in ("bce", "dice", "iou"))
    assert after["presence"] > before["presence"] + 9 and after["ground"] > before["ground"] + 9


def test_masks_are_compared_at_the_size_asked_for(base, monkeypatch):
    samples = [blocks(), blocks((96, 160))]
    losses, logits = {}, None
    torch.manual_seed(1)
    for resolution in ("logits", "source"):
        task = config.FindTask(weights={"bce": 1.0}, resolution=resolution)
        objective = find_task.FindObjective(task, base[1])
        batch = objective.collator(Reads(True))(samples)
        assert ("source" in batch) == (resolution == "source")
        answers = Answers(monkeypatch, batch)
        if logits is None:
            logits = torch.randn(answers.logits.shape)
        answers.logits, answers.iou = logits, torch.full((8,), 0.3)
        losses[resolution] = objective(None, batch)
    expected = {"bce": 0.0, "dice": 0.0, "iou": 0.0}
    for p, (sample, pair) in enumerate((s, pair) for s in samples for pair in s.pairs):
        if pair.objects:
            truth = torch.from_numpy(sample.target(pair)).float()
            large = F.interpolate(logits[p : p + 1, None], truth.shape, mode="bilinear")[0]
            for name, term in mask_terms(large, truth[None], torch.tensor([0.3])).items():
                expected[name] += float(term) / 8
    for name, value in expected.items():
        assert float(losses["source"][name]) == pytest.approx(value, rel=1e-4)
        assert float(losses["logits"][name]) != pytest.approx(value, rel=2e-4)
    assert losses["source"]["presence"] == losses["logits"]["presence"]


def test_right_masks_from_boxes_cost_nothing(base, monkeypatch):
    objective = box_task.BoxObjective(config.BoxTask(weights={"bce": 1.0}), base[1])
    batch = objective.collator(Reads(True))([blocks(), blocks((96, 160))])
    right = 40 * (2 * batch["target"] - 1)
    answer = [right, torch.ones(4), torch.full((4,), 40.0)]
    monkeypatch.setattr(box_task, "_decode", lambda *_: tuple(answer))
    assert all(float(v) < 1e-3 for v in objective(None, batch).values())
    sums = objective.metrics(None, batch).values()
    assert sum(total for total, _ in sums) == sum(count for _, count in sums) == 4
    answer[0] = -right
    assert objective(None, batch)["bce"] > 30


def clip_of_blocks(length: int = 3) -> ClipSample:
    """Two blocks that stand still; the second is gone in the last frame."""
    still = blocks()
    masks = still.masks[:, None].repeat(length, axis=1)
    masks[1, -1] = False
    return ClipSample("clip", still.frame[None].repeat(length, axis=0), masks, 1)


def test_right_masks_in_a_clip_cost_nothing_and_absent_ones_train_presence_alone(base, monkeypatch):
    objective = track_task.TrackObjective(config.TrackTask(weights={"bce": 1.0}), base[1])
    batch = objective.collator(Reads(True))([clip_of_blocks()])
    assert batch["present"].tolist() == [[1, 1, 1], [1, 1, 0]]
    raw = 40 * (2 * batch["target"] - 1)  # (N, T, s, s)

    def unroll(*_):
        for t in (1, 2):
            presence = 40 * (2 * batch["present"][:, t] - 1)
            masks = raw[:, t, None]
            yield SimpleNamespace(
                raw_logits=masks, mask_logits=masks, iou=torch.ones(2), presence=presence
            )

    monkeypatch.setattr(track_task, "unroll", unroll)
    losses = objective(None, batch)
    assert set(losses) == {"bce", "dice", "iou", "presence"}
    assert all(float(value) < 1e-3 for value in losses.values())
    metrics = objective.metrics(None, batch)
    assert metrics["J"] == (4, 4) and metrics["J of the last frame"] == (2, 2)
    assert metrics["J of copying"] == (3, 4)  # the one that is gone is copied all the same
    raw[1, 2] = float("nan")
    assert objective(None, batch) == losses
    raw[0, 2] *= -1
    assert float(objective(None, batch)["bce"]) == pytest.approx(40 / 4, rel=1e-3)


# ---- collators ---------------------------------------------------------------------------------


def test_find_batches_hold_the_target_of_every_sentence(base, source):
    samples = drawn(source, config.FindTask(pairs=3), 5)
    batch = find_task.FindCollator(base[1], Reads(True), keep_source=True)(samples)
    assert batch["pixels"].shape == (5, 3, 192, 192) and batch["beit3"].shape == (5, 3, 128, 128)
    assert batch["frame"].tolist() == [i for i in range(5) for _ in range(3)]
    pairs = [(sample, pair) for sample in samples for pair in sample.pairs]
    for p, (sample, pair) in enumerate(pairs):
        mask = sample.target(pair)
        assert np.array_equal(batch["source"][p].numpy(), mask)
        assert bool(batch["present"][p]) == mask.any() == bool(pair.objects)
        share = mask.mean()
        assert float(batch["target"][p].mean()) == pytest.approx(share, abs=2e-3)
        assert float(batch["cells"][p].mean()) == pytest.approx(share, abs=2e-3)
        if mask.any():
            ys, xs = np.nonzero(mask)
            size = np.array([mask.shape[1], mask.shape[0]] * 2)
            corners = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / size
            assert batch["boxes"][p].tolist() == pytest.approx(corners.tolist())
    alone = base[1].finder_tokens(pairs[4][1].text)["input_ids"]
    assert torch.equal(batch["input_ids"][4][: alone.shape[1]], alone[0])


def test_box_prompts_stay_at_their_objects(base, source):
    samples = drawn(source, config.BoxTask(), 6)
    collator = box_task.BoxCollator(base[1], Reads(True), 4)
    batch = collator(samples)
    assert float(batch["weight"].sum()) == pytest.approx(1)
    assert torch.bincount(batch["frame"]).tolist() == [
        min(4, int((s.masks.sum(axis=(1, 2)) > box_task.SMALLEST).sum())) for s in samples
    ]
    assert 0 < batch["use_box"].float().mean() < 1
    inner = boxes_of((batch["target"] > 0).float()) * 192
    # Of a jitter and of a cell of the target.
    assert float((batch["boxes"] - inner).abs().max()) <= 192 * box_task.JITTER_MOST + 4.01
    assert batch["boxes"].min() >= 0 and batch["boxes"].max() <= 192
    warm = batch["heat"].flatten(1).argmax(dim=1)
    cells = F.interpolate(batch["target"][:, None], (8, 8), mode="area").flatten(1)
    assert (cells.gather(1, warm[:, None]) > 0).float().mean() > 0.8
    again = collator(samples)
    assert all(torch.equal(batch[k], again[k]) for k in ("boxes", "heat", "use_box"))


def test_align_regions_belong_to_their_sentences(base, source):
    task = config.AlignTask(pairs=4)
    samples = [*drawn(source, task, 5), blocks()]
    nouns = [*source.bank.nouns, "dog"]
    batch = AlignCollator(base[1], nouns)(samples)
    assert float(batch["weight"].sum()) == pytest.approx(1)
    texts = iter(range(len(batch["region"])))
    for i, sample in enumerate(samples):
        shown = [o for o in range(len(sample.masks)) if sample.masks[o].sum() > 20]
        first = int((batch["frame"] < i).sum())
        assert (batch["frame"] == i).sum() == len(shown) + 1  # and a wrong one
        assert batch["noun"][first + len(shown)] == -1
        for pair in sample.pairs:
            if len(pair.objects) != 1:
                continue  # no region is two objects or none
            row = int(batch["region"][next(texts)])
            mask = sample.masks[pair.objects[0]]
            assert torch.equal(batch["alpha"][row], base[1].alpha(mask[None])[0])
            assert int(batch["frame"][row]) == i
            noun = sample.nouns[pair.objects[0]]
            assert nouns[int(batch["noun"][row])] == noun
    assert next(texts, None) is None
    unnamed = [s for s in samples if "" in s.nouns]
    assert unnamed and (AlignCollator(base[1], nouns)(unnamed)["noun"] == -2).any()


def test_a_wrong_region_is_never_a_right_one(base):
    """Where one object of the data is two others at once, as in "all dogs"."""
    sample = blocks()
    group = np.concatenate([sample.masks, sample.masks.any(axis=0, keepdims=True)])
    sample = replace(sample, masks=group, pairs=(Pair("the dogs", (2,)),), nouns=("", "", ""))
    for seed in range(20):
        batch = AlignCollator(base[1])([replace(sample, seed=seed)])
        wrong, right = batch["alpha"][-1], batch["alpha"][:-1]
        assert not any(torch.equal(wrong, region) for region in right)


def test_frames_without_a_usable_sentence_weigh_nothing(base):
    sample = replace(blocks(), pairs=(Pair("a cat", ()),))
    batch = AlignCollator(base[1])([sample])
    assert batch["weight"].tolist() == [0] and len(batch["input_ids"]) == 1
    empty = replace(sample, masks=sample.masks[:0], nouns=())
    assert AlignCollator(base[1])([empty])["frame"].tolist() == [0]


def test_noun_cells_are_labelled_where_their_object_is(base):
    labels = NounCollator(base[1], ["car", "dog"])([blocks()])["labels"].view(8, 8)
    expected = torch.full((8, 8), 2)
    expected[1:4, 2:4] = 1
    expected[4:, 5:] = 0
    assert torch.equal(labels, expected)
    unnamed = replace(blocks(), nouns=("", ""))
    assert (NounCollator(base[1], ["car"])([unnamed])["labels"] == 1).all()


def test_cells_are_told_apart_by_the_words_of_their_nouns(base, monkeypatch):
    """Cells with a noun and cells without count in a loss each."""
    objective = NounObjective(base[1], ["car", "dog"], 3)
    batch = objective.collator(Reads(True))([blocks(), blocks((96, 160))])
    with torch.no_grad():
        objective.background.copy_(torch.tensor([0.0, 0.0, 1.0]))
        objective.scale.fill_(40.0)
    tokens = F.one_hot(batch["labels"], 3).float()
    monkeypatch.setattr(objective, "_tokens", lambda *_: tokens)
    monkeypatch.setattr(objective, "_words", lambda _: torch.eye(3)[:2])
    assert all(float(v.detach()) < 1e-6 for v in objective(None, batch).values())
    assert objective.metrics(None, batch)["noun right"] == (36, 36)
    shown = batch["labels"] < 2
    for name, cells in (("noun", shown), ("background", ~shown)):
        right, tokens = tokens, torch.where(cells[..., None], tokens.roll(1, dims=-1), tokens)
        losses = objective(None, batch)
        assert float(losses.pop(name).detach()) == pytest.approx(40)
        assert float(losses.popitem()[1].detach()) < 1e-6
        tokens = right


def test_nouns_that_are_no_words_are_refused(base):
    with pytest.raises(ValueError, match="lacks zeppelin; set new_words"):
        NounObjective(base[1], ["dog", "zeppelin"], 160)


def test_track_batches(base, source):
    task = config.TrackTask(objects=2)
    samples = drawn(source, task, 3)
    batch = track_task.TrackCollator(base[1])(samples)
    counts = [len(s.masks) for s in samples]
    assert batch["pixels"].shape == (3, 3, 3, 192, 192)
    assert batch["clip"].tolist() == [i for i, n in enumerate(counts) for _ in range(n)]
    assert batch["keys"].shape == (sum(counts), 1, 192, 192)
    assert float(batch["weight"].sum()) == pytest.approx(1)
    shares = torch.zeros(3).index_add(0, batch["clip"], batch["weight"])
    assert shares.tolist() == pytest.approx([1 / 3] * 3)
    masks = np.concatenate([s.masks.mean(axis=(2, 3)) for s in samples])
    assert np.allclose(batch["target"].mean(dim=(2, 3)), masks, atol=2e-3)
    assert np.array_equal(batch["present"].numpy() > 0, masks > track_task.PRESENT)
    # Time comes first: frame t of clip i.
    assert torch.equal(batch["pixels"][2, 1], base[1].tracker_pixels(samples[1].frames[2])[0])


def test_roughened_keys_stay_close():
    mask = torch.zeros(64, 64)
    mask[20:40, 20:40] = 1
    rng = np.random.default_rng(0)
    rough = torch.stack([roughened(mask, rng) for _ in range(60)])
    iou = hard_iou(rough - 0.5, mask.expand(60, -1, -1))
    assert iou.min() > 0.4 and 10 < (iou < 1).sum() < 40
    assert rough.flatten(1).sum(dim=1).max() > mask.sum() > rough.flatten(1).sum(dim=1).min()
    speck = torch.zeros(64, 64)
    speck[3, 3] = 1
    assert all(roughened(speck, rng).any() for _ in range(60))  # never eaten away


# ---- the learner -------------------------------------------------------------------------------


def test_only_what_is_trained_is_in_training_mode(made, source):
    learner = learner_of("nouns", *made, source)
    model = learner.model
    assert model.finder.beit3.vision_embed.training and model.finder.beit3.training
    assert not model.tracker.training and not model.finder.beit3.encoder.layers[0].training
    assert not model.aligner.text_model.training and learner.objectives.training
    assert not any(module.training for module in learner.eval().modules())


def test_a_loss_the_model_does_not_give_is_told(made, source):
    model, processor = made
    model.finder.grounding_head = None
    learner = learner_of("find", model, processor, source)
    with pytest.raises(ValueError, match="gives no find/ground: remove it from the weights"):
        learner(batches_of(learner, "find", source, count=1))


def test_a_weight_of_zero_leaves_a_loss_out(made, source):
    model, processor = made
    task = config.FindTask(weights={"bce": 1.0, "ground": 0.0})
    objective = find_task.FindObjective(task, processor)
    learner = Learner(model, {"find": objective}, {"find": task})
    losses = learner({"find": objective.collator(Reads(True))(drawn(source, task, 1))})
    assert set(losses) == {"find/bce", "total"} and losses["total"] == losses["find/bce"]


@pytest.mark.parametrize(
    "stage, part, reason",
    [
        ("align", "aligner", "align: this model has no aligner"),
        ("ground", "finder.grounding_head", "ground: this model has no heat map as a prompt"),
        ("ground", "finder.presence_head", "ground: this model has no presence head"),
        ("boxes", "finder.is_sam2", "boxes: this model has no SAM 2 finder"),
    ],
)
def test_a_task_that_a_model_cannot_learn_is_refused(made, source, stage, part, reason):
    model, processor = made
    owner, _, name = part.rpartition(".")
    setattr(model.get_submodule(owner), name, None)
    settings = read_config(CONFIGS / f"{stage}.yaml")
    with pytest.raises(ValueError, match=reason):
        build_objectives(settings, model, processor, source.bank.nouns, None)


@tiny_cutie.needs_cutie
def test_cutie_cannot_be_trained_to_track(source):
    settings = read_config(CONFIGS / "track.yaml")
    with pytest.raises(ValueError, match="track: this model has no SAM 2 tracker"):
        build_objectives(settings, *tiny_cutie.tiny_model(), source.bank.nouns, None)


# ---- embeddings on disk ------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, source) -> list[FrameSample]:
    """Frames that are the content of files."""
    from PIL import Image

    samples = []
    for n, sample in enumerate(drawn(source, config.FindTask(pairs=2), 3)):
        path = tmp_path / f"{n}.png"
        Image.fromarray(sample.frame).save(path)
        samples.append(replace(sample, path=str(path)))
    return samples


def find_losses(model, processor, samples, cache=None) -> dict:
    objective = find_task.FindObjective(config.FindTask(pairs=2), processor, cache)
    with torch.no_grad():
        return objective(model, objective.collator(Reads(True))(samples))


def cache_of(model, processor, folder: Path) -> EmbeddingCache:
    return EmbeddingCache(folder, encoder_digest(vision_encoder(model), processor))


def test_cached_embeddings_give_the_same_losses(base, files, tmp_path):
    folder = tmp_path / "cache"
    plain = find_losses(*base, files)
    cache = cache_of(*base, folder)
    for hits, misses in ((0, 3), (3, 3)):
        assert find_losses(*base, files, cache) == plain
        assert (cache.hits, cache.misses) == (hits, misses)
    again = cache_of(*base, folder)  # of another run
    assert find_losses(*base, files[::-1][:2], again) and (again.hits, again.misses) == (2, 0)
    assert len(list(folder.rglob("*.safetensors"))) == 3
    assert not list(folder.rglob("*.part"))


def test_a_full_cache_keeps_no_more_and_changes_nothing(base, files, tmp_path, caplog):
    model, processor = base
    plain = find_losses(*base, files)
    digest = encoder_digest(vision_encoder(model), processor)
    whole = cache_of(*base, tmp_path / "whole")
    find_losses(*base, files, whole)
    one = sum(f.stat().st_size for f in (tmp_path / "whole").rglob("*.safetensors")) / 3
    folder = tmp_path / "small"
    for n in range(4):
        if n % 2 == 0:
            cache = EmbeddingCache(folder, digest, limit=2.5 * one)
        losses = find_losses(*base, files, cache)
        # The encoder rounds differently for one frame than for three.
        assert all(float(losses[k]) == pytest.approx(float(plain[k]), rel=1e-5) for k in plain)
        assert len(list(folder.rglob("*.safetensors"))) == 2
    assert (cache.hits, cache.misses) == (4, 2)
    assert caplog.text.count("is full") == 2  # told once per cache
    # Two processes share what is left.
    shared = EmbeddingCache(tmp_path / "shared", digest, limit=2.5 * one, processes=2)
    find_losses(*base, files, shared)
    assert len(list((tmp_path / "shared").rglob("*.safetensors"))) == 1


def test_a_truncated_embedding_is_made_again(base, files, tmp_path):
    cache = cache_of(*base, tmp_path / "cache")
    plain = find_losses(*base, files, cache)
    embeddings = sorted((tmp_path / "cache").rglob("*.safetensors"))
    whole = embeddings[0].read_bytes()
    contents = (whole[: len(whole) // 2], whole[:4], b"")
    for damaged, content in zip(embeddings, contents, strict=True):
        damaged.write_bytes(content)
        before = cache.hits, cache.misses
        losses = find_losses(*base, files, cache)
        assert (cache.hits, cache.misses) == (before[0] + 2, before[1] + 1)
        assert all(float(losses[k]) == pytest.approx(float(plain[k]), rel=1e-5) for k in plain)
        assert damaged.stat().st_size == len(whole)


def test_embeddings_of_another_image_encoder_or_precision_are_others(made, files, tmp_path):
    model, processor = made
    cache = cache_of(model, processor, tmp_path / "cache")
    batch = frame_tensors(files, processor, Reads(True))
    with torch.no_grad():
        levels = encode(model, batch, cache)
        assert all(torch.equal(a, b) for a, b in zip(levels, encode(model, batch), strict=True))
        with torch.autocast("cpu", torch.bfloat16):
            half = encode(model, batch, cache)
        assert cache.misses == 6 and half[0].dtype != levels[0].dtype
        assert encode(model, batch, cache)[0].dtype == levels[0].dtype
        # The file has other content now.
        Path(files[0].path).write_bytes(Path(files[1].path).read_bytes())
        encode(model, batch, cache)
        assert cache.misses == 7
        parameter = next(vision_encoder(model).parameters())
        parameter.add_(1)
        assert cache_of(model, processor, tmp_path).digest != cache.digest
        parameter.sub_(1)
    resized = copy.copy(processor)
    resized.tracker_size = 96
    assert cache_of(model, resized, tmp_path).digest != cache.digest


def test_a_frozen_encoder_makes_no_graph_and_a_trained_one_does(made, files):
    model, processor = made
    batch = frame_tensors(files[:1], processor, Reads(True))
    choose_trained(model, ["finder"])
    assert not any(level.requires_grad for level in encode(model, batch))
    choose_trained(model, ["tracker.sam2.vision_encoder"])
    assert all(level.requires_grad for level in encode(model, batch))


# ---- words -------------------------------------------------------------------------------------

SENTENCES = [
    "The Zeppelin, left of a carp!", "the do on the dog's magnet", "two zeppelins", "a big car"
]  # fmt: skip
FRESH = ["carp", "do", "magnet", "s", "two", "zeppelin", "zeppelins"]


@pytest.fixture
def plain():
    """A model that knows eleven words."""
    return tiny()


def ids_of(tokenize, text: str) -> list[int]:
    return tokenize(text)["input_ids"][0].tolist()


def test_unknown_words_get_ids_and_known_ones_keep_theirs(plain):
    model, processor = plain
    known = ["the dog on the left", "a Red car, moving", "the big cat"]
    tables = (
        (processor.finder_tokens, processor.tokenizer, lambda: model.finder.beit3.text_embed),
        (
            processor.aligner_tokens,
            processor.clip_tokenizer,
            lambda: model.aligner.text_model.embeddings.token_embedding,
        ),
    )
    before = [[ids_of(tokenize, t) for t in known] for tokenize, _, _ in tables]
    weights = [table().weight.detach().clone() for _, _, table in tables]
    assert processor.tokenizer.unk_token_id in ids_of(processor.finder_tokens, SENTENCES[0])

    # "of" and "carp" are unknown, "car" is not.
    assert add_new_words(model, processor, SENTENCES) == sorted([*FRESH, "of"])
    for (tokenize, tokenizer, table), old, weight in zip(tables, before, weights, strict=True):
        assert [ids_of(tokenize, t) for t in known] == old
        rows = table().weight.detach()
        assert torch.equal(rows[: len(weight)], weight)
        assert len(rows) == len(weight) + len(FRESH) + 1 == len(tokenizer)
        added = set()
        for text in SENTENCES:
            assert tokenizer.unk_token_id not in ids_of(tokenize, text)
            added |= {i for i in ids_of(tokenize, text) if i >= len(weight)}
        assert added == set(range(len(weight), len(rows)))
        # A word is a word in any case and beside any punctuation, and not a part of another.
        assert ids_of(tokenize, "ZEPPELIN.") == ids_of(tokenize, "zeppelin")
        assert ids_of(tokenize, "carp") != ids_of(tokenize, "car") == ids_of(tokenize, "Car,")
        assert ids_of(tokenize, "a do") != ids_of(tokenize, "a dog")
        assert tokenizer.unk_token_id in ids_of(tokenize, "carpet")
        fresh = rows[len(weight) :]
        assert 0.7 < float(fresh.std() / weight.std()) < 1.4
    assert add_new_words(model, processor, SENTENCES) == []


def test_new_words_are_the_same_for_the_same_seed(plain):
    model, processor = plain
    tables = []
    for seed in (0, 0, 1):
        one, words = copy.deepcopy(model), copy.deepcopy(processor)
        add_new_words(one, words, SENTENCES, seed)
        tables.append(one.finder.beit3.text_embed.weight)
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])


def test_a_model_with_new_words_is_saved_and_loaded(plain, tmp_path):
    model, processor = plain
    add_new_words(model, processor, SENTENCES)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = FindTrackProcessor.from_pretrained(tmp_path)
    again = FindTrackModel.from_pretrained(tmp_path)
    for text in (*SENTENCES, "the dog on the left", "an unknown carpet"):
        for name in ("finder_tokens", "aligner_tokens"):
            assert ids_of(getattr(loaded, name), text) == ids_of(getattr(processor, name), text)
    stored = again.state_dict()
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())
    assert add_new_words(again, loaded, SENTENCES) == []
    frames = np.zeros((2, 48, 64, 3), np.uint8)
    (track,) = again.eval().segment(frames, "a zeppelin", processor=loaded)
    assert len(track.masks) == 2


def test_tokenizers_of_subwords_get_nothing_new(plain, tokenizers):
    model, processor = plain
    subwords = FindTrackProcessor(*tokenizers, **{"finder_size": 192, "tracker_size": 192})
    sizes = [len(t) for t in tokenizers]
    # Letters of the corpus they were trained on.
    assert add_new_words(model, subwords, ["a weird panda"]) == []
    assert [len(t) for t in tokenizers] == sizes


# ---- parameters --------------------------------------------------------------------------------


def test_a_beginning_is_whole_parts_of_a_name():
    model = nn.ModuleDict({"sam": nn.Linear(1, 1), "sam2": nn.Linear(1, 1), "box": nn.Linear(1, 1)})
    assert choose_trained(model, ["sam", "box.bias"]) == ["sam.weight", "sam.bias", "box.bias"]
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        "sam.weight", "sam.bias", "box.bias"
    ]  # fmt: skip
    assert choose_trained(model, ["sam2."]) == ["sam2.weight", "sam2.bias"]
    assert not model["sam"].weight.requires_grad
    assert choose_trained(model, []) == []


@pytest.mark.parametrize("beginning", ["sa", "box.weigh", "sam.weight.x", ""])
def test_a_beginning_that_fits_nothing_is_told_with_what_there_is(beginning):
    model = nn.ModuleDict({"sam": nn.Linear(1, 1), "box": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match=f"train: .* no parameter '{beginning}'.* box.weight, sam"):
        choose_trained(model, ["sam", beginning])


def test_merged_adapters_are_the_adapted_model(made, source):
    """What a checkpoint holds needs no peft."""
    model, processor = made
    plain_keys = set(model.state_dict())
    samples = drawn(source, config.FindTask(pairs=2), 1)
    untouched = find_losses(model, processor, samples)
    choose_trained(model, ["finder.text_projection"])
    lora = config.Lora(rank=4, alpha=8)
    added = add_lora(model, lora)
    # A and B of four projections of two ways in three layers.
    assert len(added) == 2 * 4 * 2 * 3 and all(".self_attn." in name for name in added)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    chosen = {n for n in trained if n.startswith("finder.text_projection.")}
    assert trained == {*added, *chosen} and len(chosen) == 4
    fresh = find_losses(model, processor, samples)  # an adapter begins as nothing
    assert all(float(fresh[k]) == pytest.approx(float(untouched[k]), rel=1e-5) for k in fresh)

    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in added:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    adapted = find_losses(model, processor, samples)
    assert all(abs(float(adapted[k] - untouched[k])) > 0.01 for k in ("ground", "presence"))
    state = merged(model.state_dict(), lora)
    assert set(state) == plain_keys
    fresh, _ = tiny(seed=5)
    add_new_words(fresh, copy.deepcopy(tiny()[1]), vocabulary(source.bank))
    fresh.load_state_dict(state)
    found = find_losses(fresh, processor, samples)
    for name, value in adapted.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-4), name


def test_without_adapters_nothing_is_merged():
    state = {"a.weight": torch.ones(2)}
    assert merged(state, None) is state


def test_adapters_for_no_layer_are_refused(made):
    with pytest.raises(ValueError, match=r"lora.targets 'finder\\\\.nothing' fits .* no linear"):
        add_lora(made[0], config.Lora(targets=r"finder\.nothing"))


def toy(width: int = 2) -> nn.ModuleDict:
    part = {"decoder": nn.Linear(2, width), "decoder2": nn.Linear(2, 2)}
    return nn.ModuleDict({"finder": nn.ModuleDict(part), "tracker": nn.ModuleDict(part)})


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(1)
    folder = tmp_path / "other"
    folder.mkdir()
    state = {k: torch.randn_like(v) for k, v in toy().state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder


def test_parts_come_from_other_checkpoints(checkpoint):
    stored = load_file(checkpoint / "model.safetensors")
    model = nn.ModuleDict({"finder": toy()["finder"], "tracker": toy()["tracker"]})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    part = {"finder.decoder": str(checkpoint), "tracker": f"{checkpoint}:finder"}
    take_parts(model, part)
    for name, value in model.state_dict().items():
        if name.startswith("finder.decoder2"):
            assert torch.equal(value, before[name])
        else:
            assert torch.equal(value, stored[name.replace("tracker", "finder")])
    take_parts(model, {})


@pytest.mark.parametrize(
    "parts, reason",
    [
        ({"finder": "{other}:aligner"}, "parts: .*other has no aligner.decoder.weight"),
        ({"aligner": "{other}"}, "parts: the model has no part 'aligner'"),
        ({"finder.dec": "{other}"}, "parts: the model has no part 'finder.dec'"),
        ({"finder": "{wide}"}, r"decoder.weight of .*wide is \(3, 2\), .*the model \(2, 2\)"),
        ({"finder": "{damaged}"}, "parts: .*damaged/model.safetensors is damaged"),
    ],
)
def test_parts_that_do_not_fit_are_refused(checkpoint, tmp_path, parts, reason):
    folders = {name: tmp_path / name for name in ("other", "wide", "damaged")}
    for name in ("wide", "damaged"):
        folders[name].mkdir()
    wide = {k: v.contiguous() for k, v in toy(3).state_dict().items() if k.startswith("finder")}
    save_file(wide, folders["wide"] / "model.safetensors")
    whole = (checkpoint / "model.safetensors").read_bytes()
    (folders["damaged"] / "model.safetensors").write_bytes(whole[:-9])
    filled = {part: origin.format(**folders) for part, origin in parts.items()}
    with pytest.raises(ValueError, match=reason):
        take_parts(toy(), filled)


def test_parts_of_no_checkpoint_are_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="parts: .*nowhere is no checkpoint"):
        take_parts(toy(), {"finder": str(tmp_path / "nowhere")})


# ---- averages ----------------------------------------------------------------------------------


def test_the_average_is_exponential_and_short_at_first():
    module = nn.Linear(1, 1)
    module.bias.requires_grad_(False)
    average = MovingAverage(module, 0.9)
    expected = float(module.weight.detach())
    for step in range(1, 200):
        with torch.no_grad():
            module.weight.fill_(math.sin(step))
        average.update(module, step)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * math.sin(step)
        assert float(average.values["weight"]) == pytest.approx(expected, abs=1e-5)
    assert set(average.values) == {"weight"}
    state = average.applied(module.state_dict())
    assert state["weight"].equal(average.values["weight"]) and state["bias"].equal(module.bias)
    assert float(module.weight.detach()) == pytest.approx(math.sin(199))  # itself untouched


def test_averages_are_kept_in_single_precision_and_given_in_that_of_the_weights():
    module = nn.Linear(2, 2).to(torch.bfloat16)
    average = MovingAverage(module, 0.5)
    assert average.values["weight"].dtype == torch.float32
    assert average.applied(module.state_dict())["weight"].dtype == torch.bfloat16


def test_averages_are_saved_and_loaded(tmp_path):
    module = nn.Linear(2, 2)
    average = MovingAverage(module, 0.9)
    with torch.no_grad():
        module.weight.add_(1)
    average.update(module, 50)
    average.save(tmp_path / "a.safetensors")
    loaded = MovingAverage(module, 0.9)
    assert not torch.equal(loaded.values["weight"], average.values["weight"])
    loaded.load(tmp_path / "a.safetensors")
    assert all(torch.equal(loaded.values[k], v) for k, v in average.values.items())
    with pytest.raises(ValueError, match="a.safetensors averages other parameters"):
        MovingAverage(nn.Linear(2, 2, bias=False), 0.9).load(tmp_path / "a.safetensors")


# ---- the folder of a run -----------------------------------------------------------------------

IDENTITY = {"train": ["finder"], "seed": 1}
SCORES = {1: 0.3, 2: 0.8, 3: None, 4: 0.8, 5: 0.6}


def write_checkpoint(folder: RunFolder, step: int) -> None:
    """As `Session._save` does it."""
    part = folder.part(step)
    (part / STATE).mkdir(parents=True, exist_ok=True)
    (part / STATE / "optimizer.bin").write_text("optimizer")
    (part / "config.json").write_text("{}")
    (part / "model.safetensors").write_text(f"weights {step}")
    folder.publish(step, {"total": 5})


def live(folder: RunFolder, identity: dict = IDENTITY, overwrite=False, keep: int = 1, last=5):
    """Train some steps, from where an earlier life ended; as `Session` does it."""
    first = folder.begin(identity, "config", overwrite) or 0
    for step in range(first, last + 1):
        if step > first:
            folder.append({"step": step, "losses": {"total": 1 / step}})
            write_checkpoint(folder, step)
        if step and not any(r["step"] == step and "validation" in r for r in folder.rows()):
            folder.append({"step": step, "validation": {"J&F": SCORES[step]}})
        if step:
            folder.tidy(keep)
    return first


def check_whole(path: Path) -> None:
    """Whatever looks like a checkpoint is one."""
    folder = RunFolder(path)
    for place in [*path.glob("checkpoints/step-*"), path / "last", path / "best"]:
        if not place.is_dir():
            continue  # also a link that leads nowhere yet
        step = int(place.resolve().name.removeprefix("step-"))
        assert (place / "model.safetensors").read_text() == f"weights {step}"
        assert (place / "config.json").is_file() and folder.facts(step)["step"] == step
        if (place / STATE).is_dir():
            assert (place / STATE / "optimizer.bin").is_file()
    for step in folder.steps():
        assert (folder.checkpoint(step) / STATE / "optimizer.bin").is_file()


def test_a_run_from_its_beginning_to_its_end(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.best() is None and folder.rows() == [] and folder.steps() == []
    assert live(folder) == 0
    check_whole(folder.path)
    assert folder.steps() == [5]  # the newest; of the best one only what users need is kept
    assert folder.best() == (2, 0.8)  # the first of two that are as good
    kept = sorted(p.name for p in folder.checkpoints.iterdir())
    assert kept == ["step-00000002", "step-00000005"]
    assert (folder.path / "best").resolve() == folder.checkpoint(2).resolve()
    assert (folder.path / "last").resolve() == folder.checkpoint(5).resolve()
    assert not (folder.path / "best" / STATE).exists()
    assert folder.facts(5) == {"total": 5, "step": 5}
    assert [row["step"] for row in folder.rows()] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert not [p for p in folder.path.rglob("*.part")]
    shutil.move(folder.path, tmp_path / "moved")  # links are relative
    assert (tmp_path / "moved" / "last" / "model.safetensors").is_file()


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_as_many_checkpoints_are_kept_as_asked(tmp_path, keep):
    folder = RunFolder(tmp_path / "run")
    live(folder, keep=keep)
    assert folder.steps() == list(range(6 - keep, 6))
    assert folder.checkpoint(2).is_dir()


def test_without_validation_the_newest_is_the_best(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin(IDENTITY, "", False)
    for step in (1, 2):
        write_checkpoint(folder, step)
        folder.append({"step": step, "validation": {"boxes/IoU": 0.5}})
        folder.tidy(1)
    assert folder.best() is None and folder.steps() == [2]
    assert (folder.path / "best").resolve().name == "step-00000002"


def test_only_scores_of_the_newest_judge_are_compared(tmp_path):
    """A run may be resumed with other videos of validation."""
    folder = RunFolder(tmp_path / "run")
    folder.begin(IDENTITY, "", False)
    for step, judge, score in (
        (1, "easy", 0.9), (2, "easy", 0.8), (2, "hard", 0.3), (3, "hard", 0.4), (4, None, None)
    ):  # fmt: skip
        if step not in folder.steps():
            write_checkpoint(folder, step)
        folder.append({"step": step, "judge": judge, "validation": {"J&F": score}})
    assert folder.best() == (3, 0.4)
    told = [(row["step"], row["judge"]) for row in folder.validations()]
    assert told == [(2, "hard"), (3, "hard"), (4, None)]
    folder.tidy(1)
    assert (folder.path / "best").resolve().name == "step-00000003"
    # Back with the first videos, what those said counts again.
    folder.append({"step": 4, "judge": "easy", "validation": {"J&F": 0.7}})
    write_checkpoint(folder, 2)
    assert folder.best() == (2, 0.8)


def test_a_resumed_run_forgets_what_it_will_do_again(tmp_path):
    folder = RunFolder(tmp_path / "run")
    live(folder, keep=3)
    shutil.rmtree(folder.checkpoint(5))
    with folder.log.open("a") as log:
        log.write('{"step": 6, "los')  # killed while it wrote
    assert folder.begin(IDENTITY, "", False) == 4
    assert [row["step"] for row in folder.rows()] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert live(folder, keep=3) == 4 and folder.steps() == [3, 4, 5]


def test_another_run_s_folder_is_left_alone_unless_told_otherwise(tmp_path):
    folder = RunFolder(tmp_path / "run")
    live(folder)
    other = IDENTITY | {"seed": 2, "new": 1}
    with pytest.raises(ValueError, match=r"holds another run \(new, seed differ\).*--overwrite"):
        folder.begin(other, "", False)
    assert folder.steps() == [5]
    assert folder.begin(IDENTITY, "", True) == 5  # the same run is no other
    assert folder.begin(other, "text", True) is None
    assert folder.steps() == [] and folder.rows() == []
    kept = sorted(p.name for p in folder.path.iterdir() if p.name != ".lock")
    assert kept == ["config.yaml", "run.json"]
    assert (folder.path / "config.yaml").read_text() == "text"


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="something other than a run"):
            RunFolder(tmp_path).begin(IDENTITY, "", overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["step-00000003 (copy)", "step-7", "step-best", "notes"])
def test_what_is_no_checkpoint_of_ours_is_neither_read_nor_deleted(tmp_path, name):
    folder = RunFolder(tmp_path / "run")
    live(folder)
    shutil.copytree(folder.checkpoint(5), folder.checkpoints / name)
    assert folder.steps() == [5]
    folder.tidy(1)
    assert folder.begin(IDENTITY, "", False) == 5
    assert (folder.checkpoints / name / STATE / "optimizer.bin").is_file()


def test_a_damaged_log_is_told_with_its_line(tmp_path):
    folder = RunFolder(tmp_path / "run")
    live(folder)
    lines = folder.log.read_text().splitlines()
    folder.log.write_text("\n".join([lines[0], lines[1][:9], lines[2]]))
    with pytest.raises(ValueError, match="log.jsonl, line 2, is damaged"):
        folder.rows()


def test_what_is_not_finite_is_logged_as_nothing(tmp_path):
    """fp16 begins with gradients that overflow."""
    folder = RunFolder(tmp_path / "run")
    folder.begin(IDENTITY, "", False)
    folder.append({"step": 1, "grad_norm": math.inf, "lr": 0.5, "losses": {"total": 1.0}})
    folder.append({"step": 2, "grad_norm": math.nan})
    assert [row["grad_norm"] for row in folder.rows()] == [None, None]
    assert json.loads(folder.log.read_text().splitlines()[0])["lr"] == 0.5


class Killed(BaseException):
    """As `kill -9`: nobody handles it."""


class Reaper:
    """Death at the n-th change of a file system, a deletion in its middle."""

    def __init__(self, monkeypatch, after: int):
        self.left = after
        for owner, name in ((Path, "rename"), (Path, "replace"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self.before(getattr(owner, name)))
        for name in ("mkdir", "symlink_to", "write_text"):
            monkeypatch.setattr(Path, name, self.before(getattr(Path, name)))
        monkeypatch.setattr(shutil, "rmtree", self.rmtree)

    def before(self, do):
        def change(*args, **kwargs):
            self.count()
            return do(*args, **kwargs)

        return change

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def rmtree(self, folder, **_) -> None:
        import os

        for place, _, names in os.walk(folder, topdown=False):
            # Weights before `trainer.json`, the worst order.
            for name in sorted(names):
                self.count()
                os.unlink(os.path.join(place, name))
            self.count()
            os.rmdir(place)


def killed_after(n: int, work) -> bool:
    """Whether `work` was killed at change n, and not done before."""
    with pytest.MonkeyPatch.context() as patch:
        Reaper(patch, n)
        try:
            work()
        except Killed:
            return True
    return False


def test_killed_at_any_moment_a_run_leaves_nothing_that_looks_complete(tmp_path):
    for n in range(2000):
        path = tmp_path / str(n)
        path.mkdir()
        killed = killed_after(n, lambda path=path: live(RunFolder(path), last=3))
        check_whole(path)
        folder = RunFolder(path)
        live(folder, last=3)  # the same command goes on
        check_whole(path)
        assert folder.steps() == [3] and folder.best() == (2, 0.8)
        kept = sorted(p.name for p in folder.checkpoints.iterdir())
        assert kept == ["step-00000002", "step-00000003"]
        assert [row["step"] for row in folder.rows() if "losses" in row] == [1, 2, 3]
        shutil.rmtree(path)
        if not killed:
            break
    assert 50 < n < 1999


def test_killed_while_it_deletes_another_run_nothing_of_that_looks_complete(tmp_path):
    whole = tmp_path / "whole"
    live(RunFolder(whole), keep=3)
    other = IDENTITY | {"seed": 2}
    for n in range(500):
        path = tmp_path / str(n)
        shutil.copytree(whole, path, symlinks=True)
        killed = killed_after(
            n, lambda path=path: RunFolder(path).begin(other, "config", overwrite=True)
        )
        check_whole(path)
        if json.loads((path / "run.json").read_text()) == other:
            assert RunFolder(path).steps() == []
        assert live(RunFolder(path), other, overwrite=True, last=1) == 0
        check_whole(path)
        if not killed:
            break
    assert 10 < n < 499


def test_a_checkpoint_that_is_written_again_replaces_the_old_one_whole(tmp_path):
    for n in range(100):
        folder = RunFolder(tmp_path / str(n))
        live(folder, keep=2)
        killed = killed_after(n, lambda folder=folder: write_checkpoint(folder, 5))
        check_whole(folder.path)
        assert folder.begin(IDENTITY, "", False) in (4, 5)
        assert not [p for p in folder.path.rglob("*.part")]
        if not killed:
            break
    assert 5 < n < 99
