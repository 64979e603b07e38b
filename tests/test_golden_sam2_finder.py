"""The finder on a SAM 2 decoder against the official code."""

import json

import pytest
import torch
from safetensors.torch import load_file

from modeling_findtrack.configuration_findtrack import FinderConfig
from modeling_findtrack.convert import sam2_image_keys
from modeling_findtrack.finder import EvfFinder, FinderImages
from modeling_findtrack.processing_findtrack import FindTrackProcessor

TOLERANCE = {"atol": 1e-4, "rtol": 0}
BEIT3 = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def sam2_config(dims: dict) -> dict:
    """SAM 2's sub-config from the dimensions of the golden set."""
    size, width, hiera = dims["image_size"], dims["d_model"], dims["hiera"]
    dim, heads, stages = hiera["embed_dim"], hiera["num_heads"], len(hiera["stages"])
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "image_size": [size, size],
        "hidden_size": dim,
        "embed_dim_per_stage": [dim * 2**i for i in range(stages)],
        "num_attention_heads_per_stage": [heads * 2**i for i in range(stages)],
        "blocks_per_stage": hiera["stages"],
        "global_attention_blocks": hiera["global_att_blocks"],
        "window_size_per_stage": hiera["window_spec"],
        "window_positional_embedding_background_size": hiera["window_pos_embed_bkg_spatial_size"],
    }
    return {
        "model_type": "sam2",
        "vision_config": {
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": dims["backbone_channel_list"],
            "backbone_feature_sizes": [[size // s] * 2 for s in (4, 8, 16)],
            "fpn_hidden_size": width,
            "fpn_top_down_levels": dims["fpn_top_down_levels"],
        },
        "prompt_encoder_config": {"hidden_size": width, "image_size": size},
        "mask_decoder_config": {"hidden_size": width},  # the rest is fixed in the official code
    }


@pytest.fixture(scope="module")
def golden(golden_dir):
    """(finder, inputs and outputs, dimensions)."""
    folder = golden_dir("sam2_tiny")
    dims = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    finder = EvfFinder(FinderConfig(sam_config=sam2_config(dims), beit3_config=BEIT3)).eval()
    weights = {k.removeprefix("visual_model."): v for k, v in weights.items()}
    finder.sam.load_state_dict(sam2_image_keys(weights))
    return finder, io, dims


@pytest.fixture(scope="module")
def images(golden):
    """Frame 0, once per text."""
    finder, io, _ = golden
    with torch.no_grad():
        levels = finder.encode(io["pixel_values"][:1])
        size = finder.config.beit3_config.image_size
        frame = finder.prepare(levels, torch.zeros(1, 3, size, size))
    return frame.select(torch.zeros(len(io["text_embeds"]), dtype=torch.long))


def decode(finder, io, images: FinderImages, multimask: bool):
    finder.config.multimask_output = multimask
    with torch.no_grad():
        return finder.decode(images, io["text_embeds"][:, None], finder._dense(images, None))


def test_golden_fpn_levels(golden, images):
    finder, io, _ = golden
    s16 = images.embeddings[:1] - finder.sam.no_memory_embedding.reshape(1, -1, 1, 1)
    torch.testing.assert_close(s16, io["fpn_s16"], **TOLERANCE)
    for level, name in zip(images.high_resolution, ("fpn_s4", "fpn_s8"), strict=True):
        torch.testing.assert_close(level[:1], io[name], **TOLERANCE)


def test_golden_best_of_three_masks(golden, images):
    finder, io, _ = golden
    masks, iou, presence = decode(finder, io, images, multimask=True)
    torch.testing.assert_close(masks, io["best_low_res_mask"][:, 0], **TOLERANCE)
    torch.testing.assert_close(iou, io["iou_multi"].max(1).values, **TOLERANCE)
    torch.testing.assert_close(presence, io["object_score"][:, 0], **TOLERANCE)


def test_golden_single_mask_with_stability_fallback(golden, images):
    finder, io, _ = golden
    masks, iou, _ = decode(finder, io, images, multimask=False)
    torch.testing.assert_close(masks, io["low_res_masks_single"][:, 0], **TOLERANCE)
    torch.testing.assert_close(iou, io["iou_single"][:, 0], **TOLERANCE)


@torch.no_grad()
def test_golden_three_masks(golden, images):
    finder, io, _ = golden
    masks, iou, _, _ = finder.sam.mask_decoder(
        image_embeddings=images.embeddings,
        image_positional_embeddings=finder.sam.get_image_wide_positional_embeddings().expand(
            len(images.embeddings), -1, -1, -1
        ),
        sparse_prompt_embeddings=io["text_embeds"][:, None],
        dense_prompt_embeddings=finder._dense(images, None),
        multimask_output=True,
        high_resolution_features=list(images.high_resolution),
    )
    torch.testing.assert_close(masks[:, 0], io["low_res_masks_multi"], **TOLERANCE)
    torch.testing.assert_close(iou[:, 0], io["iou_multi"], **TOLERANCE)


def test_golden_resized_mask(golden, tokenizers):
    _, io, dims = golden
    processor = FindTrackProcessor(*tokenizers, finder_size=dims["image_size"])
    (expected,) = (value for key, value in io.items() if key.startswith("best_mask_"))
    masks = processor.masks_to_source(io["best_low_res_mask"], tuple(expected.shape[-2:]))
    torch.testing.assert_close(masks, expected, **TOLERANCE)
