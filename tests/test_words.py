"""Words: what is read as a known one, what is told as unknown, and what stays as it was."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers.utils import logging

from modeling_findtrack import FindTrackProcessor
from modeling_findtrack.nouns_command import run as list_nouns
from modeling_findtrack.shipped import checkpoint
from modeling_findtrack.words import Vocabulary
from tests.tiny_models import moving_square, tiny
from training.new_words import add_new_words
from training.tiny_model import tokenizers as word_tokenizers

ROOT = Path(__file__).parents[1]
NOUNS = ["bicycle", "bus", "car", "cell phone", "dog", "knife", "man", "race car", "strawberry"]
SYNONYMS = {
    "Puppy": "dog", "guy": "man", "phone": "cell phone", "mountain bike": "bicycle",
    "bike": "bicycle", "racer": "race car", "biggest": "big", "auto": "car", "human": "person",
    "on the left-hand side": "on the left",
}  # fmt: skip
WORDS = sorted(
    {word for noun in NOUNS for word in noun.split()}
    | {"a", "the", "and", "on", "left", "right", "big", "side", "cars", "men", "person", "people"}
)
TEXTS = [
    "the dogs on the left", "A  PUPPY's house", "the man's horses don’t", "t-shirt & 3 cars!", "猫",
    "two puppies, a bike", "the leftmost swan", "CARS",
]  # fmt: skip


@pytest.fixture(scope="module")
def processor() -> FindTrackProcessor:
    return FindTrackProcessor(*word_tokenizers(WORDS), nouns=NOUNS, synonyms=SYNONYMS)


def read(processor, text: str) -> str:
    (read,) = processor.reworded([text])
    return read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a puppy", "a dog"),
        ("A PUPPY, on the left!", "A dog, on the left!"),
        ("the guy and the puppy", "the man and the dog"),
        ("the puppylike guy", "the puppylike man"),  # whole words
        ("the autos and guys", "the cars and men"),  # several, which it knows
        ("humans, men, people", "people, men, people"),
        ("the mountain bike", "the bicycle"),  # not "the mountain bicycle"
        ("mountain-bikes", "bicycle"),
        ("the phone", "the cell phone"),
        ("the cell phone", "the cell phone"),  # not "the cell cell phone"
        ("two Cell Phones", "two cell phone"),
        ("the racers", "the race cars"),
        ("the dog on the left hand side", "the dog on the left"),
        ("the biggest dog", "the big dog"),
        ("dogs", "dog"),
        ("buses", "bus"),
        ("strawberries", "strawberry"),
        ("puppies", "dog"),
        ("knives", "knives"),  # no rule for these
        ("the cars", "the cars"),  # several, which it knows
        ("the race cars", "the race cars"),
        ("the car as big as the bus", "the car as big as the bus"),
        ("the guy's dog", "the man dog"),
        ("the guy’s dog", "the man dog"),
        ("", ""),
    ],
)
def test_what_a_text_is_read_as(text, expected, processor):
    assert read(processor, text) == expected


def test_both_branches_read_the_same(processor):
    for tokenise in (processor.finder_tokens, processor.aligner_tokens):
        got, expected = tokenise(["Puppies", "the mountain bike"]), tokenise(["dog", "the bicycle"])
        assert got["input_ids"].equal(expected["input_ids"])
        assert got["attention_mask"].equal(expected["attention_mask"])


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("the dog on the left", []),
        ("the puppies and the mountain bike", []),
        ("the Axolotl, the dog and THE AXOLOTL", ["axolotl"]),
        ("an axolotl's dog", ["an", "axolotl"]),
        ("the dog's car", []),
        ("2 dogs & 3,5 cars ... #7", []),
        ("the 4x4", ["4x4"]),
        ("the zebra-striped car", ["zebra-striped"]),
        ("the mountain", ["mountain"]),
        ("the dog that doesn't bark", ["that", "doesn't", "bark"]),
        ("den Hund, 猫", ["den", "hund", "猫"]),
    ],
)
def test_unknown_words(text, unknown, processor):
    assert processor.unknown_words(text) == unknown


def test_a_remark_is_one_line_that_helps(processor):
    nouns = "; known nouns: " + ", ".join(NOUNS)
    for text, remark in {
        "the puppy": None,
        "two cars": f"unknown word 'two'{nouns}",
        "the axolotl": f"unknown word 'axolotl'{nouns}",
        "the stawberry": f"unknown word 'stawberry' (did you mean 'strawberry'?){nouns}",
        "a leftt\naxolotl": f"unknown words 'leftt' (did you mean 'left'?), 'axolotl'{nouns}",
        "the big left side": f"no known noun{nouns}",
        "the men": None,
    }.items():
        assert processor.remark(text) == remark


def test_of_many_nouns_a_remark_names_the_first(processor):
    many = [f"{noun} {side}" for noun in NOUNS for side in ("left", "right")]
    processor = FindTrackProcessor(*word_tokenizers(WORDS), nouns=many)
    assert processor.remark("the side").endswith(", ".join(many[:12]) + " and 6 more")
    assert processor.remark("the Dog left") is None


def test_what_the_tokenizer_does_not_know_is_refused():
    with pytest.raises(ValueError, match="does not know 'polar bear'"):
        FindTrackProcessor(*word_tokenizers(WORDS), nouns=["dog", "polar bear"])
    with pytest.raises(ValueError, match="does not know 'hound'"):
        FindTrackProcessor(*word_tokenizers(WORDS), synonyms={"puppy": "hound"})


def test_saving_and_loading(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = FindTrackProcessor.from_pretrained(tmp_path)
    assert (loaded.nouns, loaded.synonyms) == (NOUNS, SYNONYMS)
    assert loaded.reworded(TEXTS) == processor.reworded(TEXTS)
    assert loaded.remark("the axolotl") == processor.remark("the axolotl")


def test_synonyms_alone_are_enough():
    processor = FindTrackProcessor(*word_tokenizers(WORDS), synonyms={"puppy": "dog"})
    assert read(processor, "the puppy") == "the dog"
    assert processor.remark("the side") is None  # nobody says what is a noun
    assert processor.remark("the axolotl") == "unknown word 'axolotl'"


# Without nouns and synonyms


@pytest.fixture(scope="module")
def shipped_tiny() -> FindTrackProcessor:
    return FindTrackProcessor.from_pretrained(checkpoint("tiny"))


def test_tiny_reads_every_text_as_before(shipped_tiny):
    meta = json.loads((ROOT / "eval/data/ref_sprites/valid/meta_expressions.json").read_text())
    sentences = [e["exp"] for v in meta["videos"].values() for e in v["expressions"].values()]
    assert len(sentences) > 200
    for text in [*TEXTS, *sentences]:
        (ids,) = shipped_tiny.finder_tokens(text)["input_ids"].tolist()
        assert ids == shipped_tiny.tokenizer(text.lower())["input_ids"]
        (ids,) = shipped_tiny.aligner_tokens(text)["input_ids"].tolist()
        assert ids == shipped_tiny.clip_tokenizer(text.replace("’", "'"))["input_ids"]
    assert not [sentence for sentence in sentences if shipped_tiny.remark(sentence)]


def test_tiny_tells_what_it_does_not_know(shipped_tiny):
    assert shipped_tiny.unknown_words("the axolotls on the left of the dogs") == [
        "axolotls",
        "dogs",
    ]
    assert shipped_tiny.remark("the dogs") == "unknown word 'dogs' (did you mean 'dog'?)"
    assert shipped_tiny.remark("on the left") is None


def test_tiny_is_saved_as_before(shipped_tiny, tmp_path):
    shipped_tiny.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert not {"nouns", "synonyms"} & set(saved)


def test_parts_of_words_know_everything(tokenizers):
    processor = FindTrackProcessor(*tokenizers)
    assert processor.unknown_words("a lemon and the mole's dogs") == []
    assert processor.remark("a lemon") is None
    without = Vocabulary(SimpleNamespace(unk_token_id=None), None, None)
    assert without.read("die Tür, 猫").unknown == () and without.remark("猫") is None
    assert processor.reworded(TEXTS) == TEXTS
    assert processor.reworded(TEXTS) == TEXTS
    plurals = FindTrackProcessor(*tokenizers, nouns=["dog"])
    assert plurals.reworded(["the dogs'", "the dog's"]) == ["the dogs'", "the dog's"]


# Where it is told


@pytest.fixture
def warnings():
    """The lines that transformers logs."""
    lines = []
    handler = logging.logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    verbosity = logging.get_verbosity()
    logging.set_verbosity_warning()
    logging.add_handler(handler)
    yield lines
    logging.remove_handler(handler)
    logging.set_verbosity(verbosity)


def test_segment_answers_and_tells(warnings):
    model, processor = tiny()
    texts = ["the dog", "the axolotl on the left", "the axolotl on the left"]
    tracks = model.segment(moving_square(2), texts, processor=processor, key_frames=1)
    assert [track.unknown_words for track in tracks] == [(), ("axolotl",), ("axolotl",)]
    assert all(len(track.masks) == 2 for track in tracks)
    assert warnings == ["\"the axolotl on the left\": unknown word 'axolotl'"]
    logging.set_verbosity_error()
    model.segment(moving_square(2), texts, processor=processor, key_frames=1)
    assert len(warnings) == 1


def test_new_words_are_known_and_no_synonym_becomes_one():
    model, _ = tiny()
    words = word_tokenizers(["the", "dog"])
    processor = FindTrackProcessor(*words, nouns=["dog"], synonyms={"puppy": "dog"})
    assert processor.remark("the whale").startswith("unknown word 'whale'")
    assert add_new_words(model, processor, ["the whale", "the puppies"]) == ["whale"]
    assert processor.remark("the whale") is None and processor.nouns == ["dog", "whale"]


def test_the_list_of_nouns(processor, shipped_tiny):
    lines = list_nouns(processor, "x").splitlines()
    assert lines[0] == "bicycle (mountain bike, bike)" and "knife" in lines
    assert [line.split(" (")[0] for line in lines[: len(NOUNS)]] == NOUNS
    assert lines[len(NOUNS) :] == [
        "", "other words:", "big (biggest)", "person (human)",
        "on the left (on the left-hand side)",
    ]  # fmt: skip
    assert "panda" in list_nouns(shipped_tiny, "tiny").splitlines()


def test_a_model_that_lists_none_is_told(tokenizers):
    with pytest.raises(ValueError, match="sam2: the model does not say which nouns it knows"):
        list_nouns(FindTrackProcessor(*tokenizers), "sam2")
