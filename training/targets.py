"""Masks as training targets, in the geometry of a model's inputs."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_findtrack.processing_findtrack import long_side_shape


def coverage(masks: Tensor, shape: tuple[int, int]) -> Tensor:
    """(P, H, W) masks -> (P, *shape) covered fraction of each cell, float32."""
    return F.interpolate(masks[:, None].float(), shape, mode="area")[:, 0]


def finder_targets(masks: Tensor, processor, side: int) -> Tensor:
    """(P, H, W) masks -> (P, side, side) covered fractions over the finder's square input."""
    if processor.finder_geometry == "squash":
        return coverage(masks, (side, side))
    height, width = long_side_shape(tuple(masks.shape[-2:]), side)
    return F.pad(coverage(masks, (height, width)), (0, side - width, 0, side - height))


def boxes_of(masks: Tensor) -> Tensor:
    """(P, H, W) masks -> (P, 4) boxes x0, y0, x1, y1 in 0..1 of the frame; zeros for empty ones."""
    height, width = masks.shape[-2:]
    boxes = torch.zeros(len(masks), 4)
    for p, mask in enumerate(masks):
        ys, xs = mask.nonzero(as_tuple=True)
        if len(ys):
            corners = [xs.min() / width, ys.min() / height]
            corners += [(xs.max() + 1) / width, (ys.max() + 1) / height]
            boxes[p] = torch.stack(corners)
    return boxes


def as_tensor(masks: np.ndarray | list[np.ndarray]) -> Tensor:
    """(P, H, W) bool array or P masks -> tensor."""
    return torch.from_numpy(np.ascontiguousarray(masks))
