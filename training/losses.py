"""Named losses of finder and tracker."""

import torch
import torch.nn.functional as F
from torch import Tensor


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


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` over the entries where `where` is 1; 0 if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)


def mask_losses(logits: Tensor, target: Tensor, iou: Tensor, present: Tensor) -> dict[str, Tensor]:
    """Mask BCE, Dice and IoU regression, averaged over the masks that have a target.

    Args:
        logits: (P, s, s) mask logits.
        target: (P, s, s) in 0..1.
        iou: (P,) predicted IoU.
        present: (P,) 1 where there is a target.
    """
    return {
        "bce": 5 * mean_where(mask_bce(logits, target), present),
        "dice": mean_where(mask_dice(logits, target), present),
        "iou": 0.5 * mean_where((iou - hard_iou(logits, target)).abs(), present),
    }
