"""Training code: losses, the loop, and every stage of the tiny recipe for a few steps."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from training import sprite_art, tiny
from training.batches import SceneBatches, boxes_of, coverage
from training.loop import NonFiniteLossError, Schedule, Stage, load_part
from training.losses import hard_iou, mask_bce, mask_dice, mask_losses, mean_where
from training.scenes import SceneSampler
from training.sprite_art import load_art


@pytest.fixture(scope="module")
def batches(art_dir) -> SceneBatches:
    return SceneBatches(SceneSampler(load_art(art_dir), 0, pool=4), 0)


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


def test_masks_without_target_do_not_count():
    target = torch.cat([square_mask(), torch.zeros_like(square_mask())])
    logits = 20 * (target - 0.5)
    logits[1] = 20
    terms = mask_losses(logits, target, torch.tensor([1.0, 0.3]), torch.tensor([1.0, 0.0]))
    assert all(float(value) < 0.01 for value in terms.values())
    assert mean_where(torch.ones(2), torch.zeros(2)) == 0


def test_boxes_and_coverage():
    mask = square_mask()
    assert boxes_of(mask).tolist() == [[3, 2, 9, 6]]
    assert boxes_of(torch.zeros(1, 5, 5)).tolist() == [[0, 0, 0, 0]]
    cells = coverage(mask, 6)
    assert cells.shape == (1, 6, 6) and cells.sum() * 4 == mask.sum()


def test_the_learning_rate_warms_up_holds_and_decays():
    schedule = Schedule(minutes=1, lr=1.0, warmup=10, hold=0.5, final=0.1)
    rates = [schedule.rate(s, p) for s, p in [(0, 0), (9, 0.1), (99, 0.5), (99, 0.75), (99, 1)]]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.55, 0.1])


def slope(stage_module: nn.Linear):
    x = torch.linspace(-1, 1, 16)[:, None]
    return lambda step, progress: {"mse": ((stage_module(x) - 3 * x) ** 2).mean()}


def test_a_stage_learns_and_resumes_where_it_stopped(tmp_path):
    torch.manual_seed(0)
    module = nn.Linear(1, 1)
    schedule = Schedule(minutes=0.02, lr=0.05, warmup=1)
    stage = Stage(module, schedule, tmp_path, save_every=10)
    before = float(slope(module)(0, 0)["mse"].detach())
    stage.run(slope(module))
    assert float(slope(module)(0, 0)["mse"].detach()) < before / 10
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows and {"step", "min", "lr", "mse"} <= set(rows[-1])

    resumed = Stage(nn.Linear(1, 1), schedule, tmp_path)
    assert resumed.step == stage.step and resumed.progress == 1
    assert torch.equal(resumed.module.weight, module.weight)
    resumed.run(lambda *_: pytest.fail("its time is used up"))
    assert not list(tmp_path.glob("*.partial"))


def test_evaluation_sees_the_averaged_weights_and_leaves_the_others(tmp_path):
    stage = Stage(nn.Linear(1, 1), Schedule(minutes=1), tmp_path)
    stage.ema = {k: torch.full_like(v, 7) for k, v in stage.ema.items()}
    own = stage.module.weight.detach().clone()
    seen = stage.with_ema(lambda: {"w": float(stage.module.weight), "t": stage.module.training})
    assert seen == {"w": 7, "t": False}
    assert torch.equal(stage.module.weight, own) and stage.module.training


def test_a_non_finite_loss_stops_and_names_its_term(tmp_path):
    module = nn.Linear(1, 1)
    stage = Stage(module, Schedule(minutes=1), tmp_path)
    with pytest.raises(NonFiniteLossError, match="step 0.*dice.*nan"):
        stage.run(lambda *_: {"dice": module.weight.sum() * float("nan")})


def test_load_part_takes_one_part_completely(tmp_path):
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    state = {f"a.{k}": v for k, v in source.state_dict().items()}
    save_file(state | {"b.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    load_part(target, tmp_path / "w.safetensors", "a.")
    assert torch.equal(target.weight, source.weight) and torch.equal(target.bias, source.bias)
    with pytest.raises(ValueError, match="'c.'"):
        load_part(target, tmp_path / "w.safetensors", "c.")
    with pytest.raises(RuntimeError, match="bias"):
        load_part(target, tmp_path / "w.safetensors", "b.")


def test_a_folder_without_art_is_one_line_and_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sprite_art, "_fetch", lambda *_: pytest.fail("downloads"))
    (tmp_path / "thesis.txt").write_text("years of work")
    assert tiny.main(["align", "--art", str(tmp_path), "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--fetch-art" in error
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_batches_depend_on_seed_and_step(batches):
    # Of the scenes: the pool of backgrounds is renewed as it is used.
    first, again, other = (batches.frames(batches.rng(step), 3).masks for step in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_pairs_name_objects_that_their_targets_show(batches):
    rng = batches.rng(1)
    batch = batches.frames(rng, 6)
    pairs = batches.pairs(rng, batch, per_frame=4)
    assert len(pairs.texts) == len(pairs.frame) == len(pairs.target) > 12
    assert ((pairs.target.flatten(1).sum(dim=1) > 0).float() == pairs.present).all()
    for kind, present in zip(pairs.kinds, pairs.present, strict=True):
        assert kind != "motion-only" and not (kind == "no-target" and present)


def test_roughened_keys_stay_close():
    from training.track_stage import roughen

    masks = torch.zeros(20, 64, 64)
    masks[:, 20:40, 20:40] = 1
    rough = roughen(masks, np.random.default_rng(0))
    iou = hard_iou(rough - 0.5, masks)
    assert iou.min() > 0.4 and 0 < (iou < 1).sum() < 20


def test_a_stage_without_the_ones_before_it_says_so(art_dir, tmp_path, capsys):
    for stage in ("find", "track", "pack"):
        assert tiny.main([stage, "--out", str(tmp_path), "--art", str(art_dir)]) == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and f"before {stage} first" in err


def test_every_stage_runs_and_packs_into_a_model_that_segments(art_dir, tmp_path):
    """A second each: not to learn, but to hand on what the next one needs."""
    from modeling_findtrack import FindTrackModel, FindTrackProcessor
    from tests.tiny_models import moving_square

    for stage in tiny.STAGES:
        minutes = ["--minutes", "0.01"] if stage != "pack" else []
        out = ["--out", str(tmp_path), "--art", str(art_dir)]
        assert tiny.main([stage, *minutes, *out]) == 0
    folder = tmp_path / "findtrack-tiny"
    assert (folder / "model.safetensors").stat().st_size < 20e6
    model = FindTrackModel.from_pretrained(folder).eval()
    assert model.dtype == torch.float32
    processor = FindTrackProcessor.from_pretrained(folder)
    (track,) = model.segment(moving_square(3), "the dog", processor=processor)
    assert len(track.masks) == 3
    rows = (tmp_path / "find" / "log.jsonl").read_text().splitlines()
    assert "iou_all" in json.loads(rows[-1])
