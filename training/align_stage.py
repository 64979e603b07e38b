"""The aligner of `findtrack-tiny`: regions against sentences, contrastively."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling_findtrack.alpha_clip import AlphaCLIPModel
from modeling_findtrack.processing_findtrack import ALPHA_MEAN, ALPHA_STD, CLIP_MEAN, CLIP_STD

from .batches import FrameBatch, SceneBatches, normalise
from .find_stages import EVALUATION, autocast
from .loop import Schedule, Stage
from .tiny_model import ALIGNER_SIZE, aligner_config, initialise, tokenizers


@dataclass(frozen=True)
class Regions:
    """R regions of frames: every object, and wrong regions that a sentence must not choose."""

    pixels: Tensor  # (R, 4, c, c)
    frame: Tensor  # (R,)
    noun: Tensor  # (R,) index of the noun, -1 for a wrong region
    of: dict[tuple[int, int], int]  # (frame, object) -> row


def regions(batch: FrameBatch, nouns: dict[str, int], rng: np.random.Generator) -> Regions:
    """Objects with something to see, plus per frame a union of two or an empty spot."""
    rows, frame, noun, of = [], [], [], {}
    for i, (masks, clip) in enumerate(zip(batch.masks, batch.clips, strict=True)):
        shown = [o for o in range(len(masks)) if masks[o].sum() > 40]
        for o in shown:
            of[i, o] = len(rows)
            rows.append(masks[o])
            frame.append(i)
            noun.append(nouns[clip.objects[o].noun])
        if len(shown) > 1 and rng.random() < 0.5:
            a, b = rng.choice(shown, 2, replace=False)
            wrong = masks[a] | masks[b]
        else:
            side = masks.shape[-1]
            y, x = rng.integers(0, side - 40, 2)
            wrong = torch.zeros(side, side, dtype=torch.bool)
            wrong[y : y + 40, x : x + 40] = True
            wrong &= ~masks.any(dim=0)
        rows.append(wrong)
        frame.append(i)
        noun.append(-1)
    size = (ALIGNER_SIZE, ALIGNER_SIZE)
    resize = {"size": size, "mode": "bilinear", "align_corners": False, "antialias": True}
    alpha = F.interpolate(torch.stack(rows)[:, None].float(), **resize)
    alpha = (alpha - ALPHA_MEAN) / ALPHA_STD
    small = F.interpolate(
        batch.pixels.float(), size, mode="bicubic", align_corners=False, antialias=True
    )
    rgb = normalise(small.clamp(0, 255), CLIP_MEAN, CLIP_STD)
    index = torch.tensor(frame)
    return Regions(torch.cat([rgb[index], alpha], dim=1), index, torch.tensor(noun), of)


def sentences(batch: FrameBatch, known: Regions, rng: np.random.Generator, per_object: int):
    """Texts, their region's row and their noun."""
    texts, row, noun = [], [], []
    for i, clip in enumerate(batch.clips):
        by_object: dict[int, list] = {}
        for expression in clip.expressions:
            single = len(expression.objects) == 1
            if (
                single
                and expression.kind != "motion-only"
                and (i, expression.objects[0]) in known.of
            ):
                by_object.setdefault(expression.objects[0], []).append(expression)
        for o, pool in by_object.items():
            for _ in range(per_object):
                texts.append(pool[rng.integers(len(pool))].text)
                row.append(known.of[i, o])
                noun.append(int(known.noun[known.of[i, o]]))
    return texts, torch.tensor(row), torch.tensor(noun)


class AlignerParts(nn.Module):
    """The aligner with a training-only noun classifier on its region embeddings."""

    def __init__(self, vocab_size: int, num_nouns: int):
        super().__init__()
        config = aligner_config(vocab_size)
        config._attn_implementation = "eager"
        self.aligner = AlphaCLIPModel(config)
        initialise(self.aligner)
        # The alpha channel must say something from the first step on.
        nn.init.kaiming_normal_(self.aligner.vision_model.embeddings.patch_embedding_alpha.weight)
        self.nouns = nn.Linear(config.projection_dim, num_nouns)


def align_terms(parts: AlignerParts, tokenizer, batches: SceneBatches, step: int, count: int):
    """Losses and the share of sentences whose region is chosen among its frame's."""
    rng = batches.rng(step)
    batch = batches.frames(rng, count)
    known = regions(batch, batches.nouns, rng)
    texts, row, noun = sentences(batch, known, rng, per_object=2)
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with autocast():
        image = parts.aligner.encode_image(known.pixels)
        text = parts.aligner.encode_text(tokens["input_ids"], tokens["attention_mask"])
    scale = parts.aligner.logit_scale.exp().clamp(max=50)
    logits = scale * text.float() @ image.float().T  # (texts, regions)
    same_frame = known.frame[None] == known.frame[row][:, None]
    own = torch.arange(len(known.noun))[None] == row[:, None]
    within = F.cross_entropy(logits.masked_fill(~same_frame, -1e4), row)
    # Other frames' objects of the same noun may well fit the sentence: no negatives.
    unclear = ~same_frame & ((known.noun[None] == noun[:, None]) | (known.noun[None] < 0))
    across = F.cross_entropy(logits.masked_fill(unclear & ~own, -1e4), row)
    named = known.noun >= 0
    recognise = F.cross_entropy(10 * parts.nouns(image.float()[named]), known.noun[named])
    right = (logits.masked_fill(~same_frame, -1e4).argmax(dim=1) == row).float().mean()
    return {"within": within, "across": 0.5 * across, "noun": 0.3 * recognise}, right


def train_align(words: list[str], batches: SceneBatches, folder: Path, minutes: float) -> None:
    """Stage `align`."""
    _, tokenizer = tokenizers(words)
    parts = AlignerParts(len(tokenizer), len(batches.nouns))

    def evaluate() -> dict:
        shares = [align_terms(parts, tokenizer, batches, EVALUATION + i, 12)[1] for i in range(6)]
        return {"chosen": round(float(torch.stack(shares).mean()), 4)}

    stage = Stage(parts, Schedule(minutes), folder)
    stage.run(lambda s, _: align_terms(parts, tokenizer, batches, s, 8)[0], evaluate, 500)
