"""The EVF finder on both decoders: batching, padding, prompts."""

import pytest
import torch

from modeling_findtrack.finder import EvfFinder
from tests.tiny_models import sam2_finder_config, sam_finder_config
from training.tiny_model import initialise


@pytest.fixture(params=["sam2", "sam"])
def finder(request) -> EvfFinder:
    return make(sam2_finder_config() if request.param == "sam2" else sam_finder_config())


def make(config) -> EvfFinder:
    """A finder whose random weights are large enough to tell inputs apart."""
    torch.manual_seed(0)
    finder = EvfFinder(config)
    initialise(finder)
    return finder.eval()


def images(finder: EvfFinder, count: int = 2):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(count, 3, 64, 64, generator=generator)
    beit3 = torch.randn(count, 3, 32, 32, generator=generator)
    return finder.prepare(finder.encode(pixels), beit3)


TEXTS = [[0, 7, 9, 2], [0, 11, 2], [0, 5, 6, 8, 12, 2]]


def padded(texts):
    ids = torch.ones(len(texts), max(map(len, texts)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, text in enumerate(texts):
        ids[i, : len(text)] = torch.tensor(text)
        mask[i, : len(text)] = 1
    return ids, mask


@torch.no_grad()
def test_a_batch_of_pairs_equals_single_calls(finder):
    known = images(finder)
    ids, mask = padded(TEXTS)
    frame = torch.tensor([0, 1, 1])
    together = finder(known.select(frame), ids, mask)
    for p in range(3):
        one_ids, one_mask = padded([TEXTS[p]])
        alone = finder(known.select(frame[p : p + 1]), one_ids, one_mask)
        torch.testing.assert_close(together.mask_logits[p], alone.mask_logits[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(together.iou[p], alone.iou[0], atol=1e-6, rtol=0)


@torch.no_grad()
def test_frame_and_text_both_matter(finder):
    known = images(finder)
    ids, mask = padded([TEXTS[0], TEXTS[1], TEXTS[0]])
    out = finder(known.select(torch.tensor([0, 0, 1])), ids, mask).mask_logits
    assert out.shape == (3, 16, 16)
    assert (out[0] - out[1]).abs().max() > 1e-2 and (out[0] - out[2]).abs().max() > 1e-2


@torch.no_grad()
def test_presence_comes_from_sam2_or_a_head():
    finder = EvfFinder(sam_finder_config()).eval()
    ids, mask = padded(TEXTS[:1])
    assert finder(images(finder, 1), ids, mask).presence is None
    finder = EvfFinder(sam2_finder_config()).eval()
    assert finder(images(finder, 1), ids, mask).presence.shape == (1,)
    headed = EvfFinder(sam2_finder_config(presence_head=True)).eval()
    headed.presence_head.bias.data.fill_(50.0)
    assert headed(images(headed, 1), ids, mask).presence.item() > 40


@torch.no_grad()
def test_of_three_masks_the_best_by_predicted_iou():
    finder = make(sam2_finder_config())
    known = images(finder, 1)
    ids, mask = padded(TEXTS[:1])
    wanted = 2
    original = finder.sam.mask_decoder.forward

    def decoder(**kwargs):
        masks, iou, tokens, score = original(**kwargs)
        assert kwargs["multimask_output"] and masks.shape[2] == 3
        return masks, torch.eye(3)[wanted].expand_as(iou), tokens, score

    sparse = finder.text_projection(finder.beit3(known.tokens, ids, mask)[:, :1])
    dense = finder._dense(known, None)
    finder.sam.mask_decoder.forward = decoder
    best, iou, _ = finder.decode(known, sparse[:, None], dense)
    assert iou.item() == 1
    masks = original(
        image_embeddings=known.embeddings,
        image_positional_embeddings=finder.sam.get_image_wide_positional_embeddings(),
        sparse_prompt_embeddings=sparse[:, None],
        dense_prompt_embeddings=dense,
        multimask_output=True,
        high_resolution_features=list(known.high_resolution),
    )[0]
    torch.testing.assert_close(best, masks[:, 0, wanted])


@torch.no_grad()
def test_the_grounding_prompt_is_a_departure_that_can_be_switched_on():
    finder = make(sam2_finder_config(grounding_prompt=True))
    known = images(finder, 1)
    ids, mask = padded(TEXTS[:1])
    out = finder(known, ids, mask)
    assert out.grounding.shape == (1, 2, 2)  # 32 pixels in patches of 16
    finder.grounding_head.weight.data *= -1  # the heat map of everything else
    assert (finder(known, ids, mask).mask_logits - out.mask_logits).abs().max() > 1e-2
    assert EvfFinder(sam2_finder_config()).grounding_head is None


def test_a_sam_finder_has_no_encoder_to_share():
    with pytest.raises(ValueError, match="only a SAM 2 finder"):
        EvfFinder(sam_finder_config(), own_vision_encoder=False)


def test_too_long_a_text_is_named():
    finder = EvfFinder(sam_finder_config())
    with pytest.raises(ValueError, match="23 tokens, at most 22 fit"):
        finder.beit3.embed_text(torch.zeros(1, 23, dtype=torch.long))
