"""Sampling and choosing key frames."""

import numpy as np
import pytest
import torch

from modeling_findtrack.feature_cache import FeatureCache
from modeling_findtrack.keyframes import choose_key_frame, sample_frames
from modeling_findtrack.results import Candidate, encode_mask
from modeling_findtrack.tracker_sam2 import FrameFeatures


def candidate(frame=0, score=0.5, presence=None, pixels=4) -> Candidate:
    mask = np.zeros((4, 4), dtype=bool)
    mask.flat[:pixels] = True
    return Candidate(frame, score, None, presence, score, encode_mask(mask))


@pytest.mark.parametrize("frames", [10, 11, 30, 97, 1000])
@pytest.mark.parametrize("count", [2, 5, 10])
def test_the_papers_sampling_rule(frames, count):
    expected = [int(r * (frames - 1) / (count - 1)) for r in range(count)]
    assert sample_frames(frames, count) == expected
    assert expected[0] == 0 and expected[-1] == frames - 1


@pytest.mark.parametrize(
    "frames, count, expected", [(1, 5, [0]), (2, 5, [0, 1]), (4, 5, [0, 1, 2, 3]), (9, 1, [0])]
)
def test_short_videos_give_each_frame_once(frames, count, expected):
    assert sample_frames(frames, count) == expected


@pytest.mark.parametrize("frames, count", [(0, 5), (5, 0)])
def test_nothing_to_sample(frames, count):
    with pytest.raises(ValueError, match="at least 1"):
        sample_frames(frames, count)


def test_the_best_wins_and_the_first_on_ties():
    scores = [0.2, 0.7, 0.7, 0.1]
    assert choose_key_frame([candidate(score=s) for s in scores]) == 1


def test_empty_masks_lose_unless_they_may_win():
    both = [candidate(score=0.9, pixels=0), candidate(score=0.1)]
    assert choose_key_frame(both) == 1
    assert choose_key_frame(both, accept_empty=True) == 0
    assert choose_key_frame(both[:1]) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_never_wins(bad):
    scores = [bad, 0.3, bad, 0.4, bad]
    assert choose_key_frame([candidate(score=s) for s in scores]) == 3
    assert choose_key_frame([candidate(score=s) for s in scores], score_threshold=0.1) == 3
    assert choose_key_frame([candidate(score=bad)]) is None


def test_thresholds():
    three = [
        candidate(score=0.9, presence=0.2),
        candidate(score=0.5, presence=0.8),
        candidate(score=0.3, presence=0.9),
    ]
    assert choose_key_frame(three) == 0
    assert choose_key_frame(three, presence_threshold=0.5) == 1
    assert choose_key_frame(three, presence_threshold=0.95) is None
    assert choose_key_frame(three, score_threshold=0.95) is None
    unknown = [candidate(score=0.4, presence=None)]
    assert choose_key_frame(unknown, presence_threshold=0.5) == 0


def test_the_feature_cache_stays_within_its_budget():
    levels = tuple(torch.zeros(1, 2, side, side) for side in (4, 2, 1))
    features = FrameFeatures(levels, torch.zeros(1, 2, 1, 1))
    size = 4 * 2 * (16 + 4 + 1 + 1)  # the position is kept with every frame, too
    cache = FeatureCache(2 * size)
    for frame in (0, 0, 1, 2):
        cache.put(frame, features)
    assert cache.used == 2 * size and cache.get(1) is features and cache.get(2) is None
    small = FeatureCache(size - 1)
    small.put(0, features)
    assert small.get(0) is None
