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


def sam_config(dims: dict) -> dict:
    """SAM's sub-config from the dimensions of the golden set."""
    prompt, image = dims["prompt_embed_dim"], {k: dims[k] for k in ("image_size",)}
    return {
        "model_type": "sam",
        "vision_config": {
            **image,
            "patch_size": dims["patch"],
            "hidden_size": dims["enc_dim"],
            "mlp_dim": 4 * dims["enc_dim"],
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
    config = FinderConfig(sam_config=sam_config(dims), beit3_config=BEIT3, multimask_output=False)
    finder = EvfFinder(config).eval()
    weights = {k.removeprefix("visual_model."): v for k, v in weights.items()}
    finder.sam.load_state_dict(sam_keys(weights))
    return finder, io, dims


@pytest.fixture(scope="module")
def images(golden):
    finder, io, _ = golden
    with torch.no_grad():
        return FinderImages(*finder.encode(io["pixel_values"]), (), torch.zeros(1, 1, 16))


def decode(finder, io, images, multimask):
    finder.config.multimask_output = multimask
    with torch.no_grad():
        return finder.decode(images, io["text_embeds"][:, None], finder._dense(images, None))


def test_golden_image_embeddings(golden, images):
    torch.testing.assert_close(images.embeddings, golden[1]["image_embeddings"], **TOLERANCE)


@torch.no_grad()
def test_golden_prompts(golden, images):
    finder, io, _ = golden
    position = finder.sam.get_image_wide_positional_embeddings()
    torch.testing.assert_close(position, io["image_pe"], **TOLERANCE)
    torch.testing.assert_close(finder._dense(images, None), io["dense"], **TOLERANCE)
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
    torch.testing.assert_close(masks, io["low_res_masks_multi"][range(1), best], **TOLERANCE)
    torch.testing.assert_close(iou, io["iou_pred_multi"][range(1), best], **TOLERANCE)


@torch.no_grad()
def test_golden_all_masks(golden, images):
    finder, io, _ = golden
    masks, iou = finder.sam.mask_decoder(
        image_embeddings=images.embeddings,
        image_positional_embeddings=finder.sam.get_image_wide_positional_embeddings(),
        sparse_prompt_embeddings=io["sparse"][:, None],
        dense_prompt_embeddings=io["dense"],
        multimask_output=True,
    )
    torch.testing.assert_close(masks[:, 0], io["low_res_masks_multi"], **TOLERANCE)
    torch.testing.assert_close(iou[:, 0], io["iou_pred_multi"], **TOLERANCE)


def test_golden_postprocess(golden, tokenizers):
    _, io, dims = golden
    processor = FindTrackProcessor(
        *tokenizers, finder_size=dims["image_size"], finder_geometry="pad"
    )
    size = tuple(dims["io"]["mask_logits_48x85"][1][-2:])
    masks = processor.masks_to_source(io["low_res_masks"], size)
    torch.testing.assert_close(masks, io["mask_logits_48x85"], **TOLERANCE)
