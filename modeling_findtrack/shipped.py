"""The checkpoints that ship with FindTrack, and their short names. Imports nothing heavy."""

from pathlib import Path

DEFAULT = "small"  # what every command uses that is not told otherwise
SHORT_NAMES = ("small", "tiny")
_PACKAGE = Path(__file__).resolve().parent

# For help texts.
MODEL_HELP = (
    f"checkpoint folder, Hub id, or {' or '.join(SHORT_NAMES)}, the checkpoints that ship with "
    f"FindTrack (default: {DEFAULT}); a model folder of that name in the current directory goes "
    "first"
)


def checkpoint(name: str) -> str:
    """The folder or Hub id that a name stands for.

    "small" and "tiny" are the shipped checkpoints, unless the current directory has a model folder
    of that name: as everywhere, a folder goes before a name. "./tiny" is never a short name.
    """
    if name in SHORT_NAMES and not Path(name, "config.json").is_file():
        return str(_PACKAGE / name)
    return name


def short_name(name: str) -> str | None:
    """The short name of a shipped checkpoint, however its folder is named; None of any other."""
    place = Path(checkpoint(name)).resolve()
    return next((short for short in SHORT_NAMES if place == _PACKAGE / short), None)


DEFAULT_MODEL = str(_PACKAGE / DEFAULT)  # never a folder of the current directory
