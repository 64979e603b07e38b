"""The SAM 2 tracker's state machine: batching, bounded state, absence, gradients, dtypes."""

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel, Sam2VideoConfig

from modeling_findtrack.tracker_sam2 import FrameFeatures, Lane, Sam2Tracker, encode_frames

S, D = 64, 128  # model size, channels
PRESENT, ABSENT = 5.0, -5.0  # biases that settle the object score for any random input


def tracker_config(style: str = "2.1", **changes) -> Sam2VideoConfig:
    vision = dict(
        model_type="sam2_vision_model",
        backbone_config=dict(
            model_type="sam2_hiera_det_model",
            image_size=[S, S],
            hidden_size=8,
            embed_dim_per_stage=[8, 16, 32, 64],
            num_attention_heads_per_stage=[1, 1, 2, 2],
            blocks_per_stage=[1, 1, 2, 1],
            window_size_per_stage=[4, 4, 2, 2],
            global_attention_blocks=[3],
        ),
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[S // 4] * 2, [S // 8] * 2, [S // 16] * 2],
        fpn_hidden_size=D,
    )
    settings = dict(
        vision_config=vision,
        image_size=S,
        prompt_encoder_config=dict(hidden_size=D, image_size=S, patch_size=16),
        mask_decoder_config=dict(
            hidden_size=D, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=32
        ),
        memory_attention_hidden_size=D,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[S // 16] * 2,
        memory_encoder_hidden_size=D,
        mask_downsampler_embed_dim=D,
        memory_fuser_embed_dim=D,
        memory_fuser_intermediate_dim=32,
        memory_fuser_num_layers=1,
        enable_occlusion_spatial_embedding=style == "2.1",
        enable_temporal_pos_encoding_for_object_pointers=style == "2.1",
    )
    return Sam2VideoConfig(**{**settings, **changes})


def make_tracker(style: str = "2.1", score: float | None = PRESENT, **changes) -> Sam2Tracker:
    """A tracker with random weights loud enough for every part to move the masks.

    Args:
        style: "2.0" or "2.1".
        score: Makes the object score nearly constant; None lets it cross zero.
    """
    torch.manual_seed(0)
    tracker = Sam2Tracker(tracker_config(style, **changes)).eval()
    with torch.no_grad():
        for name, parameter in tracker.named_parameters():
            if parameter.ndim >= 2:
                gain = 1 / parameter[0].numel() ** 0.5 if "weight" in name else 0.5
                parameter.normal_(0, gain)
        for layer in tracker.sam2.memory_encoder.memory_fuser.layers:
            layer.scale.fill_(0.5)
        for mlp in tracker.sam2.mask_decoder.output_hypernetworks_mlps:
            mlp.proj_out.weight.mul_(5)
        head = tracker.sam2.mask_decoder.pred_obj_score_head.proj_out
        head.weight.mul_(0 if score is not None else 20)
        head.bias.fill_(score or 0)
    return tracker


def make_video(frames: int, seed: int = 1) -> torch.Tensor:
    return 2 * torch.randn(frames, 3, S, S, generator=torch.Generator().manual_seed(seed))


def make_masks(count: int, size: int = S) -> torch.Tensor:
    masks = torch.zeros(count, 1, size, size, dtype=torch.bool)
    for i in range(count):
        masks[i, :, size // 8 * i : size // 8 * (i + 3), size // 4 : size // 4 * 3] = True
    return masks


@torch.no_grad()
def sweep(tracker, features, masks, keys, order):
    """Mask logits and presence of every lane on every frame it sees: {(lane, frame): tensors}."""
    lanes: dict[int, Lane] = {}
    seen = {}

    def note(names, frame, output):
        for row, name in enumerate(names):
            seen[name, frame] = (output.mask_logits[row], output.presence[row])

    for frame in order:
        current = features.select(frame)
        if lanes:
            note(lanes, frame, tracker.step(current, list(lanes.values())))
        new = [i for i, key in enumerate(keys) if key == frame]
        if new:
            started, output = tracker.start(current, masks[new], features.batch_size)
            note(new, frame, output)
            lanes.update(zip(new, started, strict=True))
    return seen


def lane_tensors(lane: Lane) -> list[torch.Tensor]:
    return [lane.key_memory, lane.key_pointer, *lane.memories, *lane.pointers]


@pytest.mark.parametrize("style", ["2.0", "2.1"])
def test_lanes_of_different_key_frames_in_one_batch_equal_single_runs(style):
    tracker = make_tracker(style, score=None)
    features = tracker.encode(make_video(20))
    masks, keys = make_masks(3), [3, 0, 11]
    scores = [p for _, p in sweep(tracker, features, masks, keys, range(20)).values()]
    with torch.no_grad():  # half of the frames absent
        tracker.sam2.mask_decoder.pred_obj_score_head.proj_out.bias -= torch.stack(scores).median()

    together = sweep(tracker, features, masks, keys, range(20))

    presence = torch.stack([p for _, p in together.values()])
    assert (presence > 0).any() and (presence <= 0).any(), "the clip must show both cases"
    assert len(together) == sum(20 - key for key in keys)
    for lane, key in enumerate(keys):
        alone = sweep(tracker, features, masks[[lane]], [key], range(20))
        for (_, frame), (logits, score) in alone.items():
            torch.testing.assert_close(together[lane, frame][0], logits, atol=1e-4, rtol=0)
            torch.testing.assert_close(together[lane, frame][1], score, atol=1e-4, rtol=0)


def test_lanes_of_different_videos_in_one_batch_equal_single_runs():
    tracker = make_tracker()
    masks, num_frames, batch = make_masks(3), 5, [0, 1, 1]
    videos = [tracker.encode(make_video(num_frames, seed)) for seed in (1, 2)]
    joined = [
        FrameFeatures(
            tuple(torch.cat([v.levels[i][t : t + 1] for v in videos]) for i in range(3)),
            videos[0].position,
        )
        for t in range(num_frames)
    ]
    with torch.no_grad():
        lanes, _ = tracker.start(joined[0].select(batch), masks, num_frames)
        for t in range(1, num_frames):
            together = tracker.step(joined[t].select(torch.tensor(batch)), lanes)

    for lane, video in enumerate(batch):
        alone = sweep(tracker, videos[video], masks[[lane]], [0], range(num_frames))
        expected = alone[0, num_frames - 1][0]
        torch.testing.assert_close(together.mask_logits[lane], expected, atol=1e-4, rtol=0)


def test_mixed_groups_with_features_per_lane_keep_the_order_of_lanes():
    tracker = make_tracker()
    features = tracker.encode(make_video(6))
    masks = make_masks(3)

    @torch.no_grad()
    def lanes_at(distances):
        lanes = []
        for mask, distance in zip(masks, distances, strict=True):
            started, _ = tracker.start(features.select(0), mask[None], 6)
            for t in range(1, distance + 1):
                tracker.step(features.select(t), started)
            lanes += started
        return lanes

    distances = [2, 0, 2]
    frames = features.select([d + 1 for d in distances])
    with torch.no_grad():
        together = tracker.step(frames, lanes_at(distances))
        for row, lane in enumerate(lanes_at(distances)):
            alone = tracker.step(frames.select(row), [lane])
            for name in ("mask_logits", "presence", "iou", "raw_logits"):
                expected = getattr(alone, name)[0]
                torch.testing.assert_close(
                    getattr(together, name)[row], expected, atol=1e-4, rtol=0
                )


@pytest.mark.parametrize("style", ["2.0", "2.1"])
def test_backward_equals_forward_on_the_reversed_video(style):
    tracker = make_tracker(style)
    video, masks = make_video(12), make_masks(2)
    backward = sweep(tracker, tracker.encode(video), masks, [11, 8], range(11, -1, -1))
    reversed_video = tracker.encode(video.flip(0))
    forward = sweep(tracker, reversed_video, masks, [0, 3], range(12))
    assert len(backward) == len(forward)
    for (lane, frame), (logits, _) in backward.items():
        torch.testing.assert_close(logits, forward[lane, 11 - frame][0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_state_stops_growing():
    tracker = make_tracker()
    features = tracker.encode(make_video(4))
    lanes, _ = tracker.start(features.select(0), make_masks(2))
    sizes = []
    for t in range(1, 50):
        tracker.step(features.select(t % 4), lanes)
        # storages, not shapes: a view would keep a whole batch alive
        sizes.append(sum(x.untyped_storage().nbytes() for x in lane_tensors(lanes[0])))
    assert sizes[0] < sizes[10] < sizes[20] == sizes[-1]
    tokens, floats = (S // 16) ** 2, 4
    assert sizes[-1] == floats * (7 * tokens * 64 + 16 * D)
    assert lanes[0].distance == 49


@torch.no_grad()
def test_lane_copies_part_ways():
    tracker = make_tracker()
    features = tracker.encode(make_video(5))
    lanes, _ = tracker.start(features.select(2), make_masks(1), 5)
    copies = [lane.copy() for lane in lanes]
    for t in (3, 4):
        tracker.step(features.select(t), lanes)
    assert copies[0].distance == 0 and not copies[0].memories and not copies[0].pointers
    output = tracker.step(features.select(1), copies)
    expected = sweep(tracker, features, make_masks(1), [2], range(2, -1, -1))[0, 1][0]
    torch.testing.assert_close(output.mask_logits[0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_last_frame_is_segmented_but_not_remembered():
    tracker = make_tracker()
    features = tracker.encode(make_video(3))
    lanes, _ = tracker.start(features.select(0), make_masks(1), 3)
    tracker.step(features.select(1), lanes)
    other = lanes[0].copy()
    last = tracker.step(features.select(2), lanes, last=True)
    assert torch.equal(last.mask_logits, tracker.step(features.select(2), [other]).mask_logits)
    assert lanes[0].distance == other.distance == 2
    assert (len(lanes[0].memories), len(other.memories)) == (1, 2)
    with pytest.raises(ValueError, match="leave its video"):
        tracker.step(features.select(2), lanes)


@torch.no_grad()
def test_a_given_mask_comes_back_whatever_its_size():
    tracker = make_tracker()
    features = tracker.encode(make_video(1))
    exact = tracker.start(features, make_masks(2), 1)
    assert exact[1].mask_logits.shape == (2, 1, S // 4, S // 4)
    assert torch.equal(exact[1].presence, torch.full((2,), 10.0))
    assert torch.equal(exact[1].iou, torch.ones(2))
    inside = torch.nn.functional.max_pool2d(make_masks(2).float(), 4) > 0
    assert torch.equal(exact[1].mask_logits > 0, inside)
    # larger, a probability map, and a single feature row for both: the same lanes
    for masks in (make_masks(2, 2 * S), make_masks(2).float() * 0.9):
        lanes, output = tracker.start(features, masks, 1)
        torch.testing.assert_close(output.mask_logits, exact[1].mask_logits)
        for lane, reference in zip(lanes, exact[0], strict=True):
            torch.testing.assert_close(lane.key_memory, reference.key_memory)
            torch.testing.assert_close(lane.key_pointer, reference.key_pointer)


@torch.no_grad()
def test_an_empty_mask_is_absent_and_starts_with_the_no_object_pointer():
    tracker = make_tracker()
    features = tracker.encode(make_video(1))
    masks = make_masks(2)
    masks[0] = False
    lanes, output = tracker.start(features, masks, 1)
    assert output.presence.tolist() == [-10.0, 10.0]
    assert (output.mask_logits[0] < 0).all()
    no_object = tracker.sam2.no_object_pointer[0]
    assert torch.equal(lanes[0].key_pointer, no_object)
    assert not torch.allclose(lanes[1].key_pointer, no_object)


def test_an_absent_object_is_masked_out_but_raw_logits_can_still_be_trained():
    tracker = make_tracker(score=ABSENT)
    features = tracker.encode(make_video(3))
    lanes, _ = tracker.start(features.select(0), make_masks(1), 3)
    output = tracker.step(features.select(1), lanes)
    assert (output.presence <= 0).all()
    assert (output.mask_logits == -1024).all()
    assert output.raw_logits.abs().max() < 1000
    assert torch.equal(lanes[0].pointers[-1], tracker.sam2.no_object_pointer[0])
    output.raw_logits.square().sum().backward()
    assert tracker.sam2.mask_decoder.mask_tokens.weight.grad.abs().sum() > 0


def test_gradients_reach_every_part_the_propagation_uses():
    tracker = make_tracker(multimask_output_for_tracking=False).train()
    videos = make_video(2 * 4).view(4, 2, 3, S, S)  # 4 frames of 2 videos
    lanes, _ = tracker.start(tracker.encode(videos[0]), make_masks(2), 4)
    loss = 0
    for frame in videos[1:]:
        output = tracker.step(tracker.encode(frame), lanes)
        loss = loss + output.raw_logits.sigmoid().mean() + output.iou.mean()
        loss = loss + output.presence.mean()
    loss.backward()

    silent = {
        name
        for name, parameter in tracker.sam2.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    }
    unused = (
        "prompt_encoder.point_embed",  # no points here
        "no_memory_embedding",  # belongs to frames without a memory
        "no_memory_positional_encoding",
        "no_object_pointer",  # the object is there all the time
        "occlusion_spatial_embedding_parameter",
        "mask_decoder.output_hypernetworks_mlps",  # of the three multimask tokens
        "mask_decoder.pred_obj_score_head.layers",  # behind the zeroed last layer
        "mask_decoder.pred_obj_score_head.proj_in",
        "mask_decoder.obj_score_token",
    )
    # keys of an attention shift all its logits alike: that bias never has a gradient
    missed = [n for n in silent if not n.startswith(unused) and not n.endswith("k_proj.bias")]
    assert not [n for n in missed if not n.startswith("vision_encoder")], sorted(missed)
    assert tracker.sam2.vision_encoder.backbone.patch_embed.projection.weight.grad.abs().sum() > 0


def test_absence_trains_the_no_object_embeddings():
    tracker = make_tracker(score=ABSENT)
    features = tracker.encode(make_video(3))
    lanes, _ = tracker.start(features.select(0), make_masks(1), 3)
    tracker.step(features.select(1), lanes)
    tracker.step(features.select(2), lanes).raw_logits.square().sum().backward()
    assert tracker.sam2.no_object_pointer.grad.abs().sum() > 0
    assert tracker.sam2.occlusion_spatial_embedding_parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(dtype):
    changes = dict(multimask_output_for_tracking=False)
    full = make_tracker(**changes)
    full.sam2.mask_decoder.dynamic_multimask_via_stability = False
    video, masks = make_video(4), make_masks(2, 3 * S)
    expected = sweep(full, full.encode(video), masks, [0, 0], range(4))
    half = full.to(dtype)
    seen = sweep(half, half.encode(video.to(dtype)), masks, [0, 0], range(4))
    for key, (logits, _) in seen.items():
        assert logits.dtype == dtype and torch.isfinite(logits).all()
        a, b = logits > 0, expected[key][0] > 0
        assert (a & b).sum() / (a | b).sum() > 0.9
    lanes, _ = half.start(half.encode(video[:1].to(dtype)), masks, 4)
    assert {x.dtype for x in lane_tensors(lanes[0])} == {dtype}


def test_training_under_autocast_stays_close_and_has_finite_gradients():
    """fp32 weights with bfloat16 activations, as a training step mixes them."""
    tracker = make_tracker(multimask_output_for_tracking=False)
    tracker.sam2.mask_decoder.dynamic_multimask_via_stability = False
    video, masks = make_video(4), make_masks(2)
    expected = sweep(tracker, tracker.encode(video), masks, [0, 0], range(4))
    with torch.autocast("cpu", torch.bfloat16):
        features = tracker.encode(video)
        lanes, _ = tracker.start(features.select(0), masks, 4)
        outputs = [tracker.step(features.select(t), lanes) for t in range(1, 4)]
    for t, output in enumerate(outputs, start=1):
        for lane in range(2):
            a, b = output.mask_logits[lane] > 0, expected[lane, t][0] > 0
            assert (a & b).sum() / (a | b).sum() > 0.9
    torch.stack([o.raw_logits.float().square().mean() for o in outputs]).sum().backward()
    gradient = tracker.sam2.memory_encoder.projection.weight.grad
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


@torch.no_grad()
def test_features_may_come_from_a_shared_encoder():
    whole = make_tracker()
    part = Sam2Tracker(tracker_config(), own_vision_encoder=False).eval()
    weights = whole.state_dict()
    names = [n for n in weights if not n.startswith("sam2.vision_encoder.")]
    part.load_state_dict({n: weights[n] for n in names})  # strict: exactly these
    video = make_video(3)
    with pytest.raises(RuntimeError, match="no vision encoder"):
        part.encode(video)
    features = encode_frames(whole.sam2.vision_encoder, video)
    untouched = [level.clone() for level in features.levels]
    expected = sweep(whole, whole.encode(video), make_masks(2), [0, 1], range(3))
    for key, (logits, _) in sweep(part, features, make_masks(2), [0, 1], range(3)).items():
        torch.testing.assert_close(logits, expected[key][0], atol=1e-5, rtol=0)
    for level, before in zip(features.levels, untouched, strict=True):
        assert torch.equal(level, before)


@torch.no_grad()
def test_unknown_video_length_means_a_long_video():
    tracker = make_tracker("2.1")
    features = tracker.encode(make_video(4))

    def last(video_frames):
        lanes, _ = tracker.start(features.select(0), make_masks(1), video_frames)
        for t in range(1, 4):
            output = tracker.step(features.select(t), lanes)
        return output.mask_logits

    assert torch.equal(last(None), last(500))
    assert not torch.allclose(last(None), last(5), atol=1e-4)  # 2.1 divides by the length


class _Config(PretrainedConfig):
    model_type = "findtrack_test_tracker"


class _Model(PreTrainedModel):
    config_class = _Config

    def __init__(self, config):
        super().__init__(config)
        self.tracker = Sam2Tracker(tracker_config())
        self.post_init()


def test_saving_and_loading_inside_another_model(tmp_path):
    model = _Model(_Config()).eval()
    model.tracker.load_state_dict(make_tracker().state_dict())
    model.save_pretrained(tmp_path)
    loaded = _Model.from_pretrained(tmp_path).eval()
    video = make_video(3)
    results = [
        sweep(m.tracker, m.tracker.encode(video), make_masks(1), [0], range(3))[0, 2][0]
        for m in (model, loaded)
    ]
    torch.testing.assert_close(*results, atol=1e-4, rtol=0)


@torch.no_grad()
def test_errors_name_the_fault():
    tracker = make_tracker()
    features = tracker.encode(make_video(3))
    one = features.select(0)
    with pytest.raises(ValueError, match="masks must be"):
        tracker.start(one, make_masks(2)[:, 0], 3)
    with pytest.raises(ValueError, match="3 frames for 2 lanes"):
        tracker.start(features, make_masks(2), 3)
    with pytest.raises(ValueError, match="no lane"):
        tracker.step(one, [])
    small = FrameFeatures(tuple(x[..., :2, :2] for x in one.levels), one.position)
    with pytest.raises(ValueError, match="coarsest level"):
        tracker.start(small, make_masks(1), 3)
    lanes, _ = tracker.start(one, make_masks(1), 2)
    tracker.step(one, lanes)
    with pytest.raises(ValueError, match="leave its video"):
        tracker.step(one, lanes)
    assert lanes[0].distance == 1
