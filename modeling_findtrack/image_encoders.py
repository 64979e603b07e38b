"""Whether finder and tracker have the same image encoder, so that one pass can serve both."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from .checkpoint_files import LazyTensor
from .configuration_findtrack import FindTrackConfig
from .published_settings import clean
from .published_source import Progress

FINDER_ENCODER, TRACKER_ENCODER = "finder.sam.vision_encoder.", "tracker.sam2.vision_encoder."
# Of an encoder's config: what does not change what it computes.
_NOT_COMPUTED = ("initializer_range", "image_size", "backbone_feature_sizes", "num_attention_heads")


def compare_encoders(
    config: FindTrackConfig,
    finder: Mapping[str, LazyTensor],
    tracker: Mapping[str, LazyTensor],
    progress: Progress | None = None,
) -> tuple[bool, str]:
    """Compare the designs first, then every tensor.

    Numbers that differ only because one file is stored in a shorter format count as the same.

    Args:
        config: Of the model, encoders not shared.
        finder: Its tensors, under the model's names.
        tracker: Its tensors, under the model's names.
        progress: Called with the bytes compared.

    Returns:
        Whether they are the same, and the reason in words. Where they are, `wider` says which
        tensors to keep.
    """
    if config.tracker_config.model_type != "sam2_video":
        return False, "two: the tracker has another kind of image encoder"
    sam, video = config.finder_config.sam_config, config.tracker_config
    if _design(sam.vision_config) != _design(video.vision_config):
        return False, "two: finder and tracker have image encoders of different designs"
    if sam.prompt_encoder_config.image_size != video.prompt_encoder_config.image_size:
        return False, "two: finder and tracker look at images of different sizes"
    return _compare(_below(finder, FINDER_ENCODER), _below(tracker, TRACKER_ENCODER), progress)


def wider(
    finder: Mapping[str, LazyTensor], tracker: Mapping[str, LazyTensor]
) -> dict[str, LazyTensor]:
    """Of two encoders that are the same, what the finder's file stores in more digits.

    Args:
        finder: Its tensors, under the model's names.
        tracker: Its tensors, under the model's names.

    Returns:
        Tensors of the finder, under the names of the tracker's that they shall replace.
    """
    theirs = _below(tracker, TRACKER_ENCODER)
    return {
        TRACKER_ENCODER + name: tensor
        for name, tensor in _below(finder, FINDER_ENCODER).items()
        if tensor.dtype.itemsize > theirs[name].dtype.itemsize
    }


def _compare(
    mine: Mapping[str, LazyTensor], other: Mapping[str, LazyTensor], progress: Progress | None
) -> tuple[bool, str]:
    if different := sorted(mine.keys() ^ other.keys()):
        return False, f"two: only one of them has {different[0]}"
    total, done, rounded = sum(tensor.nbytes for tensor in mine.values()), 0, ""
    for name in sorted(mine):
        if mine[name].shape != other[name].shape:
            return False, f"two: they differ in the shape of {name}"
        first, second = mine[name].load(), other[name].load()
        shorter = min(first.dtype, second.dtype, key=lambda dtype: dtype.itemsize)
        if first.dtype != second.dtype:
            rounded = f" once both are rounded to {str(shorter).removeprefix('torch.')}"
        if not torch.equal(first.to(shorter), second.to(shorter)):
            most = (first.float() - second.float()).abs().max().item()
            return False, f"two: they differ, in {name} by up to {most:.2g}"
        done += mine[name].nbytes
        if progress:
            progress("comparing", done, total)
    return True, f"one, shared: all {len(mine)} tensors of the two are equal{rounded}"


def _design(vision) -> str:
    """The part of an encoder's config that says what it computes, in a form to compare."""

    def strip(settings: dict[str, Any]) -> dict[str, Any]:
        return {
            key: strip(value) if isinstance(value, dict) else value
            for key, value in settings.items()
            if key not in _NOT_COMPUTED
        }

    # Through JSON: a tuple and a list are the same there.
    return json.dumps(strip(clean(vision.to_dict())), sort_keys=True, default=str)


def _below(tensors: Mapping[str, LazyTensor], prefix: str) -> dict[str, LazyTensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
