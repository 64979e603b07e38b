"""Names and shapes of the full-size official checkpoints against our modules."""

import json

import pytest
import torch
from transformers import CLIPConfig, Sam2VideoConfig, Sam2VideoModel

from modeling_findtrack import convert
from modeling_findtrack.alpha_clip import AlphaCLIPModel
from modeling_findtrack.configuration_findtrack import FinderConfig
from modeling_findtrack.finder import EvfFinder

VIT_H = {
    "model_type": "sam",
    "vision_config": {
        "hidden_size": 1280,
        "mlp_dim": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
    },
}
HIERA_L = {
    "model_type": "sam2_vision_model",
    "backbone_channel_list": [1152, 576, 288, 144],
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 144,
        "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "blocks_per_stage": [2, 6, 36, 4],
        "window_size_per_stage": [8, 4, 16, 8],
        "global_attention_blocks": [23, 33, 43],
        "window_positional_embedding_background_size": [7, 7],
    },
}
CLIP_L = {
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    },
    "projection_dim": 768,
}


@pytest.fixture
def official(golden_dir):
    """Reads one list of names as tensors without data."""

    def read(name: str) -> dict[str, torch.Tensor]:
        shapes = json.loads((golden_dir("keys") / f"keys_{name}.json").read_text())
        return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}

    return read


def assert_fills(tensors: dict, module: torch.nn.Module):
    """Every parameter gets a tensor of its shape, no tensor is left."""
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in tensors.items()} == expected


def test_golden_keys_of_evf_sam(official):
    with torch.device("meta"):
        finder = EvfFinder(FinderConfig(sam_config=VIT_H))
    assert_fills(convert.evf_keys(official("evfsam")), finder)


def test_golden_keys_of_evf_sam2(official):
    with torch.device("meta"):
        finder = EvfFinder(
            FinderConfig(sam_config={"model_type": "sam2", "vision_config": HIERA_L})
        )
    # BEiT-3 and the projection are those of EVF-SAM, under the same names.
    tensors = {k: v for k, v in official("evfsam").items() if not k.startswith("visual_model.")}
    tensors |= official("evfsam2_visual")
    assert_fills(convert.evf_keys(tensors), finder)


def test_golden_keys_of_sam2(official):
    config = Sam2VideoConfig(
        vision_config=HIERA_L,
        enable_occlusion_spatial_embedding=False,
        enable_temporal_pos_encoding_for_object_pointers=False,
    )
    with torch.device("meta"):
        model = Sam2VideoModel(config)
    tensors = {k.removeprefix("visual_model."): v for k, v in official("evfsam2_visual").items()}
    assert_fills(convert.sam2_keys(tensors), model)


def test_golden_keys_of_alpha_clip(official):
    with torch.device("meta"):
        model = AlphaCLIPModel(CLIPConfig(**CLIP_L))
    assert_fills(convert.alpha_clip_keys(official("alphaclip")), model)
