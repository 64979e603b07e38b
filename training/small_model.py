"""`findtrack-small`: its configuration, its tokenizers, its start from ImageNet's weights."""

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import Sam2Config, Sam2VideoConfig

from modeling_findtrack import FindTrackModel, FindTrackProcessor
from modeling_findtrack.configuration_findtrack import Beit3Config, FinderConfig, FindTrackConfig
from modeling_findtrack.efficientnet_lite import LITE0, widths
from modeling_findtrack.hub_folder import save_weights

from .folders import complete_folder
from .lite_weights import LiteClassifier, read_classifier
from .photos.nouns import MEN, PEOPLE, ROLES, WOMEN, classes, nouns, plural
from .photos.sentences import joined, named, synonyms, words
from .tiny_model import initialise, tokenizers

FINDER_SIZE, TRACKER_SIZE = 320, 256  # in training
SHIPPED_SIZE, PRESENCE = 416, 0.85  # of the finder afterwards, chosen on the held-out pictures
WIDTH = 128  # of pyramids, decoders and memory attention
DIM = 256  # of words, and of BEiT-3
LITE_MEAN, LITE_STD = 127 / 255, 128 / 255
TINY = Path(__file__).resolve().parents[1] / "modeling_findtrack" / "tiny"
ALIGNER_SIZE = 32  # it has no aligner; the processor prepares for one nevertheless


def vision_config(size: int) -> dict:
    """SAM 2's neck over EfficientNet-Lite0; the Hiera below is built and thrown away."""
    side = size // 4
    return {
        "model_type": "sam2_vision_model",
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "image_size": [size, size],
            "hidden_size": 8,
            "embed_dim_per_stage": [8, 8, 8, 8],
            "num_attention_heads_per_stage": [1, 1, 1, 1],
            "blocks_per_stage": [1, 1, 1, 1],
            "window_size_per_stage": [8, 4, 4, 4],
            "global_attention_blocks": [3],
        },
        "backbone_channel_list": widths()[::-1],
        "backbone_feature_sizes": [[side, side], [side // 2, side // 2], [side // 4, side // 4]],
        "fpn_hidden_size": WIDTH,
        "fpn_top_down_levels": [0, 1, 2, 3],
    }


def decoder_configs(size: int) -> dict:
    """Prompt encoder and mask decoder."""
    return {
        "prompt_encoder_config": {
            "hidden_size": WIDTH,
            "image_size": size,
            "patch_size": 16,
            "mask_input_channels": 16,
        },
        "mask_decoder_config": {
            "hidden_size": WIDTH,
            "mlp_dim": 256,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": WIDTH,
            "dynamic_multimask_via_stability": False,
        },
    }


def small_config(vocab_size: int) -> FindTrackConfig:
    """The whole of `findtrack-small`."""
    tracker = Sam2VideoConfig(
        vision_config=vision_config(TRACKER_SIZE),
        **decoder_configs(TRACKER_SIZE),
        image_size=TRACKER_SIZE,
        multimask_output_in_sam=False,
        multimask_output_for_tracking=False,
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=256,
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
        memory_attention_rope_feat_sizes=[TRACKER_SIZE // 16, TRACKER_SIZE // 16],
        memory_encoder_hidden_size=WIDTH,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=256,
        memory_fuser_num_layers=1,
        memory_fuser_layer_scale_init_value=0.1,
    )
    finder = FinderConfig(
        beit3_config=Beit3Config(
            vocab_size=vocab_size,
            hidden_size=DIM,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=2 * DIM,
            image_size=FINDER_SIZE,
            patch_size=32,
            max_text_positions=64,
            tokens_from_backbone=True,
        ),
        sam_config=Sam2Config(
            vision_config=vision_config(FINDER_SIZE), **decoder_configs(FINDER_SIZE)
        ),
        multimask_output=False,
        grounding_prompt=True,
        presence_head=True,
        word_map=True,
    )
    return FindTrackConfig(
        finder_config=finder,
        tracker_config=tracker,
        aligner="none",
        share_vision_encoder=True,
        efficientnet_lite=[list(stage) for stage in LITE0],
    )


def at_size(model, processor, size: int):
    """The same model with frames of `size` pixels for the finder, a multiple of 32.

    Returns:
        A new model, the same processor.

    Raises:
        ValueError: No multiple of 32: the backbone's maps would not fit each other.
    """
    if size <= 0 or size % 32:
        raise ValueError(f"the finder's size is {size}, it must be a multiple of 32")
    config = copy.deepcopy(model.config)
    config.finder_config.sam_config.prompt_encoder_config.image_size = size
    processor.finder_size = size
    resized = FindTrackModel(config)
    resized.load_state_dict(model.state_dict())
    return resized.to(model.dtype).eval(), processor


def finished(model, processor):
    """As it ships: with the size and the threshold that were chosen on the withheld pictures."""
    model.config.presence_threshold = PRESENCE
    return at_size(model, processor, SHIPPED_SIZE)


def build_processor() -> FindTrackProcessor:
    """The processor of `findtrack-small`."""
    finder, aligner = tokenizers(words())
    return FindTrackProcessor(
        finder,
        aligner,
        finder_size=FINDER_SIZE,
        finder_mean=[LITE_MEAN] * 3,
        finder_std=[LITE_STD] * 3,
        tracker_size=TRACKER_SIZE,
        beit3_size=FINDER_SIZE,
        beit3_max_tokens=finder.model_max_length,
        aligner_size=ALIGNER_SIZE,
        aligner_geometry="squash",
        aligner_max_tokens=aligner.model_max_length,
        nouns=named(),
        synonyms=synonyms(),
    )


@torch.no_grad()
def write_start(folder: Path, pictures: np.ndarray, seed: int) -> None:
    """Write the checkpoint that training starts from.

    Args:
        folder: Appears when it is complete.
        pictures: (B, S, S, 3) uint8 RGB, by which scales are set.
        seed: Of what ImageNet's weights do not say.
    """
    torch.manual_seed(seed)
    processor = build_processor()
    model = FindTrackModel(small_config(len(processor.tokenizer)))
    initialise(model)
    classifier = read_classifier()
    backbone = model.tracker.sam2.vision_encoder.backbone
    backbone.load_state_dict(classifier.backbone.state_dict())
    maps = model.encode_maps(processor.finder_pixels(list(pictures)))
    for sam in (model.finder.sam, model.tracker.sam2):
        matrix = sam.shared_image_embedding.positional_embedding
        sam.prompt_encoder.shared_embedding.positional_embedding.copy_(matrix)
    _level(model.finder.pyramid.convs, maps[::-1])
    _start_words(model, processor, classifier, maps)
    _start_tracker(model, processor, pictures)
    _start_positions(model.finder.beit3)
    with complete_folder(folder, lambda f: (f / "config.json").is_file()) as part:
        save_weights(model, processor, model.state_dict(), part)


def _level(convs: nn.ModuleList, maps) -> None:
    """Scale the 1x1 convolutions of a pyramid so that each level starts at half of unit scale."""
    for conv, level in zip(convs, maps, strict=True):
        conv.weight /= 2 * conv(level.permute(0, 3, 1, 2)).std().clamp(min=1e-3)


def _start_tracker(model, processor, pictures: np.ndarray) -> None:
    """`findtrack-tiny`'s tracker, and a pyramid that makes of the new backbone's maps what its
    tracker knows, as well as a linear map can."""
    tiny = FindTrackModel.from_pretrained(TINY, dtype=torch.float32).eval()
    own, known = model.tracker.sam2, tiny.tracker.sam2
    weights = known.state_dict()
    encoder = [name for name in weights if name.startswith("vision_encoder.")]
    own.load_state_dict({n: t for n, t in weights.items() if n not in encoder}, strict=False)
    theirs = FindTrackProcessor.from_pretrained(TINY)
    size = (TRACKER_SIZE, TRACKER_SIZE)
    frames = [np.asarray(Image.fromarray(p).resize(size)) for p in pictures]
    theirs.tracker_size = TRACKER_SIZE
    wanted = tiny.encode(theirs.tracker_pixels(frames)).levels
    maps = model.encode_maps(processor.tracker_pixels(frames))
    maps = [m.permute(0, 3, 1, 2) for m in maps]
    convs = list(own.vision_encoder.neck.convs)  # coarsest first
    finer = F.interpolate(maps[3], scale_factor=2.0, mode="nearest")
    weight, bias = _ridge(torch.cat([finer, maps[2]], dim=1), wanted[2])
    split = finer.shape[1]
    for conv, part in zip(convs[:2], (weight[:, :split], weight[:, split:]), strict=True):
        conv.weight.copy_(part[:, :, None, None])
        nn.init.zeros_(conv.bias)
    convs[1].bias.copy_(bias)
    level = convs[1](maps[2]) + F.interpolate(convs[0](maps[3]), scale_factor=2.0)
    for conv, own_map, target in ((convs[2], maps[1], wanted[1]), (convs[3], maps[0], wanted[0])):
        above = F.interpolate(level, scale_factor=2.0, mode="nearest")
        weight, bias = _ridge(own_map, target - above)
        conv.weight.copy_(weight[:, :, None, None])
        conv.bias.copy_(bias)
        level = conv(own_map) + above


def _ridge(inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (D, C) and bias (D,) of the best linear map of (B, C, h, w) to (B, D, h, w)."""
    x = inputs.transpose(0, 1).flatten(1).T.double()
    y = targets.transpose(0, 1).flatten(1).T.double()
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram, x.T @ y).T
    return weight.float(), (y_mean - weight @ x_mean).float()


def _start_words(model, processor, classifier: LiteClassifier, maps) -> None:
    """Word embeddings and word map such that their product is the classifier's logit.

    The classifier's rows of a noun, averaged, span at most as many dimensions as there are nouns; a
    basis of that space projects rows and features alike, and so keeps their products.
    """
    word_map, table = model.finder.word_map, model.finder.beit3.text_embed.weight
    tokenizer = processor.tokenizer
    word_map.head.load_state_dict(classifier.head.state_dict())
    features = torch.relu(word_map.head(maps[-1].permute(0, 3, 1, 2))).clamp(max=6)
    mean = features.mean(dim=(0, 2, 3))
    rows = classifier.fc.weight - classifier.fc.weight.mean(dim=0)
    known = {name: rows[classes(name)].mean(dim=0) for name in nouns() if classes(name)}
    _, sizes, basis = torch.linalg.svd(torch.stack(list(known.values())), full_matrices=False)
    basis = torch.cat([basis, _complement(basis, DIM - len(basis))])[:DIM]
    word_map.project.weight.copy_(basis[:, :, None, None])
    word_map.project.bias.copy_(-(basis @ mean))
    for part in (word_map.refine16, word_map.refine8):
        nn.init.zeros_(part.out.weight)  # nothing to correct yet
        _quieten(part.lateral, maps[2] if part is word_map.refine16 else maps[1])
    _quieten(word_map.look, maps[2])
    nn.init.normal_(table, std=0.1)
    # All words of a noun, and of people, start alike.
    people = [*MEN, *WOMEN, *ROLES]
    saliences = model.finder.salience.weight
    nn.init.constant_(saliences, 0.0)
    generator = torch.Generator().manual_seed(0)
    for name, noun in nouns().items():
        row = basis @ known[name] if name in known else None
        if row is None:
            row = 0.3 * torch.randn(DIM, generator=generator) * sizes.mean() / DIM**0.5
        said = [name, plural(name), *(people if noun.group == PEOPLE else ())]
        for word in {joined(w) for w in said if w}:
            index = tokenizer.convert_tokens_to_ids(word)
            table[index] = row + 0.01 * torch.randn(DIM, generator=generator)
            saliences[index] = 4.0
    nn.init.zeros_(model.finder.salience_head.weight)
    nn.init.normal_(model.finder.mark, std=0.3)
    # The image tokens and embeddings at about unit scale, words at what keeps the product.
    scale = word_map.project(features).std()
    word_map.project.weight /= scale
    word_map.project.bias /= scale
    table *= scale
    size = table.norm(dim=1).mean() / DIM**0.5
    table /= size
    word_map.scale.fill_(float(size))
    word_map.bias.fill_(-4.0)  # most nouns are nowhere


def _complement(basis: torch.Tensor, count: int) -> torch.Tensor:
    """`count` more directions, orthogonal to the rows of `basis` (R, C) and to each other."""
    if count <= 0:
        return basis[:0]
    draw = torch.randn(count, basis.shape[1], generator=torch.Generator().manual_seed(1))
    return torch.linalg.qr((draw - draw @ basis.T @ basis).T).Q.T


def _quieten(conv: nn.Conv2d, level: torch.Tensor) -> None:
    conv.weight /= 2 * conv(level.permute(0, 3, 1, 2)).std().clamp(min=1e-3)


def _start_positions(beit3) -> None:
    """Smooth positions, which can be resized: sines of several wavelengths along both axes."""
    side = beit3.config.image_size // beit3.config.patch_size
    table = beit3.encoder.embed_positions["A"].weight
    places = (torch.arange(side) + 0.5) / side
    frequencies = 2.0 ** torch.linspace(-1, 2, DIM // 4)
    waves = places[:, None] * frequencies * torch.pi  # (side, DIM / 4)
    waves = torch.cat([waves.sin(), waves.cos()], dim=1)  # (side, DIM / 2)
    grid = torch.cat(
        [waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)], dim=-1
    )
    table[3 : 3 + side * side] = 0.5 * grid.flatten(0, 1)
