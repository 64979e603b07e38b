"""Named losses, one value per mask; tasks weight and add them up.

Every mean is over a number that does not depend on how a batch is dealt out, so that one process
and several see the same loss.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


class NonFiniteLossError(ValueError):
    """The loss is no number; the message names step, terms and samples."""


def mask_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Per-mask binary cross-entropy (P,) of logits (P, s, s) against soft targets in 0..1."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(1, 2))


def mask_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Per-mask soft Dice loss (P,), 0 where prediction and target agree, empty ones included."""
    probability = logits.sigmoid()
    shared = (probability * target).sum(dim=(1, 2))
    size = probability.sum(dim=(1, 2)) + target.sum(dim=(1, 2))
    return 1 - (2 * shared + 1) / (size + 1)


@torch.no_grad()
def hard_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU (P,) of thresholded logits and targets; 1 where both are empty."""
    prediction, truth = logits > 0, target > 0.5
    union = (prediction | truth).sum(dim=(1, 2))
    shared = (prediction & truth).sum(dim=(1, 2))
    return torch.where(union > 0, shared / union.clamp(min=1), 1.0)


def mask_terms(logits: Tensor, target: Tensor, iou: Tensor) -> dict[str, Tensor]:
    """Mask BCE, Dice and the error of the predicted IoU, (P,) each.

    The official recipe trains only the first two, and so leaves the IoU head, by which key frames
    are ranked, to drift.

    Args:
        logits: (P, s, s) mask logits.
        target: (P, s, s) in 0..1.
        iou: (P,) predicted IoU.
    """
    return {
        "bce": mask_bce(logits, target),
        "dice": mask_dice(logits, target),
        "iou": (iou - hard_iou(logits, target)).abs(),
    }


def presence_bce(logits: Tensor, present: Tensor) -> Tensor:
    """Binary cross-entropy (P,) of "the target is in this frame"."""
    return F.binary_cross_entropy_with_logits(logits, present, reduction="none")


def grounding_bce(logits: Tensor, cells: Tensor) -> Tensor:
    """Cross-entropy (P,) of a heat map (P, g, g) against covered fractions; target cells are few,
    so they count four times."""
    weight = 1 + 3 * (cells > 0.2).float()
    loss = F.binary_cross_entropy_with_logits(logits, cells, weight=weight, reduction="none")
    return loss.mean(dim=(1, 2))


def weighted_sum(terms: Mapping[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Sum of each term (P,) under the weights (P,) of its entries; NaN where a weight is 0 is 0."""
    return {name: torch.where(weight > 0, term * weight, 0.0).sum() for name, term in terms.items()}


def choice_loss(heat: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of choosing the right one of several of a noun, by the mean heat inside each;
    a sum over sentences, over the number of all sentences.

    Nearly all of a heat map is told by the noun. This is what only the rest of a sentence tells.

    Args:
        heat: (P, g, g) heat map logits.
        batch: `choice_pair`, `choice_cells` and `choice_right`, see `FindCollator`.
    """
    scores, right = _choices(heat, batch)
    chances = scores.log_softmax(dim=1).masked_fill(~right, 0)
    return -chances.sum() / len(heat)


def choice_right(heat: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Whether the right one is chosen, (C,) bool of the sentences that must choose."""
    scores, right = _choices(heat, batch)
    return right.gather(1, scores.argmax(dim=1, keepdim=True))[:, 0] if len(scores) else right[:, 0]


def _choices(heat: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(C, most) mean heat of the objects of each sentence that must choose, -inf where there are
    fewer, and which is right."""
    pair, cells = batch["choice_pair"], batch["choice_cells"]
    mean = (heat[pair] * cells).sum(dim=(1, 2)) / cells.sum(dim=(1, 2)).clamp(min=1e-4)
    _, row, count = pair.unique_consecutive(return_inverse=True, return_counts=True)
    most = int(count.max()) if len(count) else 1
    place = torch.arange(len(pair), device=pair.device) - (count.cumsum(0) - count)[row]
    scores = mean.new_full((len(count), most), float("-inf"))
    right = torch.zeros_like(scores, dtype=torch.bool)
    scores = scores.index_put((row, place), mean)
    right[row, place] = batch["choice_right"]
    return scores, right
