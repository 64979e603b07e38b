"""Join the trained stages into one checkpoint with fp16 weights."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from modeling_findtrack import FindTrackModel, FindTrackProcessor

from .tiny_model import (
    ALIGNER_SIZE,
    BEIT3_SIZE,
    IMAGE_SIZE,
    tiny_config,
    tokenizers,
)


def build_processor(words: list[str]) -> FindTrackProcessor:
    """The processor of `findtrack-tiny`."""
    finder, aligner = tokenizers(words)
    return FindTrackProcessor(
        finder,
        aligner,
        finder_size=IMAGE_SIZE,
        tracker_size=IMAGE_SIZE,
        beit3_size=BEIT3_SIZE,
        beit3_antialias=True,
        beit3_max_tokens=finder.model_max_length,
        aligner_size=ALIGNER_SIZE,
        aligner_geometry="squash",
        aligner_max_tokens=aligner.model_max_length,
    )


def trained_weights(out: Path) -> dict[str, torch.Tensor]:
    """Tensors of the stages under the names they have in `FindTrackModel`."""
    find = load_file(out / "find/ema.safetensors")
    track = load_file(out / "track/ema.safetensors")
    align = load_file(out / "align/ema.safetensors")
    weights = {k: v for k, v in find.items() if k.startswith("finder.")}
    weights |= {f"tracker.{k}": v for k, v in track.items()}
    return weights | {k: v for k, v in align.items() if k.startswith("aligner.")}


def pack(words: list[str], out: Path) -> Path:
    """Write `out/findtrack-tiny`, a folder that `from_pretrained` loads."""
    processor = build_processor(words)
    config = tiny_config(len(processor.tokenizer), len(processor.clip_tokenizer))
    model = FindTrackModel(config).eval()
    model.load_state_dict(trained_weights(out))
    folder, scratch = out / "findtrack-tiny", out / "findtrack-tiny.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    # Half-precision storage; config.json says float32, which is what loading then gives.
    half = {k: v.half() for k, v in model.state_dict().items()}
    model.save_pretrained(scratch, state_dict=half)
    processor.save_pretrained(scratch)
    logs = {s: json.loads(_last_line(out / s / "log.jsonl")) for s in ("find", "track", "align")}
    (scratch / "training.json").write_text(json.dumps(logs, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(scratch, folder)
    return folder


def _last_line(path: Path) -> str:
    return path.read_text().splitlines()[-1]
