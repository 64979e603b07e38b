"""Sentences about a real picture, each true with a margin."""

import re
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from ..expressions import TEMPLATES
from ..samples import Pair
from ..sprite_truths import SceneFacts, true_predicates
from .nouns import CALLED, MEN, PEOPLE, ROLES, WOMEN, nouns, plural, true_of

KINDS = ("noun", "all", "position", "size", "relation", "no-target")
# Chances of the kinds where a picture has sentences of them all.
ODDS = {"noun": 0.32, "all": 0.12, "position": 0.26, "size": 0.2, "relation": 0.1}
SMALLEST = 0.006  # share of the frame that a target covers; smaller ones are no target
LEAST_SEEN = 0.45  # share of an object that the frame shows, for a sentence to mean it
ALL = ("the {p}", "all {p}", "{p}", "all the {p}", "every {n}")
UNKNOWN = "[unknown]"  # no word of the tokenizer's
_COMPARATIVE = ("bigger", "larger", "smaller")
_SUPERLATIVE = (
    "leftmost",
    "rightmost",
    "topmost",
    "lowest",
    "far",
    "biggest",
    "largest",
    "smallest",
)


class Describer:
    """Makes sentences about the objects of one picture.

    Args:
        masks: (O, H, W) bool, what is visible.
        names: Per object its noun.
        seen: (O,) share of each object that the frame shows.
        complete: Nouns of which all objects are among these.
        rng: Source of every random choice.
    """

    def __init__(
        self, masks: np.ndarray, names: Sequence[str], seen: np.ndarray,
        complete: frozenset[str], rng: np.random.Generator,
    ):  # fmt: skip
        self.names, self.complete, self.rng = tuple(names), complete, rng
        self.facts = _facts(masks, self.names, seen)
        self.area = self.facts.area[:, 0] / max(masks[0].size if len(masks) else 1, 1)
        self.fit = (self.area >= SMALLEST) & (np.asarray(seen) >= LEAST_SEEN)

    def sentences(self) -> dict[str, list[tuple]]:
        """Kind -> (template key, objects, noun, other noun, rivals) of all that holds."""
        found: dict[str, list] = {}
        for noun in dict.fromkeys(kind for name in self.names if name for kind in true_of(name)):
            self._about(noun, found)
        return found

    def _about(self, noun: str, found: dict[str, list]) -> None:
        """Everything that holds of the objects that are a `noun`."""
        members = [i for i, name in enumerate(self.names) if name and noun in true_of(name)]
        targets = [i for i in members if self.fit[i]]
        if not targets or not (noun in self.complete or len(members) == 1):
            return
        # The others must be clear, too: of two swans one of which is a speck, "the left" is unsure.
        visible = [i for i in members if self.area[i] >= SMALLEST / 4]
        if len(targets) == len(visible) and len(visible) > 1 and plural(noun):
            found.setdefault("all", []).append(("all", tuple(members), noun, "", 1))
        if len(visible) > 6:
            return
        facts = self.facts if noun == self.names[targets[0]] else self._renamed(noun, members)
        present = [i for i in range(len(self.names)) if self.fit[i] and self.names[i]]
        for target in targets:
            rivals = [i for i in visible if i != target]
            if any(i not in targets for i in rivals):
                continue
            for key, other in true_predicates(facts, target, rivals, present):
                kind = key.split(".")[0]
                if other and sum(other in true_of(name) for name in self.names if name) > 1:
                    continue  # beside a duck, which is a bird, nobody knows which "the bird" is
                if kind in ODDS and not (key.startswith("size") and not rivals):
                    # Where there is only one, its place says little and its noun everything.
                    found.setdefault(kind, []).append((key, (target,), noun, other, len(rivals)))

    def _renamed(self, noun: str, members: list[int]) -> SceneFacts:
        names = tuple(noun if i in members else n for i, n in enumerate(self.names))
        return replace(self.facts, nouns=names)

    def pairs(self, count: int, negatives: float, absent: Sequence[str]) -> list[Pair]:
        """`count` sentences; [] where nothing can be said.

        Args:
            count: How many.
            negatives: Share of them about nouns of `absent`.
            absent: Nouns that nothing in the picture is.
        """
        found, rng, pairs = self.sentences(), self.rng, []
        if not found and not absent:
            return []
        kinds = [kind for kind in ODDS if kind in found]
        odds = np.array([ODDS[kind] for kind in kinds])
        for _ in range(count):
            if not kinds or (absent and rng.random() < negatives):
                if not absent:
                    return []
                pairs.append(Pair(self._padded(self._absent(absent)), (), "no-target"))
                continue
            kind = kinds[int(rng.choice(len(kinds), p=odds / odds.sum()))]
            options = found[kind]
            # Kinds as "animal" are true of much: they are said now and then. Where there is one of
            # a noun, its place says little.
            weight = np.array([
                (0.25 if o[2] not in self.names else 1.0) * (1.0 if o[4] or kind == "noun" else 0.3)
                for o in options
            ])  # fmt: skip
            key, objects, noun, *rest = options[
                int(rng.choice(len(options), p=weight / weight.sum()))
            ]
            pairs.append(Pair(self._padded(self.word(key, noun, *rest)), objects, kind))
        return pairs

    def _padded(self, text: str) -> str:
        """Now and then with words that nobody knows, as users' sentences have them: "the black
        swan", "a dog that runs along the street"."""
        rng, words = self.rng, text.split()
        draw = rng.random()
        if draw < 0.1:
            words.insert(1 if words[0] in ("a", "an", "the") else 0, UNKNOWN)
        elif draw < 0.2:
            words += [UNKNOWN] * int(rng.integers(1, 5))
        return " ".join(words)

    def _absent(self, absent: Sequence[str]) -> str:
        rng = self.rng
        noun = absent[int(rng.integers(len(absent)))]
        if rng.random() < 0.1 and plural(noun):
            return self.word("all", noun)
        keys = [k for k in TEMPLATES if k.split(".")[0] in ("position", "size")]
        key = "noun" if rng.random() < 0.6 else keys[int(rng.integers(len(keys)))]
        return self.word(key, noun, "", int(rng.integers(2)))

    def word(self, key: str, noun: str, other: str = "", rivals: int = 1) -> str:
        """Put a predicate into words."""
        rng = self.rng
        name = self._name(noun)
        if key == "all":
            several = plural(name) or name
            template = ALL[int(rng.integers(len(ALL)))]
            return template.format(n=joined(name), p=joined(several))
        options = [t for t in TEMPLATES[key] if "video" not in t]
        if rivals != 1:
            options = [t for t in options if not any(w in t.split() for w in _COMPARATIVE)]
        if not rivals:
            options = [t for t in options if not any(w in t.split() for w in _SUPERLATIVE)]
        template = options[int(rng.integers(len(options)))]
        article = "an" if name[0] in "aeio" or name == "umbrella" else "a"
        other = self._name(other) if other else ""
        return template.format(n=joined(name), a=article, m=joined(other))

    def _name(self, noun: str) -> str:
        """The noun or, now and then, another word for it."""
        rng = self.rng
        if nouns()[noun].group == PEOPLE:
            if rng.random() < 0.5:
                return noun
            words = (MEN, WOMEN, ROLES)[int(rng.choice(3, p=(0.4, 0.4, 0.2)))]
            return words[int(rng.integers(len(words)))]
        return noun  # its synonyms are read as the noun


def joined(name: str) -> str:
    """A noun, maybe of several words, as the one word that the tokenizer knows it by."""
    return re.sub(r"\W", "_", name)


def _facts(masks: np.ndarray, names: tuple[str, ...], seen: np.ndarray) -> SceneFacts:
    """One frame in the words of Ref-Sprites' scenes; nothing moves."""
    count = len(masks)
    height, width = masks.shape[1:] if count else (1, 1)
    short = min(height, width)
    centre = np.full((count, 1, 2), np.nan)
    area = np.zeros((count, 1))
    for i, mask in enumerate(masks):
        moments = cv2.moments(mask.view(np.uint8), binaryImage=True)
        if moments["m00"]:
            centre[i, 0] = moments["m10"], moments["m01"]
            centre[i, 0] /= moments["m00"] * short
        area[i] = moments["m00"]
    return SceneFacts(
        nouns=names,
        aspect=np.array([width, height]) / short,
        centre=centre,
        area=area,
        visibility=np.asarray(seen, float).reshape(count, 1),
        extent=np.sqrt(area) / short,
        path=centre,
        drift=centre,
        inside=np.zeros((count, 1), bool),  # no motion is seen
        growth=np.ones(count),
        spin=np.zeros(count),
    )


def words() -> list[str]:
    """Every word, with "_" for the space of a noun of several, that a sentence can hold."""
    found = {"a", "an", "all", "every"}
    for template in (t for group in TEMPLATES.values() for t in group):
        found.update(w for w in template.split() if not w.startswith("{"))
    for name in (*nouns(), *MEN, *WOMEN, *ROLES):
        found.update({joined(name), joined(plural(name))})
    return sorted(found - {""})


def synonyms() -> dict[str, str]:
    """Phrase of a user's or of a training sentence -> words of `words()`."""
    known = set(words())
    said = {noun.name: (noun.name, *noun.names, *noun.synonyms) for noun in nouns().values()}
    said |= {name: (*said.get(name, ()), *more) for name, more in CALLED.items()}
    table = {}
    for name, others in said.items():
        for other in others:
            for one, word in ((other, name), (plural(other), plural(name) or name)):
                if one and one not in known:
                    table.setdefault(one, joined(word))
    return table


def named() -> list[str]:
    """Everything that sentences may ask for: nouns, and words for people."""
    return sorted({*nouns(), *MEN, *WOMEN, *ROLES})
