"""Configurations of BEiT-3, SAM, CLIP and Cutie from tensor shapes and a config file.

What shapes do not tell, above all the number of attention heads, follows the published networks
unless a config.json beside the weights says otherwise. SAM 2 has a file of its own.
"""

import copy
from collections.abc import Mapping
from typing import Any

from .checkpoint_files import CheckpointError
from .configuration_findtrack import CUTIE_BASE
from .tensor_shapes import Shapes, image_side, merged, side_of

_HEAD = 64  # channels per attention head of BEiT-3 and of CLIP's towers
_SAM_DECODER_HEADS = 8


def beit3_config(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a `Beit3Model`.

    Args:
        shapes: Names as below `mm_extractor.beit3.`.
        given: What config.json says under `beit3_config`, as far as it does.
    """
    vocabulary, width = shapes.of("text_embed.weight")
    patch = shapes.of("vision_embed.proj.weight")[-1]
    # Two unused rows in front, and one of the class token.
    patches = shapes.of("encoder.embed_positions.A.weight")[0] - 3
    side = side_of(patches, shapes.where, "BEiT-3's patches")
    inferred = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": shapes.count("encoder.layers"),
        "intermediate_size": shapes.of("encoder.layers.0.ffn.A.fc1.weight")[0],
        "image_size": side * patch,
        "patch_size": patch,
        "max_text_positions": shapes.of("encoder.embed_positions.B.weight")[0],
    }
    setting, heads = "beit3_config.num_attention_heads", given.get("num_attention_heads")
    inferred["num_attention_heads"] = shapes.heads(width, _HEAD, setting, heads)
    return _with_sound_side(merged(inferred, given), shapes.where)


def sam_config(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a `SamModel`.

    Args:
        shapes: Names as below `visual_model.` in EVF-SAM's file.
        given: What config.json says under `sam_config`, as far as it does.
    """
    encoder, decoder = "image_encoder", "mask_decoder"
    _, grid, _, width = shapes.of(f"{encoder}.pos_embed")
    patch = shapes.of(f"{encoder}.patch_embed.proj.weight")[-1]
    layers = shapes.count(f"{encoder}.blocks")
    # Relative positions: 2 w - 1 rows for windows (or a grid) of side w, one head's channels.
    tables = [shapes.of(f"{encoder}.blocks.{i}.attn.rel_pos_h") for i in range(layers)]
    sides = [(rows + 1) // 2 for rows, _ in tables]
    windows = sorted({side for side in sides if side != grid})
    prompt = shapes.of(f"{encoder}.neck.0.weight")[0]
    queries = shapes.of(f"{decoder}.transformer.final_attn_token_to_image.q_proj.weight")[0]
    inferred = {
        "model_type": "sam",
        "vision_config": {
            "hidden_size": width,
            "output_channels": prompt,
            "num_hidden_layers": layers,
            "num_attention_heads": width // tables[0][1] if tables else 1,
            "image_size": grid * patch,
            "patch_size": patch,
            "window_size": windows[0] if windows else 14,
            "global_attn_indexes": [i for i, side in enumerate(sides) if side == grid],
            "mlp_dim": shapes.of(f"{encoder}.blocks.0.mlp.lin1.weight")[0],
            "num_pos_feats": prompt // 2,
        },
        "prompt_encoder_config": {
            "hidden_size": prompt,
            "image_size": grid * patch,
            "patch_size": patch,
            "mask_input_channels": shapes.of("prompt_encoder.mask_downscaling.6.weight")[1],
        },
        "mask_decoder_config": {
            "hidden_size": prompt,
            "mlp_dim": shapes.of(f"{decoder}.transformer.layers.0.mlp.lin1.weight")[0],
            "num_hidden_layers": shapes.count(f"{decoder}.transformer.layers"),
            "num_attention_heads": _SAM_DECODER_HEADS,
            "attention_downsample_rate": prompt // queries,
            "num_multimask_outputs": shapes.of(f"{decoder}.mask_tokens.weight")[0] - 1,
            "iou_head_depth": shapes.count(f"{decoder}.iou_prediction_head.layers"),
            "iou_head_hidden_dim": shapes.of(f"{decoder}.iou_prediction_head.layers.0.weight")[0],
        },
    }
    config = merged(inferred, given)
    config["vision_config"] = _with_sound_side(config["vision_config"], shapes.where)
    # The prompt encoder has no tensor of which the size could be told.
    prompt, seen = (config[f"{part}_config"]["image_size"] for part in ("prompt_encoder", "vision"))
    if prompt != seen:
        raise CheckpointError(
            f"{shapes.where}: image_size is {prompt!r} for the prompt encoder and {seen!r} for the "
            "image encoder; it must be the same"
        )
    return config


def clip_text_config(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """The `text_config` of a `CLIPConfig`.

    Args:
        shapes: OpenAI's names, or those of transformers.
        given: What config.json says under `text_config`, as far as it does.
    """
    if "text_model.embeddings.token_embedding.weight" in shapes:
        vocabulary, width = shapes.of("text_model.embeddings.token_embedding.weight")
        positions = shapes.of("text_model.embeddings.position_embedding.weight")[0]
        layers, feed_forward = "text_model.encoder.layers", "mlp.fc1"
    else:
        vocabulary, width = shapes.of("token_embedding.weight")
        positions = shapes.of("positional_embedding")[0]
        layers, feed_forward = "transformer.resblocks", "mlp.c_fc"
    inferred = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes.of(f"{layers}.0.{feed_forward}.weight")[0],
        "num_hidden_layers": shapes.count(layers),
        "max_position_embeddings": positions,
    }
    setting, heads = "text_config.num_attention_heads", given.get("num_attention_heads")
    inferred["num_attention_heads"] = shapes.heads(width, _HEAD, setting, heads)
    return merged(inferred, given)


def clip_vision_config(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """The `vision_config` of a `CLIPConfig`.

    Args:
        shapes: Of Alpha-CLIP's image tower, without a prefix.
        given: What config.json says under `vision_config`, as far as it does.
    """
    width, _, _, patch = shapes.of("conv1.weight")
    side = side_of(shapes.of("positional_embedding")[0] - 1, shapes.where, "CLIP's patches")
    inferred = {
        "hidden_size": width,
        "intermediate_size": shapes.of("transformer.resblocks.0.mlp.c_fc.weight")[0],
        "num_hidden_layers": shapes.count("transformer.resblocks"),
        "image_size": side * patch,
        "patch_size": patch,
    }
    setting, heads = "vision_config.num_attention_heads", given.get("num_attention_heads")
    inferred["num_attention_heads"] = shapes.heads(width, _HEAD, setting, heads)
    return _with_sound_side(merged(inferred, given), shapes.where)


def cutie_network(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """The `network` of a `CutieConfig`.

    Args:
        shapes: Cutie's names, of a file for several objects.
        given: What config.json says under `network`, as far as it does.
    """
    queries, width = shapes.of("object_transformer.query_init.weight")
    network = copy.deepcopy(CUTIE_BASE)
    network["pixel_dim"], deepest = shapes.of("pix_feat_proj.weight")[:2]
    network["key_dim"] = shapes.of("key_proj.key_proj.weight")[0]
    network["value_dim"] = shapes.of("pixel_fuser.sensory_compress.weight")[0]
    network["sensory_dim"] = shapes.of("mask_encoder.sensory_update.transform.weight")[0] // 3
    network["embed_dim"] = width
    finer = [shapes.of(f"mask_decoder.decoder_feat_proc.transforms.{i}.weight")[1] for i in (0, 1)]
    for encoder, last in (("pixel_encoder", "layer3"), ("mask_encoder", "layer3")):
        deep = f"{encoder}.{last}.0.conv3.weight" in shapes
        network[encoder]["type"] = "resnet50" if deep else "resnet18"
    network["pixel_encoder"]["ms_dims"] = [deepest, *finer]
    network["mask_encoder"]["final_dim"] = shapes.of(
        "mask_encoder.fuser.distributor.g_transform.weight"
    )[1]
    network["object_transformer"] |= {
        "embed_dim": width,
        "ff_dim": shapes.of("object_transformer.blocks.0.ffn.linear1.weight")[0],
        "num_blocks": shapes.count("object_transformer.blocks"),
        "num_queries": queries,
    }
    network["object_summarizer"] |= {
        "embed_dim": shapes.of("object_summarizer.input_proj.weight")[0],
        "num_summaries": shapes.of("object_summarizer.weights_pred.2.weight")[0],
        "add_pe": "object_summarizer.pos_enc.inv_freq" in shapes,
    }
    coarse, middle = (
        shapes.of(f"mask_decoder.{up}.out_conv.conv1.weight") for up in ("up_16_8", "up_8_4")
    )
    network["mask_decoder"]["up_dims"] = [coarse[1], coarse[0], middle[0]]
    network = merged(network, given)
    for name, least in (("pixel_mean", float("-inf")), ("pixel_std", 0)):
        # One number would do for three colours, without a word.
        values = network[name]
        numbers = [v for v in values if type(v) in (int, float) and v > least]
        if not len(values) == len(numbers) == 3:
            raise CheckpointError(
                f"{shapes.where}: network.{name} is {values!r} in the config beside it, not three "
                f"numbers{' above 0' * (least == 0)}"
            )
    return network


def _with_sound_side(config: dict[str, Any], where: str) -> dict[str, Any]:
    """`config`, whose images have a size that there is: a negative one has as many patches."""
    return config | {"image_size": image_side(config["image_size"], where, config["patch_size"])}
