"""Configuration of FindTrack and its three components: finder, aligner, tracker."""

import copy

from transformers import AutoConfig, CLIPConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


class Beit3Config(PreTrainedConfig):
    """BEiT-3 multiway encoder; the defaults are BEiT-3 large as EVF-SAM uses it."""

    model_type = "findtrack_beit3"

    vocab_size: int = 64010
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    image_size: int = 224
    patch_size: int = 16
    max_text_positions: int = 1024  # rows of the text position table; the first two are unused
    layer_norm_eps: float = 1e-5
    # Departure, off for the official weights: a small convolutional network instead of one
    # convolution makes the image tokens. Widths of its stages; the last one has stride 16.
    conv_stem_widths: list[int] | None = None
    # Departure, off for the official weights: image tokens are made of the backbone's features, one
    # per `patch_size` pixels. The position table has `image_size`, but is resized to any other.
    tokens_from_backbone: bool = False


class FinderConfig(PreTrainedConfig):
    """EVF-SAM: BEiT-3 reads image and expression, its first token prompts a mask decoder."""

    model_type = "findtrack_finder"
    sub_configs_defaults = {
        "beit3_config": SubConfigSpec(config_class=Beit3Config),
        "sam_config": SubConfigSpec(config_class=AutoConfig, model_type="sam2"),
    }

    beit3_config: dict | PreTrainedConfig | None = None
    # "sam2" (EVF-SAM2) or "sam" (EVF-SAM): decided by the type of this sub-config.
    sam_config: dict | PreTrainedConfig | None = None
    multimask_output: bool = True  # EVF-SAM2: best of three by predicted IoU; EVF-SAM: one mask
    # Departures, off for the official weights.
    grounding_prompt: bool = False  # a heat map over the image tokens prompts the decoder as well
    presence_head: bool = False  # presence from BEiT-3's first token, not from the mask decoder
    # The finder reads the tracker's backbone, through a pyramid of its own. Words are compared with
    # its features, and what they say is part of the heat map and of the mask. Needs
    # `grounding_prompt`, `presence_head` and `tokens_from_backbone`.
    word_map: bool = False


# The `model` section of Cutie's base configuration (github.com/hkchengrex/Cutie, config/model).
CUTIE_BASE = {
    "pixel_mean": [0.485, 0.456, 0.406],
    "pixel_std": [0.229, 0.224, 0.225],
    "pixel_dim": 256,
    "key_dim": 64,
    "value_dim": 256,
    "sensory_dim": 256,
    "embed_dim": 256,
    "pixel_encoder": {"type": "resnet50", "ms_dims": [1024, 512, 256]},
    "mask_encoder": {"type": "resnet18", "final_dim": 256},
    "pixel_pe_scale": 32,
    "pixel_pe_temperature": 128,
    "object_transformer": {
        "embed_dim": 256,
        "ff_dim": 2048,
        "num_heads": 8,
        "num_blocks": 3,
        "num_queries": 16,
        "read_from_pixel": {
            "input_norm": False,
            "input_add_pe": False,
            "add_pe_to_qkv": [True, True, False],
        },
        "read_from_past": {"add_pe_to_qkv": [True, True, False]},
        "read_from_memory": {"add_pe_to_qkv": [True, True, False]},
        "read_from_query": {"add_pe_to_qkv": [True, True, False], "output_norm": False},
        "query_self_attention": {"add_pe_to_qkv": [True, True, False]},
        "pixel_self_attention": {"add_pe_to_qkv": [True, True, False]},
    },
    "object_summarizer": {"embed_dim": 256, "num_summaries": 16, "add_pe": True},
    "aux_loss": {
        "sensory": {"enabled": True, "weight": 0.01},
        "query": {"enabled": True, "weight": 0.01},
    },
    "mask_decoder": {"up_dims": [256, 128, 128]},
}
CUTIE_LONG_TERM = {
    "count_usage": True,
    "max_mem_frames": 10,  # memory frames, the key frame among them, before they are condensed
    "min_mem_frames": 5,  # of these, what stays as it is
    "num_prototypes": 128,  # tokens that the others become
    "max_num_tokens": 10000,
    "buffer_tokens": 2000,  # room made at once when that is reached
}
# FindTrack's three configurations, by benchmark: `CutieConfig(**CUTIE_SETTINGS["mevis"])`.
CUTIE_SETTINGS = {
    "ref-youtube-vos": {
        "mem_every": 1, "use_long_term": False, "max_mem_frames": 10, "flip_aug": True,
    },
    "mevis": {"mem_every": 3, "use_long_term": True, "max_mem_frames": 10, "flip_aug": True},
    "davis": {"mem_every": 3, "use_long_term": False, "max_mem_frames": 10, "flip_aug": True},
}  # fmt: skip


class CutieConfig(PreTrainedConfig):
    """Cutie as FindTrack runs it: the network and how it is used.

    The defaults are Cutie base and FindTrack's configuration for Ref-YouTube-VOS. What is read
    while tracking may be changed on a loaded model, `network` may not.

    Raises:
        ValueError: A setting that does not exist or makes no sense.
    """

    model_type = "findtrack_cutie"

    network: dict | None = None  # entries that differ from `CUTIE_BASE`

    mem_every: int = 1  # frames from one memory to the next
    use_long_term: bool = False  # condense old memories instead of dropping them
    max_mem_frames: int = 10  # the key frame among them; without long-term memory
    long_term: dict | None = None  # entries that differ from `CUTIE_LONG_TERM`
    flip_aug: bool = True  # average with the mirrored frame; doubles the work, memory included
    top_k: int = 30  # memory tokens that a pixel reads
    stagger_updates: int = 5  # updates of the sensory memory between two memories, at most
    chunk_size: int = -1  # objects decoded at once; of no use, each lane has one
    max_internal_size: int = 600  # short side of the frames: always resized to it, up as well
    # Subtract the maximum before the softmax over the memory. Without, as in the paper's code, a
    # frame unlike all memories gives 0 / 0: an empty mask.
    stable_softmax: bool = True
    # Whether a lane's last frame is remembered, as in the paper's code. Nothing reads it.
    memorise_last_frame: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.network = _completed("network", self.network, CUTIE_BASE)
        self.long_term = _completed("long_term", self.long_term, CUTIE_LONG_TERM)
        for name in ("mem_every", "max_mem_frames", "top_k", "stagger_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_internal_size < 16:
            raise ValueError(f"max_internal_size must be 16 or more, not {self.max_internal_size}")


def _completed(name: str, given: dict | None, defaults: dict) -> dict:
    """`defaults` with the entries of `given`, which must be among them."""
    unknown = sorted(set(given or {}) - set(defaults))
    if unknown:
        raise ValueError(f"{name} has no {', '.join(unknown)}; it has {', '.join(defaults)}")
    return {**copy.deepcopy(defaults), **(given or {})}


class FindTrackConfig(PreTrainedConfig):
    """The whole model and the rules by which key frames are sampled, scored and accepted.

    Example:
        >>> config = FindTrackConfig(num_key_frames=10)  # MeViS: longer videos, more samples
    """

    model_type = "findtrack"
    sub_configs_defaults = {
        "finder_config": SubConfigSpec(config_class=FinderConfig),
        "aligner_config": SubConfigSpec(config_class=CLIPConfig),
        "tracker_config": SubConfigSpec(config_class=AutoConfig, model_type="sam2_video"),
    }

    finder_config: dict | PreTrainedConfig | None = None
    aligner_config: dict | PreTrainedConfig | None = None
    # "sam2_video" (SAM 2) or "findtrack_cutie" (Cutie): decided by the type of this sub-config.
    tracker_config: dict | PreTrainedConfig | None = None

    # Parts
    aligner: str = "alpha_clip"  # or "none": rank key frames by predicted IoU alone
    share_vision_encoder: bool = False  # the finder reads the tracker's image features
    # Departure, off for the official weights: widths of the four stages of a convolutional
    # backbone that stands in for Hiera in the tracker (and, if shared, the finder).
    conv_backbone_widths: list[int] | None = None
    # Likewise, an EfficientNet-Lite: rows of repeats, kernel, stride, expansion, channels.
    efficientnet_lite: list[list[int]] | None = None

    # Finding
    num_key_frames: int = 5  # K, frames sampled uniformly; 10 for MeViS
    iou_weight: float = 0.5  # score = iou_weight * predicted IoU + alignment_weight * cosine
    alignment_weight: float = 0.5
    score_threshold: float | None = None  # below: not a candidate; None accepts every score
    presence_threshold: float | None = 0.5  # of the presence probability, where it is predicted
    accept_empty_masks: bool = False  # the official code lets an empty key-frame mask win

    # Tracking
    # The official code answers with the key frame's mask as the tracker resized it, there and back.
    resample_key_masks: bool = False

    # Work done at once
    finder_batch_size: int = 16  # (frame, expression) pairs per decoder call
    feature_cache_bytes: int = 512 * 2**20  # image features are kept while all of them fit

    def __post_init__(self, **kwargs):
        # Here, because where this file is remote code `AutoConfig` does not know the type.
        tracker = self.tracker_config
        if isinstance(tracker, dict) and tracker.get("model_type") == CutieConfig.model_type:
            self.tracker_config = CutieConfig(**tracker)
        super().__post_init__(**kwargs)
        if self.tracker_config.model_type == CutieConfig.model_type and (
            self.share_vision_encoder or self.conv_backbone_widths or self.efficientnet_lite
        ):
            raise ValueError(
                "share_vision_encoder, conv_backbone_widths and efficientnet_lite are of a SAM 2 "
                "tracker: Cutie's image encoder can neither be shared nor replaced"
            )
        if self.conv_backbone_widths and self.efficientnet_lite:
            raise ValueError("conv_backbone_widths and efficientnet_lite: choose one backbone")
        finder = self.finder_config
        if finder.word_map and not (
            self.share_vision_encoder
            and finder.grounding_prompt
            and finder.presence_head
            and finder.beit3_config.tokens_from_backbone
        ):
            raise ValueError(
                "word_map needs share_vision_encoder, grounding_prompt, presence_head and "
                "tokens_from_backbone"
            )
        if self.aligner not in ("alpha_clip", "none"):
            raise ValueError(f"aligner must be 'alpha_clip' or 'none', not {self.aligner!r}")
        if self.num_key_frames < 1:
            raise ValueError(f"num_key_frames must be at least 1, not {self.num_key_frames}")
