"""Finder, aligner and tracker from published checkpoints: a config and tensors under our names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .checkpoint_files import Checkpoint, CheckpointError, LazyTensor, open_checkpoint
from .configuration_findtrack import CutieConfig
from .convert import (
    UnknownTensorsError,
    alpha_clip_keys,
    cutie_keys,
    evf_keys,
    sam2_keys,
    without_prefixes,
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
from .sam2_settings import SAM2_WORDS
from .tensor_shapes import Shapes, dimensions_of, section

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
    file = _open(source)
    tensors = _bare(file, source.name, "module.")
    visual, beit3 = _below(tensors, "visual_model."), _below(tensors, "mm_extractor.beit3.")
    if not visual or not beit3:
        raise CheckpointError(
            f"{source.name}: no EVF-SAM checkpoint (nothing in it is called visual_model.* or "
            "mm_extractor.beit3.*)"
        )
    words = ("beit3_config", "sam_config", "model")
    given, config_file = read_settings(source, ("evf", "findtrack_finder"), words)
    shapes = Shapes(visual, source.name, "visual_model.")
    is_sam2 = any(name.startswith("image_encoder.trunk.") for name in visual)
    fusion = Shapes(beit3, source.name, "mm_extractor.beit3.")
    with dimensions_of(source.name):
        of_sam = section(given, "sam_config") or {k: v for k, v in given.items() if k == "model"}
        config = {
            "beit3_config": beit3_config(fusion, section(given, "beit3_config")),
            "sam_config": (
                sam2_image_config(shapes, of_sam, config_file)
                if is_sam2
                else sam_config(shapes, of_sam)
            ),
        }
    kind = "EVF-SAM2" if is_sam2 else "EVF-SAM"
    return _part(source.name, kind, config, "finder.", evf_keys, file)


def read_aligner(alpha: Source, clip: Source) -> PublishedPart:
    """Alpha-CLIP's image tower and CLIP's text tower."""
    where = f"{alpha.name} and {clip.name}"
    image, whole = _open(alpha), _open(clip)
    if not any(name.endswith("conv1_alpha.weight") for name in image.tensors):
        raise CheckpointError(
            f"{alpha.name}: no image tower of Alpha-CLIP (it has no conv1_alpha.weight)"
        )
    text = _bare(whole, clip.name, "module.")
    bare = _bare(image, alpha.name, "module.", "visual.")
    shapes, image_shapes = Shapes(text, clip.name), Shapes(bare, alpha.name)
    given, _ = read_settings(clip, ("clip",), ("text_config", "text_config_dict"))
    of_image, _ = read_settings(alpha, ("clip",), ("vision_config",))
    with dimensions_of(where):
        of_text = {**section(given, "text_config"), **section(given, "text_config_dict")}
        is_official = "text_projection" in shapes
        projection = shapes.of("text_projection" if is_official else "text_projection.weight")
        config = {
            "model_type": "clip",
            "projection_dim": projection[1] if is_official else projection[0],
            "text_config": clip_text_config(shapes, of_text),
            "vision_config": clip_vision_config(image_shapes, section(of_image, "vision_config")),
        }

    def rename(tensors: Tensors) -> Tensors:
        return alpha_clip_keys(_below(tensors, _TEXT), visual=_below(tensors, _IMAGE))

    both = Checkpoint(
        _labelled(image.tensors, _IMAGE) | _labelled(text, _TEXT),
        tuple(_IMAGE + name for name in image.stray) + tuple(_TEXT + name for name in whole.stray),
        tuple(_IMAGE + name for name in image.training)
        + tuple(_TEXT + name for name in whole.training),
    )
    return _part(where, "Alpha-CLIP", config, "aligner.", rename, both)


def read_sam2_tracker(source: Source) -> PublishedPart:
    """SAM 2 or 2.1 with its video memory, official or transformers'."""
    file = _open(source)
    tensors = _bare(file, source.name, "module.")
    given, config_file = read_settings(source, ("sam2", "sam2_video"), SAM2_WORDS)
    with dimensions_of(source.name):
        config = sam2_video_config(Shapes(tensors, source.name), given, config_file)
    return _part(
        source.name,
        "SAM 2 with video memory",
        config,
        "tracker.sam2.",
        lambda found: sam2_keys(without_prefixes(found, "module.")),
        file,
    )


def read_cutie_tracker(source: Source) -> PublishedPart:
    """Cutie, for several objects or for one; the config is without the preset's settings."""
    file = _open(source)
    bare = _bare(file, source.name, "module.")
    given, _ = read_settings(source, (CutieConfig.model_type,), ("network",))
    with dimensions_of(source.name):
        shapes = Shapes(cutie_keys(bare), source.name)
        network = cutie_network(shapes, section(given, "network"))
    config = {"model_type": CutieConfig.model_type, "network": network}
    return _part(source.name, "Cutie", config, "tracker.cutie.", cutie_keys, file)


# Keep the names of two files apart while they are converted together.
_TEXT, _IMAGE = "text tower: ", "image tower: "


def _labelled(tensors: Tensors, label: str) -> Tensors:
    return {
        label + name: replace(tensor, sources=tuple(label + s for s in tensor.sources))
        for name, tensor in tensors.items()
    }


def _open(source: Source) -> Checkpoint:
    return open_checkpoint([file.local for file in source.weights])


def _bare(file: Checkpoint, where: str, *prefixes: str) -> Tensors:
    """Its tensors without what training has put in front of their names."""
    try:
        return without_prefixes(file.tensors, *prefixes)
    except ValueError as error:  # two that become one
        raise CheckpointError(f"{where}: {error}") from None


def _below(tensors: Mapping[str, LazyTensor], prefix: str) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _part(
    where: str,
    kind: str,
    config: dict[str, Any],
    place: str,
    rename: Callable[[Tensors], Tensors],
    file: Checkpoint,
) -> PublishedPart:
    """Convert all of `file`, setting names apart that the conversion does not know."""
    unknown: set[str] = set()
    while True:
        known = {k: v for k, v in file.tensors.items() if not unknown & set(v.sources)}
        try:
            converted = rename(known)
            break
        except UnknownTensorsError as error:
            unknown |= {name for tensor in error.tensors.values() for name in tensor.sources}
        except (ValueError, RuntimeError, LookupError) as error:  # of shapes that cannot be split
            first = str(error).splitlines()[0]
            raise CheckpointError(f"{where}: no {kind}, or damaged ({first})") from error
    used = {name for tensor in converted.values() for name in tensor.sources}
    everything = {name for tensor in file.tensors.values() for name in tensor.sources}
    return PublishedPart(
        where,
        kind,
        config,
        {place + name: tensor for name, tensor in converted.items()},
        tuple(sorted({*unknown, *file.stray})),
        tuple(sorted({*(everything - used - unknown), *file.training})),
    )
