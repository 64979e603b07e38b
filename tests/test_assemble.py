"""`findtrack assemble` on small checkpoints in the official formats.

What the assembled model computes is compared with what the official code computed with the same
weights (the golden sets).
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, Sam2VideoModel

from modeling_findtrack import (
    assemble,
    cli,
    cutie_parts,
    published_source,
    published_tokenizers,
    safetensors_writer,
)
from modeling_findtrack.checkpoint_files import LazyTensor
from modeling_findtrack.convert import sam2_keys
from modeling_findtrack.presets import MANIFEST
from tests.official_checkpoints import (
    Official,
    alpha_tensors,
    clip_tensors,
    evf_config,
    evf_tensors,
    golden_dims,
    sam2_tensors,
    sam2_yaml,
    write_official,
)
from tests.test_golden_sam2_tracker import tracker_config
from tests.tiny_models import moving_square

pytest.importorskip("sentencepiece")
TOLERANCE = {"atol": 1e-4, "rtol": 0}
CODE_FREE = ("config.json", MANIFEST, "README.md", "processor_config.json")


@pytest.fixture(scope="module")
def official(golden_dir, tmp_path_factory) -> Official:
    return write_official(tmp_path_factory.mktemp("official"), golden_dir)


@pytest.fixture(scope="module")
def assembled(official, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("assembled") / "model"
    assert run(official, out) == 0
    return out


def run(official: Official, out: Path, *more: str, preset: str = "sam2", **changed) -> int:
    options = official.options(**changed)
    return cli.main(["assemble", "--preset", preset, "--out", str(out), *options, *more])


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text())


def stored(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def reported(capsys, count: int = 1) -> list[str]:
    """The lines on stderr, of which the first is the error."""
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("findtrack: error: ") and len(lines) == count, lines
    return [line.strip() for line in lines]


# ---- what it computes ----------------------------------------------------------------------------


@torch.no_grad()
def check_sam2_finder(model, golden_dir):
    io = load_file(golden_dir("sam2_tiny") / "io.safetensors")
    if model.config.share_vision_encoder:
        levels = model.encode(io["pixel_values"][:1]).levels
    else:
        levels = model.finder.encode(io["pixel_values"][:1])
    size = model.config.finder_config.beit3_config.image_size
    images = model.finder.prepare(levels, torch.zeros(1, 3, size, size))
    images = images.select(torch.zeros(len(io["text_embeds"]), dtype=torch.long))
    masks, iou, presence = model.finder.decode(
        images, io["text_embeds"][:, None], model.finder._dense(images, None)
    )
    torch.testing.assert_close(masks, io["best_low_res_mask"][:, 0], **TOLERANCE)
    torch.testing.assert_close(iou, io["iou_multi"].max(1).values, **TOLERANCE)
    torch.testing.assert_close(presence, io["object_score"][:, 0], **TOLERANCE)


@torch.no_grad()
def check_beit3(model, golden_dir):
    io = load_file(golden_dir("beit3_tiny") / "io.safetensors")
    tokens = model.finder.beit3.embed_image(io["image"])
    out = model.finder.beit3(tokens, io["input_ids"], 1 - io["text_padding"])
    torch.testing.assert_close(out, io["encoder_out_padded"], **TOLERANCE)


@torch.no_grad()
def check_aligner(model, golden_dir):
    io = load_file(golden_dir("alphaclip_tiny") / "io.safetensors")
    pixels = torch.cat([io["image"], io["alpha"]], dim=1)
    mask = (io["tokens"].argmax(-1)[:, None] >= torch.arange(77)).long()
    text = model.aligner.encode_text(io["tokens"].long(), mask)
    torch.testing.assert_close(text, F.normalize(io["text_features"], dim=-1), **TOLERANCE)
    torch.testing.assert_close(
        model.aligner.encode_image(pixels) @ text.T, io["cosine"], **TOLERANCE
    )


@torch.no_grad()
def check_tracker(model, golden_dir):
    io = load_file(golden_dir("sam2_tiny") / "io.safetensors")
    key = golden_dims(golden_dir, "sam2_tiny")["key_frame"]
    features = model.encode(io["pixel_values"])
    lanes, output = model.tracker.start(features.select(key), io["mask"], 8)
    seen = [output.mask_logits]
    for t in range(key + 1, 8):
        seen.append(model.tracker.step(features.select(t), lanes).mask_logits)
    torch.testing.assert_close(torch.cat(seen), io["propagate_forward"], **TOLERANCE)


def check_everything(folder: Path, golden_dir):
    model, processor = cli.load_model(str(folder))
    check_sam2_finder(model, golden_dir)
    check_beit3(model, golden_dir)
    check_aligner(model, golden_dir)
    check_tracker(model, golden_dir)
    return model, processor


def test_golden_numbers_with_one_encoder(assembled, golden_dir):
    model, processor = check_everything(assembled, golden_dir)
    assert model.config.share_vision_encoder and model.finder.config.multimask_output
    assert not hasattr(model.finder.sam, "vision_encoder")
    manifest = manifest_of(assembled)
    assert manifest["share_vision_encoder"] is True
    assert manifest["image_encoder"] == "one, shared: all 102 tensors of the two are equal"
    assert (processor.finder_size, processor.tracker_size) == (128, 128)
    assert (processor.aligner_size, processor.beit3_size) == (64, 32)
    assert (processor.finder_geometry, processor.alpha_geometry) == ("squash", "aligned")
    assert processor.lowercase and not processor.beit3_antialias
    tracks = model.segment(moving_square(3), ["a red dog", "two cats"], processor=processor)
    assert [len(track.masks) for track in tracks] == [3, 3]


def test_golden_numbers_with_two_encoders(official, golden_dir, tmp_path, capsys):
    tensors = evf_tensors(golden_dir)
    name = "visual_model.image_encoder.trunk.blocks.3.attn.qkv.bias"
    tensors[name] = tensors[name] + 0.25
    evf = Path(shutil.copytree(official.evf, tmp_path / "evf"))
    save_file(tensors, evf / "model.safetensors")
    assert run(official, tmp_path / "out", evf_sam=evf) == 0
    assert "image encoders: two: they differ, in backbone.blocks.3" in capsys.readouterr().out
    model, _ = cli.load_model(str(tmp_path / "out"))
    check_tracker(model, golden_dir)
    assert not model.config.share_vision_encoder
    bias = model.finder.sam.vision_encoder.backbone.blocks[3].attn.qkv.bias
    assert torch.equal(bias, tensors[name])
    manifest = manifest_of(tmp_path / "out")
    assert manifest["share_vision_encoder"] is False
    assert manifest["image_encoder"].endswith("by up to 0.25")


def as_fine_tuned(golden_dir, folder: Path) -> Path:
    """A file as the official training writes it, without a folder of its own."""
    path = folder / "ours.pth"
    torch.save({f"module.{k}": v for k, v in evf_tensors(golden_dir).items()}, path)
    (folder / "ours.json").write_text(json.dumps(evf_config(golden_dir)))
    return path


def as_transformers(golden_dir, folder: Path) -> dict[str, Path]:
    """SAM 2 and CLIP as transformers saves them."""
    dims, tensors = golden_dims(golden_dir, "sam2_tiny"), sam2_tensors(golden_dir)
    names = {k.replace(".gamma", ".weight") if "fuser" in k else k: v for k, v in tensors.items()}
    sam2 = Sam2VideoModel(tracker_config(dims, names))
    sam2.load_state_dict(sam2_keys(tensors))
    sam2.save_pretrained(folder / "sam2")
    whole = clip_tensors(golden_dir)
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
    config = CLIPConfig(
        projection_dim=32,
        text_config={**tower, "vocab_size": 500, "num_attention_heads": 1},
        vision_config={
            **tower, "image_size": 64, "patch_size": 16, "num_attention_heads": 4,
        },
    )  # fmt: skip
    from modeling_findtrack.convert import alpha_clip_keys

    clip = CLIPModel(config)
    clip.load_state_dict(alpha_clip_keys(whole))
    clip.save_pretrained(folder / "clip", max_shard_size="150kB")
    assert (folder / "clip" / "model.safetensors.index.json").exists()
    # As files of older versions: a numbering is stored, the second position matrix is not.
    shard = sorted((folder / "clip").glob("model-*.safetensors"))[0]
    extra = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(load_file(shard) | extra, shard, {"format": "pt"})
    once = load_file(folder / "sam2" / "model.safetensors")
    once.pop("prompt_encoder.shared_embedding.positional_embedding", None)
    save_file(once, folder / "sam2" / "model.safetensors", {"format": "pt"})
    return {"sam2": folder / "sam2", "clip": folder / "clip"}


def test_golden_numbers_of_other_formats(official, golden_dir, tmp_path):
    """Fine-tuned EVF-SAM2, SAM 2 and CLIP of transformers; tokenizers from elsewhere."""
    evf = as_fine_tuned(golden_dir, tmp_path)
    given = as_transformers(golden_dir, tmp_path)
    alpha = tmp_path / "alpha.safetensors"  # with prefixes
    save_file({f"module.visual.{k}": v for k, v in alpha_tensors(golden_dir).items()}, alpha)
    status = run(
        official, tmp_path / "out", evf_sam=evf, alpha_clip=alpha, **given,
        tokenizer=official.evf, clip_tokenizer=official.clip,
    )  # fmt: skip
    assert status == 0
    model, _ = check_everything(tmp_path / "out", golden_dir)
    assert model.config.share_vision_encoder
    manifest = manifest_of(tmp_path / "out")
    assert set(manifest["sources"]) == {
        "evf-sam", "alpha-clip", "clip", "sam2", "tokenizer", "clip-tokenizer",
    }  # fmt: skip
    assert manifest["sources"]["tokenizer"]["role"] == "tokenizer of evf-sam"


class Program(torch.nn.Module):
    def forward(self, x):
        return x


def as_program(tensors) -> torch.nn.Module:
    """A module that can be scripted, with these tensors."""
    program = Program()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        place = program
        for part in path:
            if not hasattr(place, part):
                setattr(place, part, Program())
            place = getattr(place, part)
        place.register_buffer(last, tensor)
    return program


def test_openai_publishes_an_archive_with_a_program(official, golden_dir, tmp_path):
    clip = Path(shutil.copytree(official.clip, tmp_path / "clip"))
    with pytest.warns():  # torch thinks little of TorchScript now
        torch.jit.script(as_program(clip_tensors(golden_dir))).save(str(clip / "ViT-tiny.pt"))
    assert run(official, tmp_path / "out", clip=clip) == 0
    check_aligner(cli.load_model(str(tmp_path / "out"))[0], golden_dir)


def test_sam2_1_is_told_by_its_tensors(official, golden_dir, tmp_path):
    tensors = sam2_tensors(golden_dir)
    torch.manual_seed(0)
    tensors |= {
        "no_obj_embed_spatial": torch.randn(1, 64),
        "obj_ptr_tpos_proj.weight": torch.randn(64, 128),
        "obj_ptr_tpos_proj.bias": torch.randn(64),
    }
    folder = Path(shutil.copytree(official.sam2.parent, tmp_path / "sam2"))
    torch.save({"model": tensors}, folder / official.sam2.name)
    assert run(official, tmp_path / "out", sam2=folder) == 0
    model, _ = cli.load_model(str(tmp_path / "out"))
    tracker = model.config.tracker_config
    assert tracker.enable_occlusion_spatial_embedding
    assert tracker.enable_temporal_pos_encoding_for_object_pointers
    spatial = model.tracker.sam2.occlusion_spatial_embedding_parameter
    assert torch.equal(spatial, tensors["no_obj_embed_spatial"])


# ---- preset paper --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper(golden_dir, tmp_path_factory) -> tuple[Official, Path]:
    """EVF-SAM and Alpha-CLIP, and a small Cutie under its official names."""
    pytest.importorskip("cutie")
    from tests.tiny_cutie import official_weights, tiny_tracker

    folder = tmp_path_factory.mktemp("paper")
    official = write_official(folder, golden_dir, visual="sam_tiny")
    cutie = folder / "cutie-tiny.pth"
    torch.save(official_weights(tiny_tracker()), cutie)
    heads = {"network": {"object_transformer": {"num_heads": 4}}}
    (folder / "cutie-tiny.json").write_text(json.dumps(heads))
    return official, cutie


@torch.no_grad()
def check_sam_finder(model, golden_dir):
    io = load_file(golden_dir("sam_tiny") / "io.safetensors")
    size = model.config.finder_config.beit3_config.image_size
    levels = model.finder.encode(io["pixel_values"])
    images = model.finder.prepare(levels, torch.zeros(1, 3, size, size))
    masks, iou, presence = model.finder.decode(
        images, io["text_embeds"][:, None], model.finder._dense(images, None)
    )
    torch.testing.assert_close(masks, io["low_res_masks"][:, 0], **TOLERANCE)
    torch.testing.assert_close(iou, io["iou_pred"][:, 0], **TOLERANCE)
    assert presence is None


def test_preset_paper(paper, golden_dir, tmp_path):
    from tests.tiny_cutie import tiny_tracker

    official, cutie = paper
    assert run(official, tmp_path / "out", preset="paper", sam2=None, cutie=cutie) == 0
    model, processor = cli.load_model(str(tmp_path / "out"))
    check_sam_finder(model, golden_dir)
    check_beit3(model, golden_dir)
    check_aligner(model, golden_dir)
    expected = tiny_tracker().cutie.state_dict()
    for name, tensor in model.tracker.cutie.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    config = model.config
    assert not config.share_vision_encoder and not config.finder_config.multimask_output
    assert config.presence_threshold is None and config.accept_empty_masks
    assert config.resample_key_masks and config.num_key_frames == 5
    assert not config.tracker_config.stable_softmax and config.tracker_config.memorise_last_frame
    assert (processor.finder_geometry, processor.alpha_geometry) == ("pad", "official")
    assert processor.beit3_antialias and not processor.lowercase
    assert (processor.tracker_geometry, processor.tracker_size) == ("short_side", 600)
    processor.tracker_size = config.tracker_config.max_internal_size = 64
    tracks = model.segment(moving_square(3), "a red dog", processor=processor)
    assert tracks[0].found and len(tracks[0].masks) == 3
    assert manifest_of(tmp_path / "out")["image_encoder"].startswith("two: the tracker has another")


def test_cutie_keeps_its_number_format(paper, tmp_path):
    official, cutie = paper
    options = {"preset": "paper", "sam2": None, "cutie": cutie}
    assert run(official, tmp_path / "out", "--dtype", "bfloat16", **options) == 0
    kinds = {name: tensor.dtype for name, tensor in stored(tmp_path / "out").items()}
    floats = {
        n: d for n, d in kinds.items() if n.startswith("tracker.cutie.") and d.is_floating_point
    }
    assert set(floats.values()) == {torch.float32}
    assert kinds["finder.beit3.text_embed.weight"] == torch.bfloat16
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    cli.load_model(str(tmp_path / "out"), dtype="bfloat16")


def test_a_cutie_for_single_objects(paper, tmp_path):
    """Two weights lack the channel of the other objects, which is empty with one object."""
    official, cutie = paper
    whole = torch.load(cutie, weights_only=True)
    single = dict(whole)
    for name in ("mask_encoder.conv1.weight", "pixel_fuser.sensory_compress.weight"):
        single[name] = whole[name][:, :-1].contiguous()
    assert single["mask_encoder.conv1.weight"].shape[1] == 4
    torch.save(single, tmp_path / "single.pth")
    shutil.copy(cutie.with_suffix(".json"), tmp_path / "single.json")
    options = {"sam2": None, "cutie": tmp_path / "single.pth"}
    assert run(official, tmp_path / "out", preset="paper", **options) == 0
    tensors = stored(tmp_path / "out")
    for name in ("mask_encoder.conv1.weight", "pixel_fuser.sensory_compress.weight"):
        padded = tensors[f"tracker.cutie.{name}"]
        assert torch.equal(padded[:, :-1], whole[name][:, :-1]) and not padded[:, -1].any()


def test_presets_do_not_mix(official, paper, tmp_path, capsys):
    assert run(official, tmp_path / "out", preset="paper", cutie=paper[1]) == 2
    assert "--sam2: not a part of preset paper, which takes --evf-sam" in reported(capsys)[0]
    assert run(official, tmp_path / "out", preset="paper", sam2=None, cutie=paper[1]) == 2
    assert "is an EVF-SAM, this is an EVF-SAM2; use --preset sam2" in reported(capsys)[0]
    assert run(paper[0], tmp_path / "out") == 2
    assert "is an EVF-SAM2, this is an EVF-SAM; use --preset paper" in reported(capsys)[0]
    assert os.listdir(tmp_path) == []


# ---- the folder ----------------------------------------------------------------------------------


def test_the_folder_is_complete_and_says_what_it_is_made_of(assembled, official):
    names = {p.relative_to(assembled).as_posix() for p in assembled.rglob("*") if p.is_file()}
    assert {
        "config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md",
        "clip_tokenizer/tokenizer.json", "modeling_findtrack.py", "configuration_findtrack.py",
        MANIFEST,
    } <= names  # fmt: skip
    assert not {n for n in names if n.startswith(("assemble", "published", "convert", "cli."))}
    config = json.loads((assembled / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_findtrack.FindTrackModel"
    assert config["dtype"] == "float32" and "custom_pipelines" in config
    manifest, tensors = manifest_of(assembled), stored(assembled)
    assert manifest["preset"] == "sam2"
    assert set(manifest["versions"]) == {"findtrack", "torch", "transformers"}
    for option, path in (("alpha-clip", official.alpha), ("sam2", official.sam2)):
        source = manifest["sources"][option]
        first = source["files"][0]
        assert (source["name"], first["name"]) == (path.name, path.name)
        assert first["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert first["bytes"] == path.stat().st_size
    for name, part in manifest["components"].items():
        own = [t for k, t in tensors.items() if k.startswith(f"{name}.")]
        assert (part["tensors"], part["parameters"]) == (len(own), sum(t.numel() for t in own))
    assert "memory_encoder" in " ".join(manifest["components"]["finder"]["left_out"])
    assert manifest["components"]["tracker"]["left_out"] == []
    card = (assembled / "README.md").read_text()
    assert "| `alpha-clip` | aligner, image tower | alpha.pth | research use only" in card
    assert card.startswith("---\nlicense: other\n")
    for name in CODE_FREE:  # nothing of this machine, the folder may be published
        assert str(official.evf.parent) not in (assembled / name).read_text()


def test_no_code_of_others_in_the_folder(official, tokenizers, golden_dir, tmp_path):
    """Who loads it with trust_remote_code trusts ours alone."""
    evil = {"auto_map": {"AutoTokenizer": ["evil/repo--tok.Evil"] * 2, "AutoModel": "evil/x--y.Z"}}
    evf, clip = (shutil.copytree(getattr(official, n), tmp_path / n) for n in ("evf", "clip"))
    (evf / "sentencepiece.bpe.model").unlink()
    rows = evf_tensors(golden_dir)["mm_extractor.beit3.text_embed.weight"].shape[0]
    assert len(tokenizers[0]) <= rows
    for folder, tokenizer in ((evf, tokenizers[0]), (clip, tokenizers[1])):
        tokenizer.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        more = evil | {"chat_template": "{{ 1 }}"}
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    config = evf_config(golden_dir)
    config |= evil | {"beit3_config": config["beit3_config"] | evil}
    (evf / "config.json").write_text(json.dumps(config))
    (clip / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": evil}))
    assert run(official, tmp_path / "out", evf_sam=evf, clip=clip) == 0
    for path in (tmp_path / "out").rglob("*"):
        if path.suffix in (".json", ".jinja", ".md", ".py") and path.name != "tokenizer.json":
            assert "evil" not in path.read_text().lower(), path
            assert "{{ 1 }}" not in path.read_text(), path
    saved = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert saved["auto_map"] == {"AutoProcessor": "processing_findtrack.FindTrackProcessor"}


def test_the_same_files_give_the_same_folder(assembled, official, tmp_path):
    assert run(official, tmp_path / "again") == 0
    for name in ("model.safetensors", MANIFEST, "config.json", "README.md", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (assembled / name).read_bytes()


def test_an_earlier_folder_is_replaced_but_nothing_else(assembled, official, tmp_path, capsys):
    out = Path(shutil.copytree(assembled, tmp_path / "out"))
    (out / "model.safetensors.index.json").write_text("{}")
    (out / "diary.txt").write_text("dear diary")
    assert run(official, out) == 0
    assert (out / "diary.txt").exists() and not (out / "model.safetensors.index.json").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("mine")
    assert run(official, other) == 2
    capsys.readouterr()
    assert run(official, other, "--overwrite") == 2
    assert "README.md is there already" in reported(capsys)[0]
    assert os.listdir(other) == ["README.md"]


def test_the_manifest_goes_along(assembled, tmp_path):
    assert cli.main(["hub-folder", str(assembled), "--out", str(tmp_path / "hub")]) == 0
    for name in (MANIFEST, "README.md", "model.safetensors"):
        assert (tmp_path / "hub" / name).exists()
    assert manifest_of(tmp_path / "hub") == manifest_of(assembled)


def test_number_formats(official, golden_dir, tmp_path):
    assert run(official, tmp_path / "out", "--dtype", "bfloat16") == 0
    tensors = stored(tmp_path / "out")
    kinds = {name: tensor.dtype for name, tensor in tensors.items()}
    assert kinds["finder.beit3.text_embed.weight"] == torch.bfloat16
    matrix = "tracker.sam2.shared_image_embedding.positional_embedding"
    assert kinds[matrix] == torch.float32, "positions are no parameters"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    embedding = evf_tensors(golden_dir)["mm_extractor.beit3.text_embed.weight"]
    assert torch.equal(tensors["finder.beit3.text_embed.weight"], embedding.bfloat16())
    model, _ = cli.load_model(str(tmp_path / "out"), dtype="auto")
    assert model.dtype == torch.float32
    assert manifest_of(tmp_path / "out")["components"]["aligner"]["dtypes"] == ["bfloat16"]


def test_a_finder_in_half_precision_can_share_a_full_one(official, golden_dir, tmp_path):
    half = {k: v.half() for k, v in evf_tensors(golden_dir).items()}
    evf = Path(shutil.copytree(official.evf, tmp_path / "evf"))
    save_file(half, evf / "model.safetensors")
    assert run(official, tmp_path / "out", evf_sam=evf) == 0
    manifest = manifest_of(tmp_path / "out")
    assert manifest["image_encoder"].endswith("are equal once both are rounded to float16")
    tensors = stored(tmp_path / "out")
    assert tensors["finder.beit3.text_embed.weight"].dtype == torch.float16  # as it was
    check_tracker(cli.load_model(str(tmp_path / "out"))[0], golden_dir)


def test_the_wider_of_two_equal_encoders_is_kept(official, golden_dir, tmp_path):
    half = {k: v.half() for k, v in sam2_tensors(golden_dir).items()}
    torch.save({"model": half}, tmp_path / "half.pt")
    shutil.copy(official.sam2.with_suffix(".yaml"), tmp_path / "half.yaml")
    assert run(official, tmp_path / "out", sam2=tmp_path / "half.pt") == 0
    tensors, manifest = stored(tmp_path / "out"), manifest_of(tmp_path / "out")
    assert manifest["share_vision_encoder"] is True
    name = "blocks.3.attn.qkv.weight"
    kept = tensors[f"tracker.sam2.vision_encoder.backbone.{name}"]
    whole = evf_tensors(golden_dir)[f"visual_model.image_encoder.trunk.{name}"]
    assert torch.equal(kept, whole) and not torch.equal(whole, whole.half().float())
    assert tensors["tracker.sam2.no_memory_embedding"].dtype == torch.float16
    left_out = {n: set(manifest["components"][n]["left_out"]) for n in ("finder", "tracker")}
    assert f"image_encoder.trunk.{name}" in left_out["tracker"]
    assert f"visual_model.image_encoder.trunk.{name}" not in left_out["finder"]
    check_sam2_finder(cli.load_model(str(tmp_path / "out"))[0], golden_dir)


def test_numbers_too_large_for_the_format(official, golden_dir, tmp_path, capsys):
    tensors = evf_tensors(golden_dir)
    tensors["text_hidden_fcs.0.2.bias"][3] = 1e5
    evf = Path(shutil.copytree(official.evf, tmp_path / "evf"))
    save_file(tensors, evf / "model.safetensors")
    assert run(official, tmp_path / "out", "--dtype", "float16", evf_sam=evf) == 2
    assert "finder.text_projection.2.bias: has numbers too large for float16" in reported(capsys)[0]
    assert os.listdir(tmp_path) == ["evf"]


def test_shards(official, golden_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "MAX_SHARD_BYTES", 5 * 10**6)
    assert run(official, tmp_path / "out") == 0
    files = sorted(p.name for p in (tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 2 and (tmp_path / "out" / "model.safetensors.index.json").exists()
    check_tracker(cli.load_model(str(tmp_path / "out"))[0], golden_dir)


# ---- what does not fit ---------------------------------------------------------------------------


def broken_evf(official, golden_dir, folder: Path, change) -> Path:
    tensors = evf_tensors(golden_dir)
    change(tensors)
    evf = Path(shutil.copytree(official.evf, folder / "evf"))
    save_file(tensors, evf / "model.safetensors")
    return evf


def test_tensors_that_do_not_fit_are_listed(official, golden_dir, tmp_path, capsys):
    def change(tensors):
        tensors["visual_model.sam_mask_decoder.conv_s7.weight"] = torch.zeros(1)
        tensors["lm_head.weight"] = torch.zeros(1)
        del tensors["text_hidden_fcs.0.2.bias"]
        del tensors["mm_extractor.beit3.encoder.layers.1.ffn.B.fc2.weight"]
        tensors["visual_model.no_mem_embed"] = torch.zeros(1, 1, 7)

    evf = broken_evf(official, golden_dir, tmp_path, change)
    assert run(official, tmp_path / "out", evf_sam=evf) == 2
    first, *lines = reported(capsys, 6)
    summary = "not the tensors of EVF-SAM2: 2 unknown, 2 missing, 1 of another shape"
    assert f"{evf}: {summary}; give a complete checkpoint" in first
    assert lines == [
        "unknown: lm_head.weight",
        "unknown: visual_model.sam_mask_decoder.conv_s7.weight",
        "missing: finder.beit3.encoder.layers.1.ffn.B.fc2.weight",
        "missing: finder.text_projection.2.bias",
        "shape: visual_model.no_mem_embed gives finder.sam.no_memory_embedding [1, 1, 7], the "
        "model has [1, 1, 128]",
    ]
    assert os.listdir(tmp_path) == ["evf"]


@pytest.mark.parametrize("role", ["alpha", "clip", "sam2"])
def test_every_component_is_checked(role, official, golden_dir, tmp_path, capsys):
    make = {"alpha": alpha_tensors, "clip": clip_tensors, "sam2": sam2_tensors}[role]
    tensors = make(golden_dir)
    tensors["surprise.weight"] = torch.zeros(1)
    gone = {
        "alpha": (
            "transformer.resblocks.1.mlp.c_proj.bias",
            "vision_model.encoder.layers.1.mlp.fc2",
        ),
        "clip": ("transformer.resblocks.1.mlp.c_proj.bias", "text_model.encoder.layers.1.mlp.fc2"),
        "sam2": ("memory_attention.norm.bias", "tracker.sam2.memory_attention.layer_norm"),
    }[role]
    del tensors[gone[0]]
    path = tmp_path / "x.pth"
    torch.save(tensors, path)
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(sam2_yaml(golden_dir)))
    option = {"alpha": "alpha_clip"}.get(role, role)
    more = {"clip_tokenizer": official.clip} if role == "clip" else {}
    assert run(official, tmp_path / "out", **{option: path}, **more) == 2
    first, unknown, missing = reported(capsys, 3)
    assert str(path) in first and "1 unknown, 1 missing" in first
    assert unknown.endswith("surprise.weight") and f"{gone[1]}.bias" in missing
    assert not (tmp_path / "out").exists()


def test_tensors_beside_and_within_a_state_dict(official, golden_dir, tmp_path, capsys):
    tensors = sam2_tensors(golden_dir)
    twice = {"module.no_mem_embed": tensors["no_mem_embed"] + 1}
    folder = Path(shutil.copytree(official.sam2.parent, tmp_path / "sam2"))
    path = folder / official.sam2.name
    moments = {"state": {0: {"exp_avg": torch.zeros(2)}}}
    strange = {"extra": torch.zeros(3), "teacher": {"w": torch.zeros(1)}}
    torch.save({"model": tensors | {"deep": [torch.zeros(1)]}, **strange}, path)
    assert run(official, tmp_path / "out", sam2=folder) == 2
    first, *lines = reported(capsys, 4)
    assert "3 unknown" in first
    assert lines == ["unknown: deep.0", "unknown: extra", "unknown: teacher.w"]
    torch.save({"model": tensors | twice}, path)
    assert run(official, tmp_path / "out", sam2=folder) == 2
    assert "no_mem_embed and another tensor both become no_mem_embed" in reported(capsys)[0]
    assert os.listdir(tmp_path) == ["sam2"]
    torch.save({"model": tensors, "optimizer": moments, "ema": tensors, "epoch": 3}, path)
    assert run(official, tmp_path / "out", sam2=folder) == 0
    assert manifest_of(tmp_path / "out")["components"]["tracker"]["left_out"] == [
        "ema",
        "optimizer",
    ]


@pytest.mark.parametrize("option", ["evf_sam", "alpha_clip", "clip"])
def test_a_tensor_with_and_without_a_prefix(option, official, golden_dir, tmp_path, capsys):
    make = {"evf_sam": evf_tensors, "alpha_clip": alpha_tensors, "clip": clip_tensors}[option]
    tensors = make(golden_dir)
    name = sorted(tensors)[-1]
    prefix = "visual." if option == "alpha_clip" else "module."
    torch.save(tensors | {f"{prefix}{name}": tensors[name] + 1}, tmp_path / "x.pth")
    (tmp_path / "x.json").write_text(json.dumps(evf_config(golden_dir)))
    words = {"tokenizer": official.evf, "clip_tokenizer": official.clip}
    assert run(official, tmp_path / "out", **{option: tmp_path / "x.pth"}, **words) == 2
    assert f"{prefix}{name} and another tensor both become {name}" in reported(capsys)[0]


@pytest.mark.parametrize("heads", ["four", 5, 0])
def test_a_config_with_impossible_heads(heads, official, golden_dir, tmp_path, capsys):
    evf = Path(shutil.copytree(official.evf, tmp_path / "evf"))
    config = evf_config(golden_dir) | {"beit3_config": {"num_attention_heads": heads}}
    (evf / "config.json").write_text(json.dumps(config))
    assert run(official, tmp_path / "out", evf_sam=evf) == 2
    assert f"beit3_config.num_attention_heads is {heads!r}" in reported(capsys)[0]
    assert os.listdir(tmp_path) == ["evf"]


@pytest.mark.parametrize(
    "word, value", [("image_size", "large"), ("num_maskmem", 1.5), ("image_encoder", {"trunk": 3})]
)
def test_a_config_that_makes_no_model(word, value, official, golden_dir, tmp_path, capsys):
    folder = Path(shutil.copytree(official.sam2.parent, tmp_path / "sam2"))
    settings = sam2_yaml(golden_dir, **{word: value})
    (folder / "sam2_hiera_toy.yaml").write_text(yaml.safe_dump(settings))
    assert run(official, tmp_path / "out", sam2=folder) == 2
    assert reported(capsys)[0]
    assert os.listdir(tmp_path) == ["sam2"]


def test_a_config_that_transformers_cannot_express(official, golden_dir, tmp_path, capsys):
    folder = Path(shutil.copytree(official.sam2.parent, tmp_path / "sam2"))
    settings = sam2_yaml(golden_dir, soft_no_obj_ptr=True)
    (folder / "sam2_hiera_toy.yaml").write_text(yaml.safe_dump(settings))
    assert run(official, tmp_path / "out", sam2=folder / "sam2_hiera_toy.pt") == 2
    assert "soft_no_obj_ptr: True, which transformers' SAM 2 cannot do" in reported(capsys)[0]
    (folder / "sam2_hiera_toy.yaml").unlink()
    assert run(official, tmp_path / "out", sam2=folder) == 2
    assert "none of the published four" in reported(capsys)[0]
    assert os.listdir(tmp_path) == ["sam2"]


def test_a_yaml_of_another_size(official, golden_dir, tmp_path, capsys):
    folder = Path(shutil.copytree(official.sam2.parent, tmp_path / "sam2"))
    settings = sam2_yaml(golden_dir)
    settings["model"]["image_encoder"]["trunk"]["stages"] = [1, 2, 7, 2]
    (folder / "sam2_hiera_toy.yaml").rename(folder / "another.yaml")
    (folder / "another.yaml").write_text(yaml.safe_dump(settings))
    assert run(official, tmp_path / "out", sam2=folder) == 2
    assert f"{folder / 'another.yaml'}: of another SAM 2" in reported(capsys)[0]
    (folder / "third.yaml").write_text(yaml.safe_dump(sam2_yaml(golden_dir, soft_no_obj_ptr=True)))
    assert run(official, tmp_path / "out", sam2=folder / official.sam2.name) == 2
    first, *names = reported(capsys, 3)
    assert "2 YAML files beside it, none with its name; name the one" in first
    assert names == ["another.yaml", "third.yaml"]


@pytest.mark.parametrize(
    "network, message",
    [
        ({"pixel_encoder": "resnet50"}, "pixel_encoder is 'resnet50', no section"),
        ({"pixel_encoder": {"type": "vgg"}}, "make no model (NotImplementedError"),
        ({"object_transformer": {"num_heads": 3}}, "make no model (AssertionError"),
    ],
)
def test_a_cutie_that_cannot_be(network, message, paper, tmp_path, capsys):
    official, cutie = paper
    shutil.copy(cutie, tmp_path / "x.pth")
    (tmp_path / "x.json").write_text(json.dumps({"network": network}))
    options = {"preset": "paper", "sam2": None, "cutie": tmp_path / "x.pth"}
    assert run(official, tmp_path / "out", **options) == 2
    (line,) = reported(capsys)
    assert message in line and str(tmp_path / "x.pth") in line


@pytest.mark.parametrize("damage", ["directory", "data"])
def test_a_damaged_archive(damage, official, golden_dir, tmp_path, capsys):
    """The first shows on opening, the second when the tensor is written."""
    path = tmp_path / "x.pt"
    if damage == "directory":
        data = bytearray(official.alpha.read_bytes())
        data[data.rfind(b"PK\x01\x02")] = 0
        changed = {"alpha_clip": path}
    else:
        with pytest.warns():
            torch.jit.script(as_program(clip_tensors(golden_dir))).save(str(path))
        data = bytearray(path.read_bytes())
        embedding = clip_tensors(golden_dir)["token_embedding.weight"].numpy().tobytes()
        data[data.find(embedding) + 1000] ^= 0xFF
        changed = {"clip": path, "clip_tokenizer": official.clip}
    path.write_bytes(data)
    assert run(official, tmp_path / "out", **changed) == 2
    assert f"{path}: damaged, or no checkpoint (BadZipFile" in reported(capsys)[0]
    assert os.listdir(tmp_path) == ["x.pt"]


def test_other_kinds_of_checkpoints(official, tmp_path, capsys):
    for changed, message in (
        ({"evf_sam": official.sam2, "tokenizer": official.evf}, "no EVF-SAM checkpoint"),
        ({"alpha_clip": official.clip}, "no image tower of Alpha-CLIP"),
        ({"sam2": official.alpha}, "dimensions are read"),
        ({"clip": tmp_path / "none"}, "no such file or folder"),
    ):
        assert run(official, tmp_path / "out", **changed) == 2
        lines = capsys.readouterr().err.splitlines()
        assert message in lines[0] and "Traceback" not in "".join(lines)
    assert os.listdir(tmp_path) == []


class Offline:
    """Stands in for what asks the network."""

    def __getattr__(self, name):
        def refuse(*_, **__):
            raise OSError("network is unreachable")

        return refuse


def test_a_tokenizer_has_to_come_from_somewhere(official, tmp_path, capsys, monkeypatch):
    alone = tmp_path / "ViT.pt"
    shutil.copy(official.clip / "ViT-tiny.pt", alone)
    assert run(official, tmp_path / "out", clip=alone, clip_tokenizer=tmp_path) == 2
    assert "say where it is with --clip-tokenizer" in reported(capsys)[0]
    monkeypatch.setattr(published_source, "HfApi", Offline)
    assert run(official, tmp_path / "out", clip=alone) == 2
    (line,) = reported(capsys)
    assert f"{alone}: no tokenizer beside it" in line and "--clip-tokenizer" in line
    assert run(official, tmp_path / "out", clip=alone, clip_tokenizer=official.clip) == 0


def test_a_full_disk_is_told_before_writing(official, tmp_path, capsys, monkeypatch):
    usage = shutil._ntuple_diskusage(total=10**9, used=10**9 - 5, free=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert run(official, tmp_path / "out") == 2
    assert "make room or choose another --out" in reported(capsys)[0]
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_under_way(official, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_writer, "_write_data", full)
    assert run(official, tmp_path / "out") == 2
    (line,) = reported(capsys)
    assert f"{tmp_path / 'out'}.partial-" in line and "(No space left on device); make room" in line
    assert os.listdir(tmp_path) == []


def test_out_is_needed_and_has_to_be_free(official, tmp_path, capsys):
    assert cli.main(["assemble", "--preset", "sam2", *official.options()]) == 2
    assert "--out DIR" in reported(capsys)[0]
    (tmp_path / "diary.txt").write_text("dear diary")
    assert run(official, tmp_path) == 2
    assert "holds other files" in reported(capsys)[0]
    assert os.listdir(tmp_path) == ["diary.txt"]


# ---- interruption, memory, what is printed -------------------------------------------------------


def test_an_interrupt_leaves_nothing(official, tmp_path, monkeypatch, capsys):
    write = safetensors_writer._write_data
    written = []

    def stop(file, name, tensor: LazyTensor):
        write(file, name, tensor)
        written.append(name)
        if len(written) == 50:
            raise KeyboardInterrupt

    monkeypatch.setattr(safetensors_writer, "_write_data", stop)
    assert run(official, tmp_path / "deep" / "out") == 130
    assert capsys.readouterr().err == "findtrack: interrupted, nothing was written\n"
    assert os.listdir(tmp_path) == []


SLOW = """
import sys, time
from modeling_findtrack import cli, safetensors_writer

write = safetensors_writer._write_data
def slowly(file, name, tensor):
    print("writing", flush=True)
    time.sleep(0.5)
    write(file, name, tensor)
safetensors_writer._write_data = slowly
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_terminated_process_leaves_nothing(official, tmp_path):
    command = ["assemble", "--preset", "sam2", "--out", str(tmp_path / "out"), *official.options()]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *command],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "writing\n" in iter(process.stdout.readline, "")
    assert os.listdir(tmp_path)  # it is at it
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "nothing was written" in err
    assert os.listdir(tmp_path) == []


def test_dry_run(official, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["assemble", "--preset", "sam2", "--dry-run", *official.options()]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert "sam2_hiera_toy.pt" in rows["sam2"] and "Apache-2.0" in rows["sam2"]
    size = official.alpha.stat().st_size
    assert f"{size / 1e3:.1f} kB" in rows["alpha-clip"] and "research use" in rows["alpha-clip"]
    assert "model.safetensors, config.json, sentencepiece.bpe.model" in rows["evf-sam"]
    assert "to fetch: nothing, all is here" in text
    assert cli.main([*command, "--cutie", "x"]) == 2
    assert "--cutie: not a part of preset sam2" in reported(capsys)[0]
    assert cli.main(["assemble", "--preset", "sam2", "--dry-run", "--clip", "no-such"]) == 2
    assert "no-such: no such file or folder" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_dry_run_says_what_to_install(official, paper, capsys, monkeypatch):
    monkeypatch.setattr(cutie_parts, "CUTIE", None)
    monkeypatch.setattr(published_tokenizers, "_is_installed", lambda _: False)
    options = paper[0].options(sam2=None, cutie=paper[1])
    assert cli.main(["assemble", "--preset", "paper", "--dry-run", *options]) == 0
    text = capsys.readouterr().out
    for extra in ("cutie", "assemble"):
        assert f'pip install "findtrack[{extra}]"' in text
    assert cli.main(["assemble", "--preset", "sam2", "--dry-run", *official.options()]) == 0
    assert "findtrack[cutie]" not in capsys.readouterr().out


def test_dry_run_without_a_network(capsys, monkeypatch):
    monkeypatch.setattr(published_source, "HfApi", Offline)
    monkeypatch.setattr(published_source, "_https_only", Offline)
    for preset, tracker in (
        ("sam2", "facebook/sam2-hiera-large"),
        ("paper", "cutie-base-mega.pth"),
    ):
        assert cli.main(["assemble", "--preset", preset, "--dry-run"]) == 0
        text = capsys.readouterr().out
        assert tracker in text and "openai/clip-vit-large-patch14-336" in text
        assert "research use only" in text and "4 of unknown size" in text


def test_the_help_names_every_option(capsys):
    assert cli.main(["assemble", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in ("evf-sam", "alpha-clip", "clip", "sam2", "cutie", "dry-run", "dtype"):
        assert f"--{option} " in text
    assert "default: YxZhang/evf-sam2-multitask or YxZhang/evf-sam-multitask" in text.replace(
        "- ", "-"
    )


MEMORY = """
import json, resource, sys
from modeling_findtrack import cli

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

small, large = json.loads(sys.argv[1])
assert cli.main(small) == 0  # loads everything that is loaded once
before = peak()
assert cli.main(large) == 0
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is another elsewhere")
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_memory_does_not_grow_with_the_model(kind, official, golden_dir, tmp_path):
    """At most what is read between two openings of a file, far below 1.3 times the output."""
    from modeling_findtrack.beit3 import Beit3Model
    from modeling_findtrack.configuration_findtrack import Beit3Config

    visual = {k: v for k, v in evf_tensors(golden_dir).items() if k.startswith("visual_model.")}
    beit3 = Beit3Model(
        Beit3Config(
            vocab_size=100, hidden_size=512, num_hidden_layers=8, num_attention_heads=8,
            intermediate_size=2048, image_size=32, max_text_positions=64,
        )
    )  # fmt: skip
    tensors = visual | {f"mm_extractor.beit3.{k}": v for k, v in beit3.state_dict().items()}
    for i, (rows, columns) in {0: (512, 512), 2: (128, 512)}.items():
        tensors |= {
            f"text_hidden_fcs.0.{i}.weight": torch.randn(rows, columns),
            f"text_hidden_fcs.0.{i}.bias": torch.randn(rows),
        }
    evf = tmp_path / "evf"
    evf.mkdir()
    (save_file if kind == "safetensors" else torch.save)(tensors, evf / f"evf.{kind}")
    config = evf_config(golden_dir)
    del config["beit3_config"]  # heads of 64 channels are the rule
    (evf / "config.json").write_text(json.dumps(config))
    shutil.copy(official.evf / "sentencepiece.bpe.model", evf)
    commands = [
        ["assemble", "--preset", "sam2", "--quiet", "--out", str(tmp_path / name), *options]
        for name, options in (("a", official.options()), ("b", official.options(evf_sam=evf)))
    ]
    process = subprocess.run(
        [sys.executable, "-c", MEMORY, json.dumps(commands)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    size = (tmp_path / "b" / "model.safetensors").stat().st_size
    assert size > 200e6
    assert int(process.stdout.splitlines()[-1]) < 0.6 * size
