"""The Hub folder: what `findtrack hub-folder` writes works where the package is not installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_findtrack import cli, shipped, tracker_sam2
from modeling_findtrack import hub_folder as hub_folder_module
from modeling_findtrack.processing_findtrack import resize_filtered
from tests import tiny_cutie
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


@tiny_cutie.needs_cutie
def test_a_folder_with_a_cutie_tracker(tmp_path):
    """Its config type is none of transformers', its network comes from an optional package."""
    model, processor = tiny_cutie.tiny_model()
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    out = tmp_path / "hub"
    assert cli.main(["hub-folder", str(tmp_path / "checkpoint"), "--out", str(out)]) == 0
    (expected,) = model.segment(moving_square(4), "the dog", processor=processor)
    result = run_without_package(str(out), tmp_path)
    assert result["masks"] == [expected.masks.to_rle()] * 3
    assert expected.masks.areas().all()


def names_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def copy_of(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder / "copy"))


def test_the_folder_is_complete_and_safe(hub_folder):
    names = names_in(hub_folder)
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert {"clip_tokenizer/tokenizer.json", "clip_tokenizer/config.json"} <= names
    assert "README.md" not in names, "the card of another model would be untrue"
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl"))]
    config = json.loads((hub_folder / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_findtrack.FindTrackModel"


def test_an_older_folder_is_replaced_but_nothing_else(hub_folder, checkpoint, tmp_path, capsys):
    assert cli.main(["hub-folder", str(checkpoint), "--out", str(hub_folder)]) == 0
    (hub_folder / "diary.txt").write_text("dear diary")
    for stale in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "old.py"):
        (hub_folder / stale).write_text("of a larger model")
    (hub_folder / "clip_tokenizer" / "merges.txt").write_text("of another tokenizer")
    before = names_in(hub_folder)
    assert cli.main(["hub-folder", str(checkpoint), "--out", str(hub_folder)]) == 0
    assert before - names_in(hub_folder) == {
        "model-00001-of-00002.safetensors", "model.safetensors.index.json", "old.py",
        "clip_tokenizer/merges.txt",
    }  # fmt: skip
    (hub_folder / "diary.txt").unlink()
    (tmp_path / "diary.txt").write_text("dear diary")
    assert cli.main(["hub-folder", str(checkpoint), "--out", str(tmp_path)]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["diary.txt"]


def test_a_checkpoint_that_lacks_tensors_is_refused(checkpoint, tmp_path, capsys):
    folder = copy_of(checkpoint, tmp_path)
    name = "finder.beit3.text_embed.weight"
    tensors = load_file(checkpoint / "model.safetensors")
    for broken in (
        {key: tensor for key, tensor in tensors.items() if key != name},
        {**tensors, name: torch.zeros(3, 5)},  # another shape
    ):
        save_file(broken, folder / "model.safetensors", {"format": "pt"})
        assert cli.main(["hub-folder", str(folder), "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert f"1 tensors are missing or of another shape ({name}" in err
        assert len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == ["copy"]


def test_damaged_weights_are_refused(checkpoint, tmp_path, capsys):
    folder = copy_of(checkpoint, tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 15582020\n"
    for content in (whole[:-1000], whole[:100], b"", pointer):
        (folder / "model.safetensors").write_bytes(content)
        assert cli.main(["hub-folder", str(folder), "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert "the weights are damaged or not fully downloaded" in err
        assert len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == ["copy"]


def stored_dtypes(folder: Path) -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}


@pytest.mark.parametrize("name", ["a folder", "someone/findtrack"])
def test_weights_keep_their_stored_dtype(name, checkpoint, tmp_path, monkeypatch):
    folder = copy_of(checkpoint, tmp_path)
    half = {key: t.half() for key, t in load_file(checkpoint / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors", {"format": "pt"})
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    if name == "a folder":
        name = str(folder)
    else:
        load_model = cli.load_model
        monkeypatch.setattr(cli, "load_model", lambda _, **kw: load_model(str(folder), **kw))
        monkeypatch.setattr(
            "modeling_findtrack.hub_folder.snapshot_download", lambda *_, **__: str(folder)
        )
    assert cli.main(["hub-folder", name, "--out", str(tmp_path / "out")]) == 0
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert saved.keys() == half.keys()
    assert all(torch.equal(saved[key], half[key]) for key in half)
    assert stored_dtypes(tmp_path / "out") == {torch.float16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_a_checkpoints_own_card_goes_along_with_the_curves_it_shows(checkpoint, tmp_path):
    folder = copy_of(checkpoint, tmp_path)
    (folder / "README.md").write_text("# Mine\n![training](training.png)")
    (folder / "training.png").write_bytes(b"curves")
    assert cli.main(["hub-folder", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "README.md").read_text() == (folder / "README.md").read_text()
    assert (tmp_path / "out" / "training.png").read_bytes() == b"curves"


def test_the_shipped_models_have_their_cards():
    root = Path(__file__).parents[1]
    cards = {"small": root / "model_card.md", "tiny": root / "modeling_findtrack/tiny/README.md"}
    for name, card in cards.items():
        assert hub_folder_module.model_card(shipped.checkpoint(name)).samefile(card)
    assert not cards["small"].samefile(cards["tiny"])


def test_push_uploads_only_what_was_written(checkpoint, tmp_path, monkeypatch):
    from huggingface_hub.utils import filter_repo_objects

    uploads = []

    class Api:
        def create_repo(self, repo_id, exist_ok):
            pass

        def upload_folder(self, *, repo_id, folder_path, allow_patterns):
            names = names_in(Path(folder_path))
            uploads.extend(filter_repo_objects(names, allow_patterns=allow_patterns))

    monkeypatch.setattr(hub_folder_module, "HfApi", Api)
    out = tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("dear diary")
    command = ["hub-folder", str(checkpoint), "--out", str(out), "--overwrite", "--push", "me/it"]
    assert cli.main(command) == 0
    assert set(uploads) == names_in(out) - {"diary.txt"}
    assert {"model.safetensors", "clip_tokenizer/tokenizer.json"} <= set(uploads)


class OnMps(torch.Tensor):
    """Claims to be on an MPS device, and like torch < 2.7 cannot resize with a filter there."""

    @property
    def device(self):
        return torch.device("mps")

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.interpolate and (kwargs or {}).get("antialias"):
            raise NotImplementedError("aten::_upsample_bilinear2d_aa.out on MPS")
        return super().__torch_function__(func, types, args, kwargs)


def test_masks_are_resized_where_mps_cannot(monkeypatch):
    model, processor = tiny()
    masks = torch.zeros(2, 1, 90, 110)
    masks[:, :, 20:60, 30:70] = 1
    expected = processor.alpha(masks[:, 0]), model.tracker._resize_key_masks(masks)
    move = torch.Tensor.to

    def to(tensor, *args, **kwargs):
        if args == (torch.device("mps"),):
            return tensor.as_subclass(OnMps)
        return move(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)
    masks = masks.as_subclass(OnMps)
    got = processor.alpha(masks[:, 0]), model.tracker._resize_key_masks(masks)
    for mine, reference in zip(got, expected, strict=True):
        assert isinstance(mine, OnMps) and torch.equal(mine.cpu(), reference)


def test_a_start_resizes_its_logits_the_same_way(monkeypatch):
    model, _ = tiny()
    shapes = []

    def record(x, shape):
        shapes.append(tuple(shape))
        return resize_filtered(x, shape)

    monkeypatch.setattr(tracker_sam2, "resize_filtered", record)
    encoder = model.tracker.sam2.prompt_encoder
    side = encoder.input_image_size
    with torch.no_grad():
        features = model.tracker.encode(torch.zeros(1, 3, side, side))
        model.tracker.start(features, torch.ones(1, 1, 50, 70))
    assert shapes == [(side, side), tuple(encoder.mask_input_size)]


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
