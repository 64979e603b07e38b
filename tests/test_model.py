"""The whole flow: segment, find, track."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_findtrack import FindTrackModel, Track
from modeling_findtrack.modeling_findtrack import KeyMask
from modeling_findtrack.results import Candidate, encode_mask
from tests.tiny_models import moving_square, preset, tiny


@pytest.fixture(scope="module")
def parts():
    return tiny()


def box(size=(48, 64), left: int = 16) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[10:26, left : left + 16] = True
    return mask


def ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(T,) of masks (T, H, W), none of which may be empty."""
    assert a.any((1, 2)).all() and b.any((1, 2)).all()
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2))


@pytest.mark.parametrize("key", [0, 3, 7])
def test_masks_of_the_random_model_can_be_told_apart(parts, key):
    """What the comparisons below rest on."""
    model, processor = parts
    video = moving_square(8)
    masks = model.propagate(video, box(), key, processor=processor).to_array()
    areas = masks.mean((1, 2))
    assert (areas > 0.02).all() and (areas < 0.95).all()
    assert (ious(masks[1:], masks[:-1]) < 0.7).all()
    other = model.propagate(video, box(left=40), key, processor=processor).to_array()
    same = ious(masks, other)
    assert (same < 1).all() and (same[max(0, key - 2) : key + 3] < 0.96).all()
    presence = model.track(video, [KeyMask(key, box())], processor=processor)[0][1]
    assert (presence > 0.9).all()


@pytest.mark.parametrize("frames", [1, 2, 6, 13])
def test_frames_out_are_frames_in(parts, frames):
    model, processor = parts
    (track,) = model.segment(moving_square(frames), "the dog", processor=processor)
    assert isinstance(track, Track) and track.expression == "the dog"
    assert len(track.masks) == len(track.presence) == frames
    assert track.masks[0].shape == (48, 64) and track.masks[0].dtype == bool
    assert len(track.candidates) == min(frames, 5)
    assert ((track.presence >= 0) & (track.presence <= 1)).all()


def test_the_key_frame_is_the_best_candidate_and_keeps_its_mask(parts):
    model, processor = parts
    tracks = model.segment(moving_square(), ["the dog", "a red car"], processor=processor)
    for track in tracks:
        best = max(track.candidates, key=lambda c: c.score)
        assert track.found and track.score == best.score and track.key_frame == best.frame
        assert (track.masks[track.key_frame] == best.mask).all()
        for c in track.candidates:
            assert c.score == pytest.approx(0.5 * c.iou + 0.5 * c.alignment, abs=1e-5)


def test_several_expressions_together_equal_each_alone(parts):
    model, processor = parts
    texts = ["the dog on the left", "cat", "a big red car moving right"]
    video = moving_square(12)
    together = model.segment(video, texts, processor=processor)
    first, *others = [track.masks.to_array() for track in together]
    assert all((ious(first, other) < 0.95).any() for other in others)
    for text, track in zip(texts, together, strict=True):
        (alone,) = model.segment(video, text, processor=processor)
        assert track.key_frame == alone.key_frame
        assert track.score == pytest.approx(alone.score, abs=1e-5)
        assert (ious(track.masks.to_array(), alone.masks.to_array()) > 0.99).all()


def test_several_key_masks_together_equal_each_alone(parts):
    model, processor = parts
    video = moving_square(10)
    keys = [KeyMask(6, box()), KeyMask(0, box(left=40)), KeyMask(9, box(left=2))]
    together = model.track(video, keys, processor=processor)
    for key, (masks, presence) in zip(keys, together, strict=True):
        ((alone, alone_presence),) = model.track(video, [key], processor=processor)
        assert (ious(masks.to_array(), alone.to_array()) > 0.99).all()
        assert (masks[key.frame] == key.mask).all()
        np.testing.assert_allclose(presence, alone_presence, atol=1e-4)


def test_tracking_is_the_same_in_a_reversed_video(parts):
    model, processor = parts
    video = moving_square(8)
    forwards = model.propagate(video, box(), 2, processor=processor).to_array()
    backwards = model.propagate(video[::-1], box(), 5, processor=processor).to_array()
    assert (ious(forwards, backwards[::-1]) > 0.99).all()


@pytest.mark.parametrize("keys", [[0], [7], [3], [2, 5], [0, 7, 3, 3]])
def test_each_frame_is_encoded_at_most_once_more_than_kept(parts, keys, monkeypatch):
    model, processor = parts
    video = moving_square(8)
    encoded = []
    encode = FindTrackModel.encode

    def counting(self, pixels):
        encoded.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(FindTrackModel, "encode", counting)
    prompts = [KeyMask(frame, box()) for frame in keys]
    kept = model.track(video, prompts, processor=processor)
    assert sum(encoded) == 8  # however many expressions
    encoded.clear()
    monkeypatch.setattr(model.config, "feature_cache_bytes", 0)
    without = model.track(video, prompts, processor=processor)
    assert sum(encoded) == 8 + max(keys) - min(keys)
    for (a, presence), (b, other) in zip(kept, without, strict=True):
        assert (a.to_array() == b.to_array()).all() and np.array_equal(presence, other)


def test_segment_encodes_sampled_frames_once_for_find_and_track(parts, monkeypatch):
    model, processor = parts
    encoded = []
    encode = FindTrackModel.encode

    def counting(self, pixels):
        encoded.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(FindTrackModel, "encode", counting)
    model.segment(moving_square(10), ["the dog", "cat", "car"], processor=processor)
    assert sum(encoded) == 10


def test_not_found_is_an_answer(parts, monkeypatch):
    model, processor = parts
    monkeypatch.setattr(model.config, "score_threshold", 99.0)
    (track,) = model.segment(moving_square(5), "the dog", processor=processor)
    assert not track.found and track.key_frame is None
    assert track.score == max(c.score for c in track.candidates)
    assert track.masks.areas().sum() == 0 and len(track.masks) == 5
    assert not track.presence.any()


def test_found_and_not_found_in_one_call(parts, monkeypatch):
    model, processor = parts
    choose = FindTrackModel.choose

    def only_first_sizes(self, candidates: tuple[Candidate, ...], threshold=None):
        return None if candidates[0].score in hidden else choose(self, candidates, threshold)

    texts = ["the dog", "cat", "car"]
    found = model.find(moving_square(6), texts, processor=processor)
    hidden = {found[1][0].score}
    monkeypatch.setattr(FindTrackModel, "choose", only_first_sizes)
    tracks = model.segment(moving_square(6), texts, processor=processor)
    assert [t.found for t in tracks] == [True, False, True]
    assert tracks[1].masks.areas().sum() == 0
    expected = model.segment(moving_square(6), ["car"], processor=processor)[0]
    assert (ious(tracks[2].masks.to_array(), expected.masks.to_array()) > 0.99).all()
    assert (ious(tracks[2].masks.to_array(), tracks[0].masks.to_array()) < 0.95).any()


def candidate(frame: int, score: float, presence: float | None) -> Candidate:
    return Candidate(frame, score, None, presence, score, encode_mask(box()))


# Two candidates each; the later one has the better score.
PREDICTED = (candidate(0, 0.4, 0.9), candidate(7, 0.8, 0.3))
UNPREDICTED = (candidate(0, 0.4, None), candidate(7, 0.8, None))
ONCE = (candidate(0, 0.4, None), candidate(7, 0.8, 0.3))


@pytest.mark.parametrize(
    ("candidates", "config", "threshold", "frame"),
    [
        # the config's thresholds where none is given
        (PREDICTED, (None, None), None, 7),
        (PREDICTED, (None, 0.5), None, 0),
        (PREDICTED, (0.5, 0.5), None, None),
        (UNPREDICTED, (0.9, 0.5), None, None),
        # given, it stands in for the presence threshold alone
        (PREDICTED, (None, 0.95), 0.5, 0),
        (PREDICTED, (None, None), 0.95, None),
        (PREDICTED, (None, 0.95), 0.3, 7),  # as much as the threshold is enough
        (PREDICTED, (None, 0.95), 0, 7),  # 0 is a threshold, not "none given"
        (PREDICTED, (0.9, 0.0), 0.1, None),
        # without a predicted presence, for the score threshold
        (UNPREDICTED, (None, None), 0.5, 7),
        (UNPREDICTED, (None, None), 0.9, None),
        (UNPREDICTED, (0.9, None), 0.1, 7),
        (UNPREDICTED, (0.9, 0.95), 0, 7),
        # one presence is enough to speak of presences
        (ONCE, (None, None), 0.5, 0),
        ((), (None, None), 0.5, None),
    ],
)
def test_a_given_threshold_takes_the_place_of_the_configs(
    parts, monkeypatch, candidates, config, threshold, frame
):
    model, _ = parts
    score, presence = config
    monkeypatch.setattr(model.config, "score_threshold", score)
    monkeypatch.setattr(model.config, "presence_threshold", presence)
    chosen = model.choose(candidates, threshold)
    assert (None if chosen is None else chosen.frame) == frame
    assert model.config.score_threshold == score, "for this call only"
    assert model.config.presence_threshold == presence


def test_segment_takes_a_threshold(parts, monkeypatch):
    model, processor = parts
    video, texts = moving_square(5), ["the dog", "cat"]
    found = model.find(video, texts, processor=processor)
    best = [max(c.presence for c in candidates) for candidates in found]
    assert best[0] != best[1] and min(best) > 0 and max(best) < 1

    def verdicts(threshold):
        tracks = model.segment(video, texts, processor=processor, threshold=threshold)
        assert [t.masks.areas().any() for t in tracks] == [t.found for t in tracks]
        return [t.found for t in tracks]

    between = sum(best) / 2
    assert verdicts(between) == [presence > between for presence in best]
    assert verdicts(1) == [False, False]
    monkeypatch.setattr(model.config, "presence_threshold", 1)
    assert verdicts(0) == [True, True]
    assert verdicts(None) == [False, False]


def test_every_kind_of_input_gives_the_same(parts, tmp_path):
    model, processor = parts
    video = moving_square(4)
    for i, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    images = [Image.fromarray(frame) for frame in video]
    results = [
        model.segment(source, "the dog", processor=processor)[0].masks.to_array()
        for source in (video, list(video), images, tmp_path, str(tmp_path))
    ]
    assert results[0].any((1, 2)).all() and all((r == results[0]).all() for r in results)


def test_progress_counts_to_the_end(parts):
    model, processor = parts
    seen = []
    model.segment(
        moving_square(7), ["dog", "cat"], processor=processor, progress=lambda *a: seen.append(a)
    )
    finds = [row for row in seen if row[0] == "find"]
    tracks = [row for row in seen if row[0] == "track"]
    assert finds[-1][1] == finds[-1][2] == 10
    assert [row[1] for row in tracks] == list(range(1, tracks[-1][2] + 1))


@pytest.mark.parametrize("expressions", [[], "", "  ", ["a dog", ""], [None]])
def test_empty_expressions_are_refused(parts, expressions):
    model, processor = parts
    with pytest.raises(ValueError, match="expression"):
        model.segment(moving_square(2), expressions, processor=processor)


def test_wrong_key_masks_are_refused(parts):
    model, processor = parts
    with pytest.raises(ValueError, match="for a video of size"):
        model.propagate(moving_square(2), box((10, 10)), processor=processor)
    with pytest.raises(ValueError, match="key frame 2 of 2 frames"):
        model.propagate(moving_square(2), box(), 2, processor=processor)


def test_without_aligner_the_score_is_the_predicted_iou(parts):
    from training import tiny_model

    model, processor = parts
    config = tiny_model.tiny_config(len(processor.tokenizer), len(processor.clip_tokenizer))
    config.aligner, config.presence_threshold = "none", None
    plain = FindTrackModel(config).eval()
    assert plain.aligner is None
    (track,) = plain.segment(moving_square(3), "dog", processor=processor)
    assert all(c.alignment is None and c.score == c.iou for c in track.candidates)


def test_save_and_load(parts, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    from transformers import AutoModel, AutoProcessor

    again, loaded = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert again.dtype == torch.float32 and type(again) is FindTrackModel
    video = moving_square(4)
    before = model.segment(video, "the dog", processor=processor)[0]
    after = again.eval().segment(video, "the dog", processor=loaded)[0]
    assert before.masks.areas().all()
    assert (before.masks.to_array() == after.masks.to_array()).all()
    assert after.score == pytest.approx(before.score, abs=1e-6)


@pytest.mark.parametrize("kind", ["paper", "sam2"])
def test_presets_lose_nothing_when_saved(kind, tmp_path):
    """SAM shares one matrix between two of its parts; it is stored once and must come back."""
    model, _ = preset(kind)
    model.save_pretrained(tmp_path)
    loaded, loading = FindTrackModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_bfloat16_agrees_with_float32(parts):
    model, processor = parts
    video = moving_square(6)
    full = model.propagate(video, box(), 2, processor=processor).to_array()
    half = tiny()[0].to(torch.bfloat16).propagate(video, box(), 2, processor=processor).to_array()
    assert (ious(full, half) > 0.8).all()
