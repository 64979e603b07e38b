"""Propagation of one mask, both ways, against the official code."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import Sam2VideoConfig

from modeling_findtrack.convert import sam2_keys
from modeling_findtrack.tracker_sam2 import Sam2Tracker

# Rounding costs 6e-6 here, the wrong pointer token on the key frame 4e-5 and more.
TOLERANCE = {"atol": 2e-5, "rtol": 0}


def tracker_config(dims: dict, weights: dict) -> Sam2VideoConfig:
    """A SAM 2.0 from the dimensions and weights of the golden set."""
    size, width, hiera = dims["image_size"], dims["d_model"], dims["hiera"]
    dim, heads, stages = hiera["embed_dim"], hiera["num_heads"], len(hiera["stages"])
    backbone = dict(
        model_type="sam2_hiera_det_model",
        image_size=[size, size],
        hidden_size=dim,
        embed_dim_per_stage=[dim * 2**i for i in range(stages)],
        num_attention_heads_per_stage=[heads * 2**i for i in range(stages)],
        blocks_per_stage=hiera["stages"],
        global_attention_blocks=hiera["global_att_blocks"],
        window_size_per_stage=hiera["window_spec"],
        window_positional_embedding_background_size=hiera["window_pos_embed_bkg_spatial_size"],
    )
    vision = dict(
        model_type="sam2_vision_model",
        backbone_config=backbone,
        backbone_channel_list=dims["backbone_channel_list"],
        backbone_feature_sizes=[[size // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=width,
        fpn_top_down_levels=dims["fpn_top_down_levels"],
    )
    return Sam2VideoConfig(
        vision_config=vision,
        image_size=size,
        num_maskmem=len(weights["maskmem_tpos_enc"]),
        prompt_encoder_config=dict(hidden_size=width, image_size=size),
        mask_decoder_config=dict(hidden_size=width),
        memory_attention_hidden_size=width,
        memory_attention_num_layers=dims["memory_attention_layers"],
        memory_attention_feed_forward_hidden_size=dims["memory_attention_ffn"],
        memory_attention_rope_feat_sizes=[size // 16] * 2,
        memory_encoder_hidden_size=width,
        memory_encoder_output_channels=dims["memory_dim"],
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=len(weights["memory_encoder.fuser.layers.0.pwconv1.bias"]),
        memory_fuser_num_layers=dims["fuser_layers"],
        enable_occlusion_spatial_embedding=False,
        enable_temporal_pos_encoding_for_object_pointers=False,
    )


@pytest.fixture(scope="module")
def golden(golden_dir):
    """(tracker, inputs and outputs, key frame)."""
    folder = golden_dir("sam2_tiny")
    dims = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    weights = {k.removeprefix("visual_model."): v for k, v in weights.items()}
    tracker = Sam2Tracker(tracker_config(dims, weights)).eval()
    tracker.sam2.load_state_dict(sam2_keys(weights))
    return tracker, io, dims["key_frame"]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@torch.no_grad()
def test_golden_propagation(golden, direction):
    tracker, io, key = golden
    num_frames, expected = len(io["pixel_values"]), io[f"propagate_{direction}"]
    frames = range(key, num_frames) if direction == "forward" else range(key, -1, -1)
    features = tracker.encode(io["pixel_values"])
    lanes, output = tracker.start(features.select(key), io["mask"], num_frames)
    seen = [output.mask_logits]
    for t in frames[1:]:
        seen.append(tracker.step(features.select(t), lanes).mask_logits)
    torch.testing.assert_close(torch.cat(seen), expected, **TOLERANCE)


@torch.no_grad()
def test_golden_both_directions_in_one_batch(golden):
    tracker, io, key = golden
    num_frames = len(io["pixel_values"])
    features = tracker.encode(io["pixel_values"])
    lanes, _ = tracker.start(features.select(key), io["mask"], num_frames)
    lanes = [lanes[0], lanes[0].copy()]
    for distance in range(1, min(key, num_frames - 1 - key) + 1):
        frames = features.select([key + distance, key - distance])
        output = tracker.step(frames, lanes)
        for row, name in enumerate(("propagate_forward", "propagate_backward")):
            torch.testing.assert_close(output.mask_logits[row], io[name][distance], **TOLERANCE)
