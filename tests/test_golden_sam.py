"""The finder on a SAM decoder against the official code."""

import json

import pytest
import torch
from safetensors.torch import load_file

from modeling_findtrack.configuration_findtrack import FinderConfig
from modeling_findtrack.convert import sam_keys
from modeling_findtrack.finder import EvfFinder, FinderImages
from modeling_findtrack.processing_findtrack import FindTrackProcessor

TOLERANCE = {"atol": 1e-4, "rtol": 0}
BEIT3 = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def sam_config(dims: dict, weights: dict) -> dict:
    """SAM's sub-config from the dimensions and weights of the golden set."""
    prompt, image = dims["prompt_embed_dim"], {k: dims[k] for k in ("image_size",)}
    return {
        "model_type": "sam",
        "vision_config": {
            **image,
            "patch_size": dims["patch"],
            "hidden_size": dims["enc_dim"],
            "mlp_dim": len(weights["image_encoder.blocks.0.mlp.lin1.bias"]),
            "num_hidden_layers": dims["enc_depth"],
            "num_attention_heads": dims["enc_heads"],
            "window_size": dims["window_size"],
            "global_attn_indexes": dims["global_attn_indexes"],
            "output_channels": prompt,
            "num_pos_feats": prompt // 2,
        },
        "prompt_encoder_config": {
            **image,
            "patch_size": dims["patch"],
            "hidden_size": prompt,
            "mask_input_channels": dims["mask_in_chans"],
        },
        "mask_decoder_config": {
            "hidden_size": prompt,
            "mlp_dim": dims["dec_mlp"],
            "num_hidden_layers": dims["dec_depth"],
            "num_attention_heads": dims["dec_heads"],
            "num_multimask_outputs": dims["num_multimask_outputs"],
            "iou_head_depth": dims["iou_head_depth"],
            "iou_head_hidden_dim": dims["iou_head_hidden_dim"],
        },
    }


@pytest.fixture(scope="module")
def golden(golden_dir):
    """(finder, inputs and outputs, dimensions)."""
    folder = golden_dir("sam_tiny")
    dims = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    weights = {k.removeprefix("visual_model."): v for k, v in weights.items()}
    sam = sam_config(dims, weights)
    config = FinderConfig(sam_config=sam, beit3_config=BEIT3, multimask_output=False)
    finder = EvfFinder(config).eval()
    finder.sam.load_state_dict(sam_keys(weights))
    return finder, io, dims


@pytest.fixture(scope="module")
def images(golden):
    """One per text: frame by frame, or the one frame for all texts."""
    finder, io, _ = golden
    frames, texts = len(io["pixel_values"]), len(io["text_embeds"])
    tokens = torch.zeros(frames, 1, BEIT3["hidden_size"])
    with torch.no_grad():
        encoded = FinderImages(*finder.encode(io["pixel_values"]), (), tokens)
    return encoded.select(torch.arange(texts) % frames)


def decode(finder, io, images, multimask):
    finder.config.multimask_output = multimask
    with torch.no_grad():
        return finder.decode(images, io["text_embeds"][:, None], finder._dense(images, None))


def test_golden_image_embeddings(golden, images):
    expected = golden[1]["image_embeddings"].expand_as(images.embeddings)
    torch.testing.assert_close(images.embeddings, expected, **TOLERANCE)


@torch.no_grad()
def test_golden_prompts(golden, images):
    finder, io, _ = golden
    position = finder.sam.get_image_wide_positional_embeddings()
    torch.testing.assert_close(position, io["image_pe"], **TOLERANCE)
    dense = finder._dense(images, None)
    torch.testing.assert_close(dense, io["dense"].expand_as(dense), **TOLERANCE)
    # The text embedding alone is the sparse prompt: no label, no position, no padding point.
    torch.testing.assert_close(io["text_embeds"], io["sparse"], **TOLERANCE)


def test_golden_single_mask(golden, images):
    finder, io, _ = golden
    masks, iou, presence = decode(finder, io, images, multimask=False)
    torch.testing.assert_close(masks, io["low_res_masks"][:, 0], **TOLERANCE)
    torch.testing.assert_close(iou, io["iou_pred"][:, 0], **TOLERANCE)
    assert presence is None


def test_golden_best_of_many_masks(golden, images):
    finder, io, _ = golden
    masks, iou, _ = decode(finder, io, images, multimask=True)
    best = io["iou_pred_multi"].argmax(1)
    rows = torch.arange(len(best))
    torch.testing.assert_close(masks, io["low_res_masks_multi"][rows, best], **TOLERANCE)
    torch.testing.assert_close(iou, io["iou_pred_multi"][rows, best], **TOLERANCE)


@torch.no_grad()
def test_golden_all_masks(golden, images):
    finder, io, _ = golden
    masks, iou = finder.sam.mask_decoder(
        image_embeddings=images.embeddings,
        image_positional_embeddings=finder.sam.get_image_wide_positional_embeddings().expand(
            len(images.embeddings), -1, -1, -1
        ),
        sparse_prompt_embeddings=io["sparse"][:, None],
        dense_prompt_embeddings=io["dense"].expand_as(images.embeddings),
        multimask_output=True,
    )
    torch.testing.assert_close(masks[:, 0], io["low_res_masks_multi"], **TOLERANCE)
    torch.testing.assert_close(iou[:, 0], io["iou_pred_multi"], **TOLERANCE)


def test_golden_postprocess(golden, tokenizers):
    _, io, dims = golden
    processor = FindTrackProcessor(
        *tokenizers, finder_size=dims["image_size"], finder_geometry="pad"
    )
    (expected,) = (value for key, value in io.items() if key.startswith("mask_logits_"))
    masks = processor.masks_to_source(io["low_res_masks"], tuple(expected.shape[-2:]))
    torch.testing.assert_close(masks, expected, **TOLERANCE)
