"""What a config file says about a SAM 2, official or transformers', in transformers' words.

The official words and what they default to are those of github.com/facebookresearch/sam2.
"""

from collections.abc import Mapping
from typing import Any

from transformers import Sam2VideoConfig

from .checkpoint_files import CheckpointError
from .tensor_shapes import section

# Official settings that transformers has with one value only: place in the `model` section -> that
# value, and what the official code takes where its config is silent.
_FIXED = {
    "soft_no_obj_ptr": (False, False),
    "fixed_no_obj_ptr": (True, False),
    "directly_add_no_mem_embed": (True, False),
    "use_high_res_features_in_sam": (True, False),
    "use_obj_ptrs_in_encoder": (True, False),
    "pred_obj_scores": (True, False),
    "pred_obj_scores_mlp": (True, False),
    "use_mlp_for_obj_ptr_proj": (True, False),
    "use_multimask_token_for_obj_ptr": (True, False),
    "iou_prediction_use_sigmoid": (True, False),
    "use_mask_input_as_output_without_sam": (True, False),
    "memory_temporal_stride_for_eval": (1, 1),
    "non_overlap_masks_for_mem_enc": (False, False),
}
_FIXED_ENCODER = {
    "image_encoder.scalp": (1, 0),
    "image_encoder.trunk.q_pool": (3, 3),
    "image_encoder.trunk.q_stride": ([2, 2], [2, 2]),
    "image_encoder.trunk.head_mul": (2, 2),
    "image_encoder.neck.fpn_interp_model": ("nearest", "bilinear"),
    "image_encoder.neck.fuse_type": ("sum", "sum"),
}
_FIXED_ATTENTION = {
    "memory_attention.pos_enc_at_input": (True, True),
    "memory_attention.layer.activation": ("relu", "relu"),
    "memory_attention.layer.pos_enc_at_attn": (False, False),
    "memory_attention.layer.pos_enc_at_cross_attn_keys": (True, True),
    "memory_attention.layer.pos_enc_at_cross_attn_queries": (False, False),
    **{
        f"memory_attention.layer.{attention}.{name}": (value, value)
        for attention in ("self_attention", "cross_attention")
        for name, value in (("num_heads", 1), ("rope_theta", 10000), ("downsample_rate", 1))
    },
}
# The official word for a setting, transformers', and the official default.
_WORDS = {
    "image_size": ("image_size", 512),
    "num_maskmem": ("num_maskmem", 7),
    "sigmoid_scale_for_mem_enc": ("sigmoid_scale_for_mem_enc", 1.0),
    "sigmoid_bias_for_mem_enc": ("sigmoid_bias_for_mem_enc", 0.0),
    "multimask_output_in_sam": ("multimask_output_in_sam", False),
    "multimask_output_for_tracking": ("multimask_output_for_tracking", False),
    "multimask_min_pt_num": ("multimask_min_pt_num", 1),
    "multimask_max_pt_num": ("multimask_max_pt_num", 1),
    "max_obj_ptrs_in_encoder": ("max_object_pointers_in_encoder", 16),
}
_TRUNK = {
    "embed_dim": 96,
    "num_heads": 1,
    "stages": [2, 3, 16, 3],
    "window_spec": [8, 4, 14, 7],
    "global_att_blocks": [12, 16, 20],
    "window_pos_embed_bkg_spatial_size": [14, 14],
}
# Of these a config of a SAM 2 has one or more.
SAM2_WORDS = ("model", "image_encoder", "vision_config", *_FIXED, *_WORDS)


def sam2_settings(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config file's settings in transformers' words.

    Args:
        given: transformers' config, or the official one (a YAML, or its `model` section).
        where: For messages.

    Raises:
        CheckpointError: A setting that transformers does not have.
        TypeError: A value where a section is expected.
    """
    official, fields = official_settings(given), Sam2VideoConfig().to_dict()
    if official is None:
        return {k: v for k, v in given.items() if k in fields and k != "model_type"}
    if others := sorted((official.keys() & fields.keys()) - _WORDS.keys() - {"model_type"}):
        raise CheckpointError(
            f"{where}: mixes the official words with transformers' ({', '.join(others)})"
        )
    _check_fixed(official, _FIXED, where)
    time = official.get("add_tpos_enc_to_obj_ptrs", True)
    if time and not official.get("proj_tpos_enc_in_obj_ptrs", False):
        raise CheckpointError(
            f"{where}: says add_tpos_enc_to_obj_ptrs (which is so where nothing is said) without "
            "proj_tpos_enc_in_obj_ptrs, which transformers' SAM 2 cannot do"
        )
    settings = {ours: official.get(word, default) for word, (ours, default) in _WORDS.items()}
    if section(official, "image_encoder"):
        _check_fixed(official, _FIXED_ENCODER, where)
        settings["vision_config"] = _vision_settings(official)
    if section(official, "memory_attention"):
        _check_fixed(official, _FIXED_ATTENTION, where)
    if extra := section(official, "sam_mask_decoder_extra_args"):
        settings["mask_decoder_config"] = dict(extra)
    return settings


def official_settings(given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The `model` section of an official config; None if `given` is transformers', or empty.

    Args:
        given: What a config file says; that section alone will do.
    """
    if "model" in given:
        return section(given, "model")
    is_official = "image_encoder" in given or any(word in given for word in _FIXED)
    return given if is_official else None


def trunk_settings(official: Mapping[str, Any]) -> dict[str, Any]:
    """What an official config says about Hiera, with the official code's defaults."""
    return {**_TRUNK, **section(section(official, "image_encoder"), "trunk")}


def _check_fixed(
    official: Mapping[str, Any], fixed: Mapping[str, tuple[Any, Any]], where: str
) -> None:
    for place, (value, default) in fixed.items():
        *path, word = place.split(".")
        part = official
        for name in path:
            part = section(part, name)
        said = part.get(word, default)
        if said != value:
            says = f"says {place}: {said}" if word in part else f"leaves {place} at {said}"
            raise CheckpointError(
                f"{where}: {says}, which transformers' SAM 2 cannot do (it has {value} only); it "
                "would not compute the same"
            )


def _vision_settings(official: Mapping[str, Any]) -> dict[str, Any]:
    """The `image_encoder` section in transformers' words."""
    trunk, neck = trunk_settings(official), section(section(official, "image_encoder"), "neck")
    background = list(trunk["window_pos_embed_bkg_spatial_size"])
    levels = neck.get("fpn_top_down_levels")
    return {
        "backbone_config": {
            "num_attention_heads_per_stage": [
                trunk["num_heads"] * 2**i for i in range(len(trunk["stages"]))
            ],
            "window_size_per_stage": list(trunk["window_spec"]),
            "global_attention_blocks": list(trunk["global_att_blocks"]),
            "window_positional_embedding_background_size": background,
        },
        "fpn_top_down_levels": list(range(len(trunk["stages"])) if levels is None else levels),
    }
