"""Background canvases for scenes that are drawn by number, so that training resumes exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.backgrounds import make_background

Canvas = tuple[str, np.ndarray]  # family, (CANVAS, CANVAS, 3) uint8


class CanvasPool:
    """A pool whose canvases at an index depend on seed and index alone, not on what was drawn.

    At index i slot s holds its canvas number `(i + s * period // size) // period`: the slots are
    renewed one after another, each after `period` indices. A canvas is made when it is first
    asked for; only the last one asked for is kept per slot (0.6 MB each).

    Args:
        backgrounds: Background families; slots take turns at them, and so do a slot's canvases.
        seed: Anything `numpy.random.SeedSequence` takes.
        size: Slots.
        period: Indices for which a canvas stays. By default one of 32 is renewed every 20
            indices, about as often as `SceneSampler` does on its own for single frames.

    Raises:
        ValueError: No families, or `size` or `period` below 1.
    """

    def __init__(
        self,
        backgrounds: Sequence[str],
        seed: int | Sequence[int],
        size: int = 32,
        period: int = 640,
    ):
        if not backgrounds or size < 1 or period < 1:
            raise ValueError("a canvas pool needs families, and size and period of at least 1")
        self.backgrounds, self.seed, self.size, self.period = backgrounds, seed, size, period
        self._kept: dict[int, tuple[int, Canvas]] = {}  # slot -> number, canvas

    def at(self, index: int) -> Sequence[Canvas]:
        """The `size` canvases at `index`; one is made when it is taken from the sequence.

        Raises:
            ValueError: `index` is negative.
        """
        if index < 0:
            raise ValueError(f"there is no sample number {index}")
        return _Canvases(self, index)

    def _get(self, slot: int, number: int) -> Canvas:
        kept = self._kept.get(slot)
        if kept is None or kept[0] != number:
            family = self.backgrounds[(slot + number) % len(self.backgrounds)]
            # A spawn key, because (seed, slot, 0) would be the same random numbers as (seed, slot).
            sequence = np.random.SeedSequence(self.seed, spawn_key=(slot, number))
            kept = number, (family, make_background(family, np.random.default_rng(sequence)))
            self._kept[slot] = kept
        return kept[1]


@dataclass(frozen=True)
class _Canvases(Sequence):
    """The pool at one index."""

    pool: CanvasPool
    index: int

    def __len__(self) -> int:
        return self.pool.size

    def __getitem__(self, slot: int) -> Canvas:
        if not 0 <= slot < self.pool.size:
            raise IndexError(slot)
        pool = self.pool
        return pool._get(slot, (self.index + slot * pool.period // pool.size) // pool.period)
