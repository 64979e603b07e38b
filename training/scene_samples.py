"""Training samples from Ref-Sprites scenes, drawn as they are asked for.

A sample depends on the seed and its number alone, so a resumed run sees what an undisturbed one
would have seen.
"""

from collections.abc import Sequence

import numpy as np

from .canvas_pool import CanvasPool
from .samples import ClipSample, FrameSample, Pair, Place
from .scenes import Clip, SceneSampler
from .sprite_art import SpriteBank

# (height, width) of the frames drawn, as wide and tall as videos are.
SHAPES = ((192, 192), (160, 214), (160, 240), (160, 284), (214, 160))
SMALLEST = 40  # visible pixels an object needs on the first frame of a clip
FRAME, CLIP = 0, 1  # keep the random numbers of both kinds of sample apart


class SceneSource:
    """An endless source.

    Args:
        bank: The sprites.
        seed: Two sources with different seeds share no scene.
        textured, warp, crossing: See `SceneSampler`.
    """

    length = None

    def __init__(
        self,
        bank: SpriteBank,
        seed: int,
        textured: float = 0.0,
        warp: float = 0.0,
        crossing: float = 0.0,
    ):
        self.bank, self.seed = bank, seed
        self.sampler = SceneSampler(
            bank, seed, textured=textured, warp=warp, crossing=crossing, pool=0
        )
        self.pool = CanvasPool(self.sampler.backgrounds, seed)

    def frame(self, place: Place, pairs: int, negatives: float) -> FrameSample:
        """One frame with exactly `pairs` sentences, their kinds drawn evenly."""
        rng = self._seek(FRAME, place)
        while True:
            clip = self.sampler.clip(1, size=SHAPES[rng.integers(len(SHAPES))])
            chosen = _choose(clip, pairs, negatives, rng)
            if chosen:
                break
        return FrameSample(
            name=f"scene {place.item}",
            frame=clip.frames[0],
            masks=clip.masks[:, 0],
            pairs=tuple(chosen),
            nouns=tuple(o.noun for o in clip.objects),
            seed=int(rng.integers(2**32)),
        )

    def clip(self, place: Place, length: int, objects: int, strides: Sequence[int]) -> ClipSample:
        """One clip, forwards or backwards, with objects that its first frame shows."""
        rng = self._seek(CLIP, place)
        while True:
            stride = int(rng.choice(strides))
            shape = SHAPES[rng.integers(len(SHAPES))]
            count = (length - 1) * stride + 1
            clip = self.sampler.clip(count, size=shape, expressions_per_object=0)
            step = stride if rng.random() < 0.5 else -stride
            frames, masks = clip.frames[::step], clip.masks[:, ::step]
            shown = np.flatnonzero(masks[:, 0].sum(axis=(1, 2)) >= SMALLEST)
            if len(shown):
                kept = rng.permutation(shown)[:objects]
                seed = int(rng.integers(2**32))
                return ClipSample(f"scene {place.item}", frames, masks[kept], seed)

    def _seek(self, kind: int, place: Place) -> np.random.Generator:
        self.sampler.seek((self.seed, kind, place.item), self.pool.at(place.item))
        return np.random.default_rng((self.seed, kind, place.item, 1))


def _choose(clip: Clip, count: int, negatives: float, rng: np.random.Generator) -> list[Pair]:
    """`count` sentences of a still scene, [] if it has none that a single frame can show."""
    kinds: dict[str, list] = {}
    for expression in clip.expressions:
        kinds.setdefault(expression.kind, []).append(expression)
    absent = kinds.pop("no-target", [])
    kinds.pop("motion-only", None)  # no single frame shows it
    if not kinds:
        return []
    pairs = []
    for _ in range(count):
        pool = absent
        if not absent or rng.random() >= negatives:
            pool = list(kinds.values())[rng.integers(len(kinds))]
        expression = pool[rng.integers(len(pool))]
        pairs.append(Pair(expression.text, expression.objects, expression.kind))
    return pairs
