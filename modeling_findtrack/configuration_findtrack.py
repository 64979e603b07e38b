"""Configuration of FindTrack and its three components: finder, aligner, tracker."""

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
    tracker_config: dict | PreTrainedConfig | None = None

    # Parts
    aligner: str = "alpha_clip"  # or "none": rank key frames by predicted IoU alone
    share_vision_encoder: bool = False  # the finder reads the tracker's image features
    # Departure, off for the official weights: widths of the four stages of a convolutional
    # backbone that stands in for Hiera in the tracker (and, if shared, the finder).
    conv_backbone_widths: list[int] | None = None

    # Finding
    num_key_frames: int = 5  # K, frames sampled uniformly; 10 for MeViS
    iou_weight: float = 0.5  # score = iou_weight * predicted IoU + alignment_weight * cosine
    alignment_weight: float = 0.5
    score_threshold: float | None = None  # below: not a candidate; None accepts every score
    presence_threshold: float | None = 0.5  # of the presence probability, where it is predicted
    accept_empty_masks: bool = False  # the official code lets an empty key-frame mask win

    # Work done at once
    finder_batch_size: int = 16  # (frame, expression) pairs per decoder call
    feature_cache_bytes: int = 512 * 2**20  # image features are kept while all of them fit

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.aligner not in ("alpha_clip", "none"):
            raise ValueError(f"aligner must be 'alpha_clip' or 'none', not {self.aligner!r}")
        if self.num_key_frames < 1:
            raise ValueError(f"num_key_frames must be at least 1, not {self.num_key_frames}")
