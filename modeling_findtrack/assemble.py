"""Makes a full-size FindTrack model of published checkpoints.

`plan` finds every tensor its place and checks that none is left, missing or of another shape;
`write` then moves one tensor at a time, so memory does not grow with the model.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .assembled_card import model_card
from .checkpoint_files import CheckpointError, LazyTensor
from .configuration_findtrack import CutieConfig, FinderConfig, FindTrackConfig
from .hub_folder import save_weights
from .image_encoders import FINDER_ENCODER, compare_encoders, wider
from .manifest import describe_components, describe_sources, versions
from .modeling_findtrack import FindTrackModel
from .presets import MANIFEST, PRESETS, Preset
from .processing_findtrack import FindTrackProcessor
from .published_parts import (
    PublishedPart,
    read_aligner,
    read_cutie_tracker,
    read_finder,
    read_sam2_tracker,
)
from .published_source import Progress, Source
from .published_tokenizers import beit3_tokenizer, clip_tokenizer
from .safetensors_writer import MAX_SHARD_BYTES, write_sharded
from .tensor_account import account_for

_CUTIE = "tracker.cutie."


@dataclass(frozen=True)
class Plan:
    """A model that is known to be complete and has not been written yet."""

    preset: str
    model: FindTrackModel  # on the meta device
    processor: FindTrackProcessor
    tensors: dict[str, LazyTensor]  # of the model, in the number format they shall have
    left_out: dict[str, tuple[str, ...]]  # component -> names in its files that are not needed
    encoder: str  # in words, whether finder and tracker share it


def plan(
    preset: str,
    sources: Mapping[str, Source],
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Work out the model; of the weights only the image encoders are read, to compare them.

    Args:
        preset: "sam2" or "paper".
        sources: From `fetch_sources`.
        dtype: Of the parameters; None leaves each as its file has it.
        progress: Called while encoders are compared.

    Raises:
        CheckpointError: The checkpoints are of the wrong kind, or tensors are unknown, missing or
            of another shape; they are listed by name.
    """
    rules = PRESETS[preset]
    finder = read_finder(sources["evf-sam"])
    _check_finder(preset, finder)
    aligner = read_aligner(sources["alpha-clip"], sources["clip"])
    is_cutie = "cutie" in sources
    tracker = (
        read_cutie_tracker(sources["cutie"]) if is_cutie else read_sam2_tracker(sources["sam2"])
    )
    config = _config(rules, finder, aligner, tracker)
    processor = _processor(rules, config, sources)
    shared, encoder = compare_encoders(config, finder.tensors, tracker.tensors, progress)
    if shared:
        config.share_vision_encoder = True
        finder, tracker = _with_one_encoder(finder, tracker)
    components = {"finder": finder, "aligner": aligner, "tracker": tracker}
    model = _on_meta(config, components.values())
    expected = model.state_dict()
    for name, part in components.items():
        account_for(part, {k: v for k, v in expected.items() if k.startswith(f"{name}.")})
    tensors = {k: v for part in components.values() for k, v in part.tensors.items()}
    if dtype is not None:
        parameters = {k for k, _ in model.named_parameters() if not k.startswith(_CUTIE)}
        tensors = {k: _cast(k, v, dtype) if k in parameters else v for k, v in tensors.items()}
        model.to(dtype)
    left_out = {name: part.left_out for name, part in components.items()}
    return Plan(preset, model, processor, tensors, left_out, encoder)


def write(
    work: Plan,
    sources: Mapping[str, Source],
    folder: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the model into an empty folder, its manifest last.

    Args:
        work: From `plan`.
        sources: From `fetch_sources`, the same ones.
        folder: Where.
        progress: Called with what is done, bytes done and bytes in all.

    Returns:
        The manifest.

    Raises:
        CheckpointError: The disk is too small or fails, or a file changed under way.
    """
    total = sum(tensor.nbytes for tensor in work.tensors.values())
    free = shutil.disk_usage(folder).free
    if free < total:
        raise CheckpointError(
            f"{total / 1e9:.1f} GB of weights, and {free / 1e9:.1f} GB are free where they shall "
            "go; make room or choose another --out"
        )
    manifest = {
        "preset": work.preset,
        "image_encoder": work.encoder,
        "share_vision_encoder": work.model.config.share_vision_encoder,
        "versions": versions(),
        "sources": describe_sources(work.preset, sources, progress),
        "components": describe_components(work.tensors, work.left_out),
    }
    try:
        save_weights(work.model, work.processor, {}, folder)
        for empty in folder.glob("*.safetensors*"):
            empty.unlink()
        write_sharded(
            folder,
            work.tensors,
            MAX_SHARD_BYTES,
            progress and (lambda done: progress("writing", done, total)),
        )
        (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:  # what fails in reading is a CheckpointError
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror or error}); make room or choose another "
            "--out"
        ) from error
    return manifest


def _check_finder(preset: str, finder: PublishedPart) -> None:
    expected, kind = PRESETS[preset].finder_type, finder.config["sam_config"]["model_type"]
    if kind != expected:
        other = next(name for name, rules in PRESETS.items() if rules.finder_type == kind)
        raise CheckpointError(
            f"{finder.where}: the finder of preset {preset} is an EVF-{expected.upper()}, this is "
            f"an EVF-{kind.upper()}; use --preset {other}"
        )


def _config(
    rules: Preset, finder: PublishedPart, aligner: PublishedPart, tracker: PublishedPart
) -> FindTrackConfig:
    """The whole configuration, image encoders not shared."""
    network: Any = tracker.config
    try:
        if network["model_type"] == CutieConfig.model_type:
            network = CutieConfig(**network, **rules.tracker)
        return FindTrackConfig(
            finder_config=FinderConfig(**finder.config, **rules.finder),
            aligner_config=aligner.config,
            tracker_config=network,
            dtype="float32",
            **rules.model,
        )
    except Exception as error:
        raise _no_model((finder, aligner, tracker), error) from error


def _processor(
    rules: Preset, config: FindTrackConfig, sources: Mapping[str, Source]
) -> FindTrackProcessor:
    """Tokenizers, and the geometry that the networks' sizes ask for."""
    finder, tracker = config.finder_config, config.tracker_config
    text, vision = config.aligner_config.text_config, config.aligner_config.vision_config
    beit3 = finder.beit3_config
    words = beit3_tokenizer(sources.get("tokenizer", sources["evf-sam"]), beit3.vocab_size)
    clip_words = clip_tokenizer(sources.get("clip-tokenizer", sources["clip"]), text.vocab_size)
    text.bos_token_id, text.eos_token_id = clip_words.bos_token_id, clip_words.eos_token_id
    is_cutie = tracker.model_type == CutieConfig.model_type
    try:
        return FindTrackProcessor(
            words,
            clip_words,
            finder_size=finder.sam_config.prompt_encoder_config.image_size,
            beit3_size=beit3.image_size,
            beit3_max_tokens=beit3.max_text_positions - 2,  # of whose rows two are unused
            aligner_size=vision.image_size,
            aligner_max_tokens=text.max_position_embeddings,
            tracker_size=(
                tracker.max_internal_size if is_cutie else tracker.prompt_encoder_config.image_size
            ),
            **rules.processor,
        )
    except ValueError as error:
        raise CheckpointError(f"the tokenizers do not go together: {error}") from None


def _on_meta(config: FindTrackConfig, parts: Iterable[PublishedPart]) -> FindTrackModel:
    """The model without data: its names and shapes."""
    try:
        with torch.device("meta"):
            return FindTrackModel(config)
    except Exception as error:
        raise _no_model(parts, error) from error


def _no_model(parts: Iterable[PublishedPart], error: Exception) -> CheckpointError:
    """A config file asks for the impossible; what raises that in a network, nobody says."""
    lines = str(error).strip().splitlines()
    why = f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
    return CheckpointError(
        f"{', '.join(part.where for part in parts)}: their dimensions, or what config files beside "
        f"them say, make no model ({why})"
    )


def _with_one_encoder(
    finder: PublishedPart, tracker: PublishedPart
) -> tuple[PublishedPart, PublishedPart]:
    """The finder without its image encoder, and the tracker with one that serves both."""
    better = wider(finder.tensors, tracker.tensors)
    ours = {k: v for k, v in finder.tensors.items() if not k.startswith(FINDER_ENCODER)}
    theirs = tracker.tensors | better
    return _keeping(finder, ours, better.values()), _keeping(tracker, theirs)


def _keeping(
    part: PublishedPart, tensors: dict[str, LazyTensor], moved: Iterable[LazyTensor] = ()
) -> PublishedPart:
    """`part` with these tensors; those of its own that are not used any more are left out."""
    used = {source for tensor in (*tensors.values(), *moved) for source in tensor.sources}
    before = {source for tensor in part.tensors.values() for source in tensor.sources}
    left_out = tuple(sorted({*part.left_out, *(before - used)}))
    return replace(part, tensors=tensors, left_out=left_out)


def _cast(name: str, tensor: LazyTensor, dtype: torch.dtype) -> LazyTensor:
    """`tensor` in another number format; whole numbers stay."""
    if not tensor.dtype.is_floating_point or tensor.dtype == dtype:
        return tensor

    def change(x: torch.Tensor) -> torch.Tensor:
        y = x.to(dtype)
        if not x.is_meta and not torch.equal(x.isfinite(), y.isfinite()):
            raise CheckpointError(
                f"{name}: has numbers too large for {str(dtype).removeprefix('torch.')}; use "
                "--dtype bfloat16 or float32"
            )
        return y

    return tensor.then(change)
