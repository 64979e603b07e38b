"""The config files that lie beside published weights."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedConfig

from .checkpoint_files import CheckpointError
from .published_source import Source

# What transformers writes into every config, and what does not describe a network: above all where
# code is that would be run.
_CLUTTER = frozenset(PreTrainedConfig().to_dict()) | {
    "torch_dtype", "transformers_version", "auto_map", "custom_pipelines",
}  # fmt: skip


def read_settings(
    source: Source, model_types: Collection[str], words: Collection[str]
) -> tuple[dict[str, Any], str]:
    """What the config file beside the weights says, and where it is; empty if there is none.

    Looked for are a JSON or YAML file with the name of a checkpoint file, config.json, and a YAML
    file of any name, if it is the only one. Of these the first counts that can be about this
    network: a config.json that names another kind of model is another component's, and so is what
    has none of `words`.

    Args:
        source: Fetched.
        model_types: transformers' `model_type`s the network has.
        words: Sections of which a config of this network has one.

    Raises:
        CheckpointError: The file is damaged, or several YAML files may be meant.
    """
    stems = [Path(file.name).stem for file in source.weights]
    named = [source.extra(f"{stem}{kind}") for stem in stems for kind in (".json", ".yaml")]
    for path in (*named, source.extra("config.json")):
        if path is None:
            continue
        settings = _parse(path)
        if not isinstance(settings, dict):
            raise CheckpointError(f"{path}: holds no settings")
        kind = settings.get("model_type")
        if kind in model_types or (kind is None and settings.keys() & set(words)):
            return clean(settings), str(path)
    sheets = {
        file.local: settings
        for file in source.extras
        if file.name.endswith(".yaml")
        and isinstance(settings := _parse(file.local), dict)
        and settings.keys() & set(words)
    }
    if len(sheets) > 1:
        # One may say what another does not, and only one was trained with.
        raise CheckpointError(
            f"{source.name}: {len(sheets)} YAML files beside it, none with its name; name the one "
            f"of the checkpoint {stems[0]}.yaml",
            sorted(path.name for path in sheets),
        )
    for path, settings in sheets.items():
        return clean(settings), str(path)
    return {}, ""


def clean(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` without what says nothing about the network, at every level."""
    return {
        key: clean(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key == "model_type" or key not in _CLUTTER
    }


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: cannot be read ({first})") from None
