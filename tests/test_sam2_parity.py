"""Tracker and finder against the official `sam2` package.

The tracker against `track_step`, on clips long enough to fill the memory window and the pointer
queue, with absent frames and an empty mask; the finder against image encoder and mask decoder,
prompted by text alone. For both, files in the official form are converted, too.

The package has no wheels: with torch installed, `SAM2_BUILD_CUDA=0 pip install
--no-build-isolation --no-deps sam2` builds it; importing it takes hydra-core and iopath.
"""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from transformers import Sam2VideoConfig

from modeling_findtrack.beit3 import Beit3Model
from modeling_findtrack.configuration_findtrack import FinderConfig
from modeling_findtrack.convert import sam2_keys
from modeling_findtrack.finder import EvfFinder
from modeling_findtrack.presets import SETTINGS
from modeling_findtrack.published_parts import PublishedPart, read_finder, read_sam2_tracker
from modeling_findtrack.published_source import find_source
from modeling_findtrack.tracker_sam2 import Sam2Tracker
from tests.official_checkpoints import SAM2_SWITCHES
from tests.tiny_models import beit3_config

try:
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
    from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine
    from sam2.modeling.sam.transformer import RoPEAttention
    from sam2.modeling.sam2_base import SAM2Base
except ImportError as error:
    pytest.skip(f"the official sam2 package is not importable: {error}", allow_module_level=True)

S, D = 64, 128  # model size, channels
NUM_FRAMES = 24
KEYS = [2, 21, 11, 6]  # key frame of each object; the last object's mask is empty
STYLES = ["2.0", "2.1"]
# The official code fixes 2048 and 256 inside the mask decoder.
DECODER = dict(hidden_size=D, mlp_dim=2048, num_attention_heads=8, iou_head_hidden_dim=256)
HIERA = dict(stages=[1, 1, 2, 1], windows=[4, 4, 2, 2], global_blocks=[3], background=[4, 4])


def official_model(style: str, multimask: bool, seed: int):
    """`SAM2Base` of the released configurations at small size, weights random but loud."""
    torch.manual_seed(seed)
    rope = partial(
        RoPEAttention, feat_sizes=[S // 16] * 2, embedding_dim=D, num_heads=1, downsample_rate=1
    )
    layer = MemoryAttentionLayer(
        activation="relu",
        cross_attention=rope(rope_k_repeat=True, kv_in_dim=64),
        d_model=D,
        dim_feedforward=64,
        dropout=0.1,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=rope(),
    )
    trunk = Hiera(
        embed_dim=16,
        stages=HIERA["stages"],
        global_att_blocks=HIERA["global_blocks"],
        window_spec=HIERA["windows"],
        window_pos_embed_bkg_spatial_size=HIERA["background"],
    )
    neck = FpnNeck(
        PositionEmbeddingSine(D),
        D,
        [128, 64, 32, 16],
        fpn_interp_model="nearest",
        fpn_top_down_levels=[2, 3],
    )
    fuser = Fuser(CXBlock(D), num_layers=2)
    downsampler = MaskDownSampler(D, kernel_size=3, stride=2, padding=1)
    model = SAM2Base(
        image_encoder=ImageEncoder(trunk, neck, scalp=1),
        memory_attention=MemoryAttention(D, True, layer, num_layers=2),
        memory_encoder=MemoryEncoder(64, downsampler, fuser, PositionEmbeddingSine(64), in_dim=D),
        image_size=S,
        sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0,
        use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        multimask_output_for_tracking=multimask,
        use_multimask_token_for_obj_ptr=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        only_obj_ptrs_in_the_past_for_eval=True,
        add_tpos_enc_to_obj_ptrs=style == "2.1",
        proj_tpos_enc_in_obj_ptrs=style == "2.1",
        use_signed_tpos_enc_to_obj_ptrs=style == "2.1",
        no_obj_embed_spatial=style == "2.1",
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True,
        use_mlp_for_obj_ptr_proj=True,
        sam_mask_decoder_extra_args=dict(
            dynamic_multimask_via_stability=True,
            dynamic_multimask_stability_delta=0.05,
            dynamic_multimask_stability_thresh=0.98,
        ),
    ).eval()
    make_loud(model)
    return model


@torch.no_grad()
def make_loud(model) -> None:
    """Give what starts near zero a size at which leaving it out or mixing it up shows."""
    for name in ("maskmem_tpos_enc", "no_obj_ptr", "no_mem_embed", "no_obj_embed_spatial"):
        if getattr(model, name, None) is not None:
            getattr(model, name).normal_()
    for block in model.memory_encoder.fuser.layers:
        block.gamma.normal_(std=0.5)
    for layer in model.memory_attention.layers:
        layer.cross_attn_image.out_proj.weight.mul_(3)
    if model.proj_tpos_enc_in_obj_ptrs:
        model.obj_ptr_tpos_proj.weight.mul_(5)
    decoder = model.sam_mask_decoder
    decoder.pred_obj_score_head.layers[-1].weight.mul_(100)
    decoder.iou_prediction_head.layers[-1].weight.mul_(5)
    for mlp in decoder.output_hypernetworks_mlps:
        mlp.layers[-1].weight.mul_(20)


def our_tracker(official, style: str, multimask: bool) -> Sam2Tracker:
    """The same model behind our loop, weights through the converter."""
    dims = [16, 32, 64, 128]
    vision = dict(
        model_type="sam2_vision_model",
        backbone_config=dict(
            model_type="sam2_hiera_det_model",
            image_size=[S, S],
            hidden_size=dims[0],
            embed_dim_per_stage=dims,
            num_attention_heads_per_stage=[1, 2, 4, 8],
            blocks_per_stage=HIERA["stages"],
            window_size_per_stage=HIERA["windows"],
            global_attention_blocks=HIERA["global_blocks"],
            window_positional_embedding_background_size=HIERA["background"],
        ),
        backbone_channel_list=dims[::-1],
        backbone_feature_sizes=[[S // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=D,
    )
    config = Sam2VideoConfig(
        vision_config=vision,
        image_size=S,
        prompt_encoder_config=dict(hidden_size=D, image_size=S),
        mask_decoder_config=DECODER,
        memory_attention_hidden_size=D,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[S // 16] * 2,
        memory_encoder_hidden_size=D,
        mask_downsampler_embed_dim=D,
        memory_fuser_embed_dim=D,
        memory_fuser_intermediate_dim=4 * D,
        multimask_output_for_tracking=multimask,
        enable_occlusion_spatial_embedding=style == "2.1",
        enable_temporal_pos_encoding_for_object_pointers=style == "2.1",
    )
    tracker = Sam2Tracker(config).eval()
    tracker.sam2.load_state_dict(sam2_keys(official.state_dict()))
    return tracker


def clip(num_frames: int = NUM_FRAMES) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (T, 3, S, S) and one key mask per object (N, 1, S, S)."""
    frames = 2 * torch.randn(num_frames, 3, S, S, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(len(KEYS), 1, S, S)
    masks[0, :, 10:30, 5:25] = 1
    masks[1, :, 30:60, 20:50] = 1
    masks[2, :, 2:50, 40:62] = 1
    return frames, masks


@torch.no_grad()
def official_sweep(model, frames, masks, keys, reverse: bool) -> dict:
    """{(object, frame): (mask logits, object score)} of `track_step`, one object at a time."""
    _, features, positions, sizes = model._prepare_backbone_features(model.forward_image(frames))
    seen = {}
    for i, key in enumerate(keys):
        memory = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        for t in range(key, -1, -1) if reverse else range(key, len(frames)):
            output = model.track_step(
                frame_idx=t,
                is_init_cond_frame=t == key,
                current_vision_feats=[x[:, t : t + 1] for x in features],
                current_vision_pos_embeds=[x[:, t : t + 1] for x in positions],
                feat_sizes=sizes,
                point_inputs=None,
                mask_inputs=masks[i, None] if t == key else None,
                output_dict=memory,
                num_frames=len(frames),
                track_in_reverse=reverse,
            )
            kind = "cond_frame_outputs" if t == key else "non_cond_frame_outputs"
            memory[kind][t] = output
            seen[i, t] = output["pred_masks"][0], output["object_score_logits"].flatten()[0]
    return seen


@torch.no_grad()
def our_sweep(tracker, frames, masks, keys, reverse: bool) -> dict:
    """The same from the tracker, all objects in one batch per frame."""
    features, num_frames = tracker.encode(frames), len(frames)
    lanes, seen = {}, {}
    for t in reversed(range(num_frames)) if reverse else range(num_frames):
        frame = features.select(t)
        outputs = [(list(lanes), tracker.step(frame, list(lanes.values())))] if lanes else []
        new = [i for i, key in enumerate(keys) if key == t]
        if new:
            started, output = tracker.start(frame, masks[new], num_frames)
            lanes.update(zip(new, started, strict=True))
            outputs.append((new, output))
        for names, output in outputs:
            for row, i in enumerate(names):
                seen[i, t] = output.mask_logits[row], output.presence[row]
    return seen


def centre_object_score(model, frames, masks, keys) -> None:
    """Shift the object score so that a good part of the tracked frames are absent.

    Zero is put in the middle of a gap between scores, so that rounding cannot change a sign.
    """
    head = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
    for _ in range(2):
        scores = official_sweep(model, frames, masks, keys, reverse=False)
        tracked = torch.stack([s for (i, t), (_, s) in scores.items() if t != keys[i]])
        central = tracked.sort().values[len(tracked) // 4 : -len(tracked) // 4]
        widest = central.diff().argmax()
        with torch.no_grad():
            head.bias -= (central[widest] + central[widest + 1]) / 2


def assert_same(ours: dict, official: dict) -> None:
    assert ours.keys() == official.keys()
    for at, (logits, score) in official.items():
        torch.testing.assert_close(
            ours[at][0], logits, atol=1e-4, rtol=0, msg=lambda m, at=at: f"{at}: {m}"
        )
        torch.testing.assert_close(ours[at][1], score, atol=1e-4, rtol=0)


@pytest.mark.parametrize("style", STYLES)
def test_parity_with_absent_frames_and_an_empty_mask(style):
    official = official_model(style, multimask=True, seed=4)
    frames, masks = clip()
    centre_object_score(official, frames, masks, KEYS)
    tracker = our_tracker(official, style, multimask=True)
    tracked = []
    for reverse in (False, True):
        expected = official_sweep(official, frames, masks, KEYS, reverse)
        assert_same(our_sweep(tracker, frames, masks, KEYS, reverse), expected)
        tracked += [score for (i, t), (_, score) in expected.items() if t != KEYS[i]]
    scores = torch.stack(tracked)
    assert scores.abs().min() > 1e-3, "no score may hang on rounding"
    assert 0.1 < (scores <= 0).float().mean() < 0.9, "the clip must show both cases"


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("style", STYLES)
def test_parity_with_an_object_always_there(style, multimask):
    """Long enough for the window of 7 memories and the cap of 16 pointers to bite."""
    official = official_model(style, multimask, seed=2)
    with torch.no_grad():
        official.sam_mask_decoder.pred_obj_score_head.layers[-1].weight.zero_()
        official.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5)
    frames, masks = clip()
    tracker = our_tracker(official, style, multimask)
    for reverse, key in ((False, 0), (True, NUM_FRAMES - 1)):
        expected = official_sweep(official, frames, masks[:1], [key], reverse)
        assert_same(our_sweep(tracker, frames, masks[:1], [key], reverse), expected)


@pytest.mark.parametrize("style", STYLES)
def test_parity_on_a_clip_shorter_than_the_pointer_queue(style):
    official = official_model(style, multimask=True, seed=3)
    frames, masks = clip(num_frames=9)
    tracker = our_tracker(official, style, multimask=True)
    for reverse in (False, True):
        expected = official_sweep(official, frames, masks[:2], [1, 4], reverse)
        assert_same(our_sweep(tracker, frames, masks[:2], [1, 4], reverse), expected)


@pytest.mark.parametrize("score", [5.0, -5.0], ids=["present", "absent"])
@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_parity_of_what_the_key_frame_leaves_behind(style, score):
    """The pointer obeys the decoder's object score even where a mask is given; the memory does not.

    The score decides nothing else on the key frame, hence the look inside.
    """
    official = official_model(style, multimask=True, seed=4)
    head = official.sam_mask_decoder.pred_obj_score_head.layers[-1]
    head.weight.zero_()
    head.bias.fill_(score)
    frames, masks = clip(num_frames=1)
    tracker = our_tracker(official, style, multimask=True)
    lanes, _ = tracker.start(tracker.encode(frames), masks, 1)
    _, features, positions, sizes = official._prepare_backbone_features(
        official.forward_image(frames)
    )
    for lane, mask in zip(lanes, masks, strict=True):
        memory = dict(cond_frame_outputs={}, non_cond_frame_outputs={})
        output = official.track_step(
            0, True, features, positions, sizes, None, mask[None], memory, 1
        )
        features_of_mask = output["maskmem_features"][0].flatten(1).T
        torch.testing.assert_close(lane.key_pointer, output["obj_ptr"][0], atol=1e-5, rtol=0)
        torch.testing.assert_close(lane.key_memory, features_of_mask, atol=1e-4, rtol=0)


# ---- files in the official form, converted -------------------------------------------------------


def official_yaml(style: str) -> dict:
    """The config of `official_model(style, multimask=True)`, as the published ones are written."""
    rope = {
        "rope_theta": 10000.0, "embedding_dim": D, "num_heads": 1, "downsample_rate": 1,
        "feat_sizes": [S // 16] * 2,
    }  # fmt: skip
    is_new = style == "2.1"
    model = {
        **SAM2_SWITCHES,
        "image_size": S,
        "num_maskmem": 7,
        "image_encoder": {
            "scalp": 1,
            "trunk": {
                "embed_dim": 16,
                "num_heads": 1,
                "stages": HIERA["stages"],
                "global_att_blocks": HIERA["global_blocks"],
                "window_spec": HIERA["windows"],
                "window_pos_embed_bkg_spatial_size": HIERA["background"],
            },
            "neck": {
                "d_model": D,
                "backbone_channel_list": [128, 64, 32, 16],
                "fpn_top_down_levels": [2, 3],
                "fpn_interp_model": "nearest",
            },
        },
        "memory_attention": {
            "d_model": D,
            "pos_enc_at_input": True,
            "num_layers": 2,
            "layer": {
                "activation": "relu",
                "pos_enc_at_attn": False,
                "pos_enc_at_cross_attn_keys": True,
                "pos_enc_at_cross_attn_queries": False,
                "self_attention": rope,
                "cross_attention": {**rope, "rope_k_repeat": True, "kv_in_dim": 64},
            },
        },
        "sigmoid_scale_for_mem_enc": 20.0,
        "sigmoid_bias_for_mem_enc": -10.0,
        "multimask_output_in_sam": True,
        "multimask_output_for_tracking": True,
        "multimask_min_pt_num": 0,
        "multimask_max_pt_num": 1,
        "only_obj_ptrs_in_the_past_for_eval": True,
        "add_tpos_enc_to_obj_ptrs": is_new,
        "proj_tpos_enc_in_obj_ptrs": is_new,
        "use_signed_tpos_enc_to_obj_ptrs": is_new,
        "no_obj_embed_spatial": is_new,
        "sam_mask_decoder_extra_args": {
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
    }
    return {"model": model}


def read_back(read, folder: Path, tensors: dict, settings: dict) -> PublishedPart:
    """What a reader makes of `x.pt` and `x.yaml`."""
    torch.save(tensors, folder / "x.pt")
    (folder / "x.yaml").write_text(yaml.safe_dump(settings))
    return read(find_source(str(folder / "x.pt"), SETTINGS))


def loaded(part: PublishedPart, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor.load() for name, tensor in part.tensors.items()}


@pytest.mark.parametrize("style", STYLES)
def test_parity_of_a_converted_tracker(style, tmp_path):
    official = official_model(style, multimask=True, seed=6)
    part = read_back(
        read_sam2_tracker, tmp_path, {"model": official.state_dict()}, official_yaml(style)
    )
    assert part.unknown == part.left_out == ()
    tracker = Sam2Tracker(Sam2VideoConfig(**part.config)).eval()
    tracker.sam2.load_state_dict(loaded(part, "tracker.sam2."))
    frames, masks = clip(num_frames=9)
    for reverse in (False, True):
        expected = official_sweep(official, frames, masks[:2], [1, 4], reverse)
        assert_same(our_sweep(tracker, frames, masks[:2], [1, 4], reverse), expected)


def evf_sam2(official) -> dict[str, torch.Tensor]:
    """The official network as EVF-SAM2 stores it, with a small BEiT-3."""
    tensors = {f"visual_model.{k}": v for k, v in official.state_dict().items()}
    beit3 = Beit3Model(beit3_config())
    tensors |= {f"mm_extractor.beit3.{k}": v for k, v in beit3.state_dict().items()}
    width = beit3.config.hidden_size
    for i, rows in ((0, width), (2, D)):
        tensors[f"text_hidden_fcs.0.{i}.weight"] = torch.randn(rows, width)
        tensors[f"text_hidden_fcs.0.{i}.bias"] = torch.randn(rows)
    return tensors


@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_parity_of_a_converted_finder(style, tmp_path):
    """One text embedding is the only sparse prompt; of three masks the best by predicted IoU."""
    official = official_model(style, multimask=True, seed=6)
    settings = {**official_yaml(style), "beit3_config": {"num_attention_heads": 4}}
    part = read_back(read_finder, tmp_path, evf_sam2(official), settings)
    finder = EvfFinder(FinderConfig(**part.config, multimask_output=True)).eval()
    finder.load_state_dict(loaded(part, "finder."))

    frames = clip(num_frames=3)[0].repeat(4, 1, 1, 1)  # each with several texts
    texts = 5 * torch.randn(len(frames), 1, D, generator=torch.Generator().manual_seed(1))
    images = finder.prepare(finder.encode(frames), torch.zeros(len(frames), 3, 32, 32))
    masks, iou, presence = finder.decode(images, texts[:, None], finder._dense(images, None))

    *fine, coarse = official.forward_image(frames)["backbone_fpn"]
    coarse = coarse + official.no_mem_embed.view(1, -1, 1, 1)
    torch.testing.assert_close(images.embeddings, coarse, atol=1e-4, rtol=0)
    no_mask = official.sam_prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
    chosen = []
    for i, text in enumerate(texts):
        three, predicted, _, score = official.sam_mask_decoder(
            image_embeddings=coarse[i, None],
            image_pe=official.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=text[None],
            dense_prompt_embeddings=no_mask.expand_as(coarse[i, None]),
            multimask_output=True,
            repeat_image=False,
            high_res_features=[level[i, None] for level in fine],
        )
        best = predicted[0].argmax()
        chosen.append(best.item())
        torch.testing.assert_close(masks[i], three[0, best], atol=1e-4, rtol=0)
        torch.testing.assert_close(iou[i], predicted[0, best], atol=1e-4, rtol=0)
        torch.testing.assert_close(presence[i], score[0, 0], atol=1e-4, rtol=0)
    assert len(set(chosen)) > 1, "the best of three must not always be the same"
    same_frame = masks[::3]
    assert (same_frame[1:] - same_frame[0]).abs().amax((1, 2)).min() > 0.1, "the text must count"
