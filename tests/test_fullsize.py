"""`python -m eval.fullsize`: every step of it with small networks. No limits: machines differ."""

import json
import math
from pathlib import Path

import pytest
import torch

from eval import fullsize
from eval.random_checkpoints import Checkpoint, official_checkpoints, random_tensor
from modeling_findtrack import cli
from modeling_findtrack.presets import PRESETS
from tests import tiny_cutie
from tests.official_checkpoints import (
    alpha_tensors,
    clip_tensors,
    evf_config,
    evf_tensors,
    sam2_tensors,
    sam2_yaml,
)

VIDEO = (3, 48, 48)


def _shapes(tensors) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def small_checkpoints(preset: str, golden_dir) -> dict[str, Checkpoint]:
    """As `official_checkpoints`, of the networks of the golden sets."""
    visual = "sam2_tiny" if preset == "sam2" else "sam_tiny"
    if preset == "sam2":
        small = _shapes(sam2_tensors(golden_dir)), sam2_yaml(golden_dir)
        tracker = {"sam2": Checkpoint("sam2.pt", *small)}
    else:
        network = {"model_type": "findtrack_cutie", "network": tiny_cutie.NETWORK}
        small = _shapes(tiny_cutie.tiny_tracker().cutie.state_dict()), network
        tracker = {"cutie": Checkpoint("cutie.pth", *small)}
    return {
        "evf-sam": Checkpoint(
            "model.safetensors",
            _shapes(evf_tensors(golden_dir, visual)),
            evf_config(golden_dir, visual),
        ),
        "alpha-clip": Checkpoint("alpha.pth", _shapes(alpha_tensors(golden_dir))),
        "clip": Checkpoint("clip.pt", _shapes(clip_tensors(golden_dir))),
        **tracker,
    }


def counted(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def in_this_process(monkeypatch, *names: str):
    """Run these steps here, where all that they import is imported already."""
    apart = fullsize._apart

    def run(step, **arguments):
        return step(**arguments) if step.__name__ in names else apart(step, **arguments)

    monkeypatch.setattr(fullsize, "_apart", run)


@pytest.mark.parametrize("preset", ["sam2", pytest.param("paper", marks=tiny_cutie.needs_cutie)])
def test_every_step(preset, golden_dir, tmp_path, monkeypatch):
    pytest.importorskip("sentencepiece")
    if preset == "paper":  # once is enough
        in_this_process(monkeypatch, "write_checkpoints", "assemble")
    checkpoints = small_checkpoints(preset, golden_dir)
    compute = "bfloat16" if preset == "sam2" else "float32"
    result = fullsize.measure(preset, tmp_path, "float16", checkpoints, VIDEO, compute=compute)
    assert (result.device, result.compute) == ("cpu", compute)

    model, _ = cli.load_model(str(tmp_path / "model"))
    finder, aligner, tracker = model.finder, model.aligner, model.tracker
    if preset == "sam2":
        assert result.image_encoder.startswith("one, shared")
        finder_encoder, encoder = 0, counted(tracker.sam2.vision_encoder)
    else:
        finder_encoder = counted(finder.sam.vision_encoder)
        encoder = counted(tracker.cutie.pixel_encoder)
    image_tower = counted(aligner.vision_model, aligner.visual_projection)
    assert result.parameters == {
        "finder: image encoder": finder_encoder,
        "finder: BEiT-3": counted(finder.beit3),
        "finder: mask decoder": counted(finder) - finder_encoder - counted(finder.beit3),
        "aligner: image tower": image_tower,
        "aligner: text tower": counted(aligner) - image_tower,
        "tracker: image encoder": encoder,
        "tracker: the rest": counted(tracker) - encoder,
    }
    assert result.total == counted(model)
    assert set(result.seconds) == {"write", "assemble", "load", "find", "track"}
    assert all(seconds > 0 for seconds in result.seconds.values())
    assert 0.1 < result.peak_gigabytes["load"] <= result.peak_gigabytes["segment"]
    assert result.peak_gigabytes["assemble"] > 0.1
    stored = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert stored / 1e9 < result.gigabytes["folder"] < stored / 1e9 + 0.01
    assert result.candidates == 3 and len(result.areas) == VIDEO[0]


def result_of(preset: str, **changed) -> fullsize.Result:
    fields = {
        "preset": preset, "dtype": "float16", "video": VIDEO, "candidates": 3,
        "device": "cpu", "compute": "float32", "threads": 2,
        "image_encoder": "one, shared", "parameters": dict.fromkeys(fullsize.PARTS, 2_000_000),
        "gigabytes": {"checkpoints": 2.5, "folder": 1.25},
        "seconds": {"write": 9.0, "assemble": 8.0, "load": 7.0, "find": 61.24, "track": 5.0},
        "peak_gigabytes": {"assemble": 1.2, "load": 3.3, "segment": 4.4, "gpu": 0}, "areas": [0.5],
    }  # fmt: skip
    return fullsize.Result(**{**fields, **changed})


def cells(printed: str) -> dict[str, list[str]]:
    """Rows of a Markdown table by their first cell."""
    rows = [line.strip("|").split("|") for line in printed.splitlines() if line.startswith("|")]
    return {name.strip(): [cell.strip() for cell in rest] for name, *rest in rows}


def test_the_table():
    alone = dict.fromkeys(fullsize.PARTS, 1_500_000) | {"finder: image encoder": 0}
    rows = cells(fullsize.table([result_of("sam2", parameters=alone), result_of("paper")]))
    assert rows[""] == ["sam2", "paper"]
    assert rows["finder: image encoder, M"] == ["-", "2.0"]
    assert rows["finder: BEiT-3, M"] == ["1.5", "2.0"]
    assert rows["parameters, M"] == ["9.0", "14.0"]
    assert rows["find on 3 frames, s"] == ["61.2", "61.2"]
    assert rows["track 3 frames, s"] == ["5.0", "5.0"]
    assert rows["find and track, GB of memory"] == ["4.4", "4.4"]
    assert "aligner: text tower, M" in rows
    assert not any("GPU" in name for name in rows)
    peaks = result_of("sam2").peak_gigabytes | {"gpu": 5.04}
    rows = cells(fullsize.table([result_of("sam2", peak_gigabytes=peaks)]))
    assert rows["find and track, GB on the GPU"] == ["5.0"]


def test_the_command_deletes_what_is_large(tmp_path, monkeypatch, capsys):
    asked = []

    def measure(preset: str, folder: Path, dtype: str, **options) -> fullsize.Result:
        (folder / "large").write_text("")
        asked.append(options)
        return result_of(preset, dtype=dtype, compute=options["compute"])

    monkeypatch.setattr(fullsize, "measure", measure)
    command = ["--work", str(tmp_path), "--dtype", "bfloat16"]
    assert fullsize.main(command) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["paper.json", "sam2.json"]
    assert json.loads((tmp_path / "sam2.json").read_text())["dtype"] == "bfloat16"
    printed = capsys.readouterr().out
    assert "stored in bfloat16" in printed and cells(printed)[""] == ["sam2", "paper"]
    assert "in float32 on cpu" in printed and "4 frames of 854x480" in printed
    place = ["--preset", "sam2", "--device", "cuda", "--compute", "float16", "--frames", "9"]
    monkeypatch.setattr(fullsize, "_apart", lambda step: step is not fullsize.gpu_available)
    assert fullsize.main([*command, *place]) == 2
    assert "device cuda: not available here" in capsys.readouterr().err
    monkeypatch.setattr(fullsize, "_apart", lambda step: step is fullsize.gpu_available)
    assert fullsize.main([*command, *place, "--keep"]) == 0
    usual = {"video": (4, 480, 854), "device": "cpu", "compute": "float32"}
    gpu = {"video": (9, 480, 854), "device": "cuda", "compute": "float16"}
    assert asked == [usual, usual, gpu]
    printed = capsys.readouterr().out
    assert "computing in float16 on cpu" in printed and "9 frames" in printed
    assert (tmp_path / "sam2" / "large").exists()
    assert fullsize.main([*command, "--preset", "sam2"]) == 2  # it is taken
    assert str(tmp_path / "sam2") in capsys.readouterr().err
    assert (tmp_path / "sam2" / "large").exists()


def test_what_fails_is_told(tmp_path, capfd):
    with pytest.raises(ValueError, match="table: exit status 1"):
        fullsize._apart(fullsize.table, results=[])
    assert "IndexError" in capfd.readouterr().err
    huge = {"evf-sam": Checkpoint("model.safetensors", {"x": [10**9, 10**9]})}
    with pytest.raises(ValueError, match="GB are needed"):
        fullsize.measure("sam2", tmp_path, checkpoints=huge)


@pytest.mark.parametrize("preset", fullsize.PRESETS)
def test_full_size(preset):
    """Each preset gets what it is made of, in the size that was published."""
    checkpoints = official_checkpoints(preset)
    assert list(checkpoints) == [part.option for part in PRESETS[preset].parts]
    millions = {
        option: sum(math.prod(shape) for shape in checkpoint.shapes.values()) // 10**6
        for option, checkpoint in checkpoints.items()
    }
    finder, tracker = ({"evf-sam": 898}, {"sam2": 224})
    if preset == "paper":
        finder, tracker = ({"evf-sam": 1315}, {"cutie": 35})
    assert millions == {**finder, "alpha-clip": 304, "clip": 427, **tracker}
    assert set(fullsize.PRESETS) == set(PRESETS)


def test_random_numbers_depend_on_the_name_alone():
    first = random_tensor("a.weight", [300, 4, 5])
    assert torch.equal(first, random_tensor("a.weight", [300, 4, 5]))
    assert not torch.equal(first, random_tensor("b.weight", [300, 4, 5]))
    assert first.std().item() == pytest.approx(20**-0.5, rel=0.05)
    assert random_tensor("norm.weight", [1000]).mean().item() == pytest.approx(1, abs=0.02)
    assert (random_tensor("bn.running_var", [1000]) > 0.5).all()
