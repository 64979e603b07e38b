"""Training from end to end: one process and several, killed and resumed, every configuration."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from modeling_findtrack.beit3 import Beit3Attention
from modeling_findtrack.cli import load_model
from modeling_findtrack.hub_folder import save_weights
from tests import tiny_cutie
from tests.benchmark_trees import make_mevis, make_ref_youtube_vos
from tests.tiny_models import moving_square, preset
from training import engine, finetune, tiny
from training import launch as launch_module
from training.config import read_config
from training.wording import duration

CHECKOUT = Path(__file__).resolve().parents[1]
CONFIGS = CHECKOUT / "training" / "configs"
LAUNCHERS = CHECKOUT / "training" / "accelerate"
VALID = CHECKOUT / "eval" / "data" / "ref_sprites"

# Every task that real data can teach, on the committed split, but nothing that depends on how a
# batch is dealt out (align/across does).
SMALL = f"""
model: {CHECKOUT}/modeling_findtrack/tiny
benchmarks: [{{name: ref-sprites, root: {VALID}, split: valid}}]
augment: {{flip: 0.5, crop: 0.8, colour: 0.2}}
train: [finder, tracker.sam2.memory_attention, tracker.sam2.mask_decoder, aligner]
find: {{weights: {{bce: 5.0, dice: 1.0, iou: 0.5, presence: 0.3, ground: 3.0}}, pairs: 2}}
align: {{weights: {{within: 1.0}}, pairs: 3}}
track: {{weights: {{bce: 5.0, dice: 1.0, iou: 0.5, presence: 0.3}}, frames: [2], objects: 2}}
steps: 5
batch_size: 4
device_batch_size: 2
optimizer: {{lr: 1.0e-3, warmup: 2}}
attention: eager
workers: 0
ema: 0.9
checkpoint_every: 2
log_every: 1
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Runs of one process must not inherit each other's Accelerator."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def train(config: Path, out: Path, *changes: str) -> int:
    """One run in this process; small models gain nothing from threads."""
    torch.set_num_threads(1)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    options = ["--set", *changes] if changes else []
    return finetune.main(["--config", str(config), "--out", str(out), *options])


def command(config: Path, out: Path, launcher: str, *changes: str) -> list[str]:
    """One run of two processes."""
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--config_file", str(LAUNCHERS / f"{launcher}.yaml"), "--num_processes", "2"]
    launch += ["--main_process_port", "0", "-m", "training.finetune"]
    options = ["--set", *changes] if changes else []
    return [*launch, "--config", str(config), "--out", str(out), *options]


def environment(launcher: str) -> dict[str, str]:
    """DeepSpeed compiles with ninja, which lies beside the interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    if launcher == "cpu":
        own["ACCELERATE_USE_CPU"] = "true"
    return os.environ | own


def launch(config: Path, out: Path, launcher: str, *changes: str) -> None:
    done = subprocess.run(
        command(config, out, launcher, *changes),
        env=environment(launcher), cwd=CHECKOUT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def rows(out: Path, kind: str = "losses") -> dict[int, dict]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return {row["step"]: row[kind] for row in map(json.loads, lines) if kind in row}


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory) -> Path:
    """The undisturbed run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    assert train(small, out) == 0
    return out


def assert_same_losses(out: Path, reference: Path, tolerance: float) -> None:
    mine, theirs = rows(out), rows(reference)
    assert mine.keys() == theirs.keys() == {1, 2, 3, 4, 5}
    for step, losses in theirs.items():
        assert mine[step] == pytest.approx(losses, abs=tolerance), step


def test_a_run_learns_and_leaves_ordinary_checkpoints(alone):
    from modeling_findtrack import FindTrackModel

    losses = rows(alone)
    assert set(losses[1]) == {
        "find/bce", "find/dice", "find/iou", "find/presence", "find/ground", "align/within",
        "track/bce", "track/dice", "track/iou", "track/presence", "total",
    }  # fmt: skip
    start = FindTrackModel.from_pretrained(CHECKOUT / "modeling_findtrack/tiny").state_dict()
    model, processor = load_model(str(alone / "last"), "cpu", "float32")
    for name, tensor in model.state_dict().items():
        trained = name.startswith(("finder.", "aligner.", "tracker.sam2.mask_decoder."))
        trained = trained or name.startswith("tracker.sam2.memory_attention.")
        if not trained:
            assert torch.equal(tensor, start[name]), name
    moved = [n for n, t in model.state_dict().items() if not torch.equal(t, start[n])]
    for part in ("finder.beit3.", "finder.sam.mask_decoder.", "aligner.", "tracker."):
        assert any(name.startswith(part) for name in moved), part
    (track,) = model.segment(moving_square(3), "the star", processor=processor)
    assert len(track.masks) == 3
    # As small as what it was trained from, with its card and its curves.
    stored = load_file(alone / "last" / "model.safetensors")
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    card = ModelCard.load(alone / "last" / "README.md")
    assert "## Fine-tuning" in card.text and (alone / "last" / "training.png").is_file()
    assert not list(alone.rglob("*.part"))


def test_two_processes_agree_with_one(small, alone, tmp_path):
    launch(small, tmp_path / "run", "cpu")
    assert_same_losses(tmp_path / "run", alone, 1e-3)


def test_zero_3_agrees_and_saves_whole_weights(small, alone, tmp_path):
    # Averaging sharded weights is refused; it does not change the losses.
    launch(small, tmp_path / "run", "deepspeed-zero3", "ema=0", "save_dtype=float32")
    assert_same_losses(tmp_path / "run", alone, 1e-3)
    start = load_file(CHECKOUT / "modeling_findtrack/tiny/model.safetensors")
    raw = load_file(alone / "last" / "state" / "trained.safetensors")
    mine = load_file(tmp_path / "run" / "last" / "model.safetensors")
    assert mine.keys() == start.keys()
    apart, far = 0.0, 0.0
    for name, tensor in start.items():
        theirs = raw.get(f"model.{name}", tensor.float())
        assert mine[name].shape == tensor.shape, name
        apart += float((mine[name] - theirs).abs().sum())
        far += float((theirs - tensor.float()).abs().sum())
    # They went the same way, but where a gradient is nothing but rounding, which Adam enlarges.
    assert 0 < apart < 0.05 * far


def kill_after(out: Path, step: int, *start: str, env: dict) -> None:
    """Start a run and kill all of it, without warning, once it has logged `step`."""
    process = subprocess.Popen(
        start, env=env, cwd=CHECKOUT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 400
        while step not in (rows(out) if (out / "log.jsonl").exists() else {}):
            assert process.poll() is None, process.stderr.read().decode()[-3000:]
            assert time.monotonic() < deadline, "the run does not come on"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def test_zero_2_agrees_and_killed_it_ends_as_if_nothing_had_happened(small, alone, tmp_path):
    launcher = "deepspeed-zero2"
    launch(small, tmp_path / "whole", launcher)
    assert_same_losses(tmp_path / "whole", alone, 1e-3)

    out = tmp_path / "killed"
    kill_after(out, 3, *command(small, out, launcher), env=environment(launcher))
    assert max(rows(out)) < 5, "it was too fast to be killed in the middle"
    launch(small, out, launcher)
    assert rows(out) == rows(tmp_path / "whole")
    weights = [f / "last" / "model.safetensors" for f in (out, tmp_path / "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_killed_alone_it_ends_bit_equal(small, alone, tmp_path):
    start = [sys.executable, "-m", "training.finetune", "--config", str(small)]
    out = tmp_path / "run"
    kill_after(out, 3, *start, "--out", str(out), env=environment(""))
    assert max(rows(out)) < 5, "it was too fast to be killed in the middle"
    subprocess.run(
        [*start, "--out", str(out)], env=environment(""), cwd=CHECKOUT, check=True,
        capture_output=True,
    )  # fmt: skip
    whole = tmp_path / "whole"
    subprocess.run(
        [*start, "--out", str(whole)], env=environment(""), cwd=CHECKOUT, check=True,
        capture_output=True,
    )  # fmt: skip
    assert rows(out) == rows(whole)
    weights = [f / "last" / "model.safetensors" for f in (out, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_resuming_another_run_is_one_line(small, alone, capsys):
    assert train(small, alone, "optimizer.lr=1e-5") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "optimizer" in error and "--overwrite" in error
    assert (alone / "last" / "config.json").is_file()


def test_validation_is_logged_and_the_best_is_kept(small, tmp_path, monkeypatch, capsys):
    # The first step changes nothing, the others ruin the model: the first checkpoint is the best.
    monkeypatch.setattr(engine, "learning_rate", lambda how, step, total: 0.1 * (step > 0))
    out = tmp_path / "run"
    changes = [
        "validation.name=ref-sprites", f"validation.root={VALID}", "validation.videos=2",
        "track=null", "align=null", "steps=3", "checkpoint_every=1", "keep=1",
        "trackers=[tensorboard]",
    ]  # fmt: skip
    assert train(small, out, *changes) == 0
    scores = rows(out, "validation")
    assert set(scores) == {1, 2, 3} and scores[1]["videos"] == 2
    assert scores[1]["J&F"] > 0.5 > max(scores[2]["J&F"], scores[3]["J&F"])
    assert os.readlink(out / "best") == "checkpoints/step-00000001"
    assert os.readlink(out / "last") == "checkpoints/step-00000003"
    kept = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert kept == ["step-00000001", "step-00000003"]
    assert not (out / "best" / "state").exists() and (out / "last" / "state").exists()
    for link, step in (("best", 1), ("last", 3)):
        results = ModelCard.load(out / link / "README.md").data.eval_results
        told = {result.metric_type: result.metric_value for result in results}
        assert told["j_and_f"] == pytest.approx(scores[step]["J&F"], abs=1e-3)
    assert list(out.rglob("events.out.tfevents.*"))
    # The videos are of the split that is trained on.
    assert "kept apart for validation: 2 videos" in capsys.readouterr().err
    # Each card tells of the run until its own checkpoint.
    for link, step, rate in (("best", 1, "0"), ("last", 3, "0.1")):
        told = (out / link / "README.md").read_text()
        seconds = json.loads((out / link / "trainer.json").read_text())["seconds"]
        assert f"| time | {duration(seconds)} |" in told
        assert f"| learning rate, highest | {rate} |" in told and f"| steps | {step} (" in told
    # The run has ended: what it reached is only looked at.
    again = ["--config", str(small), "--out", str(out), "--set", *changes, "--at-least"]
    assert finetune.main([*again, "0.5"]) == 0
    assert finetune.main([*again, "0.999"]) == 2
    assert "below --at-least 0.999" in capsys.readouterr().err


def test_a_run_resumed_with_other_validation_compares_only_its_scores(small, tmp_path):
    out, videos = tmp_path / "run", (2, 1)
    changes = ["track=null", "align=null", "steps=2", "checkpoint_every=1"]
    changes += [f"validation.root={VALID}", "validation.seen=true"]
    for count in videos:
        assert train(small, out, *changes, f"validation.videos={count}") == 0
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    measured = [row for row in lines if "validation" in row]
    assert [(row["step"], row["validation"]["videos"]) for row in measured] == [
        (1, 2), (2, 2), (2, 1)
    ]  # fmt: skip
    assert measured[0]["judge"] == measured[1]["judge"] != measured[2]["judge"]
    # The first checkpoint has no score of the videos that count now.
    assert os.readlink(out / "best") == "checkpoints/step-00000002"
    (result, *_) = ModelCard.load(out / "best" / "README.md").data.eval_results
    assert result.metric_value == pytest.approx(measured[2]["validation"]["J&F"], abs=1e-4)


@pytest.mark.parametrize(
    "change, reason",
    [
        ("trackers=[tensorboard, wandb]", "trackers: wandb is not installed, only tensorboard"),
        ("trackers=[tensorbord]", "trackers: there is no 'tensorbord', only all, aim, tensorboard"),
        ("precision=fp16", "precision: there is no fp16 on a CPU; use bf16 or no"),
    ],
)
def test_what_this_machine_lacks_is_one_line(change, reason, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launch_module, "get_available_trackers", lambda: ["tensorboard"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train(small, tmp_path / "run", change) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and reason in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "told, words",
    [
        ({}, "python"),
        (
            {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_CPU": "False"},
            "accelerate launch --num_processes 1 --mixed_precision bf16",
        ),
        (
            {
                "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "true",
                "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2",
            },
            "ACCELERATE_USE_CPU=true accelerate launch --num_processes 4 --num_machines 2 "
            "--mixed_precision no --multi_gpu",
        ),
    ],
)  # fmt: skip
def test_the_card_s_command_starts_as_many_processes(told, words, monkeypatch):
    for name in [n for n in os.environ if n.startswith("ACCELERATE_") or n.endswith("WORLD_SIZE")]:
        monkeypatch.delenv(name)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert launch_module.launcher() == words


def test_missing_data_is_told_without_a_traceback_by_two_processes(small, tmp_path):
    done = subprocess.run(
        command(small, tmp_path / "run", "cpu", f"benchmarks.0.root={tmp_path}/nowhere"),
        env=environment("cpu"), cwd=CHECKOUT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0 and "nowhere" in done.stderr
    assert "barrier" not in done.stderr and "training/session.py" not in done.stderr


def test_a_non_finite_loss_stops_and_names_the_batch(small, tmp_path, capsys):
    changes = ["optimizer.lr=1e30", "optimizer.warmup=0", "optimizer.clip=1e30"]
    assert train(small, tmp_path / "run", *changes) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not finite" in error and "video" in error and "frame" in error


def checkpoint(folder: Path, kind: str) -> Path:
    model, processor = tiny_cutie.tiny_model() if kind == "paper" else preset(kind)
    folder.mkdir()
    save_weights(model, processor, model.state_dict(), folder)
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("ref-youtube-vos", "paper", marks=tiny_cutie.needs_cutie),
        pytest.param("mevis", "paper", marks=tiny_cutie.needs_cutie),
        ("lora-24gb", "sam2"),
    ],
)
def test_the_full_size_configurations_run(name, kind, tmp_path):
    """On small models of the presets' kinds and small trees of the benchmarks' layouts."""
    tree = (make_mevis if name == "mevis" else make_ref_youtube_vos)(tmp_path / "data")
    changes = [
        f"model={checkpoint(tmp_path / 'model', kind)}", f"benchmarks.0.root={tree}",
        f"validation.root={tree}", "validation.videos=1", "epochs=null", "steps=2",
        "checkpoint_every=1", "validate_every=2", "workers=0",
        "batch_size=2", "device_batch_size=1",
    ]  # fmt: skip
    out = tmp_path / "run"
    assert train(CONFIGS / f"{name}.yaml", out, *changes) == 0
    assert rows(out, "validation")[2]["videos"] == 1
    model, processor = load_model(str(out / "last"), "cpu", "float32")
    assert hasattr(model.tracker, "cutie") == (kind == "paper")
    assert not any("lora" in key for key in model.state_dict())
    (track,) = model.segment(moving_square(3), "the dog", processor=processor)
    assert len(track.masks) == 3
    card = ModelCard.load(out / "last" / "README.md")
    assert (card.data.license == "cc-by-nc-sa-4.0") == (name == "mevis")


def test_the_ref_sprites_configuration_runs_and_learns_new_words(tmp_path):
    tree = make_ref_youtube_vos(tmp_path / "data")  # whose "disk" findtrack-tiny does not know
    changes = [
        "benchmarks.0.name=ref-youtube-vos", f"benchmarks.0.root={tree}", "epochs=null", "steps=2",
        f"model={CHECKOUT}/modeling_findtrack/tiny", f"validation.root={VALID}",
        "validation.videos=1", "workers=0", "batch_size=2", "log_every=1",
    ]  # fmt: skip
    out = tmp_path / "run"
    assert train(CONFIGS / "ref-sprites.yaml", out, *changes) == 0
    _, processor = load_model(str(out / "last"), "cpu", "float32")
    for tokenizer in (processor.tokenizer, processor.clip_tokenizer):
        ids = tokenizer("the green disk")["input_ids"]
        assert tokenizer.unk_token_id not in ids


@pytest.mark.parametrize(("name", "splits"), [("new-nouns", 2), ("overfit", 1)])
def test_the_other_sprite_configurations_run(name, splits, tmp_path):
    changes = [
        *(f"benchmarks.{i}.{k}" for i in range(splits) for k in (f"root={VALID}", "split=valid")),
        f"model={CHECKOUT}/modeling_findtrack/tiny", f"validation.root={VALID}",
        "validation.split=valid", "validation.videos=1", "steps=2", "batch_size=2",
        "checkpoint_every=2", "validate_every=2", "log_every=1",
    ]  # fmt: skip
    assert train(CONFIGS / f"{name}.yaml", tmp_path / "run", *changes) == 0
    assert rows(tmp_path / "run", "validation")[2]["videos"] == 1


def test_half_precision_under_deepspeed(small, tmp_path):
    """There only parameters are cast, not buffers, and nothing is cast on the way."""
    changes = ["precision=bf16", "steps=2", "device_batch_size=1"]
    launch(small, tmp_path / "run", "deepspeed-zero2", *changes)
    assert set(rows(tmp_path / "run")) == {1, 2}
    load_model(str(tmp_path / "run" / "last"), "cpu", "float32")
    # Its card says how to do that again.
    told = (tmp_path / "run" / "last" / "README.md").read_text()
    launched = "accelerate launch --num_processes 2 --mixed_precision no --use_deepspeed "
    assert f"{launched}--deepspeed_config_file training/accelerate/zero2.json -m training" in told


def test_a_folder_in_use_is_left_alone(small, tmp_path, capsys):
    from training.run_folder import RunFolder

    user = RunFolder(tmp_path / "run")
    user.begin({}, "", overwrite=False)
    assert train(small, tmp_path / "run") == 2
    assert "another process is training" in capsys.readouterr().err
    user.release()


def test_a_score_that_nothing_measures_is_refused_before_training(small, tmp_path, capsys):
    out = tmp_path / "run"
    assert finetune.main(["--config", str(small), "--out", str(out), "--at-least", "0.5"]) == 2
    assert "--at-least: the configuration has no validation" in capsys.readouterr().err
    assert not out.exists()


def test_cached_embeddings_change_nothing(small, tmp_path):
    changes = ["track=null", "align=null", "steps=2"]
    changes += ["augment.flip=0", "augment.crop=1", "augment.colour=0"]
    assert train(small, tmp_path / "plain", *changes) == 0
    cache = f"embedding_cache={tmp_path / 'cache'}"
    for name in ("first", "second"):
        assert train(small, tmp_path / name, *changes, cache) == 0
        assert rows(tmp_path / name) == rows(tmp_path / "plain")
    assert list((tmp_path / "cache").rglob("*.safetensors"))
    # How much of it is kept is no part of what a run is.
    assert train(small, tmp_path / "second", *changes, cache, "embedding_cache_gigabytes=1") == 0


def test_gradient_checkpointing_computes_twice_and_changes_nothing(small, tmp_path, monkeypatch):
    runs, forward = {"plain": 0, "thrifty": 0}, Beit3Attention.forward
    for name, on in (("plain", "false"), ("thrifty", "true")):

        def counting(part, *args, name=name, **options):
            runs[name] += 1
            return forward(part, *args, **options)

        monkeypatch.setattr(Beit3Attention, "forward", counting)
        changes = ["track=null", "steps=2", f"gradient_checkpointing={on}"]
        assert train(small, tmp_path / name, *changes) == 0
    assert runs["thrifty"] == 2 * runs["plain"] > 0  # forwards again, on the way backwards
    for step, losses in rows(tmp_path / "plain").items():
        assert rows(tmp_path / "thrifty")[step] == pytest.approx(losses, rel=1e-5)


@pytest.fixture
def tiny_runs(monkeypatch):
    """Where the stages of the tiny recipe lie is in the environment; afterwards it is as before."""
    monkeypatch.setenv("TINY_RUNS", "")


@pytest.mark.usefixtures("tiny_runs")
def test_every_stage_of_the_tiny_recipe_hands_on_what_the_next_one_needs(art_dir, tmp_path, capsys):
    """Two steps each: not to learn, but to end with a model that segments."""
    out = tmp_path / "tiny"
    options = ["--out", str(out), "--art", str(art_dir), "--jobs", "2"]
    quick = ["steps=2", "heldout=1", "validation=null", "checkpoint_every=2", "log_every=1"]
    assert tiny.main([*options, "--set", *quick]) == 0
    for stage in tiny.STAGES:
        config = read_config(CONFIGS / "tiny" / f"{stage}.yaml")
        for step, losses in rows(out / stage).items():  # those that some tasks sit out, too
            due = {name for name, task in config.tasks.items() if (step - 1) % task.every == 0}
            assert {name.partition("/")[0] for name in losses} == {*due, "total"}
        assert set(rows(out / stage)) == {1, 2} and set(rows(out / stage, "validation")) == {2}
    folder = out / "findtrack-tiny"
    assert str(folder) in capsys.readouterr().out and (folder / "training.png").is_file()
    assert (folder / "model.safetensors").stat().st_size < 20e6
    model, processor = load_model(str(folder), "cpu", "float32")
    (track,) = model.segment(moving_square(3), "the dog", processor=processor)
    assert len(track.masks) == 3
    # Each part comes from the stage that trained it.
    final = load_file(folder / "model.safetensors")
    for part, stage in (
        ("finder.beit3.", "refine"),
        ("tracker.sam2.memory_encoder.", "track"),
        ("tracker.sam2.vision_encoder.", "boxes"),
        ("aligner.", "align"),
    ):
        trained = load_file(out / stage / "last" / "model.safetensors")
        for name, tensor in final.items():
            if name.startswith(part):
                assert torch.equal(tensor, trained[name].half()), name


@pytest.mark.usefixtures("tiny_runs")
def test_the_tiny_recipe_tells_which_stage_failed(art_dir, tmp_path, capsys):
    options = ["--out", str(tmp_path), "--art", str(art_dir), "--jobs", "1"]
    assert tiny.main([*options, "--set", "train=[nothing]"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "stage boxes failed" in error and "nothing" in error


@pytest.mark.usefixtures("tiny_runs")
def test_the_tiny_recipe_reads_all_configurations_before_it_starts(tmp_path, capsys):
    assert tiny.main(["--out", str(tmp_path / "out"), "--set", "batch_size=none"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "boxes.yaml" in error and "batch_size" in error
    assert not (tmp_path / "out").exists()


def test_help_is_quick_and_says_how_to_launch():
    started = [sys.executable, "-X", "importtime", "-m", "training.finetune", "--help"]
    done = subprocess.run(started, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0 and "accelerate launch -m training.finetune" in done.stdout
    assert not re.search(r"\|\s+torch\n", done.stderr)
