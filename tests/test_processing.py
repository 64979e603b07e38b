"""The processor; parity with the official preprocessing is in test_golden_preprocess.py."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from modeling_findtrack.processing_findtrack import (
    FindTrackProcessor,
    centred_padding,
    short_side_shape,
)

SIZES = [(60, 100), (100, 60), (64, 64), (31, 90)]
LOADER = """
import json, sys
from transformers import AutoProcessor
result = []
for name in sys.argv[1:]:
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
    processor.save_pretrained("again")
    processor = AutoProcessor.from_pretrained("again", trust_remote_code=True)
    result.append({
        "module": type(processor).__module__,
        "finder": processor.finder_tokens("A Red dog")["input_ids"].tolist(),
        "aligner": processor.aligner_tokens("A Red dog")["input_ids"].tolist(),
        "finder_size": processor.finder_size,
        "geometry": processor.finder_geometry,
    })
assert "modeling_findtrack" not in sys.modules
print(json.dumps(result))
"""


@pytest.fixture
def make(tokenizers):
    """A processor with small sizes; keyword arguments override them."""

    def build(**kwargs) -> FindTrackProcessor:
        sizes = {"finder_size": 64, "beit3_size": 32, "aligner_size": 32, "tracker_size": 64}
        return FindTrackProcessor(*tokenizers, **{**sizes, **kwargs})

    return build


def white_box(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A black frame with a white box off centre, and the mask of the box."""
    height, width = size
    mask = np.zeros(size, dtype=bool)
    mask[height // 4 : height // 2, width // 3 : width // 3 * 2] = True
    return np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255, mask


def overlap(a, b) -> float:
    """IoU of two masks."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    return (a & b).sum() / (a | b).sum()


def grey(pixels: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """Normalised (3, h, w) back to 0..1, averaged over the channels."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (mean, std))
    return (pixels * std + mean).mean(0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "branch, geometry", [("finder", "pad"), ("finder", "squash"), ("tracker", "pad")]
)
def test_masks_come_back_to_where_the_pixels_were(make, size, branch, geometry):
    processor = make(finder_geometry=geometry)
    frame, mask = white_box(size)
    pixels = getattr(processor, f"{branch}_pixels")(frame)[0]
    logits = grey(pixels, processor.finder_mean, processor.finder_std) - 0.5
    logits[pixels.abs().sum(0) == 0] = -0.5  # padding, which is grey
    back = processor.masks_to_source(logits, size, branch)
    assert back.shape == size and back.dtype == torch.float32
    assert overlap(back > 0, mask) > 0.85


@pytest.mark.parametrize("size", [*SIZES, (33, 33), (64, 97)])
def test_cutie_frames_keep_their_aspect_and_masks_come_back(make, size):
    processor = make(tracker_geometry="short_side")  # at 64
    frame, mask = white_box(size)
    pixels = processor.tracker_pixels([frame, frame])
    assert torch.equal(pixels[0], pixels[1]) and pixels.min() >= 0 and pixels.max() <= 1
    inner = short_side_shape(size, 64)
    assert min(inner) == 64 and max(inner) == int(max(size) / min(size) * 64)
    left, right, top, bottom = centred_padding(inner)
    assert pixels.shape[-2:] == (inner[0] + top + bottom, inner[1] + left + right)
    assert all(side % 16 == 0 for side in pixels.shape[-2:])
    assert right - left in (0, 1) and bottom - top in (0, 1)
    logits = pixels[0].mean(0) - 0.5
    back = processor.masks_to_source(logits, size, "tracker")
    assert back.shape == size and overlap(back > 0, mask) > 0.85
    coarse = torch.nn.functional.avg_pool2d(logits[None], 4)[0]  # any resolution will do
    assert overlap(processor.masks_to_source(coarse, size, "tracker") > 0, mask) > 0.7


def test_cutie_frames_of_the_right_size_are_only_scaled(make):
    processor = make(tracker_geometry="short_side", tracker_size=32)
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert torch.equal(
        processor.tracker_pixels(frame)[0], torch.from_numpy(frame).permute(2, 0, 1) / 255
    )
    logits = torch.randn(32, 48)
    assert torch.equal(processor.masks_to_source(logits, (32, 48), "tracker"), logits)


def test_masks_to_source_keeps_leading_dimensions(make):
    processor = make(finder_geometry="pad")
    logits = torch.randn(2, 3, 16, 16)
    back = processor.masks_to_source(logits, (30, 50))
    assert back.shape == (2, 3, 30, 50)
    torch.testing.assert_close(back[1, 2], processor.masks_to_source(logits[1, 2], (30, 50)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("geometry", ["crop", "squash"])
def test_aligned_alpha_lies_on_the_pixels_of_its_region(make, size, geometry):
    processor = make(aligner_geometry=geometry)
    frame, mask = white_box(size)
    pixels = grey(processor.aligner_pixels(frame)[0], processor.aligner_mean, processor.aligner_std)
    alpha = processor.alpha(mask[None])
    assert alpha.shape == (1, 1, 32, 32)
    assert overlap(alpha[0, 0] > 0, pixels > 0.5) > 0.9


def test_official_alpha_ignores_the_crop_of_the_image(make):
    _, mask = white_box((60, 100))
    official = make(alpha_geometry="official").alpha(mask[None])
    assert torch.equal(official, make(aligner_geometry="squash").alpha(mask[None]))
    assert overlap(official[0, 0] > 0, make().alpha(mask[None])[0, 0] > 0) < 0.8


def test_alpha_values(make):
    alpha = make().alpha(torch.stack([torch.zeros(40, 40), torch.ones(40, 40)]))
    torch.testing.assert_close(alpha[0], torch.full((1, 32, 32), -0.5 / 0.26))
    torch.testing.assert_close(alpha[1], torch.full((1, 32, 32), 0.5 / 0.26))


def test_padding_is_zero_after_normalisation(make):
    pixels = make(finder_geometry="pad").finder_pixels(np.full((32, 64, 3), 255, np.uint8))[0]
    assert (pixels[:, :32] > 0).all() and not pixels[:, 32:].any()


@pytest.mark.parametrize("branch", ["finder", "tracker", "beit3", "aligner"])
def test_a_frame_of_the_right_size_is_not_resampled(make, branch):
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    processor = make(beit3_size=64, aligner_size=64)
    pixels = getattr(processor, f"{branch}_pixels")(frame)
    of = "finder" if branch == "tracker" else branch
    mean, std = (np.float32(getattr(processor, f"{of}_{k}")) for k in ("mean", "std"))
    expected = torch.from_numpy((frame / np.float32(255) - mean) / std).permute(2, 0, 1)
    torch.testing.assert_close(pixels, expected[None])


@pytest.mark.parametrize("branch", ["finder", "tracker", "beit3", "aligner"])
@pytest.mark.parametrize("geometry", ["pad", "squash"])
def test_a_list_of_frames_equals_single_frames(make, branch, geometry):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    method = getattr(make(finder_geometry=geometry), f"{branch}_pixels")
    pixels = method(frames)
    assert pixels.shape[:2] == (len(SIZES), 3) and pixels.dtype == torch.float32
    assert torch.equal(pixels, torch.cat([method(frame) for frame in frames]))


def test_finder_and_tracker_agree_where_both_squash(make):
    """Otherwise their image features could not be shared."""
    frame, _ = white_box((60, 100))
    processor = make()
    assert torch.equal(processor.finder_pixels(frame), processor.tracker_pixels(frame))


def test_read_only_and_strided_frames_are_accepted(make, recwarn):
    frame, _ = white_box((64, 64))
    flipped = frame[:, ::-1]
    flipped.flags.writeable = False
    expected = make().finder_pixels(np.ascontiguousarray(flipped))
    assert torch.equal(make().finder_pixels(flipped), expected)
    assert not [w for w in recwarn if "writ" in str(w.message)]


@pytest.mark.parametrize(
    "frames",
    [[], np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))],
)
def test_frames_that_are_none_are_refused(make, frames):
    with pytest.raises(ValueError, match="frames"):
        make().finder_pixels(frames)


def test_tokens_are_padded_at_the_right_with_a_real_mask(make):
    for tokenise in (make().finder_tokens, make().aligner_tokens):
        batch = tokenise(["a dog", "the person wearing white"])
        single = tokenise("a dog")
        length = single["input_ids"].shape[1]
        assert set(batch) == {"input_ids", "attention_mask"}
        assert torch.equal(batch["input_ids"][:1, :length], single["input_ids"])
        assert batch["attention_mask"][0].tolist() == [1] * length + [0] * (
            batch["input_ids"].shape[1] - length
        )


def test_lowercase(make):
    spaced, plain = "  The  RED dog ", "the red dog"
    lower, raw = make(), make(lowercase=False)
    assert lower.finder_tokens(spaced)["input_ids"].equal(lower.finder_tokens(plain)["input_ids"])
    assert not torch.equal(
        raw.finder_tokens(spaced)["input_ids"], raw.finder_tokens(plain)["input_ids"]
    )
    assert raw.aligner_tokens(spaced)["input_ids"].equal(raw.aligner_tokens(plain)["input_ids"])


def test_long_texts_are_cut_and_stay_closed(make, tokenizers):
    text = "a red dog on the left " * 100
    processor = make(beit3_max_tokens=20, aligner_max_tokens=15)
    for tokens, tokenizer, length in (
        (processor.finder_tokens(text), tokenizers[0], 20),
        (processor.aligner_tokens(text), tokenizers[1], 15),
        (make().finder_tokens(text), tokenizers[0], tokenizers[0].model_max_length),
    ):
        assert tokens["input_ids"].shape[1] == length
        assert tokens["input_ids"][0, -1] == tokenizer.eos_token_id


@pytest.mark.parametrize("texts", [[], "", ["a dog", "  "]])
def test_empty_texts_are_refused(make, texts):
    for tokenise in (make().finder_tokens, make().aligner_tokens):
        with pytest.raises(ValueError, match="text"):
            tokenise(texts)


def test_call_gives_the_inputs_of_the_finder(make):
    frame, _ = white_box((60, 100))
    inputs = make()([frame, frame], ["a dog", "a car", "two cats"])
    assert inputs["finder_pixels"].shape == (2, 3, 64, 64)
    assert inputs["beit3_pixels"].shape == (2, 3, 32, 32)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    assert len(inputs["input_ids"]) == 3


@pytest.mark.parametrize("name", ["finder_geometry", "aligner_geometry", "alpha_geometry"])
def test_an_unknown_geometry_is_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make(**{name: "stretch"})


def test_twice_the_same_vocabulary_is_refused(tokenizers):
    with pytest.raises(ValueError, match="same vocabulary"):
        FindTrackProcessor(tokenizers[0], tokenizers[0])


def test_saving_and_loading(make, tmp_path):
    processor = make(finder_geometry="pad", finder_mean=[0.1, 0.2, 0.3], lowercase=False)
    processor.save_pretrained(tmp_path)
    loaded = FindTrackProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == {k: v for k, v in processor.to_dict().items() if k != "auto_map"}
    for name in ("tokenizer", "clip_tokenizer"):
        old, new = getattr(processor, name), getattr(loaded, name)
        assert new.get_vocab() == old.get_vocab()
        assert new.model_max_length == old.model_max_length
        assert new("A Red dog").input_ids == old("A Red dog").input_ids


def test_losing_the_second_tokenizer_is_noticed(make, tmp_path):
    """transformers itself would go on with the first tokenizer in its place."""
    make().save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "clip_tokenizer")
    with pytest.raises(ValueError, match="clip_tokenizer/"):
        FindTrackProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "clip_tokenizer/tokenizer.json"])
def test_losing_a_vocabulary_is_noticed(make, tmp_path, file):
    """transformers itself would go on with special tokens alone."""
    make().save_pretrained(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ValueError, match="no words"):
        FindTrackProcessor.from_pretrained(tmp_path)


def test_loads_as_remote_code_from_a_folder_and_from_an_offline_cache(make, tmp_path, monkeypatch):
    """And from its own copy; in a process that never imports the package, without network."""
    processor = make(finder_geometry="pad")
    folder = tmp_path / "saved"
    monkeypatch.setattr(FindTrackProcessor, "_auto_class", "AutoProcessor")  # as `carry_code` does
    processor.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "findtrack"}))
    repo = tmp_path / "home" / "hub" / "models--org--findtrack"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)

    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_HUB_CACHE")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", LOADER, str(folder), "org/findtrack"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    for result in json.loads(run.stdout.splitlines()[-1]):
        assert result["module"].startswith("transformers_modules.")
        assert result["finder"] == processor.finder_tokens("A Red dog")["input_ids"].tolist()
        assert result["aligner"] == processor.aligner_tokens("A Red dog")["input_ids"].tolist()
        assert (result["finder_size"], result["geometry"]) == (64, "pad")
