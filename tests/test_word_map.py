"""Models with a word map: sizes, heat maps, presence, start from a classifier, files."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from modeling_findtrack import FindTrackModel, cli
from modeling_findtrack.configuration_findtrack import CutieConfig, FindTrackConfig
from modeling_findtrack.finder import FinderImages
from modeling_findtrack.word_map import Refine, WordMap
from tests.small_models import SIZE, STAGES, TRACKER_SIZE, config, needs_imagenet, small
from tests.tiny_models import moving_square
from training import small_model
from training.lite_weights import read_classifier
from training.new_words import add_new_words
from training.photos.nouns import MEN, ROLES, WOMEN, classes, nouns, plural
from training.photos.sentences import joined

TEXTS = ["the dog", "a cat on the left", "bottle", "the largest race_car to the left of the person"]
BOX = (slice(10, 26), slice(16, 32))  # of `moving_square`, frame 4


@pytest.fixture(scope="module")
def parts():
    return small()


@pytest.fixture
def made(parts):
    """A copy to be changed."""
    return copy.deepcopy(parts)


def known(parts, frames: np.ndarray) -> FinderImages:
    model, processor = parts
    return model.finder.prepare(model.encode_maps(processor.finder_pixels(list(frames))))


def tokens(processor, texts):
    read = processor.finder_tokens(texts)
    assert processor.tokenizer.unk_token_id not in read["input_ids"]
    return read["input_ids"], read["attention_mask"]


# ---- the whole flow ----------------------------------------------------------------------------


def test_a_video_is_segmented_from_end_to_end(parts):
    model, processor = parts
    video = moving_square(3)
    tracks = model.segment(video, TEXTS, processor=processor)
    masks = np.stack([track.masks.to_array() for track in tracks])
    assert masks.shape == (4, 3, 48, 64) and masks.any((2, 3)).all() and not masks.all((2, 3)).any()
    for track in tracks:
        assert len(track.candidates) == len(track.presence) == 3 and track.found
        assert all(0 < c.presence < 1 and c.alignment is None for c in track.candidates)
        best = max(track.candidates, key=lambda c: c.score)
        assert track.key_frame == best.frame
        assert (masks[tracks.index(track), best.frame] == best.mask).all()
    # Frame and sentence both count.
    assert len({mask.tobytes() for mask in masks.reshape(12, -1)}) == 12
    still = model.find(np.repeat(video[:1], 2, axis=0), TEXTS[:1], processor=processor)[0]
    assert (still[0].mask == still[1].mask).all()


def test_a_new_word_can_be_asked_for(made):
    model, processor = made
    assert processor.unknown_words("the axolotl") == ["axolotl"]
    before = model.find(moving_square(1), "the dog", processor=processor)
    assert add_new_words(model, processor, ["the axolotl"]) == ["axolotl"]
    assert processor.unknown_words("the axolotl") == []
    model.find(moving_square(1), "the axolotl", processor=processor)
    after = model.find(moving_square(1), "the dog", processor=processor)
    assert after[0][0].rle == before[0][0].rle


def test_one_backbone_serves_both_and_the_finder_has_a_pyramid_of_its_own(parts):
    model = parts[0]
    names = list(model.state_dict())
    assert not any(name.startswith("finder.sam.vision_encoder") for name in names)
    backbones = {n.split("blocks.0.")[0] for n in names if "blocks.0.depthwise" in n}
    assert backbones == {"tracker.sam2.vision_encoder.backbone."}
    finder, tracker = model.finder.pyramid.convs, model.tracker.sam2.vision_encoder.neck.convs
    assert all(a is not b for a, b in zip(finder, tracker, strict=True))


@torch.no_grad()
def test_the_word_map_has_stride_8_and_the_tokens_stride_32(parts):
    images = known(parts, moving_square(2))
    side, dim = SIZE // 8, small_model.DIM
    assert images.words.shape == (2, dim, side, side)
    assert images.tokens.shape == (2, 1 + (SIZE // 32) ** 2, dim)
    assert images.embeddings.shape == (2, small_model.WIDTH, SIZE // 16, SIZE // 16)
    out = parts[0].finder(images, *tokens(parts[1], TEXTS[:2]))
    assert out.mask_logits.shape == (2, SIZE // 4, SIZE // 4)
    assert out.grounding.shape == (2, side, side) and out.presence.shape == out.iou.shape == (2,)


# ---- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 160, 416])
def test_the_finder_s_size_is_its_own(parts, size):
    """Other frames for the finder: the same weights, the same tracking."""
    model, processor = parts
    video = moving_square(3)
    mask = np.zeros(video.shape[1:3], bool)
    mask[BOX] = True
    tracked = model.propagate(video, mask, processor=processor).to_array()
    before = model.find(video, "the dog", processor=processor)[0]
    resized, its = small_model.at_size(model, copy.deepcopy(processor), size)
    assert resized is not model and not resized.training and its.finder_size == size
    assert its.tracker_size == processor.tracker_size == TRACKER_SIZE
    for name, tensor in model.state_dict().items():
        assert torch.equal(resized.state_dict()[name], tensor), name
    assert (resized.propagate(video, mask, processor=its).to_array() == tracked).all()
    images = known((resized, its), video[:1])
    assert images.words.shape[-2:] == (size // 8, size // 8)
    found = resized.find(video, "the dog", processor=its)[0]
    assert all(c.mask.shape == (48, 64) and c.mask.any() for c in found)
    assert any((c.mask != b.mask).any() for c, b in zip(found, before, strict=True))
    # What it came from is as it was.
    again = model.find(video, "the dog", processor=processor)[0]
    assert all((c.mask == b.mask).all() for c, b in zip(again, before, strict=True))


@torch.no_grad()
def test_at_another_size_and_back_it_answers_the_same(parts):
    model, processor = parts
    processor, video = copy.deepcopy(processor), moving_square(2)
    expected = model.find(video, TEXTS, processor=processor)
    there, processor = small_model.at_size(model, processor, 128)
    back, processor = small_model.at_size(there, processor, SIZE)
    assert back.find(video, TEXTS, processor=processor) == expected


@pytest.mark.parametrize("size", [0, 100, 336])
def test_a_size_that_the_backbone_cannot_halve_is_told(parts, size):
    with pytest.raises(ValueError, match=f"the finder's size is {size}, it must be a multiple of"):
        small_model.at_size(*parts, size)
    assert parts[1].finder_size == SIZE


@pytest.mark.parametrize("size", [64, 96, 320, 416])
@torch.no_grad()
def test_positions_are_interpolated(made, size):
    """A table that says where a token lies says so at every size."""
    model, _ = made
    beit3 = model.finder.beit3
    side, count = small_model.FINDER_SIZE // 32, size // 32
    places = (torch.arange(side) + 0.5) / side
    table = beit3.encoder.embed_positions["A"].weight
    table.zero_()
    table[2] = 7.0  # the class token's
    table[3 : 3 + side * side, 0] = places.repeat(side)  # x
    table[3 : 3 + side * side, 1] = places.repeat_interleave(side)  # y
    features = torch.randn(2, small_model.DIM, count, count)
    added = beit3.embed_image(features) - beit3.vision_embed(features)
    assert added.shape == (2, 1 + count * count, small_model.DIM)
    torch.testing.assert_close(added[:, 0], torch.full_like(added[:, 0], 7.0))
    # Beyond the outermost places of the table there is nothing to interpolate.
    wanted = ((torch.arange(count) + 0.5) / count).clamp(places[0], places[-1])
    grid = added[:, 1:].view(2, count, count, -1)
    for b in range(2):
        torch.testing.assert_close(grid[b, ..., 0], wanted.expand(count, count), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            grid[b, ..., 1], wanted[:, None].expand(count, count), atol=1e-5, rtol=0
        )
    assert grid[..., 2:].abs().max() < 1e-5


def test_as_it_ships_it_has_its_size_and_its_threshold(parts):
    model, processor = parts
    shipped, its = small_model.finished(copy.deepcopy(model), copy.deepcopy(processor))
    assert its.finder_size == small_model.SHIPPED_SIZE and its.finder_size % 32 == 0
    assert shipped.config.presence_threshold == small_model.PRESENCE
    assert model.config.presence_threshold is None


# ---- words and places --------------------------------------------------------------------------


@torch.no_grad()
def test_a_word_is_compared_with_a_place_by_their_product():
    torch.manual_seed(0)
    word_map = WordMap([16, 16, 24, 32], 8)
    word_map.scale.fill_(0.3)
    word_map.bias.fill_(-2.0)
    embeddings, words = torch.randn(2, 8, 3, 4), torch.randn(5, 8)
    alike = word_map.similarity(embeddings, words)
    assert alike.shape == (2, 5, 3, 4)
    for b, n, y, x in ((0, 0, 0, 0), (1, 4, 2, 3), (0, 3, 1, 2)):
        product = sum(float(embeddings[b, d, y, x] * words[n, d]) for d in range(8))
        assert float(alike[b, n, y, x]) == pytest.approx(0.3 * product - 2.0, abs=1e-5)
    own = word_map.similarity(embeddings, words.expand(2, -1, -1))
    torch.testing.assert_close(own, alike)
    one = word_map.similarity(embeddings[1:], words[None, 2:3])
    torch.testing.assert_close(one[0, 0], alike[1, 2])


@torch.no_grad()
def test_refining_starts_from_the_coarser_map_and_can_be_corrected():
    torch.manual_seed(1)
    refine = Refine(8, 12)
    x, finer = torch.randn(1, 8, 4, 4), torch.randn(1, 12, 8, 8)
    refine.out.weight.zero_()
    refine.out.bias.zero_()
    assert refine(x, finer).shape == (1, 8, 8, 8)
    flat = torch.ones_like(x)
    torch.testing.assert_close(refine(flat, finer), torch.ones(1, 8, 8, 8))
    torch.testing.assert_close(refine(x, finer).mean(), x.mean(), atol=0.1, rtol=0)
    refine.out.weight.fill_(1.0)
    changed = refine(flat, finer)
    assert (changed - 1).abs().max() > 0.1 and changed.std() > 0


@pytest.mark.parametrize("place", [(0, 0), (5, 9), (11, 3)])
@torch.no_grad()
def test_the_heat_map_follows_the_noun(made, place):
    """With weights set by hand: it peaks where the noun's embedding is, whichever is asked for."""
    model, processor = made
    finder, side = model.finder, SIZE // 8
    table, salience = finder.beit3.text_embed.weight, finder.salience.weight
    finder.grounding_head.weight.zero_()
    finder.grounding_head.bias.zero_()
    finder.salience_head.weight.zero_()
    finder.salience_head.bias.zero_()
    finder.word_map.scale.fill_(10.0)
    finder.word_map.bias.fill_(-5.0)
    table.mul_(0.01)
    salience.zero_()
    words = torch.zeros(1, small_model.DIM, side, side)
    elsewhere = (side - 1 - place[0], side - 1 - place[1])
    for number, (noun, (y, x)) in enumerate((("dog", place), ("cat", elsewhere))):
        index = processor.tokenizer.convert_tokens_to_ids(noun)
        salience[index] = 20.0  # of all words in a sentence, it is the noun that is meant
        table[index] = 0.0
        table[index, number] = 1.0
        words[0, number, y, x] = 1.0
    images = replace(known(made, moving_square(1)), words=words)
    texts = ["the dog", "the cat", "the cat on the left", "dog", "the horse"]
    out = finder(images.select(torch.zeros(5, dtype=torch.long)), *tokens(processor, texts))
    for text, heat in zip(texts, out.grounding, strict=True):
        y, x = divmod(int(heat.argmax()), side)
        if "horse" in text:
            assert heat.max() < -4
            continue
        assert (y, x) == (place if "dog" in text else elsewhere)
        assert float(heat.max()) == pytest.approx(5.0, abs=0.2)
        assert (heat.flatten().topk(2).values[1]) < -4
    # The mask is where the heat is: the decoder corrects it, and here it says the same to both.
    apart = out.mask_logits[0] - out.mask_logits[1]
    y, x = divmod(int(apart.argmax()), SIZE // 4)
    assert (y // 2, x // 2) == place


@torch.no_grad()
def test_what_a_word_counts_depends_on_it_and_never_on_padding(made):
    model, processor = made
    finder = model.finder
    images = known(made, moving_square(1))
    ids, mask = tokens(processor, ["the dog", "the dog on the left"])
    two = images.select(torch.zeros(2, dtype=torch.long))
    finder.salience.weight[processor.tokenizer.pad_token_id] = 50.0
    both = finder(two, ids, mask).grounding
    finder.salience.weight[processor.tokenizer.pad_token_id] = -50.0
    torch.testing.assert_close(finder(two, ids, mask).grounding, both)
    finder.salience.weight[processor.tokenizer.convert_tokens_to_ids("left")] = 50.0
    after = finder(two, ids, mask).grounding
    torch.testing.assert_close(after[0], both[0])
    assert (after[1] - both[1]).abs().max() > 0.1


@pytest.mark.parametrize("side", [3, 8, 40])
@torch.no_grad()
def test_presence_reads_the_peaks_of_the_heat(made, side):
    finder = made[0].finder
    finder.presence_head.weight.zero_()
    finder.presence_head.weight[0, -4:] = torch.tensor([1.0, 0.1, 0.01, 0.001])
    finder.presence_head.bias.fill_(0.5)
    torch.manual_seed(side)
    first, heat = torch.randn(2, small_model.DIM), 5 * torch.randn(2, side, side)
    ordered = np.sort(heat.flatten(1).numpy(), axis=1)[:, ::-1]
    # The highest of all, and what 1, 3 and 10 % of the places are above.
    places = [int(share * (side * side - 1)) for share in (0, 0.01, 0.03, 0.1)]
    expected = 0.5 + ordered[:, places] / 4 @ np.array([1.0, 0.1, 0.01, 0.001])
    said = finder.presence(first, heat)
    np.testing.assert_allclose(said.numpy(), expected, rtol=1e-5)
    # Where they lie is all the same, and so is the rest of the map.
    shuffled = heat.flatten(1)[:, torch.randperm(side * side)].view_as(heat)
    torch.testing.assert_close(finder.presence(first, shuffled), said)
    torch.testing.assert_close(finder.presence(-first, heat), said)
    higher = heat.clone()
    higher[0].view(-1)[int(heat[0].argmax())] += 4
    assert float(finder.presence(first, higher)[0] - said[0]) == pytest.approx(1.0, abs=0.2)


@torch.no_grad()
def test_pairs_answered_together_or_one_by_one(parts):
    model, processor = parts
    images = known(parts, moving_square(3))
    frame = torch.tensor([0, 1, 2, 1])
    ids, mask = tokens(processor, TEXTS)
    together = model.finder(images.select(frame), ids, mask)
    for p, text in enumerate(TEXTS):
        alone = model.finder(images.select(frame[p : p + 1]), *tokens(processor, [text]))
        for name in ("mask_logits", "iou", "presence", "grounding"):
            torch.testing.assert_close(
                getattr(together, name)[p], getattr(alone, name)[0], atol=2e-4, rtol=1e-4
            )
    one_by_one = FinderImages.join([known(parts, moving_square(3)[i : i + 1]) for i in range(3)])
    for a, b in ((images.words, one_by_one.words), (images.tokens, one_by_one.tokens)):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


# ---- the start from a classifier ---------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Coarse patterns, not noise, of the tracker's size: features of many kinds."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    times = small_model.TRACKER_SIZE // 16
    return coarse.repeat(times, axis=1).repeat(times, axis=2)


@pytest.fixture(scope="module")
def start(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("small") / "start"
    small_model.write_start(folder, pictures, 0)
    return folder


@needs_imagenet
@torch.no_grad()
def test_the_start_s_words_are_the_classifier_s_logits(start, pictures):
    """Of a noun: the mean logit of its classes, less that of all, less the pictures' mean."""
    model, processor = cli.load_model(str(start), "cpu", "float32")
    maps = model.encode_maps(processor.finder_pixels(list(pictures)))
    word_map, table = model.finder.word_map, model.finder.beit3.text_embed.weight
    fine, _ = word_map(maps)
    coarse = word_map.project(torch.relu(word_map.head(maps[-1].permute(0, 3, 1, 2))).clamp(max=6))
    classifier = read_classifier()
    features = classifier.features(processor.finder_pixels(list(pictures)))  # (B, 1280, g, g)
    features = features - features.mean(dim=(0, 2, 3), keepdim=True)
    rows = classifier.fc.weight - classifier.fc.weight.mean(dim=0)
    logits = torch.einsum("nc,bchw->bnhw", rows, features)
    tried, apart, size = 0, [], []
    for name in nouns():
        if not classes(name):
            continue
        wanted = logits[:, classes(name)].mean(dim=1)
        for word in {joined(w) for w in (name, plural(name)) if w}:
            index = processor.tokenizer.convert_tokens_to_ids(word)
            assert index != processor.tokenizer.unk_token_id, word
            heat = word_map.similarity(coarse, table[None, index])[:, 0] + 4.0
            apart.append((heat - wanted).abs().max())
            size.append(wanted.abs().max())
            tried += 1
    # The same but for the little by which words of one noun differ at the start.
    apart, size = torch.stack(apart), torch.stack(size)
    assert tried > 250 and float(apart.mean()) < 0.1 * float(size.mean())
    assert (apart < 0.5 * size).all() and float(size.mean()) > 1
    # Refining has nothing to correct yet.
    same = torch.nn.functional.interpolate(coarse, fine.shape[-2:], mode="bilinear")
    torch.testing.assert_close(fine.mean(dim=(2, 3)), same.mean(dim=(2, 3)), atol=0.05, rtol=0.05)


@needs_imagenet
@torch.no_grad()
def test_the_start_s_words_of_people_are_alike(start):
    model, processor = cli.load_model(str(start), "cpu", "float32")
    table = torch.nn.functional.normalize(model.finder.beit3.text_embed.weight, dim=1)
    people = [table[processor.tokenizer.convert_tokens_to_ids(w)]
              for w in ("person", "people", *MEN, *WOMEN, *ROLES)]  # fmt: skip
    alike = torch.stack(people) @ torch.stack(people).T
    assert alike.min() > 0.7
    dog, dogs, car, the = (
        table[processor.tokenizer.convert_tokens_to_ids(w)] for w in ("dog", "dogs", "car", "the")
    )
    assert dog @ dogs > 0.7 and abs(dog @ car) < 0.5 and abs(dog @ the) < 0.5
    saliences = model.finder.salience.weight[:, 0]
    nouns_, others = (
        saliences[processor.tokenizer.convert_tokens_to_ids(words)]
        for words in (["dog", "dogs", "race_car", "woman"], ["the", "left", "a", "largest"])
    )
    assert nouns_.min() > others.max() + 3


@needs_imagenet
@torch.no_grad()
def test_the_start_s_tracker_knows_what_findtrack_tiny_s_knows(start, pictures):
    model, processor = cli.load_model(str(start), "cpu", "float32")
    tiny, its = cli.load_model(str(small_model.TINY), "cpu", "float32")
    own = model.tracker.sam2.state_dict()
    for name, tensor in tiny.tracker.sam2.state_dict().items():
        if not name.startswith("vision_encoder."):
            assert torch.equal(own[name], tensor), name
    its.tracker_size = processor.tracker_size
    mine = model.encode(processor.tracker_pixels(list(pictures))).levels
    theirs = tiny.encode(its.tracker_pixels(list(pictures))).levels
    assert [level.shape for level in mine] == [level.shape for level in theirs]
    # What the other backbone said, as well as a linear map can say it; at stride 4 that is little.
    for level, left in ((2, 0.4), (1, 0.9)):
        apart = ((mine[level] - theirs[level]) ** 2).mean()
        assert float(apart) < left * float(theirs[level].var()), level
    for level in known((model, processor), pictures).high_resolution:
        assert level.isfinite().all() and level.std() > 0.01


@needs_imagenet
def test_the_same_start_for_the_same_seed(start, pictures, tmp_path):
    small_model.write_start(tmp_path / "again", pictures, 0)
    files = [folder / "model.safetensors" for folder in (tmp_path / "again", start)]
    assert files[0].read_bytes() == files[1].read_bytes()


# ---- files -------------------------------------------------------------------------------------


def test_save_and_load(parts, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, its = cli.load_model(str(tmp_path), "cpu", "float32")
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert its.finder_size == SIZE and again.config.efficientnet_lite == STAGES
    video = moving_square(3)
    before, after = (
        m.segment(video, TEXTS, processor=p) for m, p in ((model, processor), (again, its))
    )
    for a, b in zip(before, after, strict=True):
        assert (a.masks.to_array() == b.masks.to_array()).all() and a.candidates == b.candidates


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_agrees(parts, made, dtype):
    model, processor = made
    video, read = moving_square(3), tokens(processor, TEXTS[:3])
    full = parts[0].finder(known(parts, video), *read)
    half = model.to(dtype).finder(known(made, video), *read)
    for name in ("mask_logits", "grounding", "presence", "iou"):
        one, other = getattr(full, name), getattr(half, name)
        assert other.dtype == dtype
        apart = (one - other.float()).std()
        assert 0 < apart < (0.15 if dtype == torch.bfloat16 else 0.03) * one.std(), name
    assert len(model.segment(video, "the dog", processor=processor)[0].masks) == 3


WITHOUT_PACKAGE = """
import json, sys
sys.modules["modeling_findtrack"] = None  # importing it fails, as where it is not installed
import numpy as np
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
tracks = model.segment(np.load(sys.argv[2]), json.loads(sys.argv[3]), processor=processor)
print(json.dumps({"module": type(model).__module__, "masks": [t.masks.to_rle() for t in tracks]}))
"""


def test_a_hub_folder_works_where_the_package_is_not_installed(parts, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    out, video = tmp_path / "hub", moving_square(3)
    assert cli.main(["hub-folder", str(tmp_path / "checkpoint"), "--out", str(out)]) == 0
    assert {"word_map.py", "efficientnet_lite.py"} <= {path.name for path in out.glob("*.py")}
    np.save(tmp_path / "video.npy", video)
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, str(out), str(tmp_path / "video.npy"),
         json.dumps(TEXTS)],
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["module"].startswith("transformers_modules.")
    expected = model.segment(video, TEXTS, processor=processor)
    assert result["masks"] == [track.masks.to_rle() for track in expected]


# ---- configurations ----------------------------------------------------------------------------


def changed(**changes) -> dict:
    """The configuration as a file holds it, with dotted changes ("__" for the dot)."""
    told = config(60).to_dict()
    for key, value in changes.items():
        *above, last = key.split("__")
        place = told
        for name in above:
            place = place[name]
        place[last] = value
    return told


NEEDS = "word_map needs share_vision_encoder, grounding_prompt, presence_head and tokens_from"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"share_vision_encoder": False}, NEEDS),
        ({"finder_config__grounding_prompt": False}, NEEDS),
        ({"finder_config__presence_head": False}, NEEDS),
        ({"finder_config__beit3_config__tokens_from_backbone": False}, NEEDS),
        ({"conv_backbone_widths": [48, 96, 128, 160]}, "choose one backbone"),
        (
            {"tracker_config": CutieConfig().to_dict(), "share_vision_encoder": False},
            "Cutie's image encoder can neither be shared nor replaced",
        ),
    ],
)
def test_configurations_that_cannot_be_are_told(changes, reason):
    assert FindTrackConfig(**changed()).finder_config.word_map
    with pytest.raises(ValueError, match=reason):
        FindTrackConfig(**changed(**changes))


def test_without_a_word_map_nothing_of_it_is_there():
    config = FindTrackConfig(
        **changed(
            finder_config__word_map=False,
            finder_config__beit3_config__tokens_from_backbone=False,
            finder_config__beit3_config__conv_stem_widths=[8, 8, 8],
        )
    )
    names = [name for name, _ in FindTrackModel(config).finder.named_parameters()]
    assert not [n for n in names if n.split(".")[0] in ("word_map", "pyramid", "salience")]
