"""Cutie tracking (arXiv:2310.12982) behind the interface of `Sam2Tracker`, on top of `rf-cutie`.

A `CutieLane` follows one expression in one direction, with an `InferenceCore` of its own: several
objects in one core would compete for pixels. The image features of a frame are computed once and
shared by all lanes. Network, memories and steps are rf-cutie's; frames come to them resized and
padded (see `FindTrackProcessor`).

Shape letters: N lanes, B frames in a batch of features, V views of a frame (2 where it is mirrored
as well, else 1), h, w the padded input.
"""

import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_findtrack import CutieConfig
from .cutie_parts import build_network, new_core
from .processing_findtrack import centred_padding, short_side_shape

_OBJECT = 1  # the id of a lane's only object


@dataclass(frozen=True)
class CutieFeatures:
    """What Cutie's image encoder says about B frames."""

    images: Tensor  # (B, 3, h, w) in 0..1
    levels: tuple[Tensor, ...]  # (B, V, C, ...) at strides 16, 8, 4
    pixel: Tensor  # (B, V, pixel_dim, h/16, w/16)
    key: Tensor  # (B, V, key_dim, h/16, w/16)
    shrinkage: Tensor  # (B, V, 1, h/16, w/16)
    selection: Tensor  # (B, V, key_dim, h/16, w/16)

    @property
    def batch_size(self) -> int:
        """B."""
        return self.images.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.images.device

    @property
    def nbytes(self) -> int:
        """Bytes they take."""
        rest = (self.images, self.pixel, self.key, self.shrinkage, self.selection)
        return sum(tensor.nbytes for tensor in (*self.levels, *rest))

    def select(self, index: int | Sequence[int] | Tensor) -> "CutieFeatures":
        """Features of one frame (batch of 1), or of several in the given order, repeats allowed."""
        rows = slice(index, index + 1) if isinstance(index, int) else torch.as_tensor(index)
        rest = (self.pixel, self.key, self.shrinkage, self.selection)
        return CutieFeatures(
            self.images[rows],
            tuple(level[rows] for level in self.levels),
            *(tensor[rows] for tensor in rest),
        )


@dataclass(frozen=True)
class CutieOutput:
    """What one start or step says about N lanes."""

    # (N, 1, h, w) probability of the object minus that of the background, -1..1. Positive on the
    # object, like logits; unlike logits it may be resized as the official code resizes
    # probabilities, which is linear.
    mask_logits: Tensor
    presence: Tensor  # (N,) logit of the highest probability of the object; absent at <= 0


@dataclass
class CutieLane:
    """State of one expression in one direction; its size does not depend on the video's length."""

    core: Any  # rf-cutie's `InferenceCore`

    def copy(self) -> "CutieLane":
        """A lane that goes its own way from here (one key frame, two directions)."""
        shared = {id(part): part for part in (self.core.network, self.core.cfg)}
        return CutieLane(copy.deepcopy(self.core, shared))


class CutieTracker(nn.Module):
    """Propagates masks from frame to frame with Cutie.

    Its weights are float32 and stay so, whatever the model around it is cast to.

    Args:
        config: The network, kept as `cutie` with the official parameter names, and its settings,
            which are read at every `start`.

    Raises:
        MissingExtraError: If rf-cutie is not installed.
    """

    def __init__(self, config: CutieConfig):
        super().__init__()
        self.cutie = build_network(config)
        self.config = config

    @torch.no_grad()
    def encode(self, pixel_values: Tensor) -> CutieFeatures:
        """Features of B frames, mirrored too if `flip_aug` is on.

        Args:
            pixel_values: (B, 3, h, w) in 0..1, h and w multiples of 16.
        """
        views = [pixel_values, pixel_values.flip(-1)] if self.config.flip_aug else [pixel_values]
        stacked = torch.stack(views, dim=1)  # (B, V, 3, h, w)
        levels, pixel = self.cutie.encode_image(stacked.flatten(0, 1))
        keys = self.cutie.transform_key(levels[0])
        split = functools.partial(Tensor.unflatten, dim=0, sizes=stacked.shape[:2])
        return CutieFeatures(
            pixel_values, tuple(map(split, levels)), split(pixel), *map(split, keys)
        )

    @torch.no_grad()
    def start(
        self, features: CutieFeatures, masks: Tensor, video_frames: int | None = None
    ) -> tuple[list[CutieLane], CutieOutput]:
        """Open one lane per mask on its key frame.

        Args:
            features: Of one frame shared by all masks, or of N frames, one per mask.
            masks: (N, 1, H, W) bool or 0..1, at the size of the video.
            video_frames: Not needed; there because other trackers do.

        Returns:
            N lanes, and the masks as they come back from Cutie's resolution.

        Raises:
            ValueError: If the shapes do not fit each other.
        """
        if masks.ndim != 4 or masks.shape[1] != 1 or masks.shape[0] == 0:
            raise ValueError(f"masks must be (N, 1, H, W) with N >= 1, not {tuple(masks.shape)}")
        self._check_features(features, len(masks))
        masks = self._resize_key_masks(masks, features.images.shape[-2:])
        lanes = [CutieLane(new_core(self.cutie, self.config)) for _ in masks]
        return lanes, self._advance(lanes, features, masks=masks)

    @torch.no_grad()
    def step(
        self, features: CutieFeatures, lanes: Sequence[CutieLane], last: bool = False
    ) -> CutieOutput:
        """Advance every lane by one frame, in place.

        Args:
            features: Of one frame that all lanes are on, or of N frames, one per lane.
            lanes: N distinct lanes, at any distance from their key frames.
            last: The lanes end here: this frame need not be remembered.

        Returns:
            Masks on this frame, in the order of `lanes`.

        Raises:
            ValueError: If the shapes do not fit each other.
        """
        if not lanes:
            raise ValueError("there is no lane to step")
        self._check_features(features, len(lanes))
        return self._advance(lanes, features, end=last and not self.config.memorise_last_frame)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; features, memories and outputs have it too."""
        return self.cutie.pixel_mean.dtype

    def set_pixel_statistics(self) -> None:
        """Fill the buffers that no checkpoint holds."""
        for name in ("pixel_mean", "pixel_std"):
            buffer = getattr(self.cutie, name)
            buffer.copy_(torch.tensor(self.config.network[name]).to(buffer).view_as(buffer))

    def _advance(
        self,
        lanes: Sequence[CutieLane],
        features: CutieFeatures,
        masks: Tensor | None = None,
        end: bool = False,
    ) -> CutieOutput:
        """One frame for every lane, one after the other: their memories differ in size."""
        probabilities = []
        with warnings.catch_warnings():
            # Of a deprecated spelling of `autocast` inside rf-cutie.
            warnings.filterwarnings("ignore", r".*autocast", FutureWarning)
            for row, lane in enumerate(lanes):
                frame = row if features.batch_size > 1 else 0
                lane.core.image_feature_store = _OneFrame(features, frame)
                mask = {} if masks is None else {"mask": masks[row], "objects": [_OBJECT]}
                probabilities.append(lane.core.step(features.images[frame], **mask, end=end))
                lane.core.image_feature_store = None  # a lane keeps no frame alive
        background, foreground = torch.stack(probabilities).unbind(1)  # (N, h, w) each
        # NaN, which only the paper's softmax gives, is no object.
        presence = foreground.nan_to_num().flatten(1).amax(1).logit()
        return CutieOutput((foreground - background)[:, None], presence)

    def _resize_key_masks(self, masks: Tensor, input_shape: torch.Size) -> Tensor:
        """(N, 1, H, W) -> (N, h, w) object ids, as the official code resizes masks."""
        shape = short_side_shape(tuple(masks.shape[-2:]), self.config.max_internal_size)
        masks = masks.float()
        if tuple(masks.shape[-2:]) != shape:
            masks = F.interpolate(masks, shape, mode="nearest-exact")
        masks = F.pad(masks, centred_padding(shape))
        if masks.shape[-2:] != input_shape:
            raise ValueError(
                f"the input is {tuple(input_shape)} px, its mask becomes {tuple(masks.shape[-2:])}:"
                " the processor must have tracker_geometry='short_side' and tracker_size="
                f"{self.config.max_internal_size}"
            )
        return masks[:, 0].round().long()

    def _check_features(self, features: CutieFeatures, num_lanes: int) -> None:
        """Raise ValueError unless `features` fit this many lanes."""
        if features.batch_size not in (1, num_lanes):
            raise ValueError(
                f"features of {features.batch_size} frames for {num_lanes} lanes: give one frame, "
                "or one per lane"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        """Follow to another device, but not to another dtype."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        for module in self.modules():
            if hasattr(module, "cached_penc"):  # rf-cutie leaves it on the device it was made on
                module.cached_penc = None
        return super()._apply(move, recurse)


class _OneFrame:
    """Stands in for rf-cutie's `ImageFeatureStore`: the frame is encoded already."""

    def __init__(self, features: CutieFeatures, row: int):
        self.features, self.row = features, row

    def get_features(self, index: int, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Levels (V, C, ...) at strides 16, 8, 4, and pixel features."""
        return [level[self.row] for level in self.features.levels], self.features.pixel[self.row]

    def get_key(self, index: int, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Key, shrinkage and selection (V, ...)."""
        f = self.features
        return f.key[self.row], f.shrinkage[self.row], f.selection[self.row]

    def delete(self, index: int) -> None:
        """Nothing to do: the features belong to all lanes."""
