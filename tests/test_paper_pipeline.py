"""The preset "paper" against the published order of operations, written out a second time.

The networks are small and random, and the same in both. What lies between them is this package on
one side and `tests/official_pipeline.py` on the other.
"""

import functools
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPTokenizer, XLMRobertaTokenizer

from modeling_findtrack import FindTrackConfig, FindTrackModel, FindTrackProcessor
from modeling_findtrack.configuration_findtrack import CUTIE_SETTINGS, CutieConfig, FinderConfig
from modeling_findtrack.modeling_findtrack import KeyMask
from modeling_findtrack.presets import PRESETS
from modeling_findtrack.results import Candidate, Track, encode_mask
from tests.official_pipeline import (
    CUTIE_ALWAYS,
    CUTIE_SCRIPTS,
    LONG_TERM,
    Answer,
    Networks,
    OfficialPipeline,
    Sizes,
)
from tests.tiny_cutie import needs_cutie, official_weights, tiny_config
from tests.tiny_models import beit3_config, sam_finder_config
from training.tiny_model import initialise

pytestmark = [
    needs_cutie,
    pytest.mark.filterwarnings("ignore:.*autocast:FutureWarning"),  # inside rf-cutie
]

PAPER = PRESETS["paper"]
SEED = 11  # by it masks and key frames differ, which a test below asserts
WORDS = ["the", "dog", "Dog", "cat", "on", "left", "right", "big", "red", "car", "moving"]
SIZES = Sizes(
    sam=64,
    beit3=32,
    clip=48,
    clip_context=20,
    # No power of two: 60 * 123 / 60 rounds down to 122.
    cutie=60,
    # As small as the frames are, so that old memories are condensed, and dropped, within 30 frames.
    long_term={
        **LONG_TERM,
        "max_mem_frames": 4,
        "min_mem_frames": 2,
        "num_prototypes": 16,
        "max_num_tokens": 32,
        "buffer_tokens": 8,
    },
)
FRAME = (45, 92)  # for Cutie it becomes 60 x 122, padded to 64 x 128: 32 tokens, it reads 30
LARGE = (90, 190)
TEXTS = ["the Dog on the left", "a red car"]
TIE = 1e-6  # probabilities that differ by less may be rounded to either side


def beit3_tokenizer():
    """XLM-R's with few words; capitals make a difference."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -5.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS]
    return XLMRobertaTokenizer(vocab=pieces)


def clip_tokenizer():
    """CLIP's without merges: letters and signs, and the end of text as the largest id."""
    letters = [*string.ascii_lowercase, *"'\"&;"]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[])


def clip_config(tokenizer) -> CLIPConfig:
    tower = {"num_hidden_layers": 2, "num_attention_heads": 4}
    return CLIPConfig(
        projection_dim=16,
        text_config={
            **tower,
            "hidden_size": 32,
            "intermediate_size": 64,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": SIZES.clip_context,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            **tower,
            "hidden_size": 32,
            "intermediate_size": 64,
            "image_size": SIZES.clip,
            "patch_size": 8,
        },
    )


def paper_model() -> tuple[FindTrackModel, FindTrackProcessor]:
    """Random networks under the settings of the preset, read where `assemble` reads them."""
    torch.manual_seed(SEED)
    words, letters = beit3_tokenizer(), clip_tokenizer()
    beit3 = beit3_config()
    beit3.max_text_positions = 60
    config = FindTrackConfig(
        finder_config=FinderConfig(
            beit3_config=beit3, sam_config=sam_finder_config().sam_config, **PAPER.finder
        ),
        aligner_config=clip_config(letters),
        tracker_config=tiny_config(
            max_internal_size=SIZES.cutie, long_term=SIZES.long_term, **PAPER.tracker
        ),
        **PAPER.model,
    )
    processor = FindTrackProcessor(
        words,
        letters,
        finder_size=SIZES.sam,
        beit3_size=SIZES.beit3,
        beit3_max_tokens=beit3.max_text_positions - 2,
        aligner_size=SIZES.clip,
        aligner_max_tokens=SIZES.clip_context,
        tracker_size=SIZES.cutie,
        **PAPER.processor,
    )
    model = FindTrackModel(config)
    initialise(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)  # what is 0 would hide whether it is used
        model.finder.text_projection[-1].weight *= 6  # the text counts
        model.tracker.cutie.load_state_dict(official_weights(model.tracker))
    return model.eval(), processor


def video(frames: int, size: tuple[int, int] = FRAME, seed: int = 0) -> np.ndarray:
    """(T, H, W, 3) uint8: two bright boxes drift over a background that changes its colours."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.integers(0, 160, (frames, 5, 7, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 7 // width
    clip = coarse[:, rows][:, :, columns] + rng.integers(0, 40, (frames, *size, 3), dtype=np.uint8)
    for t in range(frames):
        x, y = (3 * t) % (width - 20), (2 * t) % (height - 16)
        clip[t, y : y + 14, x : x + 18] = (250, 220, 40)
        clip[t, height - 16 - y : height - 4 - y, width - 18 - x : width - 4 - x] = (30, 60, 250)
    return clip


class Paper:
    """The model under the preset, and the published pipeline around the same networks."""

    def __init__(self):
        self.model, self.processor = paper_model()
        self.networks = Networks(
            sam=self.model.finder.sam,
            beit3=self.model.finder.beit3,
            text_projection=self.model.finder.text_projection,
            alpha_clip=self.model.aligner,
            cutie=self.model.tracker.cutie,
            cutie_model=self.model.tracker.config.network,
            beit3_tokenizer=self.processor.tokenizer,
            clip_tokenizer=self.processor.clip_tokenizer,
        )
        self.official = OfficialPipeline(self.networks, SIZES)
        self.compare_cached = functools.cache(self._compare)

    def compare(
        self,
        frames: np.ndarray,
        texts: list[str],
        references: int,
        setting: str = "ref-youtube-vos",
    ) -> list[tuple[Track, Answer]]:
        """Both answers to each expression: ours together, the published ones one by one."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in CUTIE_SETTINGS[setting].items():
                patch.setattr(self.model.tracker.config, name, value)
            tracks = self.model.segment(
                frames, texts, processor=self.processor, key_frames=references
            )
        official = OfficialPipeline(self.networks, SIZES, setting)
        answers = [official.run(frames, text, references) for text in texts]
        return list(zip(tracks, answers, strict=True))

    def _compare(self, frames: int, references: int, setting: str):
        return self.compare(video(frames, seed=frames), TEXTS, references, setting)


@pytest.fixture(scope="module")
def paper() -> Paper:
    return Paper()


def assert_same(track: Track, answer: Answer) -> None:
    """Scores to 1e-4, the key frame, its mask before Cutie, and every pixel of every frame."""
    assert track.found
    candidates = {c.frame: c for c in track.candidates}
    assert sorted(candidates) == sorted(set(answer.references))
    looked_at = [candidates[index] for index in answer.references]
    for name, expected in (
        ("iou", answer.ious), ("alignment", answer.cosines), ("score", answer.scores),
    ):  # fmt: skip
        values = [getattr(candidate, name) for candidate in looked_at]
        np.testing.assert_allclose(values, expected, atol=1e-4, rtol=0, err_msg=name)
    assert track.key_frame == answer.key_frame
    assert np.array_equal(candidates[track.key_frame].mask, answer.key_mask.numpy())
    margins = (answer.probabilities[:, 1] - answer.probabilities[:, 0]).abs()
    wrong = track.masks.to_array() != answer.masks.numpy()
    assert not (wrong & ~(margins < TIE).numpy()).any()


# ---- the whole pipeline -----------------------------------------------------------------------

GRID = [(frames, references) for frames in (1, 2, 4, 7, 30) for references in (5, 10)]
MEVIS = [(4, 5), (30, 10)]


@pytest.mark.parametrize(("frames", "references"), GRID)
def test_paper_is_the_published_pipeline(paper, frames, references):
    for track, answer in paper.compare_cached(frames, references, "ref-youtube-vos"):
        assert_same(track, answer)


@pytest.mark.parametrize(("frames", "references"), MEVIS)
def test_paper_is_the_published_pipeline_as_set_for_mevis(paper, frames, references):
    for track, answer in paper.compare_cached(frames, references, "mevis"):
        assert_same(track, answer)


@pytest.mark.parametrize(
    "size",
    [
        (92, 45),  # upright
        (60, 123),  # the short side fits Cutie: nothing is resized for it, though it is padded
        LARGE,  # shrunk for every network
        (48, 96),  # nothing is lost to rounding
        (30, 64),  # enlarged for Cutie and CLIP, not resized for SAM
    ],
)
def test_paper_is_the_published_pipeline_at_other_sizes(paper, size):
    for track, answer in paper.compare(video(3, size), TEXTS, 5):
        assert_same(track, answer)
        assert answer.masks.any()


def test_a_long_expression_is_cut_for_clip_alone(paper):
    texts = ["the Dog on the left on the right", "the big red car on the left " * 5]
    assert paper.official.beit3_ids(texts[1]).shape == (1, 37)
    first, second = paper.compare(video(4), texts, 5)
    assert_same(*first)
    assert_same(*second)


def test_quotes_and_entities_are_mended_for_clip(paper):
    texts = ["Bo’s “car” &amp;amp; dog", 'Bo\'s "car" & dog']
    tokens = paper.processor.aligner_tokens(texts)["input_ids"]
    assert torch.equal(tokens[0], tokens[1])
    for track, answer in paper.compare(video(2), texts, 5):
        assert_same(track, answer)


def test_the_comparison_can_fail(paper):
    """What the tests above rest on: answers differ, and no mask hangs on a rounding error."""
    cases = [(*case, "ref-youtube-vos") for case in GRID] + [(*case, "mevis") for case in MEVIS]
    places, settings = set(), {}
    for frames, references, setting in cases:
        (_, first), (_, second) = paper.compare_cached(frames, references, setting)
        assert (first.masks != second.masks).any((1, 2)).all()  # the key mask matters to the end
        settings[frames, references, setting] = first.masks
        for answer in (first, second):
            places.add((frames, answer.key_frame))
            best_two = sorted({*answer.scores})[-2:]
            assert best_two[-1] - best_two[0] > 1e-3 or len(best_two) == 1
            assert answer.key_logits.abs().min() > 1e-5
            share = answer.masks.float().mean((1, 2))
            assert (share > 0.01).all() and (share < 0.99).all()
            if frames > 1:
                assert (answer.masks[1:] != answer.masks[:-1]).any((1, 2)).all()
    assert {(2, 1), (4, 0), (7, 1), (7, 5), (30, 0), (30, 16), (30, 29)} <= places
    for case in MEVIS:
        same = settings[(*case, "mevis")] == settings[(*case, "ref-youtube-vos")]
        assert not same.all()


def test_published_numbers():
    """What is made small above has the published size in an assembled model."""
    words, letters = beit3_tokenizer(), clip_tokenizer()
    processor, sizes = FindTrackProcessor(words, letters, **PAPER.processor), Sizes()
    assert processor.finder_size == sizes.sam and processor.beit3_size == sizes.beit3
    assert processor.aligner_size == sizes.clip and processor.aligner_geometry == "crop"
    assert processor.aligner_max_tokens == sizes.clip_context
    for name, settings in CUTIE_SCRIPTS.items():
        config = CutieConfig(**CUTIE_SETTINGS[name], **PAPER.tracker)
        expected = {**CUTIE_ALWAYS, **settings, "max_internal_size": sizes.cutie}
        assert {key: getattr(config, key) for key in expected} == expected
        assert config.long_term == sizes.long_term
    config = FindTrackConfig(**PAPER.model)
    assert config.num_key_frames == 5 and config.score_threshold is None
    assert (config.iou_weight, config.alignment_weight) == (0.5, 0.5)


# ---- quirks, one by one -----------------------------------------------------------------------


def key_mask(size: tuple[int, int] = FRAME) -> np.ndarray:
    """(H, W) bool, with specks that shrinking wears away."""
    mask = np.zeros(size, dtype=bool)
    mask[8:31, 20:51] = np.random.default_rng(5).random((23, 31)) < 0.7
    return mask


@dataclass(frozen=True)
class Switch:
    """A setting of the preset and something it decides."""

    owner: Callable[[Paper], Any]  # what it is an attribute of
    other: Any  # its position elsewhere
    ours: Callable[[Paper], Any]
    official: Callable[[Paper], Any]


def _chosen(paper: Paper, **best) -> int:
    """The key frame among three candidates, of which the second has the highest score."""
    rle = encode_mask(key_mask())
    candidates = [Candidate(t, 0.5, 0.2, 0.9, score, rle) for t, score in ((0, 0.3), (4, 0.4))]
    candidates.insert(1, replace(candidates[0], frame=2, score=0.6, **best))
    return paper.model.choose(candidates).frame


def _paths(paper: Paper) -> list[np.ndarray]:
    """Our masks (T, H, W) from the middle of three frames on."""
    keys = [KeyMask(1, key_mask(LARGE))]
    frames = video(3, LARGE)
    return paper.model.track(frames, keys, processor=paper.processor)[0][0].to_array()


def _official_paths(paper: Paper) -> torch.Tensor:
    mask = torch.from_numpy(key_mask(LARGE))
    probabilities = paper.official.propagate(video(3, LARGE), 1, mask)
    return probabilities.argmax(1) == 1


def _cutie_input(paper: Paper, frames: np.ndarray) -> torch.Tensor:
    """(1, 3, h, w): the first image that the published pipeline lets Cutie encode."""
    seen, encode = [], paper.networks.cutie.encode_image
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            paper.networks.cutie, "encode_image", lambda image: seen.append(image) or encode(image)
        )
        paper.official.propagate(frames, 0, torch.from_numpy(key_mask()))
    return seen[0][:1]


def _ious(paper: Paper) -> list[float]:
    (candidates,) = paper.model.find(video(3), TEXTS[0], processor=paper.processor)
    return [candidate.iou for candidate in candidates]


def _config(paper: Paper):
    return paper.model.config


def _processor(paper: Paper):
    return paper.processor


EMPTY = encode_mask(np.zeros(FRAME, dtype=bool))
SWITCHES = {
    # W1: the image is cropped, the mask is squashed
    "alpha_geometry": Switch(
        _processor,
        "aligned",
        lambda p: p.processor.alpha(key_mask()[None]),
        lambda p: p.official.alpha(torch.from_numpy(key_mask())),
    ),
    # W2
    "beit3_antialias": Switch(
        _processor,
        False,
        lambda p: p.processor.beit3_pixels(video(1)),
        lambda p: p.official.beit3_pixels(video(1)[0]),
    ),
    # W3
    "lowercase": Switch(
        _processor,
        True,
        lambda p: p.processor.finder_tokens(TEXTS[0])["input_ids"],
        lambda p: p.official.beit3_ids(TEXTS[0]),
    ),
    "finder_geometry": Switch(
        _processor,
        "squash",
        lambda p: p.processor.finder_pixels(video(1)),
        lambda p: p.official.sam_pixels(video(1)[0]),
    ),
    "tracker_geometry": Switch(
        _processor,
        "squash",
        lambda p: p.processor.tracker_pixels(video(1)),
        lambda p: _cutie_input(p, video(1)),
    ),
    "multimask_output": Switch(
        lambda p: p.model.finder.config,
        True,
        _ious,
        lambda p: [float(p.official.segment(frame, TEXTS[0])[1]) for frame in video(3)],
    ),
    # W9: the highest score wins, whatever else is known of the mask
    "accept_empty_masks": Switch(_config, False, lambda p: _chosen(p, rle=EMPTY), lambda p: 2),
    "presence_threshold": Switch(_config, 0.5, lambda p: _chosen(p, presence=0.1), lambda p: 2),
    "resample_key_masks": Switch(_config, False, _paths, _official_paths),
}
OWN_TESTS = {"stable_softmax", "memorise_last_frame"}  # below


def test_every_setting_of_the_preset_is_tested():
    settings = {*PAPER.model, *PAPER.finder, *PAPER.tracker, *PAPER.processor}
    assert settings == {*SWITCHES, *OWN_TESTS}


@pytest.mark.parametrize("name", SWITCHES)
def test_switch(paper, name, monkeypatch):
    """In the preset's position it gives what was published, in the other one something else."""
    switch = SWITCHES[name]
    expected = torch.as_tensor(switch.official(paper)).float()
    as_published = torch.as_tensor(switch.ours(paper)).float()
    torch.testing.assert_close(as_published, expected, atol=1e-4, rtol=0)
    monkeypatch.setattr(switch.owner(paper), name, switch.other)
    other = torch.as_tensor(switch.ours(paper)).float()
    assert other.shape != expected.shape or (other - expected).abs().max() > 0.01


def test_switch_stable_softmax(paper, monkeypatch):
    """W11: where no memory is like the frame, 0 / 0 becomes an empty mask, and stays one."""
    weight = paper.networks.cutie.key_proj.key_proj.weight
    monkeypatch.setattr(weight, "data", weight.data * 600)
    expected = _official_paths(paper).numpy()
    assert expected[1].any() and not expected[[0, 2]].any()
    assert np.array_equal(_paths(paper), expected)
    monkeypatch.setattr(paper.model.tracker.config, "stable_softmax", True)
    stable = _paths(paper)
    assert np.array_equal(stable[1], expected[1]) and stable[[0, 2]].any((1, 2)).all()


def test_switch_memorise_last_frame(paper, monkeypatch):
    """Nothing reads what the last frame of a direction leaves: masks are the same."""
    cutie = paper.networks.cutie
    written, encode = [], cutie.encode_mask

    def counting(*args, **options):
        written.append(1)
        return encode(*args, **options)

    def writes(run: Callable) -> tuple[int, np.ndarray]:
        written.clear()
        masks = np.asarray(run(paper))
        return len(written), masks

    monkeypatch.setattr(cutie, "encode_mask", counting)
    published, expected = writes(_official_paths)
    ours, masks = writes(_paths)
    assert published == 4 and ours == 3  # the published code steps the key frame twice
    assert np.array_equal(masks, expected)
    monkeypatch.setattr(paper.model.tracker.config, "memorise_last_frame", False)
    without, masks = writes(_paths)
    assert without == 1  # the key frame alone: both other frames are the last of their direction
    assert np.array_equal(masks, expected)


def test_an_empty_key_frame_mask_is_tracked(paper, monkeypatch):
    """W9: it wins as any other does, and Cutie is told of an object without a pixel."""

    def all_empty(module, args, output):
        return output[0] - 1e4, output[1]

    frames = video(5)
    hook = paper.networks.sam.mask_decoder.register_forward_hook(all_empty)
    try:
        for track, answer in paper.compare(frames, TEXTS, 5):
            assert_same(track, answer)
            assert not answer.key_mask.any() and not answer.masks[answer.key_frame].any()
            assert answer.masks.any()  # on the other frames Cutie makes something up
        monkeypatch.setattr(paper.model.config, "accept_empty_masks", False)
        for track in paper.model.segment(frames, TEXTS, processor=paper.processor):
            assert not track.found and not track.masks.areas().any()
    finally:
        hook.remove()
