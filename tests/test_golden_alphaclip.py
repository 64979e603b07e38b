"""Alpha-CLIP against the official code."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import CLIPConfig

from modeling_findtrack.alpha_clip import AlphaCLIPModel
from modeling_findtrack.convert import alpha_clip_keys

TOLERANCE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def golden(golden_dir):
    """(model, inputs and outputs)."""
    folder = golden_dir("alphaclip_tiny")
    dims = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    # The official towers: 64 channels per head in the image tower, MLPs of four times the width.
    text = {
        "vocab_size": dims["vocab_size"],
        "hidden_size": dims["transformer_width"],
        "intermediate_size": 4 * dims["transformer_width"],
        "num_hidden_layers": dims["transformer_layers"],
        "num_attention_heads": dims["transformer_heads"],
        "max_position_embeddings": dims["context_length"],
        "eos_token_id": int(io["tokens"].max()),
        "bos_token_id": int(io["tokens"][0, 0]),
    }
    vision = {
        "hidden_size": dims["vision_width"],
        "intermediate_size": 4 * dims["vision_width"],
        "num_hidden_layers": dims["vision_layers"],
        "num_attention_heads": dims["vision_width"] // 64,
        "image_size": dims["image_resolution"],
        "patch_size": dims["vision_patch_size"],
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=dims["embed_dim"])
    model = AlphaCLIPModel(config).eval()
    model.load_state_dict(alpha_clip_keys(weights))
    return model, io


@torch.no_grad()
def test_golden_image_features(golden):
    model, io = golden
    pixels = torch.cat([io["image"], io["alpha"]], dim=1)
    features = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(features, io["image_features"], **TOLERANCE)
    expected = F.normalize(io["image_features"], dim=-1)
    torch.testing.assert_close(model.encode_image(pixels), expected, **TOLERANCE)


@torch.no_grad()
def test_golden_text_features(golden):
    model, io = golden
    tokens = io["tokens"].long()
    features = model.get_text_features(tokens).pooler_output
    torch.testing.assert_close(features, io["text_features"], **TOLERANCE)
    expected = F.normalize(io["text_features"], dim=-1)
    torch.testing.assert_close(model.encode_text(tokens), expected, **TOLERANCE)


@torch.no_grad()
def test_golden_cosine(golden):
    model, io = golden
    pixels = torch.cat([io["image"], io["alpha"]], dim=1)
    cosine = model.similarity(pixels, io["tokens"].long())
    torch.testing.assert_close(cosine, io["cosine"], **TOLERANCE)
