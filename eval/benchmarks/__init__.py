"""The benchmarks, by name."""

from importlib import import_module
from pathlib import Path

from .base import Benchmark

# Name -> module and class. Each reads the tree described at the top of its module.
BENCHMARKS = {
    "ref-youtube-vos": ("ref_youtube_vos", "RefYouTubeVOS"),
    "ref-davis17": ("ref_davis17", "RefDAVIS17"),
    "mevis": ("mevis", "MeViS"),
    "ref-sprites": ("ref_sprites", "RefSprites"),
    "video-folder": ("video_folder", "VideoFolder"),
}


def load_benchmark(name: str, root: str | Path, split: str, **options) -> Benchmark:
    """A benchmark by name; `options` are those of its class.

    Raises:
        LayoutError: The tree is not that benchmark's.
    """
    module, cls = BENCHMARKS[name]
    return getattr(import_module(f"{__name__}.{module}"), cls)(root, split, **options)
