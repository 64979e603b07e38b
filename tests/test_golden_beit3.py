"""BEiT-3 and EVF-SAM's projection against the official code."""

import json

import pytest
import torch
from safetensors.torch import load_file

from modeling_findtrack.configuration_findtrack import FinderConfig
from modeling_findtrack.convert import evf_keys
from modeling_findtrack.finder import EvfFinder

TOLERANCE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def golden(golden_dir):
    """(finder with the golden BEiT-3, inputs and outputs)."""
    folder = golden_dir("beit3_tiny")
    dims = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    prompt = dims["io"]["text_feat"][1][-1]
    sam = {
        "model_type": "sam",
        "vision_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        "prompt_encoder_config": {"hidden_size": prompt},
        "mask_decoder_config": {"hidden_size": prompt, "num_attention_heads": 2, "mlp_dim": 16},
    }
    beit3 = {
        "vocab_size": dims["vocab_size"],
        "hidden_size": dims["encoder_embed_dim"],
        "num_hidden_layers": dims["encoder_layers"],
        "num_attention_heads": dims["encoder_attention_heads"],
        "intermediate_size": dims["encoder_ffn_embed_dim"],
        "image_size": dims["img_size"],
        "patch_size": dims["patch_size"],
    }
    finder = EvfFinder(FinderConfig(sam_config=sam, beit3_config=beit3)).eval()
    missing, unexpected = finder.load_state_dict(evf_keys(weights), strict=False)
    assert not unexpected and all(name.startswith("sam.") for name in missing)
    return finder, io


@torch.no_grad()
def test_golden_embedding(golden):
    finder, io = golden
    beit3 = finder.beit3  # before positions, which the encoder outputs below cover
    tokens = [beit3.vision_embed(io["image"]), beit3.text_embed(io["input_ids"])]
    tokens = torch.cat(tokens, dim=1)
    torch.testing.assert_close(tokens, io["encoder_embedding"], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", ["nopad", "padded", "vision_only"])
def test_golden_encoder(golden, case, attention):
    finder, io = golden
    finder.beit3.config._attn_implementation = attention
    tokens = finder.beit3.embed_image(io["image"])
    text = {
        "nopad": (io["input_ids"],),
        "padded": (io["input_ids"], 1 - io["text_padding"]),
        "vision_only": (),
    }
    out = finder.beit3(tokens, *text[case])
    torch.testing.assert_close(out, io[f"encoder_out_{case}"], **TOLERANCE)


@torch.no_grad()
def test_golden_text_feature(golden):
    finder, io = golden
    fused = finder.beit3(finder.beit3.embed_image(io["image"]), io["input_ids"])
    torch.testing.assert_close(finder.text_projection(fused[:, :1]), io["text_feat"], **TOLERANCE)
