"""Small random models for tests, in the shape of `findtrack-tiny` or of the full-size presets."""

import numpy as np
import torch
from transformers import Sam2Config, SamConfig

from modeling_findtrack import FindTrackModel, FindTrackProcessor
from modeling_findtrack.configuration_findtrack import (
    Beit3Config,
    FinderConfig,
    FindTrackConfig,
)
from training import tiny_model
from training.tiny_model import build_processor

WORDS = ["the", "a", "dog", "cat", "on", "left", "right", "big", "red", "car", "moving"]


def tiny(seed: int = 2, **config) -> tuple[FindTrackModel, FindTrackProcessor]:
    """`findtrack-tiny` with random weights that finds and tracks something everywhere.

    Masks depend on frame, expression and key mask (`test_model.py` asserts it): comparing two that
    are empty, full or always the same would prove nothing.
    """
    torch.manual_seed(seed)
    processor = build_processor(WORDS)
    sizes = len(processor.tokenizer), len(processor.clip_tokenizer)
    model = FindTrackModel(tiny_model.tiny_config(*sizes))
    tiny_model.initialise(model)
    with torch.no_grad():
        sam2 = model.tracker.sam2
        sam2.mask_decoder.pred_obj_score_head.proj_out.bias += 5  # present on every frame
        for layer in sam2.memory_attention.layers:
            layer.cross_attn_image.o_proj.weight *= 12  # memories count
        model.finder.text_projection[-1].weight *= 12  # the text counts
    for name, value in {"presence_threshold": None, **config}.items():
        setattr(model.config, name, value)
    return model.eval(), processor


def beit3_config() -> Beit3Config:
    return Beit3Config(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        max_text_positions=24,
    )


def sam2_finder_config(**kwargs) -> FinderConfig:
    """EVF-SAM2 at 64 pixels, Hiera included."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "image_size": [64, 64],
        "hidden_size": 8,
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "blocks_per_stage": [1, 1, 2, 1],
        "window_size_per_stage": [8, 4, 4, 2],
        "global_attention_blocks": [3],
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 128,
    }
    sam = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": 64},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 32, "num_attention_heads": 2},
    )
    return FinderConfig(beit3_config=beit3_config(), sam_config=sam, **kwargs)


def sam_finder_config() -> FinderConfig:
    """EVF-SAM at 64 pixels."""
    sam = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "window_size": 2,
            "global_attn_indexes": [1],
            "mlp_dim": 32,
            "num_pos_feats": 16,
        },
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": 64,
            "image_embedding_size": 4,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    return FinderConfig(beit3_config=beit3_config(), sam_config=sam, multimask_output=False)


def moving_square(frames: int = 9, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """(T, H, W, 3) uint8: a bright square drifts over noise."""
    rng = np.random.default_rng(3)
    video = rng.integers(0, 90, (frames, *size, 3), dtype=np.uint8)
    for t in range(frames):
        video[t, 10:26, 4 + 3 * t : 20 + 3 * t] = (250, 220, 40)
    return video


def preset(kind: str) -> tuple[FindTrackModel, FindTrackProcessor]:
    """The full-size preset "paper" (SAM) or "sam2" in small and with random weights: the finder has
    an image encoder of its own, as both presets before their encoders are compared."""
    torch.manual_seed(4)
    finder = sam_finder_config() if kind == "paper" else sam2_finder_config()
    tokens = build_processor(WORDS)
    config = FindTrackConfig(
        finder_config=finder,
        aligner_config=tiny_model.aligner_config(len(tokens.clip_tokenizer)),
        tracker_config=tiny_model.tracker_config(),
        conv_backbone_widths=tiny_model.BACKBONE_WIDTHS,
    )
    processor = FindTrackProcessor(
        tokens.tokenizer,
        tokens.clip_tokenizer,
        finder_size=64,
        finder_geometry="pad" if kind == "paper" else "squash",
        beit3_size=32,
        beit3_max_tokens=22,
        aligner_size=tiny_model.ALIGNER_SIZE,
        aligner_max_tokens=32,
        tracker_size=tiny_model.IMAGE_SIZE,
    )
    model = FindTrackModel(config)
    tiny_model.initialise(model)
    return model.eval(), processor
