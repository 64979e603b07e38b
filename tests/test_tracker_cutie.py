"""The Cutie tracker behind the common interface; parity is in test_golden_cutie.py."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from modeling_findtrack import FindTrackConfig, FindTrackModel, cli, cutie_parts
from modeling_findtrack.configuration_findtrack import CUTIE_SETTINGS, CutieConfig
from modeling_findtrack.modeling_findtrack import KeyMask
from modeling_findtrack.tracker_cutie import CutieTracker
from tests.tiny_cutie import cutie_processor, needs_cutie, tiny_config, tiny_model, tiny_tracker
from tests.tiny_models import moving_square

SIZE = (48, 64)


def box(left: int = 16) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:26, left : left + 16] = True
    return mask


def as_masks(*boxes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(boxes))[:, None]


@pytest.fixture(scope="module")
def parts():
    return tiny_model()


@pytest.fixture(scope="module")
def tracker():
    return tiny_tracker()


def encoded(tracker, frames: int = 6) -> list:
    """Features of a small video, one batch of 1 per frame."""
    pixels = cutie_processor(tracker.config.max_internal_size).tracker_pixels(moving_square(frames))
    return [tracker.encode(frame[None]) for frame in pixels]


def lane_tensors(lane) -> list[torch.Tensor]:
    """Every tensor a lane holds, the network's apart."""
    found, seen = [], {id(lane.core.network), id(lane.core.cfg)}

    def visit(value):
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            for part in value.values():
                visit(part)
        elif isinstance(value, (list, tuple, set)):
            for part in value:
                visit(part)
        elif hasattr(value, "__dict__"):
            visit(vars(value))

    visit(vars(lane.core))
    return found


# ---- the whole model --------------------------------------------------------------------------


@needs_cutie
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_frames_out_are_frames_in(parts, frames):
    model, processor = parts
    texts = ["the dog", "a red car"]
    tracks = model.segment(moving_square(frames), texts, processor=processor)
    for track in tracks:
        assert track.found and len(track.masks) == len(track.presence) == frames
        assert track.masks[0].shape == SIZE and track.masks.areas().all()
        best = max(track.candidates, key=lambda c: c.score)
        assert (track.masks[track.key_frame] == best.mask).all()
        assert ((track.presence > 0.5) & (track.presence <= 1)).all()


@needs_cutie
def test_several_key_masks_together_equal_each_alone(parts):
    model, processor = parts
    video = moving_square(7)
    keys = [KeyMask(4, box()), KeyMask(0, box(40)), KeyMask(6, box(2)), KeyMask(4, box(44))]
    together = model.track(video, keys, processor=processor)
    masks = [each.to_array() for each, _ in together]
    assert all((a != b).any((1, 2)).all() for a, b in zip(masks, masks[1:], strict=False))
    for key, (each, presence) in zip(keys, together, strict=True):
        ((alone, alone_presence),) = model.track(video, [key], processor=processor)
        assert (each.to_array() == alone.to_array()).all()
        assert (each[key.frame] == key.mask).all()
        assert np.array_equal(presence, alone_presence)


@needs_cutie
def test_tracking_is_the_same_in_a_reversed_video(parts):
    model, processor = parts
    video = moving_square(6)
    forwards = model.propagate(video, box(), 2, processor=processor).to_array()
    backwards = model.propagate(video[::-1], box(), 3, processor=processor).to_array()
    assert (forwards == backwards[::-1]).all()


@needs_cutie
@pytest.mark.parametrize("keys", [[0], [5], [1, 3, 3]])
def test_each_frame_is_encoded_once_for_all_expressions(parts, keys, monkeypatch):
    model, processor = parts
    video = moving_square(6)
    encoded = []
    encode = model.tracker.cutie.encode_image

    def counting(image):
        encoded.append(len(image))
        return encode(image)

    monkeypatch.setattr(model.tracker.cutie, "encode_image", counting)
    prompts = [KeyMask(frame, box(8 + 8 * i)) for i, frame in enumerate(keys)]
    kept = model.track(video, prompts, processor=processor)
    assert encoded == [2] * 6  # a frame and its mirror image
    encoded.clear()
    monkeypatch.setattr(model.config, "feature_cache_bytes", 0)
    without = model.track(video, prompts, processor=processor)
    assert len(encoded) == 6 + max(keys) - min(keys)
    for (a, _), (b, _) in zip(kept, without, strict=True):
        assert (a.to_array() == b.to_array()).all()


@needs_cutie
def test_the_key_mask_is_kept_unless_it_shall_be_resampled(parts, monkeypatch):
    model, processor = parts
    video, mask = moving_square(3), box()
    monkeypatch.setattr(model.tracker.config, "max_internal_size", 32)
    monkeypatch.setattr(processor, "tracker_size", 32)  # 48 -> 32 -> 48 loses the edge
    kept = model.propagate(video, mask, 1, processor=processor)
    monkeypatch.setattr(model.config, "resample_key_masks", True)
    resampled = model.propagate(video, mask, 1, processor=processor)
    assert (kept[1] == mask).all()
    assert (resampled[1] != mask).any() and resampled[1].any()
    for t in (0, 2):
        assert (kept[t] == resampled[t]).all()


@needs_cutie
def test_an_empty_key_mask_is_absent_there(parts):
    model, processor = parts
    empty = np.zeros(SIZE, dtype=bool)
    ((masks, presence),) = model.track(moving_square(3), [KeyMask(1, empty)], processor=processor)
    assert not masks[1].any() and presence[1] < 0.01
    assert (presence[[0, 2]] > 0.5).tolist() == [bool(masks[t].any()) for t in (0, 2)]


@needs_cutie
def test_save_and_load(parts, tmp_path):
    from transformers import AutoModel, AutoProcessor

    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, loading = FindTrackModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    again = AutoModel.from_pretrained(tmp_path).eval()
    loaded = AutoProcessor.from_pretrained(tmp_path)
    for (name, mine), theirs in zip(
        model.named_buffers(), dict(again.named_buffers()).values(), strict=True
    ):
        assert torch.equal(mine, theirs), name  # those that no checkpoint holds among them
    video = moving_square(4)
    before = model.segment(video, "the dog", processor=processor)[0]
    after = again.segment(video, "the dog", processor=loaded)[0]
    assert (before.masks.to_array() == after.masks.to_array()).all()


@needs_cutie
def test_cutie_stays_in_float32_in_a_model_of_half_precision(parts, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path)
    loaded = FindTrackModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    cast = copy.deepcopy(model).to(torch.bfloat16)
    video = moving_square(4)
    expected = model.propagate(video, box(), 1, processor=processor).to_array()
    for half in (loaded, cast):
        assert half.dtype == half.finder.text_projection[0].weight.dtype == torch.bfloat16
        for name, value in half.tracker.state_dict().items():
            assert torch.equal(value, model.tracker.state_dict()[name]), name
        assert (half.propagate(video, box(), 1, processor=processor).to_array() == expected).all()
        assert half.segment(video, "the dog", processor=processor)[0].found


@needs_cutie
def test_a_processor_of_another_geometry_is_told(parts, monkeypatch):
    model, processor = parts
    monkeypatch.setattr(processor, "tracker_geometry", "squash")
    with pytest.raises(ValueError, match="tracker_geometry='short_side' and tracker_size=64"):
        model.propagate(moving_square(2), box(), processor=processor)


# ---- lanes ------------------------------------------------------------------------------------


@needs_cutie
@torch.no_grad()
def test_one_frame_per_lane_equals_one_lane_at_a_time(tracker):
    video = encoded(tracker)
    masks, batch = as_masks(box(), box(40)), [4, 1]
    pixels = cutie_processor(64).tracker_pixels(moving_square(6))
    features = tracker.encode(pixels)
    assert features.batch_size == 6
    lanes, _ = tracker.start(features.select([0, 0]), masks)
    together = tracker.step(features.select(torch.tensor(batch)), lanes)
    for row, frame in enumerate(batch):
        lane, _ = tracker.start(video[0], masks[row : row + 1])
        alone = tracker.step(video[frame], lane)
        torch.testing.assert_close(
            together.mask_logits[row], alone.mask_logits[0], atol=1e-5, rtol=0
        )


@needs_cutie
@torch.no_grad()
def test_lane_copies_part_ways_and_leave_the_features_alone(tracker):
    video = encoded(tracker)
    untouched = copy.deepcopy(video)
    lanes, _ = tracker.start(video[2], as_masks(box()))
    copied = [lanes[0].copy()]
    assert copied[0].core.network is tracker.cutie
    mine = {x.data_ptr() for x in lane_tensors(lanes[0])}
    assert not mine & {x.data_ptr() for x in lane_tensors(copied[0])}
    for t in (3, 4, 5):
        tracker.step(video[t], lanes)
    fresh, _ = tracker.start(video[2], as_masks(box()))
    for t in (1, 0):
        expected = tracker.step(video[t], fresh).mask_logits
        assert torch.equal(tracker.step(video[t], copied).mask_logits, expected)
    for mine, before in zip(video, untouched, strict=True):
        for name in ("images", "pixel", "key", "shrinkage", "selection"):
            assert torch.equal(getattr(mine, name), getattr(before, name)), name
        assert all(map(torch.equal, mine.levels, before.levels))


@needs_cutie
@pytest.mark.parametrize("setting", list(CUTIE_SETTINGS))
@torch.no_grad()
def test_state_stops_growing(setting):
    # small numbers, so that every bound is met within a few frames
    long_term = {
        "max_mem_frames": 4, "min_mem_frames": 2, "num_prototypes": 8, "max_num_tokens": 24,
        "buffer_tokens": 4,
    }  # fmt: skip
    settings = {**CUTIE_SETTINGS[setting], "max_mem_frames": 4, "long_term": long_term}
    tracker = tiny_tracker(**settings)
    video = encoded(tracker, 4)
    lanes, _ = tracker.start(video[0], as_masks(box()))
    sizes = []
    for t in range(1, 61):
        tracker.step(video[t % 4], lanes)
        # storages, not shapes: a view would keep a whole batch or frame alive
        storages = {x.data_ptr(): x.untyped_storage().nbytes() for x in lane_tensors(lanes[0])}
        sizes.append(sum(storages.values()))
    assert max(sizes[40:]) <= max(sizes[:40]) < 3 * max(sizes[:3])
    assert not hasattr(lanes[0].core.image_feature_store, "features")


@needs_cutie
@torch.no_grad()
def test_flip_switch():
    size = {"max_internal_size": 48}  # that of the video: nothing is padded
    plain, mirrored = tiny_tracker(flip_aug=False, **size), tiny_tracker(**size)
    outputs = []
    for tracker, views in ((plain, 1), (mirrored, 2)):
        video = encoded(tracker, 2)
        assert video[0].key.shape[:2] == (1, views)
        lanes, _ = tracker.start(video[0], as_masks(box()))
        outputs.append(tracker.step(video[1], lanes).mask_logits)
    assert (outputs[0] - outputs[1]).abs().max() > 0.01
    # The mirrored video gives the mirrored answer, which is what the averaging is for.
    pixels = cutie_processor(48).tracker_pixels(moving_square(2)).flip(-1)
    video = [mirrored.encode(frame[None]) for frame in pixels]
    lanes, _ = mirrored.start(video[0], as_masks(box()).flip(-1))
    flipped = mirrored.step(video[1], lanes).mask_logits.flip(-1)
    torch.testing.assert_close(flipped, outputs[1], atol=1e-4, rtol=0)


@needs_cutie
@pytest.mark.parametrize("stable", [True, False])
@torch.no_grad()
def test_a_frame_unlike_all_memories(stable):
    """Without subtracting the maximum, the softmax over the memory is 0 / 0."""
    tracker = tiny_tracker(stable_softmax=stable)
    tracker.cutie.key_proj.key_proj.weight *= 600
    video = encoded(tracker, 2)
    lanes, _ = tracker.start(video[0], as_masks(box()))
    output = tracker.step(video[1], lanes)
    if stable:
        assert torch.isfinite(output.mask_logits).all() and (output.presence > 0).all()
    else:
        assert output.mask_logits.isnan().any()
        assert not output.presence.isnan().any()


@needs_cutie
@torch.no_grad()
def test_fewer_memory_tokens_than_top_k():
    tracker = tiny_tracker(max_internal_size=32)  # 2 x 3 tokens, top_k is 30
    video = encoded(tracker, 3)
    lanes, _ = tracker.start(video[0], as_masks(box()))
    for t in (1, 2):
        assert torch.isfinite(tracker.step(video[t], lanes).mask_logits).all()


@needs_cutie
@torch.no_grad()
def test_remembering_the_last_frame_changes_no_mask(monkeypatch):
    tracker = tiny_tracker()
    video = encoded(tracker, 4)
    written = []
    encode_mask = tracker.cutie.encode_mask

    def counting(*args, **kwargs):
        written.append(1)
        return encode_mask(*args, **kwargs)

    monkeypatch.setattr(tracker.cutie, "encode_mask", counting)

    def run(remember: bool) -> list[torch.Tensor]:
        written.clear()
        monkeypatch.setattr(tracker.config, "memorise_last_frame", remember)
        lanes, _ = tracker.start(video[0], as_masks(box()))
        return [tracker.step(video[t], lanes, last=t == 3).mask_logits for t in (1, 2, 3)]

    without = run(False)
    assert len(written) == 3
    with_it = run(True)
    assert len(written) == 4
    assert all(map(torch.equal, without, with_it))


@needs_cutie
@torch.no_grad()
def test_errors_name_the_fault(tracker):
    features = tracker.encode(cutie_processor(64).tracker_pixels(moving_square(3)))
    with pytest.raises(ValueError, match="masks must be"):
        tracker.start(features.select(0), as_masks(box())[:, 0])
    with pytest.raises(ValueError, match="3 frames for 2 lanes"):
        tracker.start(features, as_masks(box(), box(40)))
    with pytest.raises(ValueError, match="no lane"):
        tracker.step(features.select(0), [])


# ---- configuration ----------------------------------------------------------------------------


def test_config_errors_name_the_fault():
    for settings, match in (
        ({"network": {"depth": 3}}, "network has no depth; it has pixel_mean"),
        ({"long_term": {"frames": 3}}, "long_term has no frames"),
        ({"mem_every": 0}, "mem_every must be at least 1"),
        ({"max_internal_size": -1}, "max_internal_size must be 16 or more"),
    ):
        with pytest.raises(ValueError, match=match):
            CutieConfig(**settings)
    for shared in ({"share_vision_encoder": True}, {"conv_backbone_widths": [8, 8, 8, 8]}):
        with pytest.raises(ValueError, match="can neither be shared nor replaced"):
            FindTrackConfig(tracker_config={"model_type": "findtrack_cutie"}, **shared)


def test_the_config_comes_back_from_json(tmp_path):
    tracker = tiny_config(**CUTIE_SETTINGS["mevis"], long_term={"num_prototypes": 16})
    config = FindTrackConfig(tracker_config=tracker, resample_key_masks=True)
    config.save_pretrained(tmp_path)
    loaded = FindTrackConfig.from_pretrained(tmp_path)
    assert type(loaded.tracker_config) is CutieConfig and loaded.resample_key_masks
    assert loaded.tracker_config.to_dict() == tracker.to_dict()
    assert loaded.tracker_config.network["object_transformer"]["num_queries"] == 8
    assert loaded.tracker_config.network["mask_encoder"] == {"type": "resnet18", "final_dim": 256}
    assert loaded.tracker_config.long_term["max_num_tokens"] == 10000


def test_auto_config_knows_cutie(tmp_path):
    from transformers import AutoConfig

    tiny_config().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is CutieConfig


# ---- rf-cutie ---------------------------------------------------------------------------------


@needs_cutie
def test_building_downloads_nothing_and_leaves_rf_cutie_as_it_was(monkeypatch):
    from cutie.inference import memory_manager
    from cutie.model import big_modules
    from cutie.model.utils import memory_utils, resnet

    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr(resnet.model_zoo, "load_url", refuse)
    tracker = CutieTracker(tiny_config())
    cutie_parts.new_core(tracker.cutie, tracker.config)
    assert big_modules.resnet is resnet
    assert memory_manager.do_softmax is memory_utils.do_softmax
    with pytest.raises(AssertionError, match="a download"):
        resnet.resnet18()


def test_a_missing_extra_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(cutie_parts, "CUTIE", None)
    with pytest.raises(ImportError) as error:
        CutieTracker(tiny_config())
    assert 'pip install "findtrack[cutie]"' in str(error.value)
    assert "\n" not in str(error.value)


@needs_cutie
def test_the_command_line_tells_a_missing_extra(parts, tmp_path, monkeypatch, capsys):
    model, processor = parts
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    from PIL import Image

    (tmp_path / "video").mkdir()
    for i, frame in enumerate(moving_square(2)):
        Image.fromarray(frame).save(tmp_path / "video" / f"{i}.png")
    monkeypatch.setattr(cutie_parts, "CUTIE", None)
    capsys.readouterr()
    command = ["segment", str(tmp_path / "video"), "the dog", "--model", str(tmp_path / "model")]
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert 'pip install "findtrack[cutie]"' in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_other_trackers_do_not_need_it():
    code = """
import sys
sys.modules["cutie"] = None  # importing it fails, as where it is not installed
import json
from modeling_findtrack.modeling_findtrack import FindTrackModel
from modeling_findtrack.tracker_cutie import CutieTracker
from modeling_findtrack.configuration_findtrack import CutieConfig
try:
    CutieTracker(CutieConfig())
except ImportError as error:
    print(json.dumps(str(error)))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "findtrack[cutie]" in json.loads(process.stdout)
