"""What a run is trained on and judged by, from its configuration."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from eval.benchmarks import load_benchmark
from eval.benchmarks.base import Benchmark

from .benchmark_samples import BenchmarkSource
from .config import BenchmarkData, Config, PhotoData, SceneData, Validation
from .samples import Source
from .wording import counted

HELDOUT_SEED = 1_000_003  # apart from every seed that trains


@dataclass(frozen=True)
class Judge:
    """Videos that J&F is measured on."""

    benchmark: Benchmark
    videos: list[str]
    key_frames: int | None

    @cached_property
    def digest(self) -> str:
        """Changes when scores can no longer be compared."""
        facts = (self.benchmark.digest(), self.videos, self.key_frames)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Data:
    """The data of a run."""

    source: Source
    heldout: Source | None  # scenes that are never trained on
    nouns: tuple[str, ...]  # what objects are called; () where nobody says
    texts: list[str]  # sentences, or words, that the tokenizers should know
    judge: Judge | None


def load_data(config: Config, say: Callable[[str], None]) -> Data:
    """Read what the configuration names. Who does it first leaves it in caches for others.

    Raises:
        ValueError, OSError: It is not there, or of no use.
    """
    judge = None if config.validation is None else _judge(config.validation)
    if config.scenes is not None:
        return _scenes(config.scenes, config.seed, judge)
    if config.photos is not None:
        return _photos(config.photos, config.seed, judge)
    splits = [_training_split(b, config.validation, judge, say) for b in config.benchmarks]
    source = BenchmarkSource(splits, config.seed)
    return Data(source, None, (), source.texts, judge)


def _load(how: BenchmarkData | Validation, **more) -> Benchmark:
    try:
        return load_benchmark(how.name, how.root, how.split, **how.options, **more)
    except TypeError as error:  # of an option that its loader does not have
        raise ValueError(f"{how.name}: {error}") from error


def _scenes(scenes: SceneData, seed: int, judge: Judge | None) -> Data:
    from .expressions import vocabulary
    from .scene_samples import SceneSource
    from .sprite_art import ready_art

    bank = ready_art(None if scenes.art is None else Path(scenes.art))
    how = {name: getattr(scenes, name) for name in ("textured", "warp", "crossing")}
    source, heldout = (SceneSource(bank, seed + s, **how) for s in (0, HELDOUT_SEED))
    return Data(source, heldout, bank.nouns, vocabulary(bank), judge)


def _photos(photos: PhotoData, seed: int, judge: Judge | None) -> Data:
    from .photos.sentences import words
    from .photos.source import PhotoSource

    how = {name: getattr(photos, name) for name in ("mosaic", "pasted", "twins", "named")}
    source = PhotoSource(photos.root, seed, photos.side, **how)
    heldout = PhotoSource(photos.root, HELDOUT_SEED, photos.side, split="val", plain=True)
    return Data(source, heldout, source.nouns, words(), judge)


def _judge(how: Validation) -> Judge:
    """Videos spread over a split."""
    benchmark = _load(how)
    if not benchmark.has_truth:
        raise ValueError(f"validation: {benchmark.title} {how.split} has no masks")
    videos = list(benchmark.videos)
    count = min(how.videos or len(videos), len(videos))
    spread = [videos[i * len(videos) // count] for i in range(count)]
    return Judge(benchmark, spread, how.key_frames)


def _training_split(
    data: BenchmarkData, how: Validation | None, judge: Judge | None, say: Callable[[str], None]
) -> Benchmark:
    """A split without the videos that validation is measured on."""
    split = _load(data)
    if how is None or how.seen or not _may_share(data, how, split):
        return split
    kept = [video for video in split.videos if video not in judge.videos]
    if len(kept) == len(split.videos):
        return split
    if not kept:
        raise ValueError(
            f"validation takes all of {data.name} {data.split}, "
            f"{counted(len(split.videos), 'video')}, and leaves none to train on: "
            "set validation.videos"
        )
    say(f"kept apart for validation: {counted(len(split.videos) - len(kept), 'video')}")
    return _load(data, videos=kept)


def _may_share(data: BenchmarkData, how: Validation, split: Benchmark) -> bool:
    """Whether videos of a training split may be among those of validation."""
    if (data.name, Path(data.root).resolve()) != (how.name, Path(how.root).resolve()):
        return False
    return data.split == how.split or split.splits_overlap
