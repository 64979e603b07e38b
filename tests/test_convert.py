"""Renaming of official tensors; that the result computes the same is tested in test_golden_*."""

import pytest
import torch

from modeling_findtrack import convert


@pytest.mark.parametrize(
    "function, key",
    [
        (convert.beit3_keys, "encoder.layers.0.moe.A.weight"),
        (convert.sam_keys, "image_encoder.trunk.pos_embed"),
        (convert.sam_keys, "mask_decoder.iou_prediction_head.layers.3.weight"),
        (convert.sam2_keys, "sam_mask_decoder.conv_s2.weight"),
        (convert.sam2_keys, "image_encoder.trunk.pos_embed.extra"),
        (convert.sam2_keys, "sam_prompt_encoder.pe_layer.other"),
        (convert.alpha_clip_keys, "visual.transformer.resblocks.0.attn.lora.weight"),
        (convert.evf_keys, "text_hidden_fcs.1.0.weight"),
        (convert.evf_keys, "lm_head.weight"),
    ],
)
def test_unknown_names_are_listed(function, key):
    with pytest.raises(ValueError, match="unknown") as error:
        function({key: torch.zeros(1)})
    assert key.split(".")[-2] in str(error.value)


def test_two_tensors_never_become_one():
    tensors = {"a.1": torch.zeros(2), "b.1": torch.zeros(1)}
    with pytest.raises(ValueError, match="both become"):
        convert.rename(tensors, [("a.#", "c.#"), ("b.#", "c.#")])


def test_in_proj_is_split_in_the_order_query_key_value():
    weight = torch.arange(18.0).reshape(9, 2)
    for dot in "._":  # the image tower's spelling and the text tower's
        out = convert.alpha_clip_keys({f"transformer.resblocks.3.attn.in_proj{dot}weight": weight})
        layer = "text_model.encoder.layers.3.self_attn"
        assert torch.equal(out[f"{layer}.q_proj.weight"], weight[:3])
        assert torch.equal(out[f"{layer}.k_proj.weight"], weight[3:6])
        assert torch.equal(out[f"{layer}.v_proj.weight"], weight[6:])


def test_alpha_clip_image_tower_replaces_that_of_clip():
    clip = {"visual.proj": torch.zeros(3, 2), "logit_scale": torch.tensor(4.0)}
    clip |= {"vocab_size": torch.tensor(49408)}
    out = convert.alpha_clip_keys(clip, visual={"proj": torch.ones(3, 2)})
    assert set(out) == {"visual_projection.weight", "logit_scale"}
    assert torch.equal(out["visual_projection.weight"], torch.ones(2, 3))


def test_fine_tuned_files_carry_a_prefix():
    key = "mm_extractor.beit3.text_embed.weight"
    assert set(convert.evf_keys({f"module.{key}": torch.zeros(1)})) == {"beit3.text_embed.weight"}


@pytest.mark.parametrize(
    "convert_one, names",
    [
        (convert.evf_keys, ("text_hidden_fcs.0.0.bias", "module.text_hidden_fcs.0.0.bias")),
        (convert.cutie_keys, ("module.x", "x")),
        (lambda t: convert.alpha_clip_keys({}, visual=t), ("visual.proj", "proj")),
        (lambda t: convert.alpha_clip_keys({}, visual=t), ("module.visual.proj", "visual.proj")),
        (
            convert.alpha_clip_keys,
            ("visual.transformer.resblocks.0.attn.in_proj_bias",
             "visual.transformer.resblocks.0.attn.in_proj.bias"),
        ),
    ],
)  # fmt: skip
def test_names_that_differ_by_a_prefix_never_become_one(convert_one, names):
    """The later one would win, and the other be recorded as not needed."""
    with pytest.raises(ValueError, match="both become"):
        convert_one({name: torch.full((3, 3), float(i)) for i, name in enumerate(names)})


def test_sam2_points_are_joined_and_the_position_matrix_doubled():
    points = {
        f"sam_prompt_encoder.point_embeddings.{i}.weight": torch.full((1, 2), i * 1.0)
        for i in (2, 0, 3, 1)
    }
    matrix = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    out = convert.sam2_keys({**points, matrix: torch.ones(2, 4)})
    assert out["prompt_encoder.point_embed.weight"][:, 0].tolist() == [0, 1, 2, 3]
    for name in ("shared_image_embedding", "prompt_encoder.shared_embedding"):
        assert torch.equal(out[f"{name}.positional_embedding"], torch.ones(2, 4))


def test_both_names_of_the_fuser_scale():
    for name in ("gamma", "weight"):
        out = convert.sam2_keys({f"memory_encoder.fuser.layers.1.{name}": torch.zeros(1)})
        assert set(out) == {"memory_encoder.memory_fuser.layers.1.scale"}


def test_sam2_image_keys_leave_out_the_video_memory():
    tensors = {k: torch.zeros(1) for k in ("no_mem_embed", "no_obj_ptr", "maskmem_tpos_enc")}
    assert set(convert.sam2_image_keys(tensors)) == {"no_memory_embedding"}


def test_cutie_for_single_objects_gets_an_empty_channel():
    tensors = {
        "mask_encoder.conv1.weight": torch.ones(64, 4, 7, 7),
        "mask_encoder.sensory_update.transform.bias": torch.zeros(3 * 8),
        "pixel_fuser.sensory_compress.weight": torch.ones(6, 8 + 1, 1, 1),
    }
    for dropped in ({}, {"pixel_fuser.sensory_compress.weight"}):  # each on its own account
        out = convert.cutie_keys({k: v for k, v in tensors.items() if k not in dropped})
        padded = out["mask_encoder.conv1.weight"]
        assert padded.shape == (64, 5, 7, 7)
        assert padded[:, :4].all() and not padded[:, 4].any()
    whole = convert.cutie_keys(convert.cutie_keys(tensors))  # a file for several stays as it is
    assert whole["pixel_fuser.sensory_compress.weight"].shape == (6, 10, 1, 1)
    assert whole["mask_encoder.conv1.weight"].shape == (64, 5, 7, 7)


def test_transformers_names_stay():
    matrix = torch.ones(2, 4)
    names = {"vision_encoder.neck.convs.0.weight": torch.zeros(1)}
    for place in ("shared_image_embedding", "prompt_encoder.shared_embedding"):
        out = convert.sam2_keys({**names, f"{place}.positional_embedding": matrix})
        assert set(out) == {
            *names,
            "shared_image_embedding.positional_embedding",
            "prompt_encoder.shared_embedding.positional_embedding",
        }
    clip = {
        "text_model.embeddings.position_ids": torch.arange(3),
        "text_model.final_layer_norm.bias": torch.zeros(2),
        "vision_model.pre_layrnorm.bias": torch.zeros(2),
        "visual_projection.weight": torch.zeros(3, 2),
    }
    out = convert.alpha_clip_keys(clip, visual={"visual.ln_pre.bias": torch.ones(2)})
    assert set(out) == {"text_model.final_layer_norm.bias", "vision_model.pre_layrnorm.bias"}
    assert out["vision_model.pre_layrnorm.bias"].all()
