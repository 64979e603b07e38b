"""What a training run is: one YAML file, checked against the dataclasses below.

A key that is not listed here is an error, so that a typing mistake does not train something else.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from modeling_findtrack.shipped import DEFAULT, checkpoint


@dataclass
class BenchmarkData:
    """A benchmark's split with masks, as its loader in `eval/benchmarks` reads it."""

    name: str = "ref-sprites"
    root: str = "data/ref_sprites"
    split: str = "train"
    options: dict[str, Any] = field(default_factory=dict)  # of the loader


@dataclass
class SceneData:
    """Ref-Sprites scenes drawn as training goes; never the same one twice."""

    art: str | None = None  # folder of sprite art; None takes, or fetches, the cached one
    textured: float = 0.0  # share of objects that are unnamed cut-outs of texture
    warp: float = 0.0  # share of objects that bend from frame to frame
    crossing: float = 0.0  # share of clips in which two objects cross
    steps_per_epoch: int = 1000


@dataclass
class PhotoData:
    """Real pictures of a prepared folder (`training.photos.prepare`), changed as training goes."""

    root: str = "data/photos"
    side: int = 320  # pixels of the square frames, and of the clips
    mosaic: float = 0.15  # share of the frames that are made of four pictures
    pasted: float = 0.15  # share onto which cut-outs are pasted
    twins: float = 0.0  # share onto which several of one noun are pasted
    named: float = 0.3  # share of the pictures whose one object a network cut out
    steps_per_epoch: int = 1000


@dataclass
class Augment:
    """Changes made to frame, masks and sentence together."""

    flip: float = 0.0  # probability of mirroring; "left" and "right" change places in the sentence
    crop: float = 1.0  # smallest share of each side that a random crop keeps; 1 does not crop
    colour: float = 0.0  # largest relative change of brightness, contrast and saturation


@dataclass
class Task:
    """What all tasks have."""

    weights: dict[str, float] = field(default_factory=dict)  # loss term -> weight
    every: int = 1  # the task takes part in every n-th step


@dataclass
class FindTask(Task):
    """A frame and sentences; the finder must segment and know whether there is something.

    Terms: bce, dice (of the mask), iou (predicted IoU), presence, ground (heat map), choose (the
    right one of several of a noun, by the heat map).
    """

    pairs: int = 1  # sentences per frame
    # Share of them that refer to nothing in the frame; what these teach is presence and ground.
    negatives: float = 0.15
    resolution: str = "logits"  # where masks are compared: "logits" (S / 4) or "source"


@dataclass
class GroundTask(Task):
    """As `FindTask` without the mask decoder.

    Terms: ground, choose, presence, box (of the target).
    """

    pairs: int = 4
    negatives: float = 0.15  # as in `FindTask`


@dataclass
class NounTask(Task):
    """Image tokens are classified with the word embeddings of nouns. Terms: noun, background."""


@dataclass
class WordTask(Task):
    """Nouns are found all over the picture by the word map, which needs no sentence. Terms: dense
    (BCE), dice (of the nouns shown), which (one noun is chosen inside each mask)."""


@dataclass
class BoxTask(Task):
    """Objects from a jittered box or a coarse heat map. Terms: bce, dice, iou, presence."""

    objects: int = 4  # per frame, at most


@dataclass
class AlignTask(Task):
    """Regions and sentences of a frame find each other. Terms: within (the frame), across (the
    frames on a device), noun (a classifier on region embeddings)."""

    pairs: int = 4  # sentences per frame, at most


@dataclass
class TrackTask(Task):
    """A clip; masks are carried on from the first frame. Terms: bce, dice, iou, presence."""

    frames: list[int] = field(default_factory=lambda: [4, 6, 8])  # lengths, one after the other
    objects: int = 3  # per clip, at most
    strides: list[int] = field(default_factory=lambda: [1, 1, 2, 3])  # drawn from


@dataclass
class Lora:
    """Low-rank adapters on the linear layers whose names `targets`, a regular expression, fits."""

    targets: str = r"finder\.beit3\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj\.(A|B)"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0


@dataclass
class Optimizer:
    """AdamW and its schedule; fractions are of all steps."""

    lr: float = 5e-6
    slow: dict[str, float] = field(default_factory=dict)  # beginnings of names -> factor of `lr`
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.01
    warmup: int = 0  # steps
    hold: float = 1.0  # constant until there, then a cosine; 1 never decays
    final: float = 0.0  # fraction of `lr` at the end of the cosine
    clip: float = 1.0  # largest norm of the gradient


@dataclass
class Validation:
    """`segment` and J&F on some videos of a benchmark, as `eval.benchmark` does it."""

    name: str = "ref-sprites"
    root: str = "eval/data/ref_sprites"
    split: str = "valid"
    options: dict[str, Any] = field(default_factory=dict)
    videos: int | None = 8  # spread over the split; None takes all
    key_frames: int | None = None  # K; None is the model's
    seen: bool = False  # train on its videos, too, where it is a split that is trained on


@dataclass
class Config:
    """One run of `training.finetune`."""

    model: str = DEFAULT  # checkpoint to start from: folder, Hub id or short name
    out: str = "runs/finetune"
    seed: int = 0
    # Part of the model -> checkpoint it comes from instead, "CHECKPOINT" or "CHECKPOINT:PART".
    parts: dict[str, str] = field(default_factory=dict)
    train: list[str] = field(default_factory=list)  # names or beginnings of names of parameters
    lora: Lora | None = None
    new_words: bool = False  # give the tokenizers the words of the data that they lack

    benchmarks: list[BenchmarkData] = field(default_factory=list)  # one or more, or
    scenes: SceneData | None = None
    photos: PhotoData | None = None
    augment: Augment = field(default_factory=Augment)
    embedding_cache: str | None = None  # folder for the embeddings of a frozen vision encoder
    embedding_cache_gigabytes: float = 200.0  # it grows to; other frames are encoded every time
    workers: int = 2  # data loading processes per training process and task

    find: FindTask | None = None
    ground: GroundTask | None = None
    nouns: NounTask | None = None
    words: WordTask | None = None
    boxes: BoxTask | None = None
    align: AlignTask | None = None
    track: TrackTask | None = None

    epochs: float | None = None
    steps: int | None = None  # instead of epochs
    batch_size: int = 8  # frames (or clips) per step, all processes together
    device_batch_size: int = 8  # of them at once on one device; what fits its memory
    optimizer: Optimizer = field(default_factory=Optimizer)
    ema: float = 0.0  # decay of the averaged weights that checkpoints hold; 0 = no averaging
    precision: str | None = None  # "no", "bf16", "fp16"; None leaves it to `accelerate launch`
    gradient_checkpointing: bool = False
    attention: str = "sdpa"  # or "eager", which is faster backwards on a CPU
    save_dtype: str | None = None  # of checkpoints; None keeps that of `model`

    checkpoint_every: int | None = None  # steps; None is once per epoch
    keep: int = 2  # newest checkpoints kept, beside the best
    heldout: int = 0  # batches of unseen scenes on which each task is measured
    validation: Validation | None = None
    validate_every: int | None = None  # multiple of checkpoint_every; None is at each checkpoint
    trackers: list[str] = field(default_factory=list)  # of Accelerate: tensorboard, trackio, ...
    log_every: int = 10  # steps

    @property
    def start(self) -> str:
        """Folder or Hub id of `model`."""
        return checkpoint(self.model)

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks that are on, by name."""
        return {name: task for name in TASKS if (task := getattr(self, name)) is not None}


TASKS = ("find", "ground", "nouns", "words", "boxes", "align", "track")
_TERMS = {
    "find": {"bce", "dice", "iou", "presence", "ground", "choose"},
    "ground": {"ground", "choose", "presence", "box"},
    "nouns": {"noun", "background"},
    "words": {"dense", "dice", "which"},
    "boxes": {"bce", "dice", "iou", "presence"},
    "align": {"within", "across", "noun"},
    "track": {"bce", "dice", "iou", "presence"},
}
_CHOICES = {
    "precision": (None, "no", "bf16", "fp16"),
    "attention": ("sdpa", "eager"),
    "save_dtype": (None, "float32", "bfloat16", "float16"),
}
# Key -> smallest and largest value; of what is off or null nothing is asked.
_RANGES = {
    **dict.fromkeys(("batch_size", "device_batch_size", "keep", "log_every"), (1, math.inf)),
    **dict.fromkeys(("steps", "checkpoint_every", "validate_every"), (1, math.inf)),
    **dict.fromkeys(("workers", "heldout"), (0, math.inf)),
    **dict.fromkeys(("scenes.warp", "scenes.crossing", "augment.flip", "augment.colour"), (0, 1)),
    **dict.fromkeys(("find.negatives", "ground.negatives", "lora.dropout"), (0, 1)),
    **dict.fromkeys(("find.pairs", "ground.pairs", "align.pairs", "lora.rank"), (1, math.inf)),
    **dict.fromkeys(("boxes.objects", "track.objects"), (1, math.inf)),
    **dict.fromkeys(("validation.videos", "validation.key_frames"), (1, math.inf)),
    **dict.fromkeys(("scenes.steps_per_epoch", "photos.steps_per_epoch"), (1, math.inf)),
    **dict.fromkeys(("photos.mosaic", "photos.pasted", "photos.twins", "photos.named"), (0, 1)),
    **dict.fromkeys(("photos.side",), (32, math.inf)),
    **dict.fromkeys(("optimizer.warmup", "optimizer.weight_decay"), (0, math.inf)),
    **dict.fromkeys(("optimizer.hold", "optimizer.final"), (0, 1)),
}
_POSITIVE = (
    "epochs", "optimizer.lr", "optimizer.clip", "augment.crop", "embedding_cache_gigabytes",
)  # fmt: skip


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and `key=value` overrides, which may be dotted: `optimizer.lr=1e-4`.

    `find.weights={bce: 1}` replaces all weights, `find.weights.bce=1` changes one, and
    `validation.videos=3` switches on what was off.

    Raises:
        ValueError: The file or an override says something that does not exist or cannot be.
        OSError: The file cannot be read.
    """
    try:
        # Structured, so that every key is known and of its type.
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        for override in overrides:
            merged = _overridden(merged, override)
        config: Config = OmegaConf.to_object(merged)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}{_yaml_reason(error)}") from error
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"{path}: {_reason(error)}") from error
    if config.precision == "False":
        config.precision = "no"  # which YAML reads as a truth value
    check(config, str(path))
    return config


def _overridden(config: DictConfig, override: str) -> DictConfig:
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"{override!r} is not KEY=VALUE")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{override!r} is not YAML{_yaml_reason(error)}") from error
    # Not resolved: what is about to be replaced need not make sense.
    old = OmegaConf.select(config, key, throw_on_resolution_failure=False)
    if isinstance(value, dict) and isinstance(old, DictConfig) and OmegaConf.get_type(old) is dict:
        old.clear()
    above = key.rpartition(".")[0]
    known = above and OmegaConf.select(config, above, throw_on_resolution_failure=False) is not None
    try:
        if old is None and not known:  # off so far: only merging makes what the types say
            return OmegaConf.merge(config, OmegaConf.from_dotlist([override]))
        OmegaConf.update(config, key, value)
    except (OmegaConfBaseException, TypeError) as error:
        raise ValueError(f"{override!r}: {_reason(error)}") from error
    return config


def _reason(error: Exception) -> str:
    """What is wrong, in one line, and what would be right if it is a matter of names."""
    key, of = getattr(error, "full_key", None), getattr(error, "object_type", None)
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and is_dataclass(of):
        return f"there is no key {key!r}, only {', '.join(f.name for f in fields(of))}"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{key}: {reason}" if key else reason


def _yaml_reason(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f", line {mark.line + 1}" if mark is not None else ""
    return f"{place}: {problem or str(error).splitlines()[0]}"


def check(config: Config, origin: str = "the configuration") -> None:
    """ValueError unless the parts of a configuration fit together."""

    def need(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(f"{origin}: {message}")

    need(bool(config.tasks), f"no task: give one of {', '.join(TASKS)}")
    need(
        bool(config.benchmarks) + (config.scenes is not None) + (config.photos is not None) == 1,
        "give either benchmarks, scenes or photos to train on",
    )
    for data in [*config.benchmarks, *([config.validation] if config.validation else [])]:
        from eval.benchmarks import BENCHMARKS  # not at the top: it takes a second

        known = ", ".join(BENCHMARKS)
        need(data.name in BENCHMARKS, f"there is no benchmark {data.name!r}, only {known}")
    need((config.epochs is None) != (config.steps is None), "give either epochs or steps")
    for key, (low, high) in _RANGES.items():
        limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        value = _value(config, key)
        need(value is None or low <= value <= high, f"{key} is {value}, it must be {limits}")
    for key in _POSITIVE:
        value = _value(config, key)
        need(value is None or value > 0, f"{key} is {value}, it must be above 0")
    if config.validate_every is not None:
        need(
            config.checkpoint_every is not None
            and config.validate_every % config.checkpoint_every == 0,
            "validate_every must be a multiple of checkpoint_every, which it needs: checkpoints "
            "are validated",
        )
    need(all(f > 0 for f in config.optimizer.slow.values()), "optimizer.slow: factors above 0")
    need(config.augment.crop <= 1, "augment.crop must be at most 1")
    need(0 <= config.ema < 1, "ema must be at least 0 and below 1")
    need(bool(config.train) or config.lora is not None, "nothing to train: fill in `train`")
    if config.lora is not None:
        try:
            re.compile(config.lora.targets)
        except re.error as error:
            need(False, f"lora.targets is no regular expression: {error}")
    for name, choices in _CHOICES.items():
        value = getattr(config, name)
        listed = ", ".join(str(c) for c in choices if c is not None)
        need(value in choices, f"{name} is {value!r}, not one of {listed}")
    for name, task in config.tasks.items():
        unknown = sorted(set(task.weights) - _TERMS[name])
        known = ", ".join(sorted(_TERMS[name]))
        need(not unknown, f"{name} has no loss {', '.join(unknown)}; it has {known}")
        need(all(w >= 0 for w in task.weights.values()), f"{name}.weights must not be below 0")
        need(any(w > 0 for w in task.weights.values()), f"{name}.weights: give one of {known}")
        need(task.every >= 1, f"{name}.every must be at least 1")
        taught = task.weights.get("presence") or task.weights.get("ground")
        need(
            bool(taught) or not getattr(task, "negatives", 0),
            f"{name}.negatives: sentences about nothing teach only presence and ground, which have "
            "no weight here; set it to 0",
        )
    need(
        any(task.every == 1 for task in config.tasks.values()),
        "steps without any task: give one of them every: 1",
    )
    need(
        len(config.optimizer.betas) == 2 and all(0 <= b < 1 for b in config.optimizer.betas),
        "optimizer.betas: give two numbers, at least 0 and below 1",
    )
    if config.find is not None:
        need(
            config.find.resolution in ("logits", "source"),
            f"find.resolution is {config.find.resolution!r}, not one of logits, source",
        )
    if config.track is not None:
        need(
            bool(config.track.frames) and min(config.track.frames) >= 2,
            "track.frames: a clip needs at least 2 frames",
        )
        need(
            bool(config.track.strides) and min(config.track.strides) >= 1,
            "track.strides: give steps of at least 1 frame",
        )
    only_scenes = [name for name in ("nouns", "boxes") if getattr(config, name) is not None]
    need(
        config.words is None or config.photos is not None,
        "words: only photos say which nouns are absent",
    )
    if config.scenes is None and config.photos is None:
        need(not only_scenes, f"{', '.join(only_scenes)}: only scenes can teach that")
        need(config.heldout == 0, "heldout: only scenes and photos have unseen samples")
        named = config.align is not None and config.align.weights.get("noun")
        need(not named, "align.weights.noun: only scenes name their objects")
    if config.scenes is not None:
        need(0 <= config.scenes.textured < 1, "scenes.textured must be at least 0 and below 1")
    augmented = config.augment.flip or config.augment.colour or config.augment.crop < 1
    if config.embedding_cache is not None:
        need(not augmented, "embedding_cache keeps frames as they are: switch augment off")
        need(config.scenes is None, "embedding_cache: scenes are never seen twice")


def _value(config: Config, key: str) -> Any:
    """The value at a dotted key; None where something on the way is off."""
    value: Any = config
    for name in key.split("."):
        value = None if value is None else getattr(value, name)
    return value
