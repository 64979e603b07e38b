"""Configurations of SAM 2 networks, from tensor shapes, official words, and transformers' words.

Shapes tell nearly everything. What they do not (heads, attention windows, which blocks attend
globally) is known for the four published sizes; other sizes need a config file.
"""

from collections.abc import Mapping
from typing import Any

from transformers import Sam2VideoConfig

from .checkpoint_files import CheckpointError
from .tensor_shapes import Shapes, merged

# (width of the first stage, blocks per stage) -> what no shape tells, by facebookresearch/sam2.
_PUBLISHED = {
    (96, (1, 2, 7, 2)): (1, [8, 4, 14, 7], [5, 7, 9]),  # tiny
    (96, (1, 2, 11, 2)): (1, [8, 4, 14, 7], [7, 10, 13]),  # small
    (112, (2, 3, 16, 3)): (2, [8, 4, 14, 7], [12, 16, 20]),  # base plus
    (144, (2, 6, 36, 4)): (2, [8, 4, 16, 8], [23, 33, 43]),  # large
}
# Settings of the official code that transformers has with this value only.
_FIXED = {
    "soft_no_obj_ptr": False,
    "fixed_no_obj_ptr": True,
    "directly_add_no_mem_embed": True,
    "use_high_res_features_in_sam": True,
    "use_obj_ptrs_in_encoder": True,
    "pred_obj_scores": True,
    "pred_obj_scores_mlp": True,
    "use_mlp_for_obj_ptr_proj": True,
    "use_multimask_token_for_obj_ptr": True,
    "iou_prediction_use_sigmoid": True,
    "use_mask_input_as_output_without_sam": True,
    "memory_temporal_stride_for_eval": 1,
    "non_overlap_masks_for_mem_enc": False,
}
# The official word for a setting, and transformers'.
_WORDS = {
    "image_size": "image_size",
    "num_maskmem": "num_maskmem",
    "sigmoid_scale_for_mem_enc": "sigmoid_scale_for_mem_enc",
    "sigmoid_bias_for_mem_enc": "sigmoid_bias_for_mem_enc",
    "multimask_output_in_sam": "multimask_output_in_sam",
    "multimask_output_for_tracking": "multimask_output_for_tracking",
    "multimask_min_pt_num": "multimask_min_pt_num",
    "multimask_max_pt_num": "multimask_max_pt_num",
    "max_obj_ptrs_in_encoder": "max_object_pointers_in_encoder",
}
_SIDE = 1024  # of the input of every published SAM 2; Hiera's weights do not tell
_STRIDE = 16  # of the coarsest features


def sam2_video_config(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a `Sam2VideoModel`.

    Args:
        shapes: Official names, or those of transformers.
        given: What a config file says: transformers' config, or the official one.

    Raises:
        CheckpointError: A size that was not published without a config, or a setting that
            transformers does not have.
    """
    given = sam2_settings(given, shapes.where)
    if any(name.startswith("vision_encoder.") for name in shapes.tensors):
        if "vision_config" not in given:
            raise CheckpointError(
                f"{shapes.where}: a SAM 2 with transformers' names needs transformers' config.json "
                "beside it"
            )
        return {"model_type": "sam2_video", **given}
    return merged(_video_from_shapes(shapes, given), given)


def sam2_image_config(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a `Sam2Model`, see `sam2_video_config`; the video memory is left out."""
    given = sam2_settings(given, shapes.where)
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    given_parts = {key: value for key, value in given.items() if key in parts}
    inferred = _image_from_shapes(shapes, given)
    return {"model_type": "sam2", **merged(inferred, given_parts)}


def sam2_settings(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config file's settings in transformers' words.

    Args:
        given: transformers' config, or the official one (a YAML's `model` section).
        where: For messages.

    Raises:
        CheckpointError: A setting that transformers does not have.
    """
    official = given.get("model", given)
    official = official if isinstance(official, Mapping) else {}
    for name, value in _FIXED.items():
        if official.get(name, value) != value:
            raise CheckpointError(
                f"{where}: its config says {name}: {official[name]}, which transformers' SAM 2 "
                f"cannot do (it has {value} only); it would not compute the same"
            )
    time, projected = (
        bool(official.get(key, True))
        for key in ("add_tpos_enc_to_obj_ptrs", "proj_tpos_enc_in_obj_ptrs")
    )
    if "add_tpos_enc_to_obj_ptrs" in official and time and not projected:
        raise CheckpointError(
            f"{where}: its config says add_tpos_enc_to_obj_ptrs without proj_tpos_enc_in_obj_ptrs, "
            "which transformers' SAM 2 cannot do"
        )
    fields = Sam2VideoConfig().to_dict()
    settings = {k: v for k, v in given.items() if k in fields and k != "model_type"}
    settings |= {ours: official[word] for word, ours in _WORDS.items() if word in official}
    encoder = official.get("image_encoder")
    if isinstance(encoder, Mapping):
        settings["vision_config"] = _vision_settings(encoder)
    extra = official.get("sam_mask_decoder_extra_args")
    if isinstance(extra, Mapping):
        settings["mask_decoder_config"] = dict(extra)
    return settings


def _vision_settings(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """The `image_encoder` section of an official config in transformers' words."""
    trunk, neck = encoder.get("trunk") or {}, encoder.get("neck") or {}
    backbone: dict[str, Any] = {}
    if "num_heads" in trunk:
        backbone["num_attention_heads_per_stage"] = [trunk["num_heads"] * 2**i for i in range(4)]
    for word, ours in (
        ("window_spec", "window_size_per_stage"),
        ("global_att_blocks", "global_attention_blocks"),
        ("window_pos_embed_bkg_spatial_size", "window_positional_embedding_background_size"),
    ):
        if word in trunk:
            backbone[ours] = list(trunk[word])
    settings: dict[str, Any] = {"backbone_config": backbone}
    if "fpn_top_down_levels" in neck:
        settings["fpn_top_down_levels"] = list(neck["fpn_top_down_levels"])
    return settings


def _image_from_shapes(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """Image encoder, prompt encoder and mask decoder."""
    size = given.get("image_size") or _SIDE
    side = size if isinstance(size, int) else size[0]
    decoder = "sam_mask_decoder"
    width = shapes.of(f"{decoder}.iou_token.weight")[1]
    queries = shapes.of(f"{decoder}.transformer.final_attn_token_to_image.q_proj.weight")[0]
    return {
        "vision_config": _vision_from_shapes(shapes, given.get("vision_config") or {}, side),
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
    trunk, neck = "image_encoder.trunk", "image_encoder.neck.convs"
    blocks = shapes.count(f"{trunk}.blocks")
    # A stage doubles the width; its first block has the new one at its output.
    widths = [shapes.of(f"{trunk}.blocks.{i}.attn.qkv.weight")[0] // 3 for i in range(blocks)]
    stages = sorted(set(widths))
    per_stage = [widths.count(width) for width in stages]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "image_size": [side, side],
        "hidden_size": stages[0] if stages else 0,
        "embed_dim_per_stage": stages,
        "blocks_per_stage": per_stage,
        "window_positional_embedding_background_size": list(shapes.of(f"{trunk}.pos_embed")[-2:]),
    }
    told = given.get("backbone_config") or {}
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
    levels = range(shapes.count(neck))
    return {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [shapes.of(f"{neck}.{i}.conv.weight")[1] for i in levels],
        "backbone_feature_sizes": [[side // stride] * 2 for stride in (4, 8, 16)],
        "fpn_hidden_size": shapes.of(f"{neck}.0.conv.weight")[0],
    }


def _video_from_shapes(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """The image parts and the video memory."""
    image = _image_from_shapes(shapes, given)
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
