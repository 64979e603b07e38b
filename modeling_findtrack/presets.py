"""The two full-size models: what they are made of, who publishes it, and how they are set."""

from dataclasses import dataclass, field
from typing import Any

MANIFEST = "findtrack_manifest.json"
SETTINGS = ("config.json", "*.yaml")
_ANY_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
BEIT3_TOKENIZER = (*_ANY_TOKENIZER, "*.model", "*.spm")
CLIP_TOKENIZER = (*_ANY_TOKENIZER, "vocab.json", "merges.txt")
# Where a tokenizer does not lie beside its weights: option -> (option of the weights, its files).
TOKENIZERS = {
    "tokenizer": ("evf-sam", BEIT3_TOKENIZER),
    "clip-tokenizer": ("clip", CLIP_TOKENIZER),
}


@dataclass(frozen=True)
class Part:
    """One published checkpoint that a preset needs."""

    option: str  # of `findtrack assemble`, without the dashes
    role: str  # what becomes of it
    default: str  # Hub id, or the https address where its authors publish the file
    licence: str  # of the default
    extras: tuple[str, ...]  # small files wanted beside the weights
    md5: str | None = None  # of the file at an address, where its authors state it


@dataclass(frozen=True)
class Preset:
    """Parts and settings; a setting that is not named has the sound default of its class."""

    parts: tuple[Part, ...]
    finder_type: str  # transformers' name of the finder's SAM
    model: dict[str, Any] = field(default_factory=dict)  # of `FindTrackConfig`
    finder: dict[str, Any] = field(default_factory=dict)  # of `FinderConfig`
    tracker: dict[str, Any] = field(default_factory=dict)  # of `CutieConfig`
    processor: dict[str, Any] = field(default_factory=dict)  # of `FindTrackProcessor`

    def part(self, option: str) -> Part | None:
        """The part that `option` replaces."""
        return next((part for part in self.parts if part.option == option), None)


def _evf_sam(default: str) -> Part:
    return Part("evf-sam", "finder", default, "Apache-2.0", (*SETTINGS, *BEIT3_TOKENIZER))


ALPHA_CLIP = Part(
    "alpha-clip",
    "aligner, image tower",
    "https://download.openxlab.org.cn/models/SunzeY/AlphaCLIP/weight/clip_l14_336_grit_20m_4xe.pth",
    "research use only",
    SETTINGS,
)
CLIP = Part(
    "clip",
    "aligner, text tower",
    "openai/clip-vit-large-patch14-336",
    "MIT",
    (*SETTINGS, *CLIP_TOKENIZER),
)
CUTIE = Part(
    "cutie",
    "tracker",
    "https://github.com/hkchengrex/Cutie/releases/download/v1.0/cutie-base-mega.pth",
    "MIT",
    SETTINGS,
    md5="a6071de6136982e396851903ab4c083a",
)

PRESETS = {
    "sam2": Preset(
        parts=(
            _evf_sam("YxZhang/evf-sam2-multitask"),
            ALPHA_CLIP,
            CLIP,
            Part("sam2", "tracker", "facebook/sam2-hiera-large", "Apache-2.0", SETTINGS),
        ),
        finder_type="sam2",
        finder={"multimask_output": True},
        processor={"finder_geometry": "squash"},
    ),
    # The published method, quirks included: each of these departs from what is sound.
    "paper": Preset(
        parts=(
            _evf_sam("YxZhang/evf-sam-multitask"),
            ALPHA_CLIP,
            CLIP,
            CUTIE,
        ),
        finder_type="sam",
        model={
            "presence_threshold": None,
            "accept_empty_masks": True,
            "resample_key_masks": True,
        },
        finder={"multimask_output": False},
        tracker={"stable_softmax": False, "memorise_last_frame": True},
        processor={
            "finder_geometry": "pad",
            "alpha_geometry": "official",
            "beit3_antialias": True,
            "lowercase": False,
            "tracker_geometry": "short_side",
        },
    ),
}
