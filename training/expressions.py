"""Sentences about a scene, each true with a margin and naming exactly one object (or none)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from training.sprite_nouns import SYNONYMS, confusable_with
from training.sprite_truths import SceneFacts, true_predicates

KINDS = ("noun", "position", "size", "relation", "motion", "motion-only", "no-target")

# {n} is the noun, {a} its article, {m} another noun. A key is "kind" or "kind.predicate".
TEMPLATES: dict[str, tuple[str, ...]] = {
    "noun": ("the {n}", "{a} {n}", "{n}", "the only {n}", "the {n} in the video"),
    "position.left": (
        "the {n} on the left", "the left {n}", "{n} on the left side", "the leftmost {n}",
        "the {n} on the far left",
    ),
    "position.right": (
        "the {n} on the right", "the right {n}", "{n} on the right side", "the rightmost {n}",
        "the {n} on the far right",
    ),
    "position.top": (
        "the {n} at the top", "the upper {n}", "the top {n}", "the topmost {n}",
        "{n} in the upper part",
    ),
    "position.bottom": (
        "the {n} at the bottom", "the lower {n}", "the bottom {n}", "the lowest {n}",
        "{n} in the lower part",
    ),
    "position.middle": ("the {n} in the middle", "the middle {n}", "{n} in the center"),
    "size.big": ("the big {n}", "the large {n}", "the bigger {n}", "the larger {n}",
                 "the biggest {n}", "the largest {n}"),
    "size.small": ("the small {n}", "the little {n}", "the smaller {n}", "the tiny {n}",
                   "the smallest {n}"),
    "relation.left": ("the {n} to the left of the {m}", "{n} left of the {m}"),
    "relation.right": ("the {n} to the right of the {m}", "{n} right of the {m}"),
    "relation.above": ("the {n} above the {m}", "{n} over the {m}"),
    "relation.below": ("the {n} below the {m}", "{n} under the {m}"),
    "relation.near": ("the {n} next to the {m}", "the {n} near the {m}",
                      "the {n} close to the {m}"),
    "motion.left": ("the {n} moving left", "the {n} going to the left", "{n} moving to the left",
                    "the {n} that moves left"),
    "motion.right": ("the {n} moving right", "the {n} going to the right",
                     "{n} moving to the right", "the {n} that moves right"),
    "motion.up": ("the {n} moving up", "the {n} going up", "{n} moving upwards",
                  "the {n} that rises"),
    "motion.down": ("the {n} moving down", "the {n} going down", "{n} moving downwards",
                    "the {n} that sinks"),
    "motion.still": ("the {n} standing still", "the {n} that does not move", "the still {n}",
                     "the {n} not moving"),
    "motion.fast": ("the faster {n}", "the fast {n}", "the {n} that moves faster",
                    "the fastest {n}"),
    "motion.slow": ("the slower {n}", "the slow {n}", "the {n} that moves slower",
                    "the slowest {n}"),
    "motion.spin": ("the spinning {n}", "the rotating {n}", "the {n} that turns around",
                    "{n} turning around"),
    "motion.grow": ("the {n} coming closer", "the {n} getting bigger", "{n} growing",
                    "the growing {n}"),
    "motion.shrink": ("the {n} going away", "the {n} getting smaller", "{n} shrinking",
                      "the shrinking {n}"),
    "motion.leave": ("the {n} leaving the picture", "the {n} that leaves the frame",
                     "{n} leaving"),
    "motion.enter": ("the {n} entering the picture", "the {n} that enters the frame",
                     "{n} entering"),
}  # fmt: skip

_COMPARATIVE = frozenset({"bigger", "larger", "smaller", "faster", "slower"})
_SUPERLATIVE = frozenset(
    {"leftmost", "rightmost", "topmost", "lowest", "far"}
    | {"biggest", "largest", "smallest", "fastest", "slowest"}
)
_AMONG_SEVERAL = _COMPARATIVE | _SUPERLATIVE  # odd for a noun that is there once


@dataclass(frozen=True)
class Expression:
    """One sentence."""

    text: str
    kind: str  # one of KINDS
    objects: tuple[int, ...]  # indices of the targets; empty when there is none
    noun: str  # canonical noun, also when the text says a synonym
    unique_noun: bool  # the noun alone would identify the target


def vocabulary(bank) -> list[str]:
    """Every word a sentence about `bank` (a `SpriteBank`) can hold: lower case, sorted."""
    words = {"a", "an"}.union(bank.nouns, *(SYNONYMS.get(noun, ()) for noun in bank.nouns))
    for template in (t for group in TEMPLATES.values() for t in group):
        words.update(w for w in template.split() if not w.startswith("{"))
    return sorted(words)


def describe(
    facts: SceneFacts, bank_nouns: Iterable[str], rng: np.random.Generator
) -> list[Expression]:
    """All sentences that hold for a scene, in random wordings, plus no-target ones."""
    sentences = []
    present = [i for i, noun in enumerate(facts.nouns) if noun and facts.area[i].any()]
    for target in present:
        noun = facts.nouns[target]
        rivals = [i for i in present if i != target and facts.nouns[i] == noun]
        if not facts.clear[target] or not all(facts.clear[i] for i in rivals):
            continue
        for key, other in true_predicates(facts, target, rivals, present):
            kind = key.split(".")[0]
            if kind == "motion" and rivals:
                if facts.area.shape[1] == 1:
                    continue  # one picture cannot show what would tell them apart
                kind = "motion-only"
            text = _word(key, noun, other, len(rivals), rng)
            sentences.append(Expression(text, kind, (target,), noun, not rivals))
    return sentences + _no_target(facts, sorted(bank_nouns), present, rng)


def _word(key: str, noun: str, other: str, rivals: int, rng: np.random.Generator) -> str:
    """Put a predicate into words."""
    options = TEMPLATES[key]
    unfit = frozenset() if rivals == 1 else _COMPARATIVE if rivals else _AMONG_SEVERAL
    fitting = [t for t in options if not unfit.intersection(t.split())]
    template = fitting[int(rng.integers(len(fitting)))]
    name = noun
    if noun in SYNONYMS and rng.random() < 0.5:
        name = SYNONYMS[noun][int(rng.integers(len(SYNONYMS[noun])))]
    article = "an" if name[0] in "aeio" else "a"  # "u": unicorn; an umbrella is the exception
    article = "an" if name == "umbrella" else article
    return template.format(n=name, a=article, m=other)


def _no_target(
    facts: SceneFacts, bank_nouns: list[str], present: list[int], rng: np.random.Generator
) -> list[Expression]:
    """Sentences about nouns that are nowhere in the scene, in the wordings of every kind."""
    there = frozenset().union(*(confusable_with(noun) for noun in facts.nouns if noun))
    absent = [noun for noun in bank_nouns if noun not in there]
    keys = list(TEMPLATES)
    sentences = []
    for _ in range(min(3, len(absent))):
        noun = absent.pop(int(rng.integers(len(absent))))
        key = "noun" if rng.random() < 0.4 else keys[int(rng.integers(len(keys)))]
        if key.startswith("relation") and not present:
            key = "noun"
        other = facts.nouns[present[int(rng.integers(len(present)))]] if present else ""
        text = _word(key, noun, other, int(rng.integers(2)), rng)
        sentences.append(Expression(text, "no-target", (), noun, False))
    return sentences
