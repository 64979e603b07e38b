"""`findtrack-small` in small and with random weights."""

import importlib.util

import pytest
import torch

from modeling_findtrack import FindTrackModel, FindTrackProcessor
from modeling_findtrack.configuration_findtrack import FindTrackConfig
from modeling_findtrack.efficientnet_lite import LITE0, widths
from training import small_model
from training.lite_weights import PACKAGE
from training.tiny_model import initialise

SIZE, TRACKER_SIZE = 96, 64
# EfficientNet-Lite0 with a quarter of its channels: as many blocks, of the same kinds.
STAGES = [[*stage[:3], min(stage[3], 2), stage[4] // 4] for stage in LITE0]
needs_imagenet = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed"
)


def config(vocab_size: int) -> FindTrackConfig:
    """`small_config` on a narrow backbone, with a small tracker and one layer of BEiT-3."""
    config = small_model.small_config(vocab_size)
    config.efficientnet_lite = STAGES
    config.finder_config.beit3_config.num_hidden_layers = 1
    tracker, side = config.tracker_config, TRACKER_SIZE // 4
    tracker.image_size = tracker.prompt_encoder_config.image_size = TRACKER_SIZE
    tracker.memory_attention_rope_feat_sizes = [side // 4, side // 4]
    tracker.vision_config.backbone_feature_sizes = [[side // n, side // n] for n in (1, 2, 4)]
    for vision in (tracker.vision_config, config.finder_config.sam_config.vision_config):
        vision.backbone_channel_list = widths(STAGES)[::-1]
    return config


def small(seed: int = 2) -> tuple[FindTrackModel, FindTrackProcessor]:
    """A model that finds and tracks something everywhere, and its processor.

    Masks depend on frame, expression and key mask (`test_word_map.py` asserts it).
    """
    torch.manual_seed(seed)
    processor = small_model.build_processor()
    processor.tracker_size = TRACKER_SIZE
    model = FindTrackModel(config(len(processor.tokenizer)))
    initialise(model)
    with torch.no_grad():
        sam2 = model.tracker.sam2
        sam2.mask_decoder.pred_obj_score_head.proj_out.bias += 5  # present on every frame
        for sam in (model.finder.sam, sam2):
            matrix = sam.shared_image_embedding.positional_embedding
            sam.prompt_encoder.shared_embedding.positional_embedding.copy_(matrix)
        model.finder.word_map.scale.fill_(0.1)
        model.finder.text_projection[-1].weight *= 12  # the text counts
    model.config.presence_threshold = None
    return small_model.at_size(model, processor, SIZE)
