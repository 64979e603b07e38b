"""Which frames to look at, and which of them to start tracking from. Pure functions."""

import math
from collections.abc import Sequence

from .results import Candidate


def sample_frames(num_frames: int, count: int) -> list[int]:
    """Indices of `count` frames spread uniformly over the video, ascending, without repeats.

    The paper's rule `int(r * (T - 1) / (K - 1))`; a video shorter than `count` frames gives each
    frame once (the official code looks at repeated frames again, to the same result).

    Raises:
        ValueError: If `num_frames` or `count` is below 1.
    """
    if num_frames < 1 or count < 1:
        raise ValueError(f"cannot sample {count} frames of {num_frames}: both must be at least 1")
    if count == 1:
        return [0]
    return sorted({int(r * (num_frames - 1) / (count - 1)) for r in range(count)})


def choose_key_frame(
    candidates: Sequence[Candidate],
    *,
    score_threshold: float | None = None,
    presence_threshold: float | None = None,
    accept_empty: bool = False,
) -> int | None:
    """Position of the best acceptable candidate, the first one on ties; None for "not found".

    A score that is not finite is never acceptable.

    Args:
        candidates: One per sampled frame, in video order.
        score_threshold: Smallest acceptable score; None accepts any.
        presence_threshold: Smallest acceptable presence probability, where it is predicted.
        accept_empty: Whether a mask without a pixel may win, as in the official code.
    """
    best = None
    for position, candidate in enumerate(candidates):
        # NaN compares as false with everything: it would pass the threshold and, once best, stay.
        if not math.isfinite(candidate.score):
            continue
        if not accept_empty and candidate.area == 0:
            continue
        if score_threshold is not None and candidate.score < score_threshold:
            continue
        present = candidate.presence is None or presence_threshold is None
        if not present and candidate.presence < presence_threshold:
            continue
        if best is None or candidate.score > candidates[best].score:
            best = position
    return best
