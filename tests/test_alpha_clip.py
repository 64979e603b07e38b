"""The aligner's own behaviour; parity with the official code is in test_golden_alphaclip.py."""

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from modeling_findtrack.alpha_clip import AlphaCLIPModel

TEXTS = ["a dog", "The person wearing white is running on the left", "two cats"]


@pytest.fixture(scope="module")
def config(tokenizers) -> CLIPConfig:
    """A tiny model; `eos_token_id` is left at OpenAI's value, which this vocabulary lacks."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tower["num_attention_heads"] = 2
    return CLIPConfig(
        text_config={**tower, "vocab_size": len(tokenizers[1])},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )


@pytest.fixture
def model(config) -> AlphaCLIPModel:
    torch.manual_seed(0)
    model = AlphaCLIPModel(config).eval()
    torch.nn.init.normal_(model.vision_model.embeddings.patch_embedding_alpha.weight)
    return model


def tokenise(tokenizer, texts, side="right"):
    return tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_of_texts_equals_single_texts(model, tokenizers, side, attention):
    model.set_attn_implementation(attention)
    batch = tokenise(tokenizers[1], TEXTS, side)
    assert not batch["attention_mask"].all()
    features = model.encode_text(batch["input_ids"], batch["attention_mask"])
    for text, feature in zip(TEXTS, features, strict=True):
        single = tokenise(tokenizers[1], [text])
        expected = model.encode_text(single["input_ids"], single["attention_mask"])[0]
        torch.testing.assert_close(feature, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_texts_differ_whatever_eos_token_id_says(model, tokenizers):
    """CLIPTextModel pools the first token, equal for all texts, where the id is not found."""
    batch = tokenise(tokenizers[1], TEXTS)
    features = model.encode_text(batch["input_ids"], batch["attention_mask"])
    similarity = features @ features.T
    assert (similarity[~torch.eye(len(TEXTS), dtype=torch.bool)] < 0.999).all()


@torch.no_grad()
def test_without_mask_a_text_ends_at_its_end_of_text_token(model, tokenizers):
    batch = tokenise(tokenizers[1], TEXTS)
    with pytest.raises(ValueError, match="eos_token_id"):
        model.encode_text(batch["input_ids"])
    expected = model.encode_text(batch["input_ids"], batch["attention_mask"])
    model.config.text_config.eos_token_id = tokenizers[1].eos_token_id
    try:
        features = model.encode_text(batch["input_ids"])
    finally:
        model.config.text_config.eos_token_id = 49407
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_similarity_is_the_cosine_of_every_pair(model, tokenizers):
    batch = tokenise(tokenizers[1], TEXTS)
    pixels = torch.randn(2, 4, 32, 32)
    cosine = model.similarity(pixels, batch["input_ids"], batch["attention_mask"])
    assert cosine.shape == (2, 3) and cosine.abs().max() <= 1 + 1e-6
    image = model.get_image_features(pixels[1:]).pooler_output
    text = model.encode_text(batch["input_ids"], batch["attention_mask"])[:1]
    torch.testing.assert_close(cosine[1, 0], torch.cosine_similarity(image, text)[0])


@torch.no_grad()
def test_the_region_matters(model):
    pixels = torch.randn(1, 4, 32, 32).repeat(2, 1, 1, 1)
    pixels[1, 3] *= -1
    first, second = model.encode_image(pixels)
    assert not torch.allclose(first, second, atol=1e-3)


@torch.no_grad()
def test_clip_weights_alone_give_clip(config, tmp_path):
    """The alpha convolution starts at zero also when a plain CLIP is loaded."""
    torch.manual_seed(0)
    clip = CLIPModel(config).eval()
    clip.save_pretrained(tmp_path)
    model, info = AlphaCLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    missing = "vision_model.embeddings.patch_embedding_alpha.weight"
    assert set(info["missing_keys"]) == {missing} and not info["unexpected_keys"]
    pixels = torch.randn(2, 4, 32, 32)
    expected = clip.get_image_features(pixels[:, :3]).pooler_output
    torch.testing.assert_close(model.eval().get_image_features(pixels).pooler_output, expected)


@torch.no_grad()
def test_saving_and_loading_keeps_the_alpha_weights(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AlphaCLIPModel.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 4, 32, 32)
    torch.testing.assert_close(loaded.encode_image(pixels), model.encode_image(pixels))


def test_gradients_reach_both_towers(model, tokenizers):
    batch = tokenise(tokenizers[1], TEXTS)
    pixels = torch.randn(2, 4, 32, 32, requires_grad=True)
    model.similarity(pixels, batch["input_ids"], batch["attention_mask"]).sum().backward()
    embeddings = model.vision_model.embeddings
    for gradient in (
        pixels.grad,
        embeddings.patch_embedding_alpha.weight.grad,
        model.text_model.embeddings.token_embedding.weight.grad,
    ):
        assert gradient is not None and gradient.abs().sum() > 0


@torch.no_grad()
def test_bfloat16_gives_float32_unit_vectors(model, tokenizers):
    model = model.to(torch.bfloat16)
    batch = tokenise(tokenizers[1], TEXTS)
    for features in (
        model.encode_image(torch.randn(2, 4, 32, 32)),
        model.encode_text(batch["input_ids"], batch["attention_mask"]),
    ):
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)))


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 4, 40, 32)])
def test_wrong_input_is_refused(model, shape):
    with pytest.raises(ValueError, match="expected"):
        model.encode_image(torch.zeros(shape))
