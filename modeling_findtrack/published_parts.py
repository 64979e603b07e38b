"""Finder, aligner and tracker from published checkpoints: a config and tensors under our names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .checkpoint_files import CheckpointError, LazyTensor, open_checkpoint
from .configuration_findtrack import CutieConfig
from .convert import (
    UnknownTensorsError,
    alpha_clip_keys,
    cutie_keys,
    evf_keys,
    sam2_keys,
)
from .dimensions import (
    beit3_config,
    clip_text_config,
    clip_vision_config,
    cutie_network,
    sam_config,
)
from .published_settings import read_settings
from .published_source import Source
from .sam2_dimensions import sam2_image_config, sam2_video_config
from .tensor_shapes import Shapes, dimensions_of

Tensors = dict[str, LazyTensor]


@dataclass(frozen=True)
class PublishedPart:
    """One component, before it is known to fit."""

    where: str  # files, for messages
    kind: str  # what it is, for messages
    config: dict[str, Any]  # of `FinderConfig`, `CLIPConfig`, `Sam2VideoConfig` or `CutieConfig`
    tensors: Tensors  # by the names they have in `FindTrackModel`
    unknown: tuple[str, ...]  # names in the files that nobody knows
    left_out: tuple[str, ...]  # names in the files that are known and not needed


def read_finder(source: Source) -> PublishedPart:
    """EVF-SAM or EVF-SAM2; the config is without the preset's settings."""
    files = _open(source)
    tensors = {name.removeprefix("module."): tensor for name, tensor in files.items()}
    visual, beit3 = _below(tensors, "visual_model."), _below(tensors, "mm_extractor.beit3.")
    if not visual or not beit3:
        raise CheckpointError(
            f"{source.name}: no EVF-SAM checkpoint (nothing in it is called visual_model.* or "
            "mm_extractor.beit3.*)"
        )
    given = read_settings(source, ("evf", "findtrack_finder"))
    shapes = Shapes(visual, source.name, "visual_model.")
    is_sam2 = any(name.startswith("image_encoder.trunk.") for name in visual)
    words = given.get("sam_config") or {k: v for k, v in given.items() if k == "model"}
    fusion = Shapes(beit3, source.name, "mm_extractor.beit3.")
    with dimensions_of(source.name):
        config = {
            "beit3_config": beit3_config(fusion, given.get("beit3_config") or {}),
            "sam_config": (sam2_image_config if is_sam2 else sam_config)(shapes, words),
        }
    kind = "EVF-SAM2" if is_sam2 else "EVF-SAM"
    return _part(source.name, kind, config, "finder.", evf_keys, files)


def read_aligner(alpha: Source, clip: Source) -> PublishedPart:
    """Alpha-CLIP's image tower and CLIP's text tower."""
    where = f"{alpha.name} and {clip.name}"
    image, whole = _open(alpha), _open(clip)
    text = {name.removeprefix("module."): tensor for name, tensor in whole.items()}
    bare = {k.removeprefix("module.").removeprefix("visual."): v for k, v in image.items()}
    shapes, image_shapes = Shapes(text, clip.name), Shapes(bare, alpha.name)
    if "conv1_alpha.weight" not in image_shapes:
        raise CheckpointError(
            f"{alpha.name}: no image tower of Alpha-CLIP (it has no conv1_alpha.weight)"
        )
    given = read_settings(clip, ("clip",))
    of_image = read_settings(alpha, ("clip",)).get("vision_config") or {}
    with dimensions_of(where):
        of_text = {**(given.get("text_config") or {}), **(given.get("text_config_dict") or {})}
        is_official = "text_projection" in shapes
        projection = shapes.of("text_projection" if is_official else "text_projection.weight")
        config = {
            "model_type": "clip",
            "projection_dim": projection[1] if is_official else projection[0],
            "text_config": clip_text_config(shapes, of_text),
            "vision_config": clip_vision_config(image_shapes, of_image),
        }

    def rename(tensors: Tensors) -> Tensors:
        return alpha_clip_keys(_below(tensors, _TEXT), visual=_below(tensors, _IMAGE))

    both = _labelled(image, _IMAGE) | _labelled(text, _TEXT)
    return _part(where, "Alpha-CLIP", config, "aligner.", rename, both)


def read_sam2_tracker(source: Source) -> PublishedPart:
    """SAM 2 or 2.1 with its video memory, official or transformers'."""
    files = _open(source)
    tensors = {name.removeprefix("module."): tensor for name, tensor in files.items()}
    given = read_settings(source, ("sam2", "sam2_video"))
    with dimensions_of(source.name):
        config = sam2_video_config(Shapes(tensors, source.name), given)
    return _part(
        source.name,
        "SAM 2 with video memory",
        config,
        "tracker.sam2.",
        lambda found: sam2_keys({k.removeprefix("module."): v for k, v in found.items()}),
        files,
    )


def read_cutie_tracker(source: Source) -> PublishedPart:
    """Cutie, for several objects or for one; the config is without the preset's settings."""
    files = _open(source)
    tensors = cutie_keys(files)
    given = read_settings(source, (CutieConfig.model_type,))
    with dimensions_of(source.name):
        network = cutie_network(Shapes(tensors, source.name), given.get("network") or {})
    config = {"model_type": CutieConfig.model_type, "network": network}
    return _part(source.name, "Cutie", config, "tracker.cutie.", cutie_keys, files)


# Keep the names of two files apart while they are converted together.
_TEXT, _IMAGE = "text tower: ", "image tower: "


def _labelled(tensors: Tensors, label: str) -> Tensors:
    return {
        label + name: replace(tensor, sources=tuple(label + s for s in tensor.sources))
        for name, tensor in tensors.items()
    }


def _open(source: Source) -> Tensors:
    return open_checkpoint([file.local for file in source.weights])


def _below(tensors: Mapping[str, LazyTensor], prefix: str) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _part(
    where: str,
    kind: str,
    config: dict[str, Any],
    place: str,
    rename: Callable[[Tensors], Tensors],
    files: Tensors,
) -> PublishedPart:
    """Convert all of `files`, setting names apart that the conversion does not know."""
    unknown: set[str] = set()
    while True:
        known = {k: v for k, v in files.items() if not unknown & set(v.sources)}
        try:
            converted = rename(known)
            break
        except UnknownTensorsError as error:
            unknown |= {name for tensor in error.tensors.values() for name in tensor.sources}
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from None
    used = {name for tensor in converted.values() for name in tensor.sources}
    everything = {name for tensor in files.values() for name in tensor.sources}
    return PublishedPart(
        where,
        kind,
        config,
        {place + name: tensor for name, tensor in converted.items()},
        tuple(sorted(unknown)),
        tuple(sorted(everything - used - unknown)),
    )
