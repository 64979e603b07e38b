"""The config files that lie beside published weights."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedConfig

from .checkpoint_files import CheckpointError
from .published_source import Source

# What transformers writes into every config, and what does not describe a network.
_CLUTTER = frozenset(PreTrainedConfig().to_dict()) | {"torch_dtype", "transformers_version"}


def read_settings(source: Source, model_types: Collection[str]) -> dict[str, Any]:
    """What the config file beside the weights says; empty if there is none.

    Looked for are a JSON or YAML file with the name of a given checkpoint file, config.json, and a
    YAML file that is the only one. Of several, the first that can be about this network counts: a
    config.json that names another kind of model is another component's.

    Args:
        source: Fetched.
        model_types: transformers' `model_type`s the network has.

    Raises:
        CheckpointError: The file is damaged.
    """
    stems = [Path(file.name).stem for file in source.weights] if source.kind == "file" else []
    paths = [source.extra(f"{stem}{kind}") for stem in stems for kind in (".json", ".yaml")]
    paths.append(source.extra("config.json"))
    sheets = [file.local for file in source.extras if file.name.endswith(".yaml")]
    paths += sheets if len(sheets) == 1 else []
    for path in paths:
        if path is None:
            continue
        settings = _parse(path)
        if settings.get("model_type") in (None, *model_types):
            return clean(settings)
    return {}


def clean(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` without what says nothing about the network, at every level."""
    return {
        key: clean(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key == "model_type" or key not in _CLUTTER
    }


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read ({first})") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: holds no settings")
    return settings
