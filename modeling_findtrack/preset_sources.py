"""Which sources a preset needs, where they are, and bringing them here."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .checkpoint_files import CheckpointError
from .configuration_findtrack import CutieConfig
from .cutie_parts import MissingExtraError, build_network
from .presets import PRESETS, TOKENIZERS
from .published_source import Progress, Source, UnreachableError, fetch, find_source
from .published_tokenizers import check_requirements, has_tokenizer


@dataclass(frozen=True)
class Wanted:
    """One thing a preset needs: a checkpoint, or a tokenizer that may lie beside a checkpoint."""

    option: str  # of `findtrack assemble`
    where: str  # what the user gave for it, else the preset's default
    extras: tuple[str, ...]  # small files wanted
    owner: str | None  # of a tokenizer: the option of its weights
    is_given: bool

    def find(self, found: Mapping[str, Source]) -> Source | None:
        """Look it up.

        Args:
            found: What was found before, by option.

        Returns:
            None if it is a tokenizer that lies beside its weights, or may, as far as is known.
        """
        if self.owner is None:
            return find_source(self.where, self.extras)
        beside = found.get(self.owner)
        if not self.is_given and (beside is None or has_tokenizer(beside, self.owner == "clip")):
            return None
        try:
            return find_source(self.where, self.extras, needs_weights=False)
        except UnreachableError as error:
            if self.is_given or beside is None:
                raise
            raise UnreachableError(
                f"{beside.name}: no tokenizer beside it, so the published one is needed; say where "
                f"one is with --{self.option} ({error})"
            ) from None


def wanted_sources(preset: str, given: Mapping[str, str]) -> list[Wanted]:
    """What a preset needs, checkpoints first.

    Args:
        preset: "sam2" or "paper".
        given: Option -> what the user gave for it, for those that are given.

    Raises:
        CheckpointError: An option is of another preset.
    """
    parts = {part.option: part for part in PRESETS[preset].parts}
    for option in given:
        if option not in parts and option not in TOKENIZERS:
            raise CheckpointError(
                f"--{option}: not a part of preset {preset}, which takes "
                f"{', '.join(f'--{name}' for name in (*parts, *TOKENIZERS))}"
            )
    wanted = [
        Wanted(name, given.get(name, part.default), part.extras, None, name in given)
        for name, part in parts.items()
    ]
    for name, (owner, files) in TOKENIZERS.items():
        where = given.get(name, parts[owner].default)
        wanted.append(Wanted(name, where, files, owner, name in given))
    return wanted


def find_sources(preset: str, given: Mapping[str, str]) -> dict[str, Source]:
    """Where everything is, by option; nothing is fetched.

    Args and Raises: see `wanted_sources`; also `CheckpointError` for what cannot be found, and for
    packages that reading it needs.
    """
    found: dict[str, Source] = {}
    for wanted in wanted_sources(preset, given):
        source = wanted.find(found)
        if source is not None:
            found[wanted.option] = source
    for message in missing_packages(preset, found):
        raise CheckpointError(message)
    return found


def missing_packages(preset: str, found: Mapping[str, Source]) -> list[str]:
    """What has to be installed to read these sources, one message each.

    Args:
        preset: "sam2" or "paper".
        found: What was found, by option.
    """
    messages = []
    words = found.get("tokenizer", found.get("evf-sam"))
    try:
        if words is not None:
            check_requirements(words)
    except CheckpointError as error:
        messages.append(str(error))
    try:
        if PRESETS[preset].part("cutie"):
            with torch.device("meta"):
                build_network(CutieConfig())  # says so if its package is missing
    except MissingExtraError as error:
        messages.append(str(error))
    return messages


def fetch_sources(
    preset: str, sources: Mapping[str, Source], progress: Progress | None = None
) -> dict[str, Source]:
    """Bring here what is not here yet.

    Args:
        preset: "sam2" or "paper".
        sources: From `find_sources`.
        progress: Called while a file from an address comes.

    Raises:
        CheckpointError: A file cannot be fetched, or is not the one that was published.
    """
    fetched = {}
    for option, source in sources.items():
        part = PRESETS[preset].part(option)
        is_default = part is not None and source.name == part.default
        fetched[option] = fetch(source, part.md5 if is_default else None, progress)
    return fetched
