"""Configurations of SAM 2 networks, from tensor shapes, official words, and transformers' words.

Shapes tell nearly everything. What they do not (heads, attention windows, which blocks attend
globally) is known for the four published sizes; other sizes need a config file.
"""

from collections.abc import Mapping
from typing import Any

from .checkpoint_files import CheckpointError
from .sam2_settings import official_settings, sam2_settings, trunk_settings
from .tensor_shapes import Shapes, image_side, merged, section

# (width of the first stage, blocks per stage) -> what no shape tells, by facebookresearch/sam2.
_PUBLISHED = {
    (96, (1, 2, 7, 2)): (1, [8, 4, 14, 7], [5, 7, 9]),  # tiny
    (96, (1, 2, 11, 2)): (1, [8, 4, 14, 7], [7, 10, 13]),  # small
    (112, (2, 3, 16, 3)): (2, [8, 4, 14, 7], [12, 16, 20]),  # base plus
    (144, (2, 6, 36, 4)): (2, [8, 4, 16, 8], [23, 33, 43]),  # large
}
_SIDE = 1024  # of the input of every published SAM 2; Hiera's weights do not tell
_STRIDE = 16  # of the coarsest features
_TRUNK, _NECK = "image_encoder.trunk", "image_encoder.neck.convs"


def sam2_video_config(shapes: Shapes, given: Mapping[str, Any], config_file: str) -> dict[str, Any]:
    """The config of a `Sam2VideoModel`.

    Args:
        shapes: Official names, or those of transformers.
        given: What a config file says: transformers' config, or the official one.
        config_file: Where it is, for messages.

    Raises:
        CheckpointError: A size that was not published without a config, a config of another size,
            or a setting that transformers does not have.
    """
    settings = sam2_settings(given, config_file)
    if any(name.startswith("vision_encoder.") for name in shapes.tensors):
        if official_settings(given) is not None or "vision_config" not in settings:
            raise CheckpointError(
                f"{shapes.where}: a SAM 2 with transformers' names needs transformers' config.json "
                "beside it"
            )
        config = {"model_type": "sam2_video", **settings}
    else:
        _check_size(shapes, given, config_file)
        config = merged(_video_from_shapes(shapes, settings, config_file), settings)
    return _check_sides(config, config_file)


def sam2_image_config(shapes: Shapes, given: Mapping[str, Any], config_file: str) -> dict[str, Any]:
    """The config of a `Sam2Model`, see `sam2_video_config`; the video memory is left out."""
    settings = sam2_settings(given, config_file)
    _check_size(shapes, given, config_file)
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    given_parts = {k: v for k, v in settings.items() if k in parts}
    config = merged(_image_from_shapes(shapes, settings, config_file), given_parts)
    return _check_sides({"model_type": "sam2", **config}, config_file)


def _check_size(shapes: Shapes, given: Mapping[str, Any], config_file: str) -> None:
    """Refuse an official config of another size: no shape would show its windows to be wrong."""
    official = official_settings(given)
    if official is None or not section(official, "image_encoder"):
        return
    trunk, neck = trunk_settings(official), section(section(official, "image_encoder"), "neck")
    widths, blocks = _stages(shapes)
    levels = range(shapes.count(_NECK))
    channels = [shapes.of(f"{_NECK}.{i}.conv.weight")[1] for i in levels]
    width = shapes.of(f"{_NECK}.0.conv.weight")[0]
    for place, said, found in (
        ("trunk.embed_dim", trunk["embed_dim"], widths[0] if widths else 0),
        ("trunk.stages", list(trunk["stages"]), blocks),
        ("neck.d_model", neck.get("d_model", width), width),
        ("neck.backbone_channel_list", neck.get("backbone_channel_list", channels), channels),
    ):
        if said != found:
            raise CheckpointError(
                f"{config_file}: of another SAM 2 than {shapes.where}: image_encoder.{place} is "
                f"{said}, and {found} by the tensors; put the right config beside it"
            )


def _check_sides(config: dict[str, Any], config_file: str) -> dict[str, Any]:
    """`config`, whose images have sizes that there are."""
    prompt, vision = section(config, "prompt_encoder_config"), section(config, "vision_config")
    for part in (config, prompt, section(vision, "backbone_config")):
        if (size := part.get("image_size")) is not None:
            image_side(size, config_file, _STRIDE)
    return config


def _image_from_shapes(
    shapes: Shapes, given: Mapping[str, Any], config_file: str
) -> dict[str, Any]:
    """Image encoder, prompt encoder and mask decoder."""
    size = given.get("image_size")
    side = _SIDE if size is None else image_side(size, config_file, _STRIDE)
    decoder = "sam_mask_decoder"
    width = shapes.of(f"{decoder}.iou_token.weight")[1]
    queries = shapes.of(f"{decoder}.transformer.final_attn_token_to_image.q_proj.weight")[0]
    return {
        "vision_config": _vision_from_shapes(shapes, section(given, "vision_config"), side),
        "prompt_encoder_config": {
            "hidden_size": width,
            "image_size": side,
            "patch_size": _STRIDE,
            "mask_input_channels": shapes.of("sam_prompt_encoder.mask_downscaling.6.weight")[1],
        },
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": shapes.of(f"{decoder}.transformer.layers.0.mlp.layers.0.weight")[0],
            "num_hidden_layers": shapes.count(f"{decoder}.transformer.layers"),
            "attention_downsample_rate": width // queries,
            "num_multimask_outputs": shapes.of(f"{decoder}.mask_tokens.weight")[0] - 1,
            "iou_head_depth": shapes.count(f"{decoder}.iou_prediction_head.layers"),
            "iou_head_hidden_dim": shapes.of(f"{decoder}.iou_prediction_head.layers.0.weight")[0],
        },
    }


def _vision_from_shapes(shapes: Shapes, given: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Hiera and the feature pyramid.

    Args:
        shapes: Official names.
        given: transformers' `vision_config`, as far as a file gives it.
        side: Of the input, in pixels.
    """
    stages, per_stage = _stages(shapes)
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "image_size": [side, side],
        "hidden_size": stages[0] if stages else 0,
        "embed_dim_per_stage": stages,
        "blocks_per_stage": per_stage,
        "window_positional_embedding_background_size": list(shapes.of(f"{_TRUNK}.pos_embed")[-2:]),
    }
    told = section(given, "backbone_config")
    needed = (
        "num_attention_heads_per_stage", "window_size_per_stage", "global_attention_blocks",
    )  # fmt: skip
    if any(told.get(name) is None for name in needed):
        known = _PUBLISHED.get((backbone["hidden_size"], tuple(per_stage)))
        if known is None:
            raise CheckpointError(
                f"{shapes.where}: a Hiera of {backbone['hidden_size']} channels with {per_stage} "
                "blocks is none of the published four, and no shape tells its attention windows; "
                "put its config.json (transformers) or .yaml (official) beside it"
            )
        heads, windows, everywhere = known
        backbone["num_attention_heads_per_stage"] = [heads * 2**i for i in range(len(stages))]
        backbone["window_size_per_stage"] = windows
        backbone["global_attention_blocks"] = everywhere
    levels = range(shapes.count(_NECK))
    return {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [shapes.of(f"{_NECK}.{i}.conv.weight")[1] for i in levels],
        "backbone_feature_sizes": [[side // stride] * 2 for stride in (4, 8, 16)],
        "fpn_hidden_size": shapes.of(f"{_NECK}.0.conv.weight")[0],
    }


def _stages(shapes: Shapes) -> tuple[list[int], list[int]]:
    """The widths of Hiera's stages, and how many blocks each has."""
    blocks = range(shapes.count(f"{_TRUNK}.blocks"))
    # A stage doubles the width; its first block has the new one at its output.
    widths = [shapes.of(f"{_TRUNK}.blocks.{i}.attn.qkv.weight")[0] // 3 for i in blocks]
    stages = sorted(set(widths))
    return stages, [widths.count(width) for width in stages]


def _video_from_shapes(
    shapes: Shapes, given: Mapping[str, Any], config_file: str
) -> dict[str, Any]:
    """The image parts and the video memory."""
    image = _image_from_shapes(shapes, given, config_file)
    side = image["prompt_encoder_config"]["image_size"]
    width = image["vision_config"]["fpn_hidden_size"]
    attention, fuser = "memory_attention.layers", "memory_encoder.fuser.layers"
    frames, _, _, memory = shapes.of("maskmem_tpos_enc")
    return {
        "model_type": "sam2_video",
        **image,
        "image_size": side,
        "num_maskmem": frames,
        "memory_attention_hidden_size": width,
        "memory_attention_num_layers": shapes.count(attention),
        "memory_attention_feed_forward_hidden_size": shapes.of(f"{attention}.0.linear1.weight")[0],
        "memory_attention_rope_feat_sizes": [side // _STRIDE] * 2,
        "memory_encoder_hidden_size": width,
        "memory_encoder_output_channels": memory,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
        "memory_fuser_num_layers": shapes.count(fuser),
        "memory_fuser_intermediate_dim": shapes.of(f"{fuser}.0.pwconv1.weight")[0],
        "memory_fuser_kernel_size": shapes.of(f"{fuser}.0.dwconv.weight")[-1],
        "memory_fuser_padding": shapes.of(f"{fuser}.0.dwconv.weight")[-1] // 2,
        # SAM 2.1 has both, SAM 2.0 neither.
        "enable_occlusion_spatial_embedding": "no_obj_embed_spatial" in shapes,
        "enable_temporal_pos_encoding_for_object_pointers": "obj_ptr_tpos_proj.weight" in shapes,
    }
