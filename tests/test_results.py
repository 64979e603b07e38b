"""Masks kept as run-length codes."""

import json

import numpy as np
import pytest

from modeling_findtrack.results import MaskSequence, encode_mask


def test_masks_survive_and_slices_are_sequences():
    masks = np.random.default_rng(0).random((5, 7, 9)) > 0.5
    sequence = MaskSequence.from_masks(masks)
    assert len(sequence) == 5 and sequence.size == (7, 9)
    assert all((a == b).all() for a, b in zip(sequence, masks, strict=True))
    assert (sequence[-1] == masks[-1]).all() and sequence[2].dtype == bool
    assert (sequence[1:3].to_array() == masks[1:3]).all()
    assert (sequence.areas() == masks.sum(axis=(1, 2))).all()
    with pytest.raises(IndexError):
        sequence[5]


def test_rle_is_json_and_coco():
    from pycocotools import mask as coco_mask

    masks = np.random.default_rng(1).random((2, 6, 5)) > 0.5
    rles = json.loads(json.dumps(MaskSequence.from_masks(masks).to_rle()))
    decoded = coco_mask.decode(rles[1]).astype(bool)
    assert (decoded == masks[1]).all()


def test_long_sequences():
    masks = np.zeros((300, 3, 4), dtype=bool)
    masks[290] = True
    areas = MaskSequence.from_masks(masks).areas()
    assert areas.tolist() == [0] * 290 + [12] + [0] * 9
    assert MaskSequence.empty(300, (3, 4)).areas().shape == (300,)
    assert MaskSequence.empty(0, (3, 4)).areas().shape == (0,)


def test_empty_and_wrong_sizes():
    assert MaskSequence.empty(3, (4, 5)).areas().tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="not of size"):
        MaskSequence([encode_mask(np.zeros((4, 4), dtype=bool))], (4, 5))
