"""The finder of `findtrack-tiny`, in three stages that each learn one thing.

`sam`: backbone and mask decoder from boxes and coarse heat maps, no text. `words`: image stem and
word embeddings recognise nouns, then BEiT-3 grounds sentences on its image tokens. `find`: text
prompts the decoder, with the vision encoder frozen, as EVF-SAM does it.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2VisionModel

from modeling_findtrack.conv_backbone import ConvBackbone
from modeling_findtrack.finder import EvfFinder, FinderImages

from .batches import PairBatch, SceneBatches, boxes_of, coverage
from .loop import Schedule, Stage, load_part
from .losses import hard_iou, mask_losses, mean_where
from .tiny_model import (
    BACKBONE_WIDTHS,
    BEIT3_SIZE,
    IMAGE_SIZE,
    finder_config,
    initialise,
    tokenizers,
)

LOW = IMAGE_SIZE // 4  # side of the mask logits
CELLS = BEIT3_SIZE // 16  # side of the grid of image tokens
EVALUATION = 10**9  # steps from here on seed evaluation batches


class FinderParts(nn.Module):
    """Vision encoder and finder under the names they have in `FindTrackModel`."""

    def __init__(self, vocab_size: int):
        super().__init__()
        config = finder_config(vocab_size)
        config._attn_implementation = "eager"  # on a CPU the backward of SDPA is slow
        config.beit3_config._attn_implementation = "eager"
        self.vision_encoder = Sam2VisionModel(config.sam_config.vision_config)
        self.vision_encoder.backbone = ConvBackbone(BACKBONE_WIDTHS)
        self.finder = EvfFinder(config, own_vision_encoder=False)
        initialise(self)
        sam = self.finder.sam
        # transformers draws two random matrices where SAM 2 has one.
        matrix = sam.shared_image_embedding.positional_embedding
        sam.prompt_encoder.shared_embedding.positional_embedding.copy_(matrix)

    def levels(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Normalised images (B, 3, S, S) -> FPN maps at strides 4, 8, 16."""
        return tuple(self.vision_encoder(pixels, return_dict=True).fpn_hidden_states)


def beit3_input(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) -> BEiT-3's input (B, 3, 128, 128)."""
    small = F.interpolate(
        pixels.float(),
        (BEIT3_SIZE, BEIT3_SIZE),
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )
    return small / 127.5 - 1


def autocast():
    """bfloat16 where the processor is faster with it; harmless elsewhere."""
    return torch.autocast("cpu", torch.bfloat16)


# --------------------------------------------------------------------------------------- sam


def coarse_heat(target: Tensor, generator: torch.Generator) -> Tensor:
    """Masks (P, S, S) -> noisy logits (P, 8, 8), as a half-right grounding gives them."""
    heat = coverage(target, CELLS)
    logits = torch.logit(heat.clamp(0.02, 0.98))
    return logits + torch.randn(logits.shape, generator=generator)


def sam_losses(parts: FinderParts, batches: SceneBatches, step: int) -> dict[str, Tensor]:
    """Segment objects from a jittered box or a coarse heat map; some prompts point at nothing."""
    rng = batches.rng(step)
    generator = torch.Generator().manual_seed(step)
    batch = batches.frames(rng, 8)
    frame, target = [], []
    for i, masks in enumerate(batch.masks):
        visible = masks.flatten(1).sum(dim=1) > 20
        for mask in masks[visible][:4]:
            frame.append(i)
            target.append(mask.float())
    frame, target = torch.tensor(frame), torch.stack(target)
    low = coverage(target, LOW)
    encoder = parts.finder.sam.prompt_encoder
    with autocast():
        levels = parts.levels(batch.normalised().contiguous(memory_format=torch.channels_last))
        images = decoder_images(parts.finder, levels, frame)
        use_box = torch.rand(len(frame), generator=generator) < 0.5
        jitter = 0.05 * IMAGE_SIZE * torch.randn(len(frame), 4, generator=generator)
        boxes = (boxes_of(target) + jitter.clamp(-12, 12)).clamp(0, IMAGE_SIZE)
        sparse = encoder._embed_boxes(boxes[:, None])
        sparse = torch.where(use_box[:, None, None, None], sparse, torch.zeros_like(sparse))
        heat = coarse_heat(target, generator)
        upsampled = F.interpolate(heat[:, None], (LOW, LOW), mode="bilinear", align_corners=False)
        dense = torch.where(
            use_box[:, None, None, None],
            encoder.no_mask_embed.weight.view(1, -1, 1, 1),
            encoder.mask_embed(upsampled),
        )
        logits, iou, presence = parts.finder.decode(images, sparse, dense)
    ones = torch.ones(len(frame))
    return mask_losses(logits.float(), low, iou.float(), ones) | {
        "object": 0.1 * F.binary_cross_entropy_with_logits(presence.float(), ones)
    }


def decoder_images(finder: EvfFinder, levels: tuple[Tensor, ...], frame: Tensor) -> FinderImages:
    """Decoder inputs of the frames at `frame` without BEiT-3's tokens.

    `EvfFinder.prepare` less its tokens: it always embeds the image for BEiT-3, which stage `sam`
    neither trains nor reads.
    """
    decoder = finder.sam.mask_decoder
    embeddings = levels[2] + finder.sam.no_memory_embedding.reshape(1, -1, 1, 1)
    high = (decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]))
    return FinderImages(embeddings, high, torch.zeros(len(embeddings), 0, 0)).select(frame)


def train_sam(parts: FinderParts, batches: SceneBatches, folder: Path, minutes: float) -> None:
    """Stage `sam`."""
    parts.finder.beit3.requires_grad_(False)
    parts.finder.text_projection.requires_grad_(False)
    parts.to(memory_format=torch.channels_last)

    def evaluate() -> dict:
        rows = [sam_losses(parts, batches, EVALUATION + i) for i in range(4)]
        return {f"eval_{k}": round(float(sum(r[k] for r in rows)) / 4, 4) for k in rows[0]}

    stage = Stage(parts, Schedule(minutes), folder)
    stage.run(lambda step, _: sam_losses(parts, batches, step), evaluate)


# ------------------------------------------------------------------------------------- words


class WordHeads(nn.Module):
    """Training-only heads: a background class for the stem, box and noun from the class token."""

    def __init__(self, width: int):
        super().__init__()
        self.background = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.tensor(0.1))
        self.box = nn.Linear(width, 4)


def recognition_loss(
    finder: EvfFinder, heads: WordHeads, noun_ids: Tensor, batches: SceneBatches, step: int
) -> dict[str, Tensor]:
    """Dense noun classification of image tokens; the classifier's rows are word embeddings."""
    batch = batches.frames(batches.rng(step), 24)
    with autocast():
        tokens = finder.beit3.vision_embed(beit3_input(batch.pixels))[:, 1:]  # (B, 64, D)
        words = torch.cat([finder.beit3.text_embed.weight[noun_ids], heads.background[None]])
        logits = heads.scale * tokens @ words.T  # (B, 64, nouns + 1)
    labels = torch.full((len(batch.clips), CELLS * CELLS), len(noun_ids))
    for i, (masks, clip) in enumerate(zip(batch.masks, batch.clips, strict=True)):
        covered = coverage(masks, CELLS).flatten(1)  # (O, 64)
        best, which = covered.max(dim=0)
        nouns = torch.tensor([batches.nouns[o.noun] for o in clip.objects])
        labels[i] = torch.where(best > 0.35, nouns[which], labels[i])
    loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    foreground = (labels.flatten() < len(noun_ids)).float()
    return {
        "noun": mean_where(loss, foreground),
        "background": 0.3 * mean_where(loss, 1 - foreground),
    }


def grounding_terms(grounding: Tensor, presence: Tensor, pairs: PairBatch) -> dict[str, Tensor]:
    """Heat map against the target's coverage of each cell, and presence."""
    cells = coverage(pairs.target, CELLS)
    weight = 1 + 3 * (cells > 0.2).float()
    bce = F.binary_cross_entropy_with_logits(grounding.float(), cells, weight=weight)
    there = F.binary_cross_entropy_with_logits(presence.float(), pairs.present)
    return {"ground": 3 * bce, "presence": 0.3 * there}


def train_words(
    parts: FinderParts,
    words: list[str],
    batches: SceneBatches,
    folder: Path,
    minutes: float,
) -> None:
    """Stage `words`: the first third of the time nouns, then sentences on the token grid."""
    finder = parts.finder
    tokenizer, _ = tokenizers(words)
    noun_ids = torch.tensor(tokenizer.convert_tokens_to_ids(batches.sampler.bank.nouns))
    heads = WordHeads(finder.config.beit3_config.hidden_size)
    module = nn.ModuleDict({"finder": finder, "heads": heads})
    finder.sam.requires_grad_(False)
    finder.text_projection.requires_grad_(False)

    def fused(pairs: PairBatch, pixels: Tensor) -> tuple[Tensor, Tensor]:
        text = tokenizer(pairs.texts, padding=True, return_tensors="pt")
        tokens = finder.beit3.embed_image(beit3_input(pixels))[pairs.frame]
        out = finder.beit3(tokens, text["input_ids"], text["attention_mask"])
        return out[:, 0], out[:, 1 : tokens.shape[1]]

    def sentence_losses(step: int) -> dict[str, Tensor]:
        rng = batches.rng(step)
        batch = batches.frames(rng, 8)
        pairs = batches.pairs(rng, batch, per_frame=4)
        with autocast():
            first, patches = fused(pairs, batch.pixels)
            grounding = finder._ground(patches)
            presence = finder.presence_head(first)[:, 0]
            box = heads.box(first)
        distance = (box.float() - boxes_of(pairs.target) / IMAGE_SIZE).abs().mean(dim=1)
        return grounding_terms(grounding, presence, pairs) | {
            "box": 2 * mean_where(distance, pairs.present)
        }

    def losses(step: int, progress: float) -> dict[str, Tensor]:
        if progress < 0.33:
            return recognition_loss(finder, heads, noun_ids, batches, step)
        terms = sentence_losses(step)
        if step % 4 == 0:  # keep the nouns while sentences are learnt
            recognised = recognition_loss(finder, heads, noun_ids, batches, step)
            terms |= {name: 0.5 * value for name, value in recognised.items()}
        return terms

    def evaluate() -> dict:
        hits, right, count, seen = 0.0, 0.0, 0, 0
        for i in range(8):
            rng = batches.rng(EVALUATION + i)
            batch = batches.frames(rng, 8)
            pairs = batches.pairs(rng, batch, per_frame=4)
            first, patches = fused(pairs, batch.pixels)
            peak = finder._ground(patches).flatten(1).argmax(dim=1)
            cells = coverage(pairs.target, CELLS).flatten(1)
            there = pairs.present.bool()
            hits += float((cells.gather(1, peak[:, None])[there] > 0.2).sum())
            right += float(((finder.presence_head(first)[:, 0] > 0) == there).sum())
            count, seen = count + int(there.sum()), seen + len(there)
        return {"peak_on_target": round(hits / count, 4), "presence": round(right / seen, 4)}

    schedule = Schedule(minutes, hold=0.55)
    Stage(module, schedule, folder).run(losses, evaluate, evaluate_every=1000)


# -------------------------------------------------------------------------------------- find


def train_find(
    parts: FinderParts,
    words: list[str],
    batches: SceneBatches,
    folder: Path,
    minutes: float,
    lr: float = 8e-4,
) -> None:
    """Stage `find`: sentences prompt the decoder; the vision encoder stays as it is."""
    tokenizer, _ = tokenizers(words)
    parts.vision_encoder.requires_grad_(False)
    finder = parts.finder

    def forward(step: int):
        rng = batches.rng(step)
        batch = batches.frames(rng, 8)
        pairs = batches.pairs(rng, batch, per_frame=4)
        text = tokenizer(pairs.texts, padding=True, return_tensors="pt")
        with autocast():
            with torch.no_grad():
                levels = parts.levels(batch.normalised())
            images = finder.prepare(levels, beit3_input(batch.pixels)).select(pairs.frame)
            output = finder(images, text["input_ids"], text["attention_mask"])
        return pairs, output

    def losses(step: int, _: float) -> dict[str, Tensor]:
        pairs, out = forward(step)
        low = coverage(pairs.target, LOW)
        terms = mask_losses(out.mask_logits.float(), low, out.iou.float(), pairs.present)
        return terms | grounding_terms(out.grounding, out.presence, pairs)

    def evaluate() -> dict:
        found: dict[str, list[float]] = {}
        presence = []
        for i in range(12):
            pairs, out = forward(EVALUATION + i)
            full = F.interpolate(out.mask_logits.float()[:, None], IMAGE_SIZE, mode="bilinear")
            iou = hard_iou(full[:, 0], pairs.target)
            presence.append(((out.presence > 0) == pairs.present.bool()).float())
            for kind, value, there in zip(pairs.kinds, iou, pairs.present, strict=True):
                if there:
                    found.setdefault(kind, []).append(float(value))
                    found.setdefault("all", []).append(float(value))
        scores = {f"iou_{k}": round(sum(v) / len(v), 4) for k, v in sorted(found.items())}
        return scores | {"presence": round(float(torch.cat(presence).mean()), 4)}

    stage = Stage(parts, Schedule(minutes, lr=lr, hold=0.3, ema=0.999), folder)
    stage.run(losses, evaluate, evaluate_every=1000)


def start_find(parts: FinderParts, sam: Path, words: Path) -> None:
    """Take the vision encoder and decoder from stage `sam`, the text path from stage `words`."""
    load_part(parts.vision_encoder, sam, "vision_encoder.")
    load_part(parts.finder.sam, sam, "finder.sam.")
    for name in ("beit3", "grounding_head", "presence_head"):
        load_part(getattr(parts.finder, name), words, f"finder.{name}.")
