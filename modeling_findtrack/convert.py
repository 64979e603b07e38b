"""Official checkpoints to this package's parameter names.

Every function takes the tensors of a published file under their own names and returns them under
ours, unchanged but for the splits, joins and transpositions that the two designs differ by.

Rules are pairs (official name, our name), read as regular expressions after this shorthand: `#` is
a number, `*` is `weight` or `bias`, `?` is one of `q`, `k`, `v`; `{a|b}` is one of the words
listed. What they matched is put into the same signs of our name, in order. A name that no rule
matches in full is an error, so a checkpoint of another design never converts silently.
"""

import re
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F

Tensors = dict[str, torch.Tensor]
Rules = list[tuple[str, str]]


class UnknownTensorsError(ValueError):
    """Names that no rule knows; `tensors` are what they name."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        super().__init__(f"{len(tensors)} unknown tensors: {', '.join(sorted(tensors))}")
        self.tensors = dict(tensors)


# What a key of Sam2VideoModel starts with if Sam2Model has it too.
SAM2_IMAGE_PARTS = (
    "vision_encoder.",
    "prompt_encoder.",
    "mask_decoder.",
    "shared_image_embedding.",
    "no_memory_embedding",
)


def _three_layer_mlp(official: str, ours: str) -> Rules:
    return [
        (f"{official}.layers.0.*", f"{ours}.proj_in.*"),
        (f"{official}.layers.1.*", f"{ours}.layers.0.*"),
        (f"{official}.layers.2.*", f"{ours}.proj_out.*"),
    ]


def _mask_decoder(official: str, out: str) -> Rules:
    """What the decoders of SAM and SAM 2 share; `out` is our name of an attention's output."""
    block, ours = f"{official}.transformer.layers.#", "mask_decoder.transformer.layers.#"
    attention = "{self_attn|cross_attn_token_to_image|cross_attn_image_to_token}"
    final = "transformer.final_attn_token_to_image"
    return [
        (f"{official}.{{iou_token|mask_tokens}}.weight", "mask_decoder.{}.weight"),
        (f"{official}.output_upscaling.0.*", "mask_decoder.upscale_conv1.*"),
        (f"{official}.output_upscaling.1.*", "mask_decoder.upscale_layer_norm.*"),
        (f"{official}.output_upscaling.3.*", "mask_decoder.upscale_conv2.*"),
        (f"{block}.{attention}.?_proj.*", f"{ours}.{{}}.?_proj.*"),
        (f"{block}.{attention}.out_proj.*", f"{ours}.{{}}.{out}.*"),
        (f"{block}.norm#.*", f"{ours}.layer_norm#.*"),
        (f"{official}.{final}.?_proj.*", f"mask_decoder.{final}.?_proj.*"),
        (f"{official}.{final}.out_proj.*", f"mask_decoder.{final}.{out}.*"),
        (
            f"{official}.transformer.norm_final_attn.*",
            "mask_decoder.transformer.layer_norm_final_attn.*",
        ),
        *_three_layer_mlp(
            f"{official}.output_hypernetworks_mlps.#", "mask_decoder.output_hypernetworks_mlps.#"
        ),
        *_three_layer_mlp(f"{official}.iou_prediction_head", "mask_decoder.iou_prediction_head"),
    ]


def _prompt_encoder(official: str) -> Rules:
    layers = {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}
    return [
        (
            f"{official}.{{no_mask_embed|not_a_point_embed}}.weight",
            "prompt_encoder.{}.weight",
        ),
        *(
            (f"{official}.mask_downscaling.{i}.*", f"prompt_encoder.mask_embed.{name}.*")
            for i, name in layers.items()
        ),
    ]


BEIT3: Rules = [
    (name, name)
    for name in (
        "text_embed.weight",
        "vision_embed.{cls_token|mask_token}",
        "vision_embed.proj.*",
        "encoder.embed_positions.{A|B}.weight",
        "encoder.layers.#.self_attn.?_proj.{A|B}.*",
        "encoder.layers.#.self_attn.{out_proj|inner_attn_ln}.{A|B}.*",
        "encoder.layers.#.{self_attn_layer_norm|final_layer_norm}.{A|B}.*",
        "encoder.layers.#.ffn.{A|B}.{fc1|fc2|ffn_layernorm}.*",
        "encoder.layer_norm.{A|B}.*",
    )
]

SAM: Rules = [
    ("image_encoder.pos_embed", "vision_encoder.pos_embed"),
    ("image_encoder.patch_embed.proj.*", "vision_encoder.patch_embed.projection.*"),
    ("image_encoder.blocks.#.norm#.*", "vision_encoder.layers.#.layer_norm#.*"),
    ("image_encoder.blocks.#.attn.{qkv|proj}.*", "vision_encoder.layers.#.attn.{}.*"),
    ("image_encoder.blocks.#.attn.{rel_pos_h|rel_pos_w}", "vision_encoder.layers.#.attn.{}"),
    ("image_encoder.blocks.#.mlp.{lin1|lin2}.*", "vision_encoder.layers.#.mlp.{}.*"),
    ("image_encoder.neck.0.weight", "vision_encoder.neck.conv1.weight"),
    ("image_encoder.neck.1.*", "vision_encoder.neck.layer_norm1.*"),
    ("image_encoder.neck.2.weight", "vision_encoder.neck.conv2.weight"),
    ("image_encoder.neck.3.*", "vision_encoder.neck.layer_norm2.*"),
    *_prompt_encoder("prompt_encoder"),
    ("prompt_encoder.point_embeddings.#.weight", "prompt_encoder.point_embed.#.weight"),
    *_mask_decoder("mask_decoder", out="out_proj"),
    (
        "mask_decoder.transformer.layers.#.mlp.{lin1|lin2}.*",
        "mask_decoder.transformer.layers.#.mlp.{}.*",
    ),
]

_TRUNK, _BACKBONE = "image_encoder.trunk", "vision_encoder.backbone"
_SAM2_BLOCK = "mask_decoder.transformer.layers.#"
SAM2: Rules = [
    (f"{_TRUNK}.{{pos_embed|pos_embed_window}}", f"{_BACKBONE}.{{}}"),
    (f"{_TRUNK}.patch_embed.proj.*", f"{_BACKBONE}.patch_embed.projection.*"),
    (f"{_TRUNK}.blocks.#.norm#.*", f"{_BACKBONE}.blocks.#.layer_norm#.*"),
    (f"{_TRUNK}.blocks.#.attn.{{qkv|proj}}.*", f"{_BACKBONE}.blocks.#.attn.{{}}.*"),
    (f"{_TRUNK}.blocks.#.mlp.layers.0.*", f"{_BACKBONE}.blocks.#.mlp.proj_in.*"),
    (f"{_TRUNK}.blocks.#.mlp.layers.1.*", f"{_BACKBONE}.blocks.#.mlp.proj_out.*"),
    (f"{_TRUNK}.blocks.#.proj.*", f"{_BACKBONE}.blocks.#.proj.*"),
    ("image_encoder.neck.convs.#.conv.*", "vision_encoder.neck.convs.#.*"),
    *_prompt_encoder("sam_prompt_encoder"),
    *_mask_decoder("sam_mask_decoder", out="o_proj"),
    ("sam_mask_decoder.transformer.layers.#.mlp.layers.0.*", f"{_SAM2_BLOCK}.mlp.proj_in.*"),
    ("sam_mask_decoder.transformer.layers.#.mlp.layers.1.*", f"{_SAM2_BLOCK}.mlp.proj_out.*"),
    ("sam_mask_decoder.{conv_s0|conv_s1}.*", "mask_decoder.{}.*"),
    ("sam_mask_decoder.obj_score_token.weight", "mask_decoder.obj_score_token.weight"),
    *_three_layer_mlp("sam_mask_decoder.pred_obj_score_head", "mask_decoder.pred_obj_score_head"),
    *_three_layer_mlp("obj_ptr_proj", "object_pointer_proj"),
    ("no_mem_embed", "no_memory_embedding"),
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("mask_downsample.*", "mask_downsample.*"),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),  # SAM 2.1
    ("obj_ptr_tpos_proj.*", "temporal_positional_encoding_projection_layer.*"),  # SAM 2.1
    *(
        (
            f"memory_attention.layers.#.{{self_attn|cross_attn_image}}.{official}.*",
            f"memory_attention.layers.#.{{}}.{ours}.*",
        )
        for official, ours in (("?_proj", "?_proj"), ("out_proj", "o_proj"))
    ),
    ("memory_attention.layers.#.{linear1|linear2}.*", "memory_attention.layers.#.{}.*"),
    ("memory_attention.layers.#.norm#.*", "memory_attention.layers.#.layer_norm#.*"),
    ("memory_attention.norm.*", "memory_attention.layer_norm.*"),
    ("memory_encoder.pix_feat_proj.*", "memory_encoder.feature_projection.*"),
    ("memory_encoder.out_proj.*", "memory_encoder.projection.*"),
    # A sequence of (convolution, norm, activation) four times, and one last convolution.
    *(
        (
            f"memory_encoder.mask_downsampler.encoder.{3 * i + j}.*",
            f"memory_encoder.mask_downsampler.layers.{i}.{name}.*",
        )
        for i in range(4)
        for j, name in enumerate(("conv", "layer_norm"))
    ),
    (
        "memory_encoder.mask_downsampler.encoder.12.*",
        "memory_encoder.mask_downsampler.final_conv.*",
    ),
    *(
        (
            f"memory_encoder.fuser.layers.#.{official}",
            f"memory_encoder.memory_fuser.layers.#.{ours}",
        )
        for official, ours in (
            ("dwconv.*", "depthwise_conv.*"),
            ("norm.*", "layer_norm.*"),
            ("pwconv1.*", "pointwise_conv1.*"),
            ("pwconv2.*", "pointwise_conv2.*"),
            ("gamma", "scale"),
            ("weight", "scale"),  # EVF-SAM2's name of gamma
        )
    ),
]


def _clip_tower(official: str, ours: str) -> Rules:
    block, layer = f"{official}transformer.resblocks.#", f"{ours}.encoder.layers.#"
    return [
        (f"{official}positional_embedding", f"{ours}.embeddings.position_embedding.weight"),
        (f"{block}.attn.{{q_proj|k_proj|v_proj|out_proj}}.*", f"{layer}.self_attn.{{}}.*"),
        (f"{block}.ln_#.*", f"{layer}.layer_norm#.*"),
        (f"{block}.mlp.c_fc.*", f"{layer}.mlp.fc1.*"),
        (f"{block}.mlp.c_proj.*", f"{layer}.mlp.fc2.*"),
    ]


ALPHA_CLIP: Rules = [
    ("logit_scale", "logit_scale"),
    ("text_projection", "text_projection.weight"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("ln_final.*", "text_model.final_layer_norm.*"),
    *_clip_tower("", "text_model"),
    ("visual.proj", "visual_projection.weight"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual.conv1_alpha.weight", "vision_model.embeddings.patch_embedding_alpha.weight"),
    ("visual.ln_pre.*", "vision_model.pre_layrnorm.*"),
    ("visual.ln_post.*", "vision_model.post_layernorm.*"),
    *_clip_tower("visual.", "vision_model"),
]


def beit3_keys(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """BEiT-3 -> `Beit3Model`; names as below `mm_extractor.beit3.` in EVF-SAM's file."""
    return rename(tensors, BEIT3)


def sam_keys(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """SAM -> transformers' `SamModel`; names as below `visual_model.` in EVF-SAM's file."""
    matrix, rest = _take_position_matrix(tensors, "prompt_encoder")
    return {**rename(rest, SAM), **matrix}


def sam2_keys(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """SAM 2.0 or 2.1 -> transformers' `Sam2VideoModel`.

    Args:
        tensors: Names as in the official files, or as below `visual_model.` in EVF-SAM2's, or
            already those of transformers.
    """
    if any(name.startswith("vision_encoder.") for name in tensors):
        return _complete_position_matrix(tensors)
    joined, rest = _take_position_matrix(tensors, "sam_prompt_encoder")
    points = [f"sam_prompt_encoder.point_embeddings.{i}.weight" for i in range(4)]
    if all(name in rest for name in points):
        rows = [rest.pop(name) for name in points]  # four times (1, C)
        joined["prompt_encoder.point_embed.weight"] = torch.cat(rows)
    return {**rename(rest, SAM2), **joined}


def sam2_image_keys(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """SAM 2.0 or 2.1 -> transformers' `Sam2Model`: `sam2_keys` without the video memory."""
    return {k: v for k, v in sam2_keys(tensors).items() if k.startswith(SAM2_IMAGE_PARTS)}


def evf_keys(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """EVF-SAM or EVF-SAM2 -> `EvfFinder`.

    Args:
        tensors: A whole checkpoint: `visual_model.`, `mm_extractor.beit3.`,
            `text_hidden_fcs.0.`; a leading `module.`, as fine-tuning writes it, is dropped.
    """
    tensors = without_prefixes(tensors, "module.")
    beit3, tensors = _split_off(tensors, "mm_extractor.beit3.")
    visual, tensors = _split_off(tensors, "visual_model.")
    is_sam2 = any(k.startswith("image_encoder.trunk.") for k in visual)
    sam = (sam2_image_keys if is_sam2 else sam_keys)(visual)
    return {
        **rename(tensors, [("text_hidden_fcs.0.#.*", "text_projection.#.*")]),
        **{f"beit3.{k}": v for k, v in beit3_keys(beit3).items()},
        **{f"sam.{k}": v for k, v in sam.items()},
    }


def alpha_clip_keys(
    tensors: Mapping[str, torch.Tensor], visual: Mapping[str, torch.Tensor] | None = None
) -> Tensors:
    """Alpha-CLIP -> `AlphaCLIPModel`.

    Args:
        tensors: OpenAI's CLIP, transformers' CLIP, or a whole Alpha-CLIP.
        visual: Alpha-CLIP's published file, an image tower without prefix or below `visual.`,
            instead of that of `tensors`.
    """
    scalars = ("input_resolution", "context_length", "vocab_size")  # no parameters
    tensors = {k: v for k, v in tensors.items() if k not in scalars}
    if any(name.startswith("text_model.") for name in tensors):
        ours, tensors = _without_numbering(tensors), {}
    else:
        ours = {}
    if visual is not None:
        ours = {k: v for k, v in ours.items() if not k.startswith(("vision_model.", "visual_"))}
        tensors = _split_off(tensors, "visual.")[1]
        visual = without_prefixes(visual, "module.", "visual.")
        tensors |= {f"visual.{k}": v for k, v in visual.items()}
    result = rename(_split_in_proj(tensors), ALPHA_CLIP)
    for name in ("text_projection.weight", "visual_projection.weight"):
        if name in result:
            result[name] = result[name].T.contiguous()  # x @ P in CLIP, x @ W.T in nn.Linear
    return ours | result


def cutie_keys(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Cutie -> Cutie: names stay, a file for single objects becomes one for several.

    Two weights of such a file lack the input channel of "the other objects". It is added as zeros:
    with one object that channel is empty, so nothing changes. (Upstream adds random numbers.)
    """
    result = without_prefixes(tensors, "module.")
    single = {"mask_encoder.conv1.weight": 4}  # colour and mask
    if (gates := result.get("mask_encoder.sensory_update.transform.bias")) is not None:
        single["pixel_fuser.sensory_compress.weight"] = gates.shape[0] // 3 + 1  # state and mask
    for name, channels in single.items():
        if name in result and result[name].shape[1] == channels:
            result[name] = F.pad(result[name], (0, 0, 0, 0, 0, 1))  # (O, C, h, w) -> (O, C + 1, ..)
    return result


def without_prefixes(tensors: Mapping[str, torch.Tensor], *prefixes: str) -> Tensors:
    """Names without these prefixes, taken off in order, each where it is there.

    Raises:
        ValueError: Two names that become one.
    """
    result: Tensors = {}
    for key, tensor in tensors.items():
        name = key
        for prefix in prefixes:
            name = name.removeprefix(prefix)
        _put(result, name, key, tensor)
    return result


def rename(tensors: Mapping[str, torch.Tensor], rules: Rules) -> Tensors:
    """Apply the first rule that matches each name.

    Raises:
        UnknownTensorsError: Names without a rule.
        ValueError: Two names that become one.
    """
    compiled = [(_pattern(official), ours) for official, ours in rules]
    result, unknown = {}, {}
    for key, tensor in tensors.items():
        new = _translate(key, compiled)
        if new is None:
            unknown[key] = tensor
        else:
            _put(result, new, key, tensor)
    if unknown:
        raise UnknownTensorsError(unknown)
    return result


def _put(result: Tensors, name: str, key: str, tensor: torch.Tensor) -> None:
    """Add a tensor, `key` in the file, whose name must not be taken."""
    if name in result:
        raise ValueError(f"{key} and another tensor both become {name}")
    result[name] = tensor


_SIGN = re.compile(r"[#*?]|\{[^}]*\}")
_SIGNS = {"#": r"(\d+)", "*": r"(weight|bias)", "?": r"([qkv])"}


def _pattern(official: str) -> re.Pattern:
    """The shorthand of the module's docstring as a regular expression."""
    pieces, end = [], 0
    for sign in _SIGN.finditer(official):
        pieces.append(re.escape(official[end : sign.start()]))
        pieces.append(_SIGNS.get(sign[0], f"({sign[0][1:-1]})"))
        end = sign.end()
    return re.compile("".join(pieces) + re.escape(official[end:]))


def _translate(key: str, rules: Iterable[tuple[re.Pattern, str]]) -> str | None:
    for pattern, ours in rules:
        if match := pattern.fullmatch(key):
            groups = iter(match.groups())
            return _SIGN.sub(lambda _, groups=groups: next(groups), ours)
    return None


def _split_off(tensors: Mapping[str, torch.Tensor], prefix: str) -> tuple[Tensors, Tensors]:
    """Tensors whose name starts with `prefix`, without it, and the others."""
    inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return inside, {k: v for k, v in tensors.items() if not k.startswith(prefix)}


def _take_position_matrix(
    tensors: Mapping[str, torch.Tensor], prompt_encoder: str
) -> tuple[Tensors, Tensors]:
    """The one random matrix of positions, which transformers keeps twice, and the others."""
    rest = dict(tensors)
    matrix = rest.pop(f"{prompt_encoder}.pe_layer.positional_encoding_gaussian_matrix", None)
    if matrix is None:
        return {}, rest
    places = ("shared_image_embedding", "prompt_encoder.shared_embedding")
    return {f"{place}.positional_embedding": matrix.clone() for place in places}, rest


def _complete_position_matrix(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """transformers' SAM 2, whose one position matrix may be stored once or twice."""
    places = ("shared_image_embedding", "prompt_encoder.shared_embedding")
    names = [f"{place}.positional_embedding" for place in places]
    result = dict(tensors)
    for name, other in (names, names[::-1]):
        if other in result:
            result.setdefault(name, result[other])
    return result


def _without_numbering(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Without what transformers once stored though it is no parameter: 0, 1, 2, ..."""
    return {k: v for k, v in tensors.items() if not k.endswith(".position_ids")}


def _split_in_proj(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Stacked attention inputs `in_proj_*` (also `in_proj.*`) -> query, key and value."""
    result: Tensors = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.attn\.)in_proj[_.](weight|bias)", key)
        if match is None:
            _put(result, key, key, tensor)
            continue
        for name, part in zip("qkv", tensor.chunk(3), strict=True):
            _put(result, f"{match[1]}{name}_proj.{match[2]}", key, part.contiguous())
    return result
