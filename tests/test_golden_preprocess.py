"""The preprocessing of every branch against the official code."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from modeling_findtrack.processing_findtrack import FindTrackProcessor, long_side_shape

TOLERANCE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def golden(golden_dir):
    """(inputs and outputs, config)."""
    folder = golden_dir("preprocess")
    config = json.loads((folder / "config.json").read_text())
    return load_file(folder / "io.safetensors"), config


def stored_stride(config: dict, name: str) -> int:
    """Every how many pixels `name` was kept, by the set's note; 1 where it says nothing."""
    pattern = rf"\b{name}\b[^\[,;]*\[[^\]]*::(\d+)\]"
    kept = re.search(pattern, config.get("note", ""))
    return int(kept[1]) if kept else 1


@pytest.mark.parametrize("antialias, name", [(True, "beit"), (False, "beit_no_antialias")])
def test_golden_beit3_pixels(golden, tokenizers, antialias, name):
    io, _ = golden
    size = io[name].shape[-1]
    processor = FindTrackProcessor(*tokenizers, beit3_size=size, beit3_antialias=antialias)
    pixels = processor.beit3_pixels(io["image_u8"].numpy())
    torch.testing.assert_close(pixels[0], io[name], **TOLERANCE)


def test_golden_sam_pixels(golden, tokenizers):
    io, _ = golden
    size = int(io["sam_resize"].max())  # the long side becomes the model's size
    stride = -(-size // io["sam_crop64"].shape[-1])
    processor = FindTrackProcessor(*tokenizers, finder_size=size, finder_geometry="pad")
    pixels = processor.finder_pixels(io["image_u8"].numpy())[0]
    assert pixels.shape == (3, size, size)
    torch.testing.assert_close(pixels[:, ::stride, ::stride], io["sam_crop64"], **TOLERANCE)
    assert long_side_shape(io["image_u8"].shape[:2], size) == tuple(io["sam_resize"].tolist())


def test_golden_clip_pixels(golden, tokenizers):
    io, config = golden
    stride = stored_stride(config, "clip")
    processor = FindTrackProcessor(*tokenizers, aligner_size=stride * io["clip"].shape[-1])
    pixels = processor.aligner_pixels(io["image_u8"].numpy())[0]
    torch.testing.assert_close(pixels[:, ::stride, ::stride], io["clip"], **TOLERANCE)


def test_golden_alpha(golden, tokenizers):
    io, config = golden
    stride = stored_stride(config, "alpha")
    size = stride * io["alpha"].shape[-1]
    processor = FindTrackProcessor(*tokenizers, aligner_size=size, alpha_geometry="official")
    alpha = processor.alpha(io["mask"])[0]
    torch.testing.assert_close(alpha[:, ::stride, ::stride], io["alpha"], **TOLERANCE)


def test_golden_clip_tokens(golden, tokenizers):
    io, config = golden
    name = os.environ.get("FINDTRACK_CLIP_TOKENIZER", "openai/clip-vit-large-patch14-336")
    try:
        clip = CLIPTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError):
        clip = ()
    if len(clip) < io["clip_tokens"].max():  # without files transformers makes an empty tokenizer
        pytest.skip(
            f"CLIP's vocabulary ({name}) is not on this machine; the features of given tokens are "
            "compared with the official ones in test_golden_alphaclip.py"
        )
    context = io["clip_tokens"].shape[1]
    processor = FindTrackProcessor(tokenizers[0], clip, aligner_max_tokens=context)
    tokens = processor.aligner_tokens(config["texts"])
    length = tokens["input_ids"].shape[1]
    padded = torch.where(tokens["attention_mask"].bool(), tokens["input_ids"], 0)
    assert torch.equal(padded.int(), io["clip_tokens"][:, :length])
    assert not io["clip_tokens"][:, length:].any()
