"""The Hub folder: what `findtrack hub-folder` writes works where the package is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_findtrack import cli
from tests.tiny_models import moving_square, tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A saved model with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = tiny()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hub_folder(checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "findtrack"
    assert cli.main(["hub-folder", str(checkpoint), "--out", str(out)]) == 0
    return out


WITHOUT_PACKAGE = """
import json, os, sys
sys.modules["modeling_findtrack"] = None  # importing it fails, as where it is not installed
import numpy as np
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

name, video = sys.argv[1], np.load(sys.argv[2])
model = AutoModel.from_pretrained(name, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
config = AutoConfig.from_pretrained(name, trust_remote_code=True)
segment = pipeline(model=name, trust_remote_code=True)
results = [model.segment(video, ["the dog"], processor=processor), segment(video, ["the dog"])]
model.save_pretrained("again")
processor.save_pretrained("again")
model = AutoModel.from_pretrained("again", trust_remote_code=True)
results.append(model.segment(video, "the dog", processor=processor))
print(json.dumps({
    "module": type(model).__module__, "type": config.model_type, "dtype": str(model.dtype),
    "task": segment.task, "masks": [tracks[0].masks.to_rle() for tracks in results],
}))
"""


def run_without_package(name: str, tmp_path: Path, **environment) -> dict:
    np.save(tmp_path / "video.npy", moving_square(4))
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, name, str(tmp_path / "video.npy")],
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), **environment},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def expected_masks() -> list[dict]:
    model, processor = tiny()
    return model.segment(moving_square(4), "the dog", processor=processor)[0].masks.to_rle()


def test_a_local_folder(hub_folder, tmp_path):
    result = run_without_package(str(hub_folder), tmp_path)
    assert result["module"].startswith("transformers_modules.")
    assert result["type"] == "findtrack" and result["dtype"] == "torch.float32"
    assert result["task"] == "referring-video-segmentation"
    assert result["masks"] == [expected_masks()] * 3


def test_a_cached_hub_snapshot_offline(hub_folder, tmp_path):
    cache = tmp_path / "cache"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = cache / "models--someone--findtrack" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(hub_folder)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    result = run_without_package(
        "someone/findtrack", tmp_path, HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1"
    )
    assert result["masks"] == [expected_masks()] * 3


def test_the_folder_is_complete_and_safe(hub_folder):
    names = {str(p.relative_to(hub_folder)) for p in hub_folder.rglob("*") if p.is_file()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert {"clip_tokenizer/tokenizer.json", "clip_tokenizer/config.json", "README.md"} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl"))]
    config = json.loads((hub_folder / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_findtrack.FindTrackModel"


def test_an_older_folder_is_replaced_but_nothing_else(hub_folder, checkpoint, tmp_path, capsys):
    assert cli.main(["hub-folder", str(checkpoint), "--out", str(hub_folder)]) == 0
    (tmp_path / "diary.txt").write_text("dear diary")
    assert cli.main(["hub-folder", str(checkpoint), "--out", str(tmp_path)]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["diary.txt"]


def test_a_checkpoint_that_lacks_tensors_is_refused(checkpoint, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    for file in checkpoint.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "clip_tokenizer").symlink_to(checkpoint / "clip_tokenizer")
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["finder.beit3.text_embed.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert cli.main(["hub-folder", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "1 tensors are missing" in err and "text_embed" in err and len(err.splitlines()) == 1


def test_installed_auto_classes(checkpoint):
    from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

    from modeling_findtrack import FindTrackConfig, FindTrackModel, FindTrackProcessor

    assert type(AutoConfig.from_pretrained(checkpoint)) is FindTrackConfig
    assert type(AutoModel.from_pretrained(checkpoint)) is FindTrackModel
    assert type(AutoProcessor.from_pretrained(checkpoint)) is FindTrackProcessor
    segment = pipeline("referring-video-segmentation", model=str(checkpoint))
    tracks = segment(moving_square(3), expressions=["dog", "cat"], key_frames=2)
    assert [t.expression for t in tracks] == ["dog", "cat"]
    assert len(tracks[0].candidates) == 2 and segment.model.dtype == torch.float32
    with pytest.raises(ValueError, match="expression"):
        segment(moving_square(3))
