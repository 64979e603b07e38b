"""Cutie in small, with weights that are a pure function of their names."""

import zlib

import numpy as np
import pytest
import torch

from modeling_findtrack import FindTrackConfig, FindTrackModel, FindTrackProcessor
from modeling_findtrack.configuration_findtrack import CUTIE_BASE, CutieConfig
from modeling_findtrack.cutie_parts import CUTIE
from modeling_findtrack.tracker_cutie import CutieTracker
from tests.tiny_models import WORDS, build_processor, preset

needs_cutie = pytest.mark.skipif(CUTIE is None, reason='needs pip install "findtrack[cutie]"')

SIZE = 64  # short side
NETWORK = {
    **{name: 32 for name in ("pixel_dim", "value_dim", "sensory_dim", "embed_dim")},
    "key_dim": 16,
    "pixel_encoder": {"type": "resnet18", "ms_dims": [256, 128, 64]},
    "object_transformer": {
        **CUTIE_BASE["object_transformer"],
        **{"embed_dim": 32, "ff_dim": 64, "num_heads": 4, "num_blocks": 2, "num_queries": 8},
    },
    "object_summarizer": {"embed_dim": 32, "num_summaries": 8, "add_pe": True},
    "mask_decoder": {"up_dims": [32, 16, 16]},
}


def tiny_config(**settings) -> CutieConfig:
    return CutieConfig(**{"network": NETWORK, "max_internal_size": SIZE, **settings})


def recipe(name: str, value: torch.Tensor) -> torch.Tensor:
    """The value of a parameter or buffer in the golden sets, whose README states the rule."""
    if name.endswith(("inv_freq", "num_batches_tracked")):
        return value
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(value.shape))
    x = torch.from_numpy(draw.astype(np.float32))
    if name.endswith("running_mean"):
        return 0.1 * x
    if name.endswith("running_var"):
        return 1 + 0.2 * x.clamp(-2, 2)
    if value.ndim >= 2:
        small = name.startswith(("key_proj.key_proj", "key_proj.d_proj"))
        return x * (0.15 if small else 1) / value[0].numel() ** 0.5
    return 1 + 0.1 * x if name.endswith("weight") else 0.1 * x


def official_weights(tracker: CutieTracker) -> dict[str, torch.Tensor]:
    """A state dict under official names for the network in `tracker`."""
    return {name: recipe(name, value) for name, value in tracker.cutie.state_dict().items()}


def tiny_tracker(**settings) -> CutieTracker:
    tracker = CutieTracker(tiny_config(**settings)).eval()
    tracker.cutie.load_state_dict(official_weights(tracker))
    return tracker


def tiny_model(**settings) -> tuple[FindTrackModel, FindTrackProcessor]:
    """The preset "paper" in small, Cutie included; keyword arguments are of `CutieConfig`."""
    base, processor = preset("paper")
    config = FindTrackConfig(
        finder_config=base.config.finder_config,
        aligner_config=base.config.aligner_config,
        tracker_config=tiny_config(**settings),
    )
    model = FindTrackModel(config)
    weights = {k: v for k, v in base.state_dict().items() if not k.startswith("tracker.")}
    weights |= {f"tracker.cutie.{k}": v for k, v in official_weights(model.tracker).items()}
    model.load_state_dict(weights)
    processor.tracker_geometry, processor.tracker_size = "short_side", SIZE
    return model.eval(), processor


def cutie_processor(size: int) -> FindTrackProcessor:
    """A processor that prepares frames for Cutie at short side `size`."""
    tokens = build_processor(WORDS)
    return FindTrackProcessor(
        tokens.tokenizer,
        tokens.clip_tokenizer,
        tracker_size=size,
        tracker_geometry="short_side",
    )
