"""Words of the training data that a word-level vocabulary lacks.

A tokenizer of subwords knows every word and gets nothing new.
"""

import re
from collections.abc import Iterable

import torch
from tokenizers import AddedToken
from torch import nn


def add_new_words(model, processor, texts: Iterable[str], seed: int = 0) -> list[str]:
    """Give both tokenizers the words they read as unknown, and the model a row for each.

    New rows are drawn with the mean and the deviation of the known ones, so that they neither shout
    nor whisper.

    Args:
        model: A `FindTrackModel`, changed in place.
        processor: Its processor, changed in place.
        texts: The sentences of the training data.
        seed: Of the new rows.

    Returns:
        The words, sorted.
    """
    texts = processor.reworded(texts)  # a synonym of a known word is not a new one
    words = sorted({word for text in texts for word in re.findall(r"\w+", text.lower())})
    generator = torch.Generator().manual_seed(seed)
    beit3 = model.finder.beit3
    fresh = _extend(processor.tokenizer, words)
    beit3.text_embed = _grown(beit3.text_embed, len(processor.tokenizer), generator)
    model.config.finder_config.beit3_config.vocab_size = beit3.text_embed.num_embeddings
    if model.finder.salience is not None:
        model.finder.salience = _grown(model.finder.salience, len(processor.tokenizer), generator)
    if model.aligner is not None:
        fresh += _extend(processor.clip_tokenizer, words)
        text = model.aligner.text_model
        table = _grown(text.embeddings.token_embedding, len(processor.clip_tokenizer), generator)
        text.embeddings.token_embedding = table
        model.config.aligner_config.text_config.vocab_size = table.num_embeddings
    fresh = sorted(set(fresh))
    if processor.nouns:  # nothing tells which of the words are some
        processor.nouns += fresh
    return fresh


def _extend(tokenizer, words: Iterable[str]) -> list[str]:
    """Add those of `words` that the tokenizer reads as unknown."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return []
    fresh = [w for w in words if unknown in tokenizer(w, add_special_tokens=False)["input_ids"]]
    # Whole words in any case, as the others of a word-level vocabulary.
    tokenizer.add_tokens([AddedToken(w, single_word=True, normalized=True) for w in fresh])
    return fresh


@torch.no_grad()
def _grown(table: nn.Embedding, size: int, generator: torch.Generator) -> nn.Embedding:
    """The table with at least `size` rows."""
    known = table.weight
    if size <= len(known):
        return table
    drawn = torch.randn(size - len(known), known.shape[1], generator=generator)
    rows = known.float().mean(dim=0).cpu() + known.float().std(dim=0).cpu() * drawn
    grown = nn.Embedding(size, known.shape[1], padding_idx=table.padding_idx)
    grown.to(known.device, known.dtype)
    grown.weight.copy_(torch.cat([known, rows.to(known)]))
    return grown
