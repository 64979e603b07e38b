"""What is true of a scene: the checks behind every sentence, with margins."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

CLEAR = 0.4  # visible share of a drawing from which it counts as seen
MARGIN = 0.04  # short sides by which a comparison holds in (nearly) every frame
MEAN_MARGIN = 0.1  # and on average
SHARE = 0.95  # "nearly every frame"


@dataclass(frozen=True)
class SceneFacts:
    """What sentences are checked against: O objects, T frames, P >= T planned frames.

    Lengths are in short sides of the frame; x grows right, y down.
    """

    nouns: tuple[str, ...]  # per object, "" if it has none
    aspect: np.ndarray  # (2,) frame width and height
    centre: np.ndarray  # (O, T, 2) centre of the visible part; nan where nothing is visible
    area: np.ndarray  # (O, T) visible pixels
    visibility: np.ndarray  # (O, T) visible share of the whole drawing, 0..1
    extent: np.ndarray  # (O, T) square root of the area of the whole drawing
    path: np.ndarray  # (O, P, 2) centre on screen, hidden or not
    drift: np.ndarray  # (O, P, 2) centre against the background
    inside: np.ndarray  # (O, P) whether the path is within the frame
    growth: np.ndarray  # (O,) last over first size on screen
    spin: np.ndarray  # (O,) radians per frame
    seen: np.ndarray = field(init=False)  # (O, T) clearly visible
    clear: np.ndarray = field(init=False)  # (O,) seen for at least half of the frames

    def __post_init__(self):
        object.__setattr__(self, "seen", self.visibility >= CLEAR)
        object.__setattr__(self, "clear", self.seen.mean(axis=1) >= 0.5)


def true_predicates(
    facts: SceneFacts, target: int, rivals: list[int], present: list[int]
) -> Iterator[tuple[str, str]]:
    """(template key, other noun or "") of everything that holds of `target` alone."""
    if not rivals:
        yield "noun", ""
    together = _seen_together(facts, [target, *rivals])
    if together is not None:
        for name in _positions(facts, target, rivals, together):
            yield f"position.{name}", ""
        for name in _sizes(facts, target, rivals, present, together):
            yield f"size.{name}", ""
        for other in present:
            if facts.nouns.count(facts.nouns[other]) == 1 and other != target:
                for name in _relations(facts, target, rivals, other):
                    yield f"relation.{name}", facts.nouns[other]
    for name in _motions(facts, target, rivals):
        yield f"motion.{name}", ""


def _seen_together(facts: SceneFacts, group: list[int]) -> np.ndarray | None:
    """(T,) frames in which all of `group` are clearly seen; None if these are too few."""
    together = facts.seen[group].all(axis=0)
    return together if together.mean() >= 0.4 else None


def _holds(margins: np.ndarray, least: float = MARGIN, mean: float = MEAN_MARGIN) -> bool:
    """Whether a comparison with these margins per frame holds in nearly all frames, clearly."""
    count = margins.size  # counting and summing is several times faster than two means here
    return bool(
        np.count_nonzero(margins > least) >= SHARE * count and margins.sum() >= mean * count
    )


_AXES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}


def _positions(
    facts: SceneFacts, target: int, rivals: list[int], together: np.ndarray
) -> Iterator[str]:
    """Among several of a noun: relative to each other. For a single one: where in the frame."""
    here = facts.centre[target, together]
    for name, (axis, sign) in _AXES.items():
        if rivals:
            gaps = [sign * (here - facts.centre[i, together])[:, axis] for i in rivals]
            if all(_holds(gap) for gap in gaps):
                yield name
        elif _holds(sign * (here[:, axis] - facts.aspect[axis] / 2), 0.05, 0.12):
            yield name
    if not rivals:
        off = np.abs(here / facts.aspect - 0.5).max(axis=1)
        if (off < 0.12).mean() >= SHARE:
            yield "middle"
    elif len(rivals) == 2:
        gaps = [(here - facts.centre[i, together])[:, 0] for i in rivals]
        if any(_holds(a) and _holds(-b) for a, b in (gaps, gaps[::-1])):
            yield "middle"


def _sizes(
    facts: SceneFacts, target: int, rivals: list[int], present: list[int], together: np.ndarray
) -> Iterator[str]:
    """Compared with the others of its noun; a single one must stand out among everything."""
    if rivals:
        rest, least = rivals, 1.3
    else:
        rest, least = [i for i in present if i != target and facts.clear[i]], 1.25
        together = facts.seen[target]
    for name, sign in (("big", 1), ("small", -1)):
        if not rivals:
            size = sign * facts.extent[target, together]
            if (size < sign * (0.22 if sign > 0 else 0.13)).any():
                continue
        log = np.log(np.maximum(facts.extent[:, together], 1e-6))
        drawn = [sign * (log[target] - log[i]) for i in rest]
        area = np.log(np.maximum(facts.area[:, together], 0.5))
        visible = [sign * (area[target] - area[i]) for i in rest if rivals]
        if all(_holds(d, np.log(least) * 0.8, np.log(least)) for d in drawn) and all(
            _holds(v, 0.05, 0.3) for v in visible
        ):
            yield name


def _relations(facts: SceneFacts, target: int, rivals: list[int], other: int) -> Iterator[str]:
    """Where the target lies from `other`; its rivals must clearly not lie there."""
    together = _seen_together(facts, [target, other, *rivals])
    if together is None or not facts.clear[other]:
        return
    anchor = facts.centre[other, together]
    gap = facts.centre[target, together] - anchor
    rest = [facts.centre[i, together] - anchor for i in rivals]
    names = {"left": "left", "right": "right", "top": "above", "bottom": "below"}
    for key, (axis, sign) in _AXES.items():
        ahead, aside = sign * gap[:, axis], np.abs(gap[:, 1 - axis])
        there = _holds(ahead, 0.06, 0.12) and _holds(ahead - 0.7 * aside, 0.0, 0.02)
        if there and all(_holds(-sign * r[:, axis], 0.0, 0.03) for r in rest):
            yield names[key]
    distance = np.hypot(*gap.T)
    touching = facts.extent[target, together] + facts.extent[other, together]
    near = _holds(0.9 * touching - distance, 0.0, 0.02)
    if near and all(_holds(np.hypot(*r.T) - 1.8 * distance, 0.0, 0.1) for r in rest):
        yield "near"


def _motions(facts: SceneFacts, target: int, rivals: list[int]) -> Iterator[str]:
    """Whole-clip motions of the target that none of its rivals could be said to do."""
    inside = facts.inside[target]
    if inside.sum() < 4:
        return
    yield from _directions(facts, target, rivals)
    roam = [_roam(facts, i) for i in (target, *rivals)]
    settled = roam[0] < 0.01 and np.ptp(facts.path[target, inside], axis=0).max() < 0.1
    changing = facts.spin[target] != 0 or abs(np.log(facts.growth[target])) > 0.15
    if settled and not changing and all(r > 0.06 for r in roam[1:]):
        yield "still"
    if rivals:
        speed = [_speed(facts, i) for i in (target, *rivals)]
        if speed[0] > 0.006 and all(speed[0] > 2 * s for s in speed[1:]):
            yield "fast"
        if speed[0] > 0.001 and all(s > 2 * speed[0] and s > 0.006 for s in speed[1:]):
            yield "slow"
    turns = abs(facts.spin) * facts.path.shape[1]
    if turns[target] > 0.9 and all(turns[i] == 0 for i in rivals):
        yield "spin"
    growth = np.log(facts.growth)
    for name, sign in (("grow", 1), ("shrink", -1)):
        if sign * growth[target] > 0.35 and all(sign * growth[i] < 0.08 for i in rivals):
            yield name
    if len(inside) == facts.area.shape[1] and all(facts.inside[i].all() for i in rivals):
        yield from _crossings(inside, facts.area[target] > 0)


def _crossings(inside: np.ndarray, shown: np.ndarray) -> Iterator[str]:
    """Whether an object leaves or enters for good: in the frame at one end, gone at the other."""
    edge = max(1, len(inside) // 8)
    if inside[: 2 * edge].all() and not (inside[-edge:] | shown[-edge:]).any():
        yield "leave"
    if inside[-2 * edge :].all() and not (inside[:edge] | shown[:edge]).any():
        yield "enter"


def _directions(facts: SceneFacts, target: int, rivals: list[int]) -> Iterator[str]:
    """Directions in which both the picture and the background show the target going."""
    inside = facts.inside[target]
    names = {"left": "left", "right": "right", "top": "up", "bottom": "down"}
    tracks = [facts.path[target, inside], facts.drift[target, inside]]
    for key, (axis, sign) in _AXES.items():
        holds = True
        for track in tracks:
            net = track[-1] - track[0]
            steps = sign * np.diff(track[:, axis])
            ahead = sign * net[axis]
            # Sideways swing counts, not only the net: a wave is not "moving left".
            if (
                ahead < 0.08
                or np.ptp(track[:, 1 - axis]) > 0.6 * ahead
                or ((steps > 0).mean() < 0.8)
            ):
                holds = False
                break
        if not holds:
            continue
        if all(_goes(facts, i, axis, sign) < 0.02 for i in rivals):
            yield names[key]


def _goes(facts: SceneFacts, index: int, axis: int, sign: int) -> float:
    """The furthest an object ever gets in a direction, on screen or against the background."""
    furthest = 0.0
    for track in (facts.path[index], facts.drift[index]):
        along = sign * track[:, axis]
        furthest = max(furthest, float((along - np.minimum.accumulate(along)).max()))
    return furthest


def _roam(facts: SceneFacts, index: int) -> float:
    """Largest extent of an object's way against the background."""
    return float(np.ptp(facts.drift[index], axis=0).max())


def _speed(facts: SceneFacts, index: int) -> float:
    """Mean short sides per frame against the background."""
    steps = np.diff(facts.drift[index], axis=0)
    return float(np.hypot(*steps.T).mean()) if len(steps) else 0.0
