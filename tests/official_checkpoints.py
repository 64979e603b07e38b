"""Small checkpoints in the formats in which the full-size components are published.

Weights are those of the golden sets where these have them, so that an assembled model can be
compared with what the official code computed.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from tests.conftest import CORPUS

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Official:
    """Folders and files to assemble from."""

    evf: Path  # EVF-SAM2: folder with model.safetensors, config.json, sentencepiece.bpe.model
    alpha: Path  # Alpha-CLIP's image tower: .pth
    clip: Path  # OpenAI's names: folder with a .pt, vocab.json, merges.txt
    sam2: Path  # official SAM 2: .pt with "model", beside a .yaml

    def options(self, **changed) -> list[str]:
        """Of `findtrack assemble`; `changed` are others than these files, None leaves one out."""
        paths = {
            "evf-sam": self.evf,
            "alpha-clip": self.alpha,
            "clip": self.clip,
            "sam2": self.sam2,
            **{name.replace("_", "-"): path for name, path in changed.items()},
        }
        given = {name: path for name, path in paths.items() if path is not None}
        return [word for name, path in given.items() for word in (f"--{name}", str(path))]


def golden_weights(golden_dir, name: str) -> Tensors:
    return load_file(golden_dir(name) / "weights.safetensors")


def golden_dims(golden_dir, name: str) -> dict:
    return json.loads((golden_dir(name) / "config.json").read_text())


def evf_tensors(golden_dir, visual: str = "sam2_tiny") -> Tensors:
    """EVF-SAM2 ("sam2_tiny") or EVF-SAM ("sam_tiny"): golden networks, a random projection."""
    tensors = golden_weights(golden_dir, "beit3_tiny")
    tensors |= golden_weights(golden_dir, visual)
    prompt = tensors[
        f"visual_model.{'sam_' * (visual == 'sam2_tiny')}mask_decoder.iou_token.weight"
    ]
    generator = torch.Generator().manual_seed(5)
    width = tensors["text_hidden_fcs.0.0.weight"].shape[0]
    tensors["text_hidden_fcs.0.2.weight"] = torch.randn(prompt.shape[1], width, generator=generator)
    tensors["text_hidden_fcs.0.2.bias"] = torch.randn(prompt.shape[1], generator=generator)
    return tensors


def sam2_tensors(golden_dir) -> Tensors:
    """The golden SAM 2 under the names of facebookresearch/sam2."""
    return {
        official_sam2_name(k.removeprefix("visual_model.")): v
        for k, v in golden_weights(golden_dir, "sam2_tiny").items()
    }


def official_sam2_name(name: str) -> str:
    """EVF-SAM2 calls one parameter otherwise."""
    is_scale = name.startswith("memory_encoder.fuser.layers.") and name.endswith(".weight")
    return f"{name[:-7]}.gamma" if is_scale and name.count(".") == 4 else name


# As in every published YAML of SAM 2; where one is missing, the official code takes the opposite.
SAM2_SWITCHES = {
    "use_mask_input_as_output_without_sam": True,
    "directly_add_no_mem_embed": True,
    "use_high_res_features_in_sam": True,
    "iou_prediction_use_sigmoid": True,
    "use_obj_ptrs_in_encoder": True,
    "add_tpos_enc_to_obj_ptrs": False,
    "pred_obj_scores": True,
    "pred_obj_scores_mlp": True,
    "fixed_no_obj_ptr": True,
    "use_multimask_token_for_obj_ptr": True,
    "use_mlp_for_obj_ptr_proj": True,
}


def sam2_yaml(golden_dir, **changed) -> dict:
    """The golden SAM 2's config in the form of the official YAML."""
    dims = golden_dims(golden_dir, "sam2_tiny")
    trunk = {"_target_": "sam2.modeling.backbones.hieradet.Hiera", **dims["hiera"]}
    neck = {
        "d_model": dims["d_model"],
        "backbone_channel_list": dims["backbone_channel_list"],
        "fpn_top_down_levels": dims["fpn_top_down_levels"],
        "fpn_interp_model": "nearest",
    }
    model = {
        **SAM2_SWITCHES,
        "_target_": "sam2.modeling.sam2_base.SAM2Base",
        "image_encoder": {"scalp": 1, "trunk": trunk, "neck": neck},
        "num_maskmem": 7,
        "image_size": dims["image_size"],
        "sigmoid_scale_for_mem_enc": 20.0,
        "sigmoid_bias_for_mem_enc": -10.0,
        "multimask_output_in_sam": True,
        "multimask_output_for_tracking": True,
        "multimask_min_pt_num": 0,
        "multimask_max_pt_num": 1,
    }
    return {"model": model | changed}


def evf_config(golden_dir, visual: str = "sam2_tiny") -> dict:
    """What a config.json beside reduced weights has to say: what no shape tells."""
    heads = golden_dims(golden_dir, "beit3_tiny")["encoder_attention_heads"]
    sam = {"mask_decoder_config": {"num_attention_heads": 4}}
    if visual == "sam2_tiny":
        sam = sam2_yaml(golden_dir)["model"]
    return {"model_type": "evf", "sam_config": sam, "beit3_config": {"num_attention_heads": heads}}


def alpha_tensors(golden_dir) -> Tensors:
    """Alpha-CLIP's image tower as published: without a prefix."""
    tensors = golden_weights(golden_dir, "alphaclip_tiny")
    return {k.removeprefix("visual."): v for k, v in tensors.items() if k.startswith("visual.")}


def clip_tensors(golden_dir) -> Tensors:
    """OpenAI's CLIP: the golden text tower, an image tower without alpha, three numbers."""
    tensors = golden_weights(golden_dir, "alphaclip_tiny")
    tensors = {k: v for k, v in tensors.items() if k != "visual.conv1_alpha.weight"}
    numbers = {"input_resolution": 64, "context_length": 77, "vocab_size": 500}
    return tensors | {name: torch.tensor(number) for name, number in numbers.items()}


def write_sentencepiece(folder: Path, size: int = 70) -> Path:
    """A sentencepiece model of the kind that XLM-R has."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=model,
        vocab_size=size,
        model_type="unigram",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = folder / "sentencepiece.bpe.model"
    path.write_bytes(model.getvalue())
    return path


def write_clip_vocabulary(folder: Path) -> None:
    """vocab.json and merges.txt of a byte-pair encoding like CLIP's."""
    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.model.save(str(folder))


def write_official(folder: Path, golden_dir, visual: str = "sam2_tiny") -> Official:
    """All of preset "sam2", or with `visual` "sam_tiny" the finder and aligner of "paper"."""
    evf, clip, sam2 = (folder / name for name in ("evf", "clip", "sam2"))
    for path in (evf, clip, sam2):
        path.mkdir(parents=True)
    save_file(evf_tensors(golden_dir, visual), evf / "model.safetensors")
    (evf / "config.json").write_text(json.dumps(evf_config(golden_dir, visual)))
    write_sentencepiece(evf)
    torch.save(alpha_tensors(golden_dir), folder / "alpha.pth")
    torch.save(clip_tensors(golden_dir), clip / "ViT-tiny.pt")
    write_clip_vocabulary(clip)
    torch.save({"model": sam2_tensors(golden_dir)}, sam2 / "sam2_hiera_toy.pt")
    (sam2 / "sam2_hiera_toy.yaml").write_text(
        "# @package _global_\n" + yaml.safe_dump(sam2_yaml(golden_dir))
    )
    return Official(evf, folder / "alpha.pth", clip, sam2 / "sam2_hiera_toy.pt")
