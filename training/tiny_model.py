"""`findtrack-tiny`: its configuration, its word-level tokenizers and its initialisation."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import CLIPConfig, PreTrainedTokenizerFast, Sam2Config, Sam2VideoConfig

from modeling_findtrack import FindTrackModel, FindTrackProcessor
from modeling_findtrack.configuration_findtrack import Beit3Config, FinderConfig, FindTrackConfig
from modeling_findtrack.hub_folder import save_weights

from .expressions import vocabulary
from .folders import complete_folder

IMAGE_SIZE = 192  # S of finder and tracker: mask logits 48 x 48, embedding 12 x 12
BEIT3_SIZE = 128  # 64 image tokens
ALIGNER_SIZE = 96
WIDTH = 128  # of FPN, decoder and memory attention; SAM 2 needs a multiple of 64 above 64
BACKBONE_WIDTHS = [48, 96, 128, 160]
STEM_WIDTHS = [48, 96, 160]
ZERO_IN_TRANSFORMERS = (
    "memory_temporal_positional_encoding",
    "no_memory_embedding",
    "no_object_pointer",
)


def vision_config() -> dict:
    """SAM 2's neck over the convolutional backbone; the Hiera below is built and thrown away."""
    side = IMAGE_SIZE // 4
    return {
        "model_type": "sam2_vision_model",
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "image_size": [IMAGE_SIZE, IMAGE_SIZE],
            "hidden_size": 8,
            "embed_dim_per_stage": [8, 8, 8, 8],
            "num_attention_heads_per_stage": [1, 1, 1, 1],
            "blocks_per_stage": [1, 1, 1, 1],
            "window_size_per_stage": [8, 4, 4, 4],
            "global_attention_blocks": [3],
        },
        "backbone_channel_list": BACKBONE_WIDTHS[::-1],
        "backbone_feature_sizes": [[side, side], [side // 2, side // 2], [side // 4, side // 4]],
        "fpn_hidden_size": WIDTH,
    }


def decoder_configs() -> dict:
    """Prompt encoder and mask decoder, the same for finder and tracker."""
    return {
        "prompt_encoder_config": {
            "hidden_size": WIDTH,
            "image_size": IMAGE_SIZE,
            "patch_size": 16,
            "mask_input_channels": 16,
        },
        "mask_decoder_config": {
            "hidden_size": WIDTH,
            "mlp_dim": 256,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": WIDTH,
            # Falls back to the three multimask tokens, which this recipe does not train.
            "dynamic_multimask_via_stability": False,
        },
    }


def tracker_config() -> Sam2VideoConfig:
    """SAM 2.1 with a memory attention of two layers."""
    return Sam2VideoConfig(
        vision_config=vision_config(),
        **decoder_configs(),
        image_size=IMAGE_SIZE,
        multimask_output_in_sam=False,
        multimask_output_for_tracking=False,
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=256,
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
        memory_attention_rope_feat_sizes=[IMAGE_SIZE // 16, IMAGE_SIZE // 16],
        memory_encoder_hidden_size=WIDTH,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=256,
        memory_fuser_num_layers=1,
        memory_fuser_layer_scale_init_value=0.1,
    )


def finder_config(vocab_size: int) -> FinderConfig:
    """EVF-SAM2 with both departures that make it trainable on a CPU."""
    return FinderConfig(
        beit3_config=Beit3Config(
            vocab_size=vocab_size,
            hidden_size=160,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=480,
            image_size=BEIT3_SIZE,
            max_text_positions=64,
            conv_stem_widths=STEM_WIDTHS,
        ),
        sam_config=Sam2Config(vision_config=vision_config(), **decoder_configs()),
        multimask_output=False,
        grounding_prompt=True,
        presence_head=True,
    )


def aligner_config(vocab_size: int) -> CLIPConfig:
    """A small CLIP; Alpha-CLIP adds the alpha channel."""
    return CLIPConfig(
        projection_dim=128,
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
            "bos_token_id": 1,
            "eos_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 160,
            "intermediate_size": 480,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": ALIGNER_SIZE,
            "patch_size": 8,
        },
    )


def tiny_config(vocab_size: int, aligner_vocab_size: int) -> FindTrackConfig:
    """The whole of `findtrack-tiny`."""
    return FindTrackConfig(
        finder_config=finder_config(vocab_size),
        aligner_config=aligner_config(aligner_vocab_size),
        tracker_config=tracker_config(),
        share_vision_encoder=True,
        conv_backbone_widths=BACKBONE_WIDTHS,
        # Chosen on a generated split (seed 77, 160 clips of 6 to 10 frames): there 87 % of the
        # sentences without a target are answered "not found", and 2 % of the others; at 0.5 it is
        # 82 % and 2 %, at 0.9 95 % and 5 %, which costs more J&F than it is worth.
        presence_threshold=0.7,
    )


def word_tokenizer(words: Sequence[str], specials: dict[str, str], limit: int):
    """Whole words, lower-cased, punctuation dropped; what is not in `words` becomes unknown.

    Args:
        words: The vocabulary, in the order of their ids.
        specials: Role -> token, in the order of their ids, which come first.
        limit: Most tokens of one expression; longer ones are cut.
    """
    vocabulary = {token: i for i, token in enumerate([*specials.values(), *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=specials["unk_token"]))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]"), " ")]
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    begin, end = specials["bos_token"], specials["eos_token"]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=limit, padding_side="right", **specials
    )


def tokenizers(words: Sequence[str]):
    """The finder's tokenizer (XLM-R's order of specials) and the aligner's."""
    finder = word_tokenizer(
        words,
        {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        limit=62,
    )
    # No special token may be number 2 and end of text: CLIP takes that for an old checkpoint.
    aligner = word_tokenizer(
        words,
        {
            "pad_token": "<|pad|>",
            "bos_token": "<|startoftext|>",
            "unk_token": "<|unknown|>",
            "eos_token": "<|endoftext|>",
        },
        limit=32,
    )
    return finder, aligner


def build_processor(words: Sequence[str]) -> FindTrackProcessor:
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


def write_start(folder: Path, bank, seed: int) -> None:
    """Write an untrained `findtrack-tiny`, the checkpoint that the first stages start from.

    Args:
        folder: Appears when it is complete.
        bank: The `SpriteBank` whose nouns its vocabulary holds.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    processor = build_processor(vocabulary(bank))
    model = FindTrackModel(tiny_config(len(processor.tokenizer), len(processor.clip_tokenizer)))
    initialise(model)
    with torch.no_grad():
        # transformers draws two random matrices where SAM 2 has one.
        for sam in (model.finder.sam, model.tracker.sam2):
            matrix = sam.shared_image_embedding.positional_embedding
            sam.prompt_encoder.shared_embedding.positional_embedding.copy_(matrix)
        # The alpha channel must say something from the first step on.
        alpha = model.aligner.vision_model.embeddings.patch_embedding_alpha
        nn.init.kaiming_normal_(alpha.weight)
    with complete_folder(folder, lambda f: (f / "config.json").is_file()) as part:
        save_weights(model, processor, model.state_dict(), part)


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Initialise to train from scratch: transformers' N(0, 0.02) is too small for this width."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
        elif isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            # 1x1 convolutions project without an activation behind them.
            gain = "linear" if part.kernel_size == (1, 1) else "relu"
            nn.init.kaiming_normal_(part.weight, nonlinearity=gain)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.5 if "position" not in name else 0.3)
        if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and part.bias is not None:
            nn.init.zeros_(part.bias)
    for name, parameter in module.named_parameters():
        if name.endswith(("cls_token", "class_embedding")):
            nn.init.normal_(parameter, std=0.5)
        elif name.endswith(ZERO_IN_TRANSFORMERS):
            nn.init.trunc_normal_(parameter, std=0.02)
