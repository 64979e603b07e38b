"""The tokenizers that belong to published weights, as `tokenizers` files."""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer, PreTrainedTokenizerFast, XLMRobertaTokenizer

from .checkpoint_files import CheckpointError
from .published_source import Source

# What is taken of the files beside tokenizer.json: data about tokens. Above all not `auto_map` and
# `chat_template`, which are another's code: whoever trusts our folder would run it.
_OF_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    "additional_special_tokens", "extra_special_tokens", "added_tokens_decoder",
    "add_prefix_space", "clean_up_tokenization_spaces", "do_lower_case", "model_input_names",
    "model_max_length",
)  # fmt: skip
_SENTENCEPIECE = ("sentencepiece.bpe.model", "beit3.spm", "*.spm", "*.model")


def has_tokenizer(source: Source, clip: bool = False) -> bool:
    """Whether a tokenizer is among the source's files."""
    names = {file.name for file in source.extras}
    if "tokenizer.json" in names:
        return True
    if clip:
        return {"vocab.json", "merges.txt"} <= names
    return any(name.endswith((".model", ".spm")) for name in names)


def beit3_tokenizer(source: Source, rows: int):
    """BEiT-3's tokenizer, an XLM-R: tokenizer.json if there is one, else the sentencepiece model.

    Args:
        source: Fetched; with a tokenizer.
        rows: Of the text embedding.

    Raises:
        CheckpointError: There is no tokenizer, it has more tokens than `rows`, or sentencepiece is
            not installed.
    """
    tokenizer = _ready_made(source)
    if tokenizer is None:
        model = source.extra(*_SENTENCEPIECE)
        if model is None:
            raise CheckpointError(
                f"{source.name}: no tokenizer there (tokenizer.json or sentencepiece.bpe.model); "
                "say where it is with --tokenizer"
            )
        tokenizer = _from_sentencepiece(model)
    return _checked(tokenizer, source, rows, "--tokenizer")


def clip_tokenizer(source: Source, rows: int):
    """CLIP's tokenizer: tokenizer.json if there is one, else vocab.json and merges.txt.

    Args and Raises: see `beit3_tokenizer`.
    """
    tokenizer = _ready_made(source)
    if tokenizer is None:
        vocabulary, merges = source.extra("vocab.json"), source.extra("merges.txt")
        if vocabulary is None or merges is None:
            raise CheckpointError(
                f"{source.name}: no tokenizer there (tokenizer.json, or vocab.json and "
                "merges.txt); say where it is with --clip-tokenizer"
            )
        files = {"vocab.json": vocabulary, "merges.txt": merges}
        tokenizer = _load_alone(CLIPTokenizer.from_pretrained, files)
        tokenizer.model_max_length = 77
    return _checked(tokenizer, source, rows, "--clip-tokenizer")


def _ready_made(source: Source):
    """The tokenizer of tokenizer.json and the small files that name its special tokens."""
    ready = source.extra("tokenizer.json")
    if ready is None:
        return None
    files: dict[str, Path | str] = {"tokenizer.json": ready}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (path := source.extra(name)) is not None:
            files[name] = json.dumps(_about_tokens(path))
    if (path := source.extra("added_tokens.json")) is not None:
        files["added_tokens.json"] = path
    return _load_alone(PreTrainedTokenizerFast.from_pretrained, files)


def _about_tokens(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: holds no settings")
    return {key: value for key, value in settings.items() if key in _OF_TOKENS}


def check_requirements(source: Source) -> None:
    """Tell before anything is fetched that reading a tokenizer needs more packages.

    Raises:
        CheckpointError: The source has a sentencepiece model alone and sentencepiece is missing.
    """
    names = {file.name for file in source.extras}
    if "tokenizer.json" in names or not has_tokenizer(source):
        return
    if not all(_is_installed(name) for name in ("sentencepiece", "google.protobuf")):
        raise CheckpointError(
            f"{source.name}: reading its sentencepiece model needs more packages: "
            'pip install "findtrack[assemble]"'
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package it is in
        return False


def _from_sentencepiece(model: Path):
    import sentencepiece

    try:  # transformers would take a damaged one for a file of another kind
        sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (OSError, RuntimeError):
        raise CheckpointError(f"{model}: no sentencepiece model, or damaged") from None
    return _load_alone(XLMRobertaTokenizer.from_pretrained, {"sentencepiece.bpe.model": model})


def _load_alone(load: Callable, files: Mapping[str, Path | str]):
    """Load a tokenizer from these files and no others: a config.json beside them may mislead.

    Args:
        load: `from_pretrained` of a class.
        files: Name -> where it is, or its text. The first of them is named if something is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, Path(folder) / name)
            else:
                (Path(folder) / name).write_text(content, encoding="utf-8")
        try:
            return load(folder)
        except Exception as error:  # noqa: BLE001 - the parsers of tokenizers raise plain Exception
            first = (str(error).splitlines() or [type(error).__name__])[0]
            where = next(iter(files.values()))
            raise CheckpointError(f"{where}: no tokenizer can be made of it ({first})") from None


def _checked(tokenizer, source: Source, rows: int, option: str):
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"{source.name}: its tokenizer has {len(tokenizer)} tokens, the text embedding {rows} "
            f"rows: it belongs to other weights; say where the right one is with {option}"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or "<pad>"
    tokenizer.padding_side = "right"
    return tokenizer
