"""FindTrack: a video and a sentence in, one mask per frame out.

Importing this package makes `AutoConfig`, `AutoModel` and `AutoProcessor` know FindTrack.
"""

import sys
from importlib import import_module
from pathlib import Path

from .registration import register

_HOMES = {
    "CutieConfig": "configuration_findtrack",
    "FindTrackConfig": "configuration_findtrack",
    "FindTrackModel": "modeling_findtrack",
    "FindTrackProcessor": "processing_findtrack",
    "FindTrackPipeline": "pipeline_findtrack",
    "Candidate": "results",
    "MaskSequence": "results",
    "Track": "results",
    "Video": "video_base",
    "VideoError": "video_base",
    "open_video": "video_io",
}

__all__ = ["register", *_HOMES]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _is_command() -> bool:
    """Whether the installed `findtrack` command is what runs; its help shall not wait for PyTorch.

    Told by the command's own file beside the interpreter: a user's script may have that name too.
    """
    script = Path(sys.argv[0] if sys.argv else "").resolve()
    return script.stem == "findtrack" and script.parent == Path(sys.executable).parent.resolve()


if not _is_command():
    register()
