"""Tokenizers of published weights: the ids are those of the files they come from."""

import json

import pytest
from transformers import CLIPTokenizer

from modeling_findtrack import published_tokenizers
from modeling_findtrack.checkpoint_files import CheckpointError
from modeling_findtrack.presets import BEIT3_TOKENIZER, CLIP_TOKENIZER
from modeling_findtrack.processing_findtrack import FindTrackProcessor
from modeling_findtrack.published_source import find_source
from modeling_findtrack.published_tokenizers import (
    beit3_tokenizer,
    check_requirements,
    clip_tokenizer,
    has_tokenizer,
)
from tests.conftest import CORPUS
from tests.official_checkpoints import write_clip_vocabulary, write_sentencepiece

TEXTS = [
    *CORPUS,
    "A Red DOG",
    "the   panda  ",
    " on the left",
    "xylophone?! 42",
    "ünïcödé ｆｕｌｌ ﬁ",
    "dog, cat; the-blue car",
]


def source(folder, clip: bool = False):
    return find_source(
        str(folder), CLIP_TOKENIZER if clip else BEIT3_TOKENIZER, needs_weights=False
    )


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory):
    pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("beit3")
    write_sentencepiece(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_clip_vocabulary(folder)
    return folder


def test_sentencepiece_ids_are_those_of_xlm_r(sentencepiece_folder):
    """<s> 0, <pad> 1, </s> 2, <unk> 3, and every other piece one later than in the model."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(
        model_file=str(sentencepiece_folder / "sentencepiece.bpe.model")
    )
    tokenizer = beit3_tokenizer(source(sentencepiece_folder), rows=200)
    assert [tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "<pad>", "</s>", "<unk>")] == [
        0, 1, 2, 3,
    ]  # fmt: skip
    assert len(tokenizer) == model.get_piece_size() + 2  # <pad>, <mask>
    unknown = 0
    for text in TEXTS:
        pieces = [i + 1 if i else 3 for i in model.encode(text)]
        assert tokenizer(text)["input_ids"] == [0, *pieces, 2], text
        unknown += pieces.count(3)
    assert unknown  # the corpus has no digits


@pytest.mark.parametrize("name", ["beit3.spm", "other.model"])
def test_other_names_of_the_sentencepiece_model(sentencepiece_folder, name, tmp_path):
    model = (sentencepiece_folder / "sentencepiece.bpe.model").read_bytes()
    (tmp_path / name).write_bytes(model)
    (tmp_path / "config.json").write_text('{"model_type": "evf", "auto_map": {"AutoModel": "x.Y"}}')
    ids = beit3_tokenizer(source(tmp_path), rows=200)(TEXTS)["input_ids"]
    assert ids == beit3_tokenizer(source(sentencepiece_folder), rows=200)(TEXTS)["input_ids"]


def test_a_file_instead_of_a_folder(sentencepiece_folder, clip_folder, tmp_path):
    path = tmp_path / "sentencepiece.bpe.model"
    path.write_bytes((sentencepiece_folder / path.name).read_bytes())
    (tmp_path / "tokenizer.json").write_text("another's")
    ids = beit3_tokenizer(source(path), rows=200)(TEXTS)["input_ids"]
    assert ids == beit3_tokenizer(source(sentencepiece_folder), rows=200)(TEXTS)["input_ids"]
    tokenizer = clip_tokenizer(source(clip_folder / "vocab.json", clip=True), rows=300)
    expected = clip_tokenizer(source(clip_folder, clip=True), rows=300)
    assert tokenizer(CORPUS)["input_ids"] == expected(CORPUS)["input_ids"]


def test_a_ready_made_tokenizer_is_taken_as_it_is(sentencepiece_folder, tokenizers, tmp_path):
    tokenizers[0].save_pretrained(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"not looked at")
    tokenizer = beit3_tokenizer(source(tmp_path), rows=len(tokenizers[0]))
    assert tokenizer(TEXTS)["input_ids"] == tokenizers[0](TEXTS)["input_ids"]


@pytest.mark.parametrize("clip", [False, True])
def test_code_of_others_is_not_carried_along(clip, tokenizers, tmp_path):
    """Whoever trusts our folder trusts our code, not what a tokenizer's config refers to."""
    tokenizers[clip].save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "tokenizer_config.json"
    evil = {
        "auto_map": {"AutoTokenizer": ["evil/repo--tok.Evil"] * 2, "AutoProcessor": "x/y--z.E"},
        "tokenizer_class": "Evil",
        "processor_class": "Evil",
        "chat_template": "{{ 1 }}",
        "name_or_path": "/home/me/secret",
        "tokenizer_file": "/etc/passwd",
        "custom": "evil",
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | evil))
    special = tmp_path / "theirs" / "special_tokens_map.json"
    special.write_text(json.dumps({"auto_map": evil["auto_map"], "chat_template": "{{ 2 }}"}))
    (tmp_path / "theirs" / "chat_template.jinja").write_text("{{ 3 }}")
    make = clip_tokenizer if clip else beit3_tokenizer
    tokenizer = make(source(tmp_path / "theirs", clip), rows=len(tokenizers[clip]))
    tokenizer.save_pretrained(tmp_path / "ours")
    assert tokenizer(TEXTS)["input_ids"] == tokenizers[clip](TEXTS)["input_ids"]
    assert tokenizer.model_max_length == tokenizers[clip].model_max_length
    assert tokenizer.special_tokens_map == tokenizers[clip].special_tokens_map
    names = {p.name for p in (tmp_path / "ours").iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json"}
    saved = json.loads((tmp_path / "ours" / "tokenizer_config.json").read_text())
    assert "auto_map" not in saved and "chat_template" not in saved
    text = json.dumps(saved)
    assert not [word for word in ("evil", "Evil", "secret", "passwd") if word in text]


def test_clip_vocabulary_and_merges(clip_folder):
    tokenizer = clip_tokenizer(source(clip_folder, clip=True), rows=300)
    vocabulary = json.loads((clip_folder / "vocab.json").read_text())
    begin, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    assert tokenizer.model_max_length == 77
    expected = CLIPTokenizer.from_pretrained(clip_folder)
    for text in CORPUS:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == begin and ids[-1] == end and end not in ids[1:-1]
        assert ids == expected(text.upper())["input_ids"]


def test_both_survive_saving(sentencepiece_folder, clip_folder, tmp_path):
    processor = FindTrackProcessor(
        beit3_tokenizer(source(sentencepiece_folder), rows=200),
        clip_tokenizer(source(clip_folder, clip=True), rows=300),
    )
    processor.save_pretrained(tmp_path)
    again = FindTrackProcessor.from_pretrained(tmp_path)
    for name in ("finder_tokens", "aligner_tokens"):
        before, after = (getattr(p, name)(TEXTS) for p in (processor, again))
        assert before["input_ids"].tolist() == after["input_ids"].tolist()
        assert before["attention_mask"].tolist() == after["attention_mask"].tolist()
    assert processor.finder_tokens(TEXTS)["input_ids"][:, -1].min() == 1  # padded at the right


def test_a_tokenizer_of_other_weights_is_refused(sentencepiece_folder, clip_folder):
    with pytest.raises(CheckpointError, match=r"the text embedding 20 rows.*--tokenizer"):
        beit3_tokenizer(source(sentencepiece_folder), rows=20)
    with pytest.raises(CheckpointError, match=r"the text embedding 20 rows.*--clip-tokenizer"):
        clip_tokenizer(source(clip_folder, clip=True), rows=20)


def test_no_tokenizer(tmp_path):
    assert not has_tokenizer(source(tmp_path)) and not has_tokenizer(source(tmp_path, True), True)
    with pytest.raises(CheckpointError, match="--tokenizer"):
        beit3_tokenizer(source(tmp_path), rows=20)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(CheckpointError, match="--clip-tokenizer"):
        clip_tokenizer(source(tmp_path, clip=True), rows=20)


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "tokenizer.json"])
def test_damaged_tokenizers(name, tmp_path):
    pytest.importorskip("sentencepiece")
    (tmp_path / name).write_text("garbage")
    with pytest.raises(CheckpointError, match=f"{name}: no ") as error:
        beit3_tokenizer(source(tmp_path), rows=20)
    assert len(str(error.value).splitlines()) == 1 and "tiktoken" not in str(error.value)


@pytest.mark.parametrize("content", ["garbage", "[1]"])
def test_damaged_settings_of_a_tokenizer(content, tokenizers, tmp_path):
    tokenizers[0].save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: (cannot be read|holds no)"):
        beit3_tokenizer(source(tmp_path), rows=len(tokenizers[0]))


def test_what_to_install_is_told_early(sentencepiece_folder, monkeypatch):
    check_requirements(source(sentencepiece_folder))
    monkeypatch.setattr(published_tokenizers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r'pip install "findtrack\[assemble\]"'):
        check_requirements(source(sentencepiece_folder))
