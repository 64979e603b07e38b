"""The ways the field turns J and F of frames into one number, each under its own name.

    davis-semi          label maps, objects matched by id, first and last frame left out
    davis-unsupervised  label maps, objects matched to proposals by their score, all frames
    per-expression      one binary mask per expression, all frames (MeViS, ReVOS, Ref-YouTube-VOS)

The first two follow the DAVIS 2017 evaluation, the last the MeViS one. Their numbers cannot be
compared with one another: matching forgives swapped objects, the others do not.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from eval.metrics.jf.core import (
    Region,
    SequenceScores,
    in_step,
    j_and_f,
    j_and_f_matrix,
    sequence_scores,
)

DAVIS_SEMI, DAVIS_UNSUPERVISED, PER_EXPRESSION = (
    "davis-semi",
    "davis-unsupervised",
    "per-expression",
)
CONVENTIONS = (DAVIS_SEMI, DAVIS_UNSUPERVISED, PER_EXPRESSION)
VOID = 255  # in ground-truth label maps
MAX_PROPOSALS = 20  # of davis-unsupervised


def davis_semi(preds: Iterable[np.ndarray], gts: Iterable[np.ndarray]) -> dict[int, SequenceScores]:
    """Scores of one video as in DAVIS semi-supervised: object k is prediction k.

    The first and the last frame do not count. Void is background in the ground truth, and not left
    out of the prediction. Objects are those up to the highest id in the first ground truth.

    Args:
        preds: T label maps (H, W) uint8, 0 for background. One is held at a time.
        gts: T label maps (H, W) uint8, 255 for void.

    Returns:
        Scores of T - 2 frames by object id, ascending; none if the first frame has no object.

    Raises:
        ValueError: Fewer than three frames, more predicted than true objects, or label maps that
            do not pair up.
    """
    objects, scores, held = 0, [], None
    for t, (pred, gt) in enumerate(_label_maps(preds, gts)):
        if t == 0:
            objects = _count_objects(gt)
            continue
        if held is not None:  # and was not the last frame
            scores.append(_by_id(*held, objects))
        held = t, pred, gt
    if not scores:
        raise ValueError(
            f"{DAVIS_SEMI} leaves out the first and the last frame, so it needs three at least"
        )
    values = np.stack(scores, axis=2)  # (objects, 2, T - 2)
    return {k + 1: SequenceScores(*values[k]) for k in range(objects)}


def _by_id(t: int, pred: np.ndarray, gt: np.ndarray, objects: int) -> np.ndarray:
    """J and F (objects, 2) of frame t."""
    highest = int(pred.max(initial=0))
    if highest > objects:
        raise ValueError(
            f"frame {t} of the prediction has object id {highest}, the ground truth only "
            f"{objects} objects; {DAVIS_SEMI} wants PNGs whose pixels are the true ids, "
            "not 0/255 masks"
        )
    pairs = [j_and_f(pred == k, gt == k) for k in range(1, objects + 1)]
    return np.array(pairs, dtype=np.float64).reshape(objects, 2)


def davis_unsupervised(
    preds: Iterable[np.ndarray], gts: Iterable[np.ndarray]
) -> dict[int, SequenceScores]:
    """Scores of one video as in DAVIS unsupervised, the protocol of Ref-DAVIS17.

    Proposals are given to objects one to one so that the sum of their J&F is highest; what is left
    over costs nothing. All frames count. Void is left out of both. Objects are those up to the
    highest id in the first ground truth, proposals those up to the highest id of the prediction.

    Args:
        preds: T label maps (H, W) uint8, 0 for background. One is held at a time.
        gts: T label maps (H, W) uint8, 255 for void.

    Returns:
        Scores of T frames by object id, ascending; none if the first frame has no object.

    Raises:
        ValueError: No frames, more than 20 proposals, or label maps that do not pair up.
    """
    objects, proposals, scores = 0, 0, []
    for t, (pred, gt) in enumerate(_label_maps(preds, gts)):
        if t == 0:
            objects = _count_objects(gt)
        highest = int(pred.max(initial=0))
        if highest > MAX_PROPOSALS:
            raise ValueError(
                f"frame {t} of the prediction has object id {highest}, {DAVIS_UNSUPERVISED} "
                f"takes up to {MAX_PROPOSALS}; it wants PNGs whose pixels are ids "
                "from 1 on, not 0/255 masks"
            )
        proposals = max(proposals, highest)
        scores.append(_all_pairs(pred, gt, highest, objects))
    if not scores:
        raise ValueError("a sequence without frames has no score")
    # Fewer proposals than objects: the others are empty.
    values = np.stack(scores, axis=3)[:, : max(proposals, objects)]  # (2, P, objects, T)
    matched = linear_sum_assignment(-values.mean(axis=3).sum(axis=0) / 2)
    return {
        int(k) + 1: SequenceScores(*values[:, p, k])
        for p, k in sorted(zip(*matched, strict=True), key=lambda pair: pair[1])
    }


def _all_pairs(pred: np.ndarray, gt: np.ndarray, highest: int, objects: int) -> np.ndarray:
    """J and F (2, P, objects) of one frame, P the most proposals or objects there can be."""
    pred = np.where(gt == VOID, 0, pred)  # of the ground truth only objects are looked at
    # One id more than the frame has: an empty proposal, which stands for all others.
    pairs = j_and_f_matrix(
        [Region(pred == k) for k in range(1, highest + 2)],
        [Region(gt == k) for k in range(1, objects + 1)],
    )
    scores = np.empty((2, max(MAX_PROPOSALS, objects), objects))
    scores[:, :highest] = np.moveaxis(pairs[:-1], 2, 0)
    scores[:, highest:] = pairs[-1].T[:, None]
    return scores


def per_expression(preds: Iterable[np.ndarray], gts: Iterable[np.ndarray]) -> SequenceScores:
    """Scores of one expression as in MeViS: all frames count, nothing is void.

    Args:
        preds: T masks (H, W), any non-zero pixel is foreground. One is held at a time.
        gts: T masks (H, W), the union of the objects the expression means.

    Raises:
        ValueError: No frames, or masks that do not pair up.
    """
    return sequence_scores(preds, gts)


def _label_maps(preds, gts) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of label maps (H, W), checked."""
    for t, pair in enumerate(in_step(preds, gts)):
        pred, gt = (np.asarray(labels) for labels in pair)
        if pred.ndim != 2 or pred.shape != gt.shape:
            raise ValueError(
                f"frame {t}: label maps must be (H, W) of one size, not {pred.shape} (prediction) "
                f"and {gt.shape} (ground truth); resize the prediction to the source size first"
            )
        if pred.dtype != np.uint8 or gt.dtype != np.uint8:
            raise ValueError(
                f"frame {t}: label maps must be uint8, not {pred.dtype} (prediction) and "
                f"{gt.dtype} (ground truth)"
            )
        yield pred, gt


def _count_objects(gt: np.ndarray) -> int:
    """Highest id but void's: objects that come later do not count, officially."""
    return int(np.where(gt == VOID, 0, gt).max(initial=0))


def summarise(scores: Sequence[SequenceScores], convention: str) -> dict:
    """Unweighted means over objects (the DAVIS conventions) or expressions.

    Args:
        scores: Of every object of every video, or of every expression.
        convention: How they were made, one of CONVENTIONS.

    Returns:
        "J&F", "J", "F", fractions in 0..1, "convention", "count", and recall and decay of both.

    Raises:
        ValueError: There are no scores, or the convention is unknown.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention {convention!r} is none of {', '.join(CONVENTIONS)}")
    if not scores:
        raise ValueError(f"{convention}: nothing was scored, so there is no mean")
    each = [s.as_dict() for s in scores]
    mean = {name: float(np.mean([e[name] for e in each])) for name in each[0]}
    return {
        "J&F": (mean["J"] + mean["F"]) / 2,  # as officially, not the mean of each one's
        "J": mean["J"],
        "F": mean["F"],
        "convention": convention,
        "count": len(scores),
        **{name: mean[name] for name in ("J_recall", "J_decay", "F_recall", "F_decay")},
    }


def no_target_scores(jf: float | None, empty: Sequence[bool], no_target: Sequence[bool]) -> dict:
    """N-acc, T-acc and the final score of MeViS v2.

    Args:
        jf: J&F of the expressions with a target; None if there are none.
        empty: Per expression, whether its predicted masks are empty in all frames.
        no_target: Per expression, whether it means nothing in the video.

    Returns:
        "N-acc", the share of expressions without a target that are answered with nothing;
        "T-acc", the share of the others that are not; "Final", the mean of J&F and both. None
        where there are no such expressions.

    Raises:
        ValueError: `empty` and `no_target` differ in length.
    """
    if len(empty) != len(no_target):
        raise ValueError(f"{len(empty)} answers and {len(no_target)} expressions do not pair up")
    rejected = [bool(e) for e, n in zip(empty, no_target, strict=True) if n]
    answered = [not e for e, n in zip(empty, no_target, strict=True) if not n]
    n_acc = sum(rejected) / len(rejected) if rejected else None
    t_acc = sum(answered) / len(answered) if answered else None
    final = None if None in (jf, n_acc, t_acc) else (jf + n_acc + t_acc) / 3
    return {"N-acc": n_acc, "T-acc": t_acc, "Final": final}
