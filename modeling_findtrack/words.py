"""The words of a sentence as the finder's tokenizer knows them: synonyms, plurals, unknown words.

Made for tokenizers of whole words, which read everything else as one and the same unknown token.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHOWN_NOUNS = 12  # of the known ones, in a remark
CLOSE = 0.8  # likeness from which on a known word is suggested; 1 is the same word
SHORT = 4  # letters; to anything shorter, too many words are like it
_WORD = re.compile(r"(?<!\w')\b\w+(?:'(?![sS]\b)\w+)*")  # without a possessive's 's
_COMPOUND = re.compile(r"\w+(?:['-]\w+)*")  # one or more of the words above
_POSSESSIVE = re.compile(r"(?<=\w)'[sS]\b")
_APOSTROPHES = str.maketrans("\u02bc\u2018\u2019", "'''")
_PLURALS = (  # ending, what the singular has instead
    ("s", ""), ("es", ""), ("ies", "y"), ("men", "man"), ("people", "person"),
    ("children", "child"),
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """A sentence as it is read."""

    text: str  # in the words of the vocabulary, as far as it has them
    unknown: tuple[str, ...]  # what it lacks, lower case, in order, without repeats


class Vocabulary:
    """What a finder's tokenizer knows, and what is read as something that it knows.

    Args:
        tokenizer: The finder's.
        nouns: Those that the model was trained on; phrases, too.
        synonyms: Word or phrase -> the known word or phrase that it is read as.
    """

    def __init__(self, tokenizer, nouns: Sequence[str] | None, synonyms: Mapping[str, str] | None):
        self.tokenizer = tokenizer
        self.nouns, synonyms = list(nouns or ()), dict(synonyms or {})
        # What is known stands for itself: where "phone" means "cell phone", that is not to become
        # "cell cell phone".
        self._known_phrases = {_plain(known): known for known in (*self.nouns, *synonyms.values())}
        replaced = {_plain(phrase): known for phrase, known in synonyms.items()}
        self._readings = self._known_phrases | replaced
        self._longest = max((len(phrase.split()) for phrase in self._readings), default=0)

    def check(self) -> None:
        """ValueError unless the tokenizer knows every noun and everything that synonyms stand for.

        A synonym of an unknown word would only hide which word that is.
        """
        words = {word for phrase in self._known_phrases for word in phrase.split()}
        known = self._known(sorted(words))
        for phrase, given in self._known_phrases.items():
            if self._readings.get(phrase, given) != given:
                continue  # it is read as another one, as "race car" may be as "race_car"
            if not phrase or not known.issuperset(phrase.split()):
                raise ValueError(f"nouns and synonyms: the tokenizer does not know {given!r}")

    def read(self, text: str) -> Reading:
        """A sentence with its synonyms replaced, the longest first, and its unknown plurals.

        Plurals are told by their ending, and replaced only where the tokenizer knows the singular
        but not the plural: a plural that it knows means several, and so does a synonym's plural
        where it knows that of what the synonym stands for. Without nouns and synonyms, the text is
        left as it is.
        """
        plain = text.translate(_APOSTROPHES)
        places = list(_WORD.finditer(plain))
        words = [place.group().lower() for place in places]
        known = self._known(["s", *(f for word in words for f in (word, *_singulars(word)))])
        active = bool(self._readings)
        parts, unread, copied, i = [], [], 0, 0
        while i < len(words):
            count, instead = self._replacement(words, i, known) if active else (1, None)
            if instead is not None:
                parts += [plain[copied : places[i].start()], instead]
                copied = places[i + count - 1].end()
            elif words[i] not in known and any(c.isalpha() for c in words[i]):
                unread.append(places[i].start())
            i += count
        unknown = [
            _POSSESSIVE.sub("", compound.group()).lower()
            for compound in _COMPOUND.finditer(plain)
            if any(compound.start() <= start < compound.end() for start in unread)
        ]
        read = "".join([*parts, plain[copied:]]) if active else text
        if active and "s" not in known:  # one more unknown word otherwise
            read = _POSSESSIVE.sub("", read)
        return Reading(read, tuple(dict.fromkeys(unknown)))

    def remark(self, text: str) -> str | None:
        """One line about a sentence that is not fully understood; None about any other.

        It names the unknown words, with a known one where that is close, or says that the sentence
        has no known noun; then some of the nouns that are known.
        """
        reading = self.read(text)
        if reading.unknown:
            named = [repr(word) + self._suggestion(word) for word in reading.unknown]
            said = f"unknown word{'s' if len(named) > 1 else ''} {', '.join(named)}"
        elif self.nouns and not self._has_noun(reading.text):
            said = "no known noun"
        else:
            return None
        if self.nouns:
            more = len(self.nouns) - SHOWN_NOUNS
            said += f"; known nouns: {', '.join(self.nouns[:SHOWN_NOUNS])}"
            said += f" and {more} more" if more > 0 else ""
        return said

    def words(self) -> list[str]:
        """All words, sorted, of a tokenizer of whole words; none of another one."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if type(getattr(backend, "model", None)).__name__ != "WordLevel":
            return []
        return sorted(set(self.tokenizer.get_vocab()) - set(self.tokenizer.all_special_tokens))

    def _known(self, words: Sequence[str]) -> set[str]:
        """Those of `words` that the tokenizer does not read as unknown, not even in part."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or not words:
            return set(words)
        ids = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        return {word for word, each in zip(words, ids, strict=True) if unknown not in each}

    def _replacement(self, words: list[str], i: int, known: set[str]) -> tuple[int, str | None]:
        """How many words are read together from `i` on, and as what; None is as they are."""
        for count in range(min(self._longest, len(words) - i), 0, -1):
            phrase, last = " ".join(words[i : i + count]), words[i + count - 1]
            for form in (phrase, *(() if last in known else _singulars(phrase))):
                if form in self._readings:
                    read = self._readings[form]
                    return count, read if form == phrase else self._several(read)
        if words[i] not in known:
            return 1, next((form for form in _singulars(words[i]) if form in known), None)
        return 1, None

    def _several(self, phrase: str) -> str:
        """The plural of a known phrase where the tokenizer knows that, too; else the phrase."""
        forms = [
            phrase.removesuffix(instead) + ending
            for ending, instead in _PLURALS
            if phrase.endswith(instead)
        ]
        known = self._known([_words(form)[-1] for form in forms])
        return next((form for form in forms if _words(form)[-1] in known), phrase)

    def _has_noun(self, text: str) -> bool:
        """Whether a known noun is in a sentence, in the plural, too."""
        nouns, words = {_plain(noun) for noun in self.nouns}, _words(text)
        nouns |= {_plain(self._readings[noun]) for noun in nouns}
        phrases = (
            " ".join(words[i : i + count])
            for i in range(len(words))
            for count in range(1, min(self._longest, len(words) - i) + 1)
        )
        return any(not nouns.isdisjoint((phrase, *_singulars(phrase))) for phrase in phrases)

    def _suggestion(self, word: str) -> str:
        if len(word) < SHORT:
            return ""
        known = sorted({*self.words(), *self._readings})
        close = difflib.get_close_matches(word, known, n=1, cutoff=CLOSE)
        return f" (did you mean {close[0]!r}?)" if close else ""


def _words(text: str) -> list[str]:
    """Lower case, without punctuation."""
    return [place.group() for place in _WORD.finditer(text.translate(_APOSTROPHES).lower())]


def _plain(phrase: str) -> str:
    """A phrase as it is looked up: its words, one space between them."""
    return " ".join(_words(phrase))


def _singulars(phrase: str) -> list[str]:
    """What a word or phrase may be the plural of, going by its ending alone."""
    forms = (
        phrase.removesuffix(ending) + instead
        for ending, instead in _PLURALS
        if phrase.endswith(ending)
    )
    return [form for form in forms if len(form) > 1]  # "as" is no plural of "a"
