"""Which files of a folder or repository hold its weights."""

import re
from collections.abc import Iterable
from pathlib import Path

from .checkpoint_files import CheckpointError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<kind>\.safetensors|\.pth|\.pt|\.bin)"
)


def choose_weights(names: Iterable[str], where: str) -> list[str]:
    """Which of these files hold the weights.

    Args:
        names: Of its files; those in sub-folders are not looked at.
        where: What it is, for the message.

    Returns:
        The usual names (`model.safetensors`, its shards, `pytorch_model.bin`, its shards), or the
        only other file that looks like a checkpoint, or the shards of the only other one.

    Raises:
        CheckpointError: There is none, there are several, or a shard is missing.
    """
    names = {name for name in names if "/" not in name}
    for whole in _WHOLE:
        if whole in names:
            return [whole]
        shards = {name for name in names if _whole_of(name) == whole}
        if shards:
            return _all_shards(shards, where)
    loose = sorted(name for name in names if name.endswith(SUFFIXES))
    if not loose:
        raise CheckpointError(f"{where}: no checkpoint there (none of {', '.join(SUFFIXES)})")
    if len({_whole_of(name) or name for name in loose}) > 1:
        apart = "; shards need a folder of their own" if any(map(is_shard, loose)) else ""
        raise CheckpointError(
            f"{where}: several checkpoints there, name the one to use{apart}", loose
        )
    return _all_shards(set(loose), where) if is_shard(loose[0]) else loose


def is_shard(name: str) -> bool:
    """Whether a file is one of several that make one checkpoint."""
    return _whole_of(name) is not None


def _whole_of(name: str) -> str | None:
    """The name that the checkpoint of a shard would have as one file."""
    match = _SHARD.fullmatch(Path(name).name)
    return f"{match['stem']}{match['kind']}" if match and int(match["count"]) > 1 else None


def _all_shards(names: set[str], where: str) -> list[str]:
    matches = [match for name in names if (match := _SHARD.fullmatch(name))]
    counts = {int(match["count"]) for match in matches}
    there = {int(match["number"]) for match in matches}
    missing = sorted(set(range(1, max(counts) + 1)) - there)
    if missing or len(counts) > 1:
        raise CheckpointError(
            f"{where}: shards are missing or of several checkpoints: {len(there)} of "
            f"{' or '.join(map(str, sorted(counts)))} are there; fetch it again"
        )
    return sorted(names)
