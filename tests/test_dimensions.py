"""Dimensions told from shapes: every published network at full size, and what no shape tells.

Full-size checkpoints are files of the right names and shapes whose data is a hole: they take no
room on the disk and are never read.
"""

import functools
import json
import struct
from importlib import resources
from pathlib import Path

import pytest
import torch
import yaml
from transformers import Sam2Config, Sam2VideoConfig, Sam2VideoModel

from modeling_findtrack.checkpoint_files import CheckpointError, LazyTensor
from modeling_findtrack.configuration_findtrack import CUTIE_BASE, Beit3Config, FindTrackConfig
from modeling_findtrack.convert import sam2_keys
from modeling_findtrack.modeling_findtrack import FindTrackModel
from modeling_findtrack.published_parts import (
    read_aligner,
    read_cutie_tracker,
    read_finder,
    read_sam2_tracker,
)
from modeling_findtrack.published_source import find_source
from modeling_findtrack.sam2_dimensions import sam2_settings, sam2_video_config
from modeling_findtrack.tensor_account import account_for
from modeling_findtrack.tensor_shapes import Shapes
from tests.official_checkpoints import official_sam2_name
from tests.test_golden_keys import CLIP_L, HIERA_L, VIT_H

EXTRAS = ("config.json", "*.yaml")


def write_hollow(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A safetensors file of float16 tensors without any data."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


@pytest.fixture
def official(golden_dir, tmp_path):
    """Reads a list of names and shapes; the one of EVF-SAM2 is put together from two."""

    def read(name: str) -> dict[str, list[int]]:
        def listed(name: str) -> dict[str, list[int]]:
            return json.loads((golden_dir("keys") / f"keys_{name}.json").read_text())

        if name != "evfsam2":
            return listed(name)
        rest = {k: v for k, v in listed("evfsam").items() if not k.startswith("visual_model.")}
        return rest | listed("evfsam2_visual")

    return read


@pytest.fixture
def source(official, tmp_path):
    """A hollow checkpoint as a source."""

    def make(name: str, change=lambda shapes: shapes):
        path = write_hollow(tmp_path / f"{name}.safetensors", change(official(name)))
        return find_source(str(path), EXTRAS)

    return make


def fits(config: FindTrackConfig, *parts) -> None:
    """Every tensor of the model comes from a part, and every tensor of a part goes there."""
    with torch.device("meta"):
        expected = FindTrackModel(config).state_dict()
    for part in parts:
        role = next(iter(part.tensors)).split(".")[0]
        account_for(part, {k: v for k, v in expected.items() if k.startswith(f"{role}.")})
    assert {k for part in parts for k in part.tensors} == set(expected)


def split_clip(official, tmp_path):
    """Alpha-CLIP's list as two files: its image tower, and OpenAI's CLIP."""
    shapes = official("alphaclip")
    alpha = {k.removeprefix("visual."): v for k, v in shapes.items() if k.startswith("visual.")}
    clip = {k: v for k, v in shapes.items() if k != "visual.conv1_alpha.weight"}
    return [
        find_source(str(write_hollow(tmp_path / f"{name}.safetensors", part)), EXTRAS)
        for name, part in (("alpha", alpha), ("clip", clip))
    ]


def sam2_names(shapes):
    """EVF-SAM2's names as those of facebookresearch/sam2."""
    return {
        official_sam2_name(k.removeprefix("visual_model.")): v
        for k, v in shapes.items()
        if k.startswith("visual_model.")
    }


def test_full_size_sam2(source, official, tmp_path):
    finder = read_finder(source("evfsam2"))
    aligner = read_aligner(*split_clip(official, tmp_path))
    tracker = read_sam2_tracker(source("evfsam2_visual", sam2_names))
    config = FindTrackConfig(
        finder_config=finder.config, aligner_config=aligner.config, tracker_config=tracker.config
    )
    fits(config, finder, aligner, tracker)
    assert config.finder_config.beit3_config.to_dict() == Beit3Config().to_dict()
    expected = Sam2Config(vision_config=HIERA_L).to_dict()
    assert config.finder_config.sam_config.to_dict() == expected
    video = Sam2VideoConfig(
        vision_config=HIERA_L,
        enable_occlusion_spatial_embedding=False,
        enable_temporal_pos_encoding_for_object_pointers=False,
    )
    assert config.tracker_config.to_dict() == video.to_dict()
    for tower in ("text_config", "vision_config"):
        told = getattr(config.aligner_config, tower).to_dict()
        assert told.items() >= CLIP_L[tower].items()
    assert config.aligner_config.projection_dim == 768


def test_full_size_paper(source, official, tmp_path):
    finder = read_finder(source("evfsam"))
    aligner = read_aligner(*split_clip(official, tmp_path))
    tracker = read_cutie_tracker(source("cutie"))
    config = FindTrackConfig(
        finder_config=finder.config, aligner_config=aligner.config, tracker_config=tracker.config
    )
    pytest.importorskip("cutie")
    fits(config, finder, aligner, tracker)
    assert config.tracker_config.network == CUTIE_BASE
    sam = config.finder_config.sam_config
    assert sam.vision_config.to_dict().items() >= VIT_H["vision_config"].items()
    assert (sam.vision_config.window_size, sam.vision_config.image_size) == (14, 1024)
    assert sam.mask_decoder_config.num_attention_heads == 8


@pytest.mark.parametrize(
    "network, read",
    [("evfsam", read_finder), ("evfsam2", read_finder), ("cutie", read_cutie_tracker)],
)
def test_a_missing_tensor_is_named(network, read, source):
    whole = read(source(network)).tensors
    names = sorted({name for tensor in whole.values() for name in tensor.sources})
    for gone in names[:: len(names) // 15]:
        with pytest.raises(CheckpointError, match="missing") as error:
            part = read(source(network, lambda s, gone=gone: {k: s[k] for k in s.keys() - {gone}}))
            account_for(part, {k: t.meta for k, t in whole.items()})
        # By its own name where dimensions are read from it, else by ours.
        ours = {f"missing: {name}" for name, t in whole.items() if gone in t.sources}
        assert set(error.value.details) in ({f"missing: {gone}"}, ours)


# ---- SAM 2: all published configurations, by the official package --------------------------------


def official_yamls() -> list[Path]:
    try:
        root = resources.files("sam2") / "configs"
    except ImportError:
        return []
    return sorted(
        path for kind in ("sam2", "sam2.1") for path in Path(str(root), kind).glob("*.yaml")
    )


@pytest.mark.parametrize("path", official_yamls(), ids=lambda path: path.stem)
def test_every_published_sam2(path, monkeypatch):
    from omegaconf import OmegaConf

    hydra = pytest.importorskip("hydra.utils")
    # Hiera asks for the numbers of one small tensor, which a meta tensor does not have.
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    settings = yaml.safe_load(path.read_text())
    with torch.device("meta"):
        model = hydra.instantiate(OmegaConf.load(path).model, _recursive_=True)
    tensors = {k: LazyTensor(v, v.clone, (k,)) for k, v in model.state_dict().items()}
    shapes = Shapes(tensors, path.name)
    config = Sam2VideoConfig(**sam2_video_config(shapes, {}))
    # What is known of the size, and of its YAML: the same.
    assert Sam2VideoConfig(**sam2_video_config(shapes, settings)).to_dict() == config.to_dict()
    assert config.enable_occlusion_spatial_embedding == ("2.1" in path.stem)
    with torch.device("meta"):
        expected = Sam2VideoModel(config).state_dict()
    converted = sam2_keys(tensors)
    assert {k: v.shape for k, v in converted.items()} == {
        k: tuple(v.shape) for k, v in expected.items()
    }
    trunk = settings["model"]["image_encoder"]["trunk"]
    backbone = config.vision_config.backbone_config
    assert backbone.num_attention_heads_per_stage[0] == trunk["num_heads"]
    assert backbone.window_size_per_stage == list(model.image_encoder.trunk.window_spec)
    assert backbone.global_attention_blocks == list(model.image_encoder.trunk.global_att_blocks)


def sam2_shapes(golden_dir) -> Shapes:
    from tests.official_checkpoints import sam2_tensors

    tensors = sam2_tensors(golden_dir)
    return Shapes({k: LazyTensor(v.to("meta"), v.clone, (k,)) for k, v in tensors.items()}, "x.pt")


def test_an_unpublished_hiera_needs_a_config(golden_dir):
    with pytest.raises(CheckpointError, match=r"x.pt: a Hiera of 16 channels .* config.json"):
        sam2_video_config(sam2_shapes(golden_dir), {})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"soft_no_obj_ptr": True}, "soft_no_obj_ptr: True, which transformers' SAM 2 cannot do"),
        ({"model": {"soft_no_obj_ptr": True}}, "soft_no_obj_ptr"),
        ({"model": {"memory_temporal_stride_for_eval": 2}}, "memory_temporal_stride_for_eval: 2"),
        ({"model": {"non_overlap_masks_for_mem_enc": True}}, "non_overlap_masks_for_mem_enc"),
        (
            {"model": {"add_tpos_enc_to_obj_ptrs": True, "proj_tpos_enc_in_obj_ptrs": False}},
            "without proj_tpos_enc_in_obj_ptrs",
        ),
    ],
)
def test_settings_that_transformers_does_not_have(settings, message):
    with pytest.raises(CheckpointError, match=message) as error:
        sam2_settings(settings, "x.yaml")
    assert str(error.value).startswith("x.yaml: ")


def test_settings_in_official_words():
    settings = {
        "model": {
            "soft_no_obj_ptr": False,
            "image_size": 512,
            "max_obj_ptrs_in_encoder": 8,
            "image_encoder": {"trunk": {"num_heads": 2, "window_spec": [4, 4, 2, 2]}},
            "sam_mask_decoder_extra_args": {"dynamic_multimask_via_stability": False},
        }
    }
    assert sam2_settings(settings, "x") == {
        "image_size": 512,
        "max_object_pointers_in_encoder": 8,
        "vision_config": {
            "backbone_config": {
                "num_attention_heads_per_stage": [2, 4, 8, 16],
                "window_size_per_stage": [4, 4, 2, 2],
            }
        },
        "mask_decoder_config": {"dynamic_multimask_via_stability": False},
    }


def test_heads_of_an_unusual_width_need_a_config():
    with pytest.raises(CheckpointError, match=r"48 channels .* say it as a.b in config.json"):
        Shapes({}, "x").heads(48, 64, "a.b")
