"""Cutie as FindTrack runs it, both ways through a video, against the official code."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling_findtrack.configuration_findtrack import (
    CUTIE_BASE,
    CUTIE_LONG_TERM,
    CUTIE_SETTINGS,
    CutieConfig,
)
from modeling_findtrack.convert import cutie_keys
from modeling_findtrack.feature_cache import FeatureCache
from modeling_findtrack.results import MaskSequence
from modeling_findtrack.sweep import KeyMask, Sweep
from modeling_findtrack.tracker_cutie import CutieTracker
from modeling_findtrack.video_io import open_video
from tests.tiny_cutie import cutie_processor, needs_cutie, official_weights

pytestmark = needs_cutie

SETS = ("davis_every3", "empty_mask", "mevis_longterm", "ytvos", "ytvos_fifo", "ytvos_resize_pad")
TOLERANCE = {"atol": 1e-4, "rtol": 0}
SETTINGS = (
    "mem_every", "use_long_term", "max_mem_frames", "long_term", "flip_aug", "top_k",
    "stagger_updates", "chunk_size", "max_internal_size",
)  # fmt: skip


class Golden:
    """One golden set: a tracker, features of its frames, what the official code says of them."""

    def __init__(self, folder, stable_softmax: bool):
        official = json.loads((folder / "config.json").read_text())
        resolved = official["resolved"]
        config = CutieConfig(
            network=resolved["model"],
            stable_softmax=stable_softmax,
            **{name: resolved[name] for name in SETTINGS},
        )
        self.tracker = CutieTracker(config).eval()
        weights = official_weights(self.tracker)
        shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
        assert shapes == official["state_dict_shapes"]
        self.tracker.cutie.load_state_dict(cutie_keys(weights))
        self.io = load_file(folder / "io.safetensors")
        self.frames = list(self.io["frames_u8"].permute(0, 2, 3, 1).numpy())
        self.size = self.frames[0].shape[:2]
        self.processor = cutie_processor(config.max_internal_size)
        pixels = self.processor.tracker_pixels(self.frames)
        self.features = [self.tracker.encode(frame[None]) for frame in pixels]

    def decode(self, margin: torch.Tensor) -> torch.Tensor:
        return self.processor.masks_to_source(margin, self.size, "tracker")

    def start(self, frame: int):
        return self.tracker.start(self.features[frame], self.io["mask"][None, None])

    def probabilities(self, output) -> torch.Tensor:
        """(2, H, W) background and object at source size."""
        margin = self.decode(output.mask_logits[0, 0])
        return torch.stack([1 - margin, 1 + margin]) / 2


def memory_sizes(lane) -> tuple[int, int]:
    """Tokens in the working and in the long-term memory."""
    memory = lane.core.memory
    return memory.work_mem.size(0), memory.long_mem.size(0) if memory.use_long_term else 0


@pytest.fixture(scope="module", params=[(n, s) for n in SETS for s in (True, False)], ids=str)
def golden(request, golden_dir):
    name, stable = request.param
    return Golden(golden_dir(f"cutie_tiny_{name}"), stable)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@torch.no_grad()
def test_golden_cutie(golden, direction):
    order = list(range(len(golden.frames)))
    if direction == "backward":
        order.reverse()
    lanes, output = golden.start(order[0])
    probabilities, sizes = [golden.probabilities(output)], [memory_sizes(lanes[0])]
    for t in order[1:]:
        output = golden.tracker.step(golden.features[t], lanes)
        probabilities.append(golden.probabilities(output))
        sizes.append(memory_sizes(lanes[0]))
    probabilities = torch.stack(probabilities)
    expected = golden.io[f"prob_{direction}"]
    torch.testing.assert_close(probabilities, expected, **TOLERANCE)
    assert [work for work, _ in sizes] == golden.io[f"work_tokens_{direction}"].tolist()
    assert [long for _, long in sizes] == golden.io[f"long_tokens_{direction}"].tolist()
    masks = probabilities[:, 1] > probabilities[:, 0]
    wrong = masks != golden.io[f"mask_{direction}"].bool()
    assert not (wrong & ((expected[:, 1] - 0.5).abs() > 1e-4)).any()


@torch.inference_mode()
def test_golden_masks_of_two_sweeps(golden):
    """One expression from the first frame on and one from the last, in one run."""
    tracker, processor, num_frames = golden.tracker, golden.processor, len(golden.frames)
    mask = golden.io["mask"].bool().numpy()
    with open_video(np.stack(golden.frames)) as clip:
        sweep = Sweep(
            tracker,
            clip,
            encode=lambda frame: tracker.encode(processor.tracker_pixels([frame])),
            decode=golden.decode,
            cache=FeatureCache(0),
            resample_key_masks=True,
        )
        rles, presence = sweep.run([KeyMask(0, mask), KeyMask(num_frames - 1, mask)])
    for row, direction in enumerate(("forward", "backward")):
        order = slice(None) if direction == "forward" else slice(None, None, -1)
        masks = MaskSequence(rles[row], golden.size).to_array()[order]
        sure = (golden.io[f"prob_{direction}"][:, 1] - 0.5).abs().numpy() > 1e-4
        expected = golden.io[f"mask_{direction}"].bool().numpy()
        assert (masks == expected)[sure].all()
        assert ((presence[row, order] > 0.5) == expected.any((1, 2))).all()


@torch.no_grad()
def test_golden_first_step(golden):
    lanes, _ = golden.start(0)
    memory = lanes[0].core.memory
    first = {
        "step0_key": memory.work_mem.key[0],
        "step0_shrinkage": memory.work_mem.shrinkage[0],
        "step0_value": memory.work_mem.value[1],
        "step0_obj_v": memory.obj_v[1],
        "step0_sensory": memory.sensory[1],
    }
    for name, value in first.items():
        torch.testing.assert_close(value, golden.io[name], **TOLERANCE, msg=name)
    golden.tracker.step(golden.features[1], lanes)
    torch.testing.assert_close(memory.sensory[1], golden.io["step1_sensory"], **TOLERANCE)


def test_golden_keys_of_cutie(golden_dir):
    """The defaults are the published network."""
    shapes = json.loads((golden_dir("keys") / "keys_cutie.json").read_text())
    with torch.device("meta"):
        tracker = CutieTracker(CutieConfig())
        tensors = cutie_keys({name: torch.empty(shape) for name, shape in shapes.items()})
    expected = {k: v.shape for k, v in tracker.cutie.state_dict().items()}
    assert {k: v.shape for k, v in tensors.items()} == expected


@pytest.mark.parametrize(
    "name, setting, changed",
    [
        ("ytvos", "ref-youtube-vos", ["max_internal_size"]),
        ("davis_every3", "davis", ["max_internal_size"]),
        ("mevis_longterm", "mevis", ["long_term", "max_internal_size", "mem_every"]),
    ],
)
def test_golden_settings(golden_dir, name, setting, changed):
    """The named settings are FindTrack's files, but for what the golden sets override."""
    folder = golden_dir(f"cutie_tiny_{name}")
    resolved = json.loads((folder / "config.json").read_text())["resolved"]
    config = CutieConfig(**CUTIE_SETTINGS[setting])
    differ = [key for key in SETTINGS if getattr(config, key) != resolved[key]]
    assert sorted(differ) == changed
    assert config.max_internal_size == 600
    assert set(resolved["model"]) == set(CUTIE_BASE)
    assert set(resolved["long_term"]) == set(CUTIE_LONG_TERM)
