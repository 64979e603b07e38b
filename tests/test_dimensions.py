"""Dimensions told from shapes: every published network at full size, and what no shape tells.

Full-size checkpoints are files of the right names and shapes whose data is a hole: they take no
room on the disk and are never read.
"""

import copy
import functools
import inspect
import json
import re
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
    PublishedPart,
    read_aligner,
    read_cutie_tracker,
    read_finder,
    read_sam2_tracker,
)
from modeling_findtrack.published_settings import read_settings
from modeling_findtrack.published_source import find_source
from modeling_findtrack.sam2_dimensions import sam2_image_config, sam2_video_config
from modeling_findtrack.sam2_settings import SAM2_WORDS, sam2_settings
from modeling_findtrack.tensor_account import account_for
from modeling_findtrack.tensor_shapes import Shapes
from tests.official_checkpoints import (
    SAM2_SWITCHES,
    official_sam2_name,
    sam2_tensors,
    sam2_yaml,
)
from tests.test_golden_keys import CLIP_L, HIERA_L, VIT_H

EXTRAS = ("config.json", "*.yaml")


def write_hollow(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A safetensors file of float16 tensors (and whole counts) without any data."""
    header, end = {}, 0
    for name, shape in shapes.items():
        dtype, size = ("I64", 8) if name.endswith("num_batches_tracked") else ("F16", 2)
        begin, end = end, end + size * torch.Size(shape).numel()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
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
    config = Sam2VideoConfig(**sam2_video_config(shapes, {}, ""))
    # What is known of the size, and of its YAML: the same.
    told = Sam2VideoConfig(**sam2_video_config(shapes, settings, path.name))
    assert told.to_dict() == config.to_dict()
    for other in official_yamls():
        if other.stem.removeprefix("sam2.1") != path.stem.removeprefix("sam2.1"):
            wrong = yaml.safe_load(other.read_text())
            if wrong["model"]["image_encoder"] != settings["model"]["image_encoder"]:
                with pytest.raises(CheckpointError, match=f"^{re.escape(other.name)}: of another"):
                    sam2_video_config(shapes, wrong, other.name)
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
    tensors = sam2_tensors(golden_dir)
    return Shapes({k: LazyTensor(v.to("meta"), v.clone, (k,)) for k, v in tensors.items()}, "x.pt")


def test_an_unpublished_hiera_needs_a_config(golden_dir):
    with pytest.raises(CheckpointError, match=r"x.pt: a Hiera of 16 channels .* config.json"):
        sam2_video_config(sam2_shapes(golden_dir), {}, "")


@pytest.mark.parametrize(
    "part, word, value",
    [
        ("trunk", "embed_dim", 96),
        ("trunk", "stages", [1, 2, 7, 2]),
        ("trunk", "stages", None),  # by default [2, 3, 16, 3]
        ("neck", "d_model", 256),
        ("neck", "backbone_channel_list", [768, 384, 192, 96]),
    ],
)
@pytest.mark.parametrize("read", [sam2_video_config, sam2_image_config])
def test_a_yaml_of_another_size_is_refused(read, part, word, value, golden_dir):
    """Its windows and heads would be believed, and nothing else would show it."""
    settings = sam2_yaml(golden_dir)
    read(sam2_shapes(golden_dir), settings, "other.yaml")
    settings["model"]["image_encoder"][part][word] = value
    if value is None:
        del settings["model"]["image_encoder"][part][word]
    with pytest.raises(CheckpointError, match=r"^other.yaml: of another SAM 2 than x.pt") as error:
        read(sam2_shapes(golden_dir), settings, "other.yaml")
    assert f"image_encoder.{part}.{word} is {value or [2, 3, 16, 3]}" in str(error.value)


@pytest.mark.parametrize("size", [0, -64, [], [64, 32], "64", 63, True, 64.0])
def test_images_have_a_side(size, golden_dir):
    settings = sam2_yaml(golden_dir, image_size=size)
    for read in (sam2_video_config, sam2_image_config):
        with pytest.raises(CheckpointError, match=r"^x.yaml: image_size is "):
            read(sam2_shapes(golden_dir), settings, "x.yaml")
    with pytest.raises(CheckpointError, match=r"^x.yaml: image_size is "):
        wrong = {"vision_config": {"backbone_config": {"image_size": size}}, "image_size": 64}
        names = Shapes({"vision_encoder.x": None}, "x.pt")
        sam2_video_config(names, wrong, "x.yaml")


def changed(settings: dict, place: str, value) -> dict:
    """A YAML's settings with another value at a place in its `model` section; GONE for none."""
    settings = copy.deepcopy(settings)
    *path, word = place.split(".")
    part = settings["model"]
    for name in path:
        part = part.setdefault(name, {})
    part[word] = value
    if value is GONE:
        del part[word]
    return settings


GONE = "gone"


@pytest.mark.parametrize(
    "place, value",
    [
        ("soft_no_obj_ptr", True),
        ("memory_temporal_stride_for_eval", 2),
        ("non_overlap_masks_for_mem_enc", True),
        *((word, not value) for word, value in SAM2_SWITCHES.items() if word[:3] != "add"),
        *((word, GONE) for word in SAM2_SWITCHES if word[:3] != "add"),
        ("image_encoder.scalp", 0),
        ("image_encoder.scalp", GONE),
        ("image_encoder.neck.fpn_interp_model", "bilinear"),
        ("image_encoder.neck.fpn_interp_model", GONE),
        ("image_encoder.neck.fuse_type", "avg"),
        ("image_encoder.trunk.head_mul", 1.0),
        ("image_encoder.trunk.q_pool", 2),
        ("memory_attention.pos_enc_at_input", False),
        ("memory_attention.layer.activation", "gelu"),
        ("memory_attention.layer.pos_enc_at_attn", True),
        ("memory_attention.layer.pos_enc_at_cross_attn_keys", False),
        ("memory_attention.layer.pos_enc_at_cross_attn_queries", True),
        ("memory_attention.layer.self_attention.num_heads", 4),
        ("memory_attention.layer.cross_attention.rope_theta", 1.0),
        ("memory_attention.layer.cross_attention.downsample_rate", 2),
    ],
)
def test_settings_that_transformers_does_not_have(place, value, golden_dir):
    settings = changed(sam2_yaml(golden_dir), place, value)
    with pytest.raises(CheckpointError, match="transformers' SAM 2 cannot do") as error:
        sam2_settings(settings, "x.yaml")
    assert str(error.value).startswith("x.yaml: ") and place in str(error.value)
    with pytest.raises(CheckpointError, match="transformers' SAM 2 cannot do"):
        sam2_settings(settings["model"], "x.yaml")  # the section alone


@pytest.mark.parametrize("time", [True, GONE])  # by default there is an encoding of time
@pytest.mark.parametrize("projected", [False, GONE])
def test_pointers_with_time_that_is_not_projected(time, projected, golden_dir):
    settings = changed(sam2_yaml(golden_dir), "add_tpos_enc_to_obj_ptrs", time)
    settings = changed(settings, "proj_tpos_enc_in_obj_ptrs", projected)
    with pytest.raises(CheckpointError, match="without proj_tpos_enc_in_obj_ptrs, which"):
        sam2_settings(settings, "x.yaml")


@pytest.mark.parametrize("word", ["vision_config", "memory_attention_num_layers"])
def test_official_words_and_others_do_not_mix(word, golden_dir):
    with pytest.raises(CheckpointError, match=rf"^x.yaml: mixes .* transformers' \({word}\)"):
        sam2_settings(sam2_yaml(golden_dir, **{word: "x"}), "x.yaml")


def test_what_a_yaml_leaves_out_is_as_in_the_official_code():
    """Compared with the signatures there, where the package is."""
    base = pytest.importorskip("sam2.modeling.sam2_base")
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
    from sam2.modeling.sam.transformer import RoPEAttention

    from modeling_findtrack import sam2_settings as ours

    def defaults(*classes) -> dict:
        found = {}
        for kind in classes:
            for base_class in (*kind.__bases__, kind):
                for name, parameter in inspect.signature(base_class).parameters.items():
                    if parameter.default is not parameter.empty:
                        found[name] = parameter.default
        return found

    official = defaults(base.SAM2Base)
    for word, (_, default) in ours._FIXED.items():
        assert official[word] == default, word
    for word, (_, default) in ours._WORDS.items():
        assert official[word] == default, word
    assert official["add_tpos_enc_to_obj_ptrs"] and not official["proj_tpos_enc_in_obj_ptrs"]
    trunk = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults(Hiera).items()}
    assert ours._TRUNK.items() <= trunk.items()
    encoder = trunk | defaults(ImageEncoder, FpnNeck)
    for place, (_, default) in ours._FIXED_ENCODER.items():
        assert encoder[place.split(".")[-1]] == default, place
    attention = defaults(MemoryAttention, MemoryAttentionLayer, RoPEAttention)
    for place, (value, default) in ours._FIXED_ATTENTION.items():
        # Where the official code has no default, its YAML must say it, as the published ones do.
        assert attention.get(place.split(".")[-1], value) == default, place


def test_settings_in_official_words(golden_dir):
    settings = sam2_yaml(
        golden_dir,
        image_size=512,
        max_obj_ptrs_in_encoder=8,
        sam_mask_decoder_extra_args={"dynamic_multimask_via_stability": False},
    )
    for word in ("num_maskmem", "sigmoid_scale_for_mem_enc", "multimask_output_in_sam"):
        del settings["model"][word]
    settings["model"]["image_encoder"]["trunk"] = {"num_heads": 2, "window_spec": [4, 4, 2, 2]}
    del settings["model"]["image_encoder"]["neck"]["fpn_top_down_levels"]
    assert sam2_settings(settings, "x") == {
        "image_size": 512,
        "num_maskmem": 7,
        "sigmoid_scale_for_mem_enc": 1.0,
        "sigmoid_bias_for_mem_enc": -10.0,
        "multimask_output_in_sam": False,
        "multimask_output_for_tracking": True,
        "multimask_min_pt_num": 0,
        "multimask_max_pt_num": 1,
        "max_object_pointers_in_encoder": 8,
        "vision_config": {
            "backbone_config": {
                "num_attention_heads_per_stage": [2, 4, 8, 16],
                "window_size_per_stage": [4, 4, 2, 2],
                "global_attention_blocks": [12, 16, 20],
                "window_positional_embedding_background_size": [14, 14],
            },
            "fpn_top_down_levels": [0, 1, 2, 3],
        },
        "mask_decoder_config": {"dynamic_multimask_via_stability": False},
    }


# ---- the file that says it -----------------------------------------------------------------------


def beside(folder: Path, files: dict[str, dict], weights: str = "x.pt"):
    """A source of these files beside weights."""
    (folder / weights).write_bytes(b"")
    for name, settings in files.items():
        (folder / name).write_text(json.dumps(settings))  # which is YAML, too
    return find_source(str(folder / weights), EXTRAS)


SAM2 = {"model": {"image_encoder": {}, "soft_no_obj_ptr": True}}
OTHER = {"model": {"image_encoder": {}}}
UNRELATED = {"services": 3}


@pytest.mark.parametrize(
    "files, chosen",
    [
        ({"sam2_hiera_l.yaml": SAM2}, "sam2_hiera_l.yaml"),
        ({"x.yaml": SAM2, "a.yaml": OTHER, "config.json": {"model_type": "sam2"}}, "x.yaml"),
        ({"a.yaml": SAM2, "compose.yaml": UNRELATED}, "a.yaml"),
        ({"a.yaml": SAM2, "config.json": {"model_type": "evf", "model": {}}}, "a.yaml"),
        ({"a.yaml": SAM2, "config.json": {"about": "something else"}}, "a.yaml"),
        ({"a.yaml": SAM2, "config.json": {"model_type": "sam2"}}, "config.json"),
        ({"compose.yaml": UNRELATED}, ""),
    ],
)
def test_which_config_file_counts(files, chosen, tmp_path):
    settings, path = read_settings(beside(tmp_path, files), ("sam2",), SAM2_WORDS)
    assert path == (str(tmp_path / chosen) if chosen else "")
    assert settings == files.get(chosen, {})
    if "x.yaml" in files:  # of the folder, too
        (tmp_path / "x.pt").rename(tmp_path / "x.bin")
        source = find_source(str(tmp_path), EXTRAS)
        assert read_settings(source, ("sam2",), SAM2_WORDS)[1] == path


def test_several_yamls_of_which_none_has_the_checkpoint_s_name(tmp_path):
    source = beside(tmp_path, {"a.yaml": OTHER, "b.yaml": SAM2, "c.yaml": UNRELATED})
    with pytest.raises(CheckpointError, match=r"2 YAML files beside it.* x.yaml") as error:
        read_settings(source, ("sam2",), SAM2_WORDS)
    assert error.value.details == ("a.yaml", "b.yaml")
    assert read_settings(source, ("clip",), ("text_config",)) == ({}, "")  # not about that one


def test_code_that_a_config_refers_to_is_left_out(tmp_path):
    part = {"hidden_size": 8, "auto_map": {"AutoModel": "evil/repo--x.Y"}}
    source = beside(tmp_path, {"x.yaml": {"vision_config": part, "custom_pipelines": {"a": 1}}})
    settings, _ = read_settings(source, (), ("vision_config",))
    assert settings == {"vision_config": {"hidden_size": 8}}


# ---- what no config can say ----------------------------------------------------------------------


@pytest.mark.parametrize("mean", [[0.1], 0.5, "abc", [0.1, 0.2, "c"], [1, 2, 3, 4]])
def test_colours_have_three_means(mean, source, tmp_path):
    found = source("cutie")
    (tmp_path / "cutie.json").write_text(json.dumps({"network": {"pixel_mean": mean}}))
    found = find_source(found.name, EXTRAS)
    with pytest.raises(CheckpointError, match="cutie.safetensors"):
        read_cutie_tracker(found)
    (tmp_path / "cutie.json").write_text(json.dumps({"network": {"pixel_std": [0.1, 0.0, 1]}}))
    with pytest.raises(CheckpointError, match="not three numbers above 0"):
        read_cutie_tracker(found)


@pytest.mark.parametrize(
    "network", [{"pixel_encoder": "resnet50"}, {"object_transformer": [1]}, "large"]
)
def test_sections_are_sections(network, source, tmp_path):
    found = source("cutie")
    (tmp_path / "cutie.json").write_text(json.dumps({"network": network}))
    with pytest.raises(CheckpointError, match=r"cutie.safetensors: .* is .*, no section"):
        read_cutie_tracker(find_source(found.name, EXTRAS))


@pytest.mark.parametrize(
    "given",
    [
        {"beit3_config": {"image_size": -224}},
        {"beit3_config": {"image_size": 0}},
        {"sam_config": {"vision_config": {"image_size": -1024}}},
        {"sam_config": {"prompt_encoder_config": {"image_size": 512}}},
        {"sam_config": {"vision_config": "x"}},
        {"sam_config": [1]},
    ],
)
def test_sizes_of_a_finder(given, source, tmp_path):
    found = source("evfsam")
    (tmp_path / "evfsam.json").write_text(json.dumps(given))
    with pytest.raises(CheckpointError, match=r"evfsam.safetensors: .*(image_size is|no section)"):
        read_finder(find_source(found.name, EXTRAS))


def test_whole_numbers_are_no_fractions():
    part = PublishedPart(
        "x.pt", "kind", {}, {"a": lazy(torch.zeros(2).long()), "b": lazy(torch.zeros(2))}, (), ()
    )
    account_for(part, {"a": torch.zeros(2).int(), "b": torch.zeros(2).half()})
    with pytest.raises(CheckpointError, match="1 of another kind of numbers") as error:
        account_for(part, {"a": torch.zeros(2), "b": torch.zeros(2)})
    assert error.value.details == ("kind: name gives a in int64, the model has float32",)


def lazy(tensor: torch.Tensor) -> LazyTensor:
    return LazyTensor(tensor.to("meta"), tensor.clone, ("name",))


def test_heads_of_an_unusual_width_need_a_config():
    with pytest.raises(CheckpointError, match=r"48 channels .* say it as a.b in config.json"):
        Shapes({}, "x").heads(48, 64, "a.b")
