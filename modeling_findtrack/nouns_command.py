"""`findtrack nouns`: what a model was trained to find, for people and for `grep`."""

from collections.abc import Mapping, Sequence


def run(processor, model: str) -> str:
    """What the command prints.

    Args:
        processor: Of the model.
        model: Its name.

    Raises:
        ValueError: The model lists no nouns, and its tokenizer takes any word.
    """
    lines = noun_lines(processor.nouns or (), processor.synonyms or {})
    lines = lines or processor.vocabulary().words()
    if not lines:
        raise ValueError(f"{model}: the model does not say which nouns it knows")
    return "\n".join(lines) + "\n"


def noun_lines(nouns: Sequence[str], synonyms: Mapping[str, str]) -> list[str]:
    """A noun per line with its synonyms; then other words that have some."""
    others: dict[str, list[str]] = {}
    for phrase, known in synonyms.items():
        others.setdefault(known, []).append(phrase)

    def line(known: str) -> str:
        return f"{known} ({', '.join(others[known])})" if known in others else known

    rest = [line(known) for known in others if known not in nouns]
    return [*map(line, nouns), *(["", "other words:", *rest] if rest else [])]
