"""Makes the Hub folder of a model: weights, configs, tokenizers, remote code, card."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors import safe_open

from .output_folder import OutputFolder
from .pipeline_findtrack import FindTrackPipeline
from .presets import MANIFEST
from .registration import carry_code, register
from .shipped import short_name

# What a save leaves in a folder, in as many shards and code files as that model had.
_NAMES = ("*.safetensors*", "*.py", "*.json", "clip_tokenizer")
CARD = "README.md"
CURVES = "training.png"  # of a run of training, beside its checkpoint's card


def hub_folder(path: str | Path, overwrite: bool, expected: Sequence[str] = ()) -> OutputFolder:
    """The place for a Hub folder; an earlier one is replaced, see `OutputFolder`.

    Args:
        path: The folder to make.
        overwrite: Add to a folder that holds other things.
        expected: What will be written besides config and weights.
    """
    expected = ["config.json", "model.safetensors", *expected]
    return OutputFolder(path, _NAMES, _is_hub_folder, overwrite, "config.json", expected)


def save(model, processor, name: str, folder: Path) -> list[str]:
    """Write everything `AutoModel.from_pretrained(..., trust_remote_code=True)` needs.

    Args:
        model: The model, loaded from `name` in float32.
        processor: Its processor.
        name: Checkpoint folder or Hub id it came from.
        folder: Where to write.

    Returns:
        The files written, relative to `folder`.
    """
    save_weights(model, processor, as_stored(model.state_dict(), name), folder)
    card = model_card(name)
    if card is not None:
        (folder / CARD).write_text(card.read_text(encoding="utf-8"), encoding="utf-8")
    for told in (MANIFEST, CURVES):  # of an assembled and of a trained model, which its card shows
        if (Path(name) / told).is_file():
            shutil.copyfile(Path(name) / told, folder / told)
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def save_weights(model, processor, state: dict, folder: Path) -> None:
    """Write weights, configs, tokenizers and code, but no card.

    Args:
        model: Gives config and class.
        processor: Its processor.
        state: The weights, as they shall be stored.
        folder: Where to write.
    """
    register()
    carry_code()
    # Through the pipeline, so that the folder says how `pipeline` runs it.
    pipeline = FindTrackPipeline(model=model, processor=processor, device=model.device)
    pipeline.save_pretrained(folder, state_dict=state)
    processor.save_pretrained(folder)


def push(repo_id: str, folder: str | Path, written: Sequence[str]):
    """Upload the files `written`: what else lies in the folder is not ours to publish."""
    api = HfApi()
    api.create_repo(repo_id, exist_ok=True)
    return api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(written))


def model_card(name: str) -> Path | None:
    """The card of a model: its folder's own; that of the shipped `small` is the repository's."""
    cards = [Path(name) / CARD]
    if short_name(name) == "small":
        cards.insert(0, Path(__file__).resolve().parents[1] / "model_card.md")
    return next((card for card in cards if card.is_file()), None)


def as_stored(state: dict, name: str) -> dict:
    """A state dict in the dtypes of the checkpoint `name`, a folder or a Hub id.

    The config's dtype is no guide: `findtrack-tiny` is stored in half precision, to be small, and
    runs in single.
    """
    folder = Path(name)
    if not folder.is_dir():  # loaded from the Hub, hence in the cache
        folder = Path(snapshot_download(name, local_files_only=True))
    whole = folder / "model.safetensors"
    shards = [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))
    known = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    stored = {}
    for shard in shards:
        with safe_open(shard, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - older safetensors cannot be iterated
                stored[key] = known.get(tensors.get_slice(key).get_dtype())
    return {key: tensor.to(stored.get(key) or tensor.dtype) for key, tensor in state.items()}


def _is_hub_folder(path: Path) -> bool:
    """Whether this command made the folder: a mere checkpoint does not say where its code is."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        isinstance(config, dict)
        and config.get("model_type") == "findtrack"
        and "custom_pipelines" in config
    )
