"""Writing Ref-Sprites to disk in the MeViS layout."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from training.backgrounds import HELDOUT_FAMILIES, TRAIN_FAMILIES
from training.expressions import Expression
from training.folders import complete_folder, is_plain_name
from training.scenes import Clip, SceneSampler
from training.sprite_art import HELDOUT_STYLES, TRAIN_STYLES, SpriteBank

ASPECTS = ((1, 1), (4, 3), (3, 2), (16, 9), (3, 4))  # width : height
# Sentences are taken in this order, one of each kind at a time: what fewest scenes offer first.
RAREST_FIRST = ("size", "motion-only", "relation", "motion", "position", "noun")


@dataclass(frozen=True)
class SplitSpec:
    """What a split holds."""

    seed: int
    clips: int
    short_side: int = 160  # pixels
    frames: tuple[int, int] = (16, 48)  # fewest and most per clip
    sentences: int = 8  # at most, per clip, one of them without a target
    quality: int = 78  # JPEG
    heldout_fraction: float = 0.0  # share with held-out art, and as many with such a background
    mixed: bool = False  # new nouns in every clip, beside the bank's others; see `SceneSampler`


@dataclass(frozen=True)
class NamedClip:
    """A clip of a split with the sentences chosen for it."""

    name: str  # 12 hex digits
    clip: Clip
    sentences: tuple[Expression, ...]
    heldout_art: bool
    heldout_background: bool


def generate(bank: SpriteBank, spec: SplitSpec) -> Iterator[NamedClip]:
    """The clips of a split, each depending only on the seed and its number.

    Raises:
        ValueError: The bank lacks an art style that the split needs, or the spec is unusable.
    """
    if spec.clips < 1 or not 2 <= spec.frames[0] <= spec.frames[1]:
        raise ValueError("a split needs at least 1 clip of at least 2 frames")
    if spec.short_side < 32 or not 0 <= spec.heldout_fraction <= 0.5:
        raise ValueError("short side must be >= 32 pixels, held-out fraction within 0 to 0.5")
    heldout = round(spec.heldout_fraction * spec.clips)
    order = np.random.default_rng([spec.seed, spec.clips]).permutation(spec.clips)
    art, backgrounds = set(order[:heldout]), set(order[heldout : 2 * heldout])
    for number in range(spec.clips):
        yield _generate_one(bank, spec, number, number in art, number in backgrounds)


def _generate_one(
    bank: SpriteBank, spec: SplitSpec, number: int, heldout_art: bool, heldout_background: bool
) -> NamedClip:
    """Draw clips until one has enough to talk about."""
    rng = np.random.default_rng([spec.seed, number])
    sampler = SceneSampler(
        bank,
        seed=[spec.seed, number, 1],
        styles=HELDOUT_STYLES if heldout_art else TRAIN_STYLES,
        backgrounds=HELDOUT_FAMILIES if heldout_background else TRAIN_FAMILIES,
        pool=4,
        mixed=spec.mixed,
    )
    wide, high = ASPECTS[int(rng.integers(len(ASPECTS)))]
    scale = spec.short_side / min(wide, high)
    size = (round(high * scale / 2) * 2, round(wide * scale / 2) * 2)
    count = int(rng.integers(spec.frames[0], spec.frames[1] + 1))
    best: tuple[int, Clip | None, list[Expression]] = (-1, None, [])
    for _ in range(12):
        clip = sampler.clip(count, size)
        sentences = choose_sentences(clip.expressions, spec.sentences, rng)
        kinds = {s.kind for s in sentences}
        if len(kinds) > best[0]:
            best = (len(kinds), clip, sentences)
        if len(kinds) >= 4:
            break
    name = hashlib.sha256(f"ref-sprites {spec.seed} {number}".encode()).hexdigest()[:12]
    return NamedClip(name, best[1], tuple(best[2]), heldout_art, heldout_background)


def choose_sentences(
    expressions: tuple[Expression, ...], most: int, rng: np.random.Generator
) -> list[Expression]:
    """At most `most` sentences of different texts, spread over the kinds; one has no target."""
    pools = {kind: [e for e in expressions if e.kind == kind] for kind in RAREST_FIRST}
    for pool in pools.values():
        rng.shuffle(pool)
    chosen = [e for e in expressions if e.kind == "no-target"][:1]
    texts = {e.text for e in chosen}
    while len(chosen) < most and any(pools.values()):
        for pool in pools.values():
            if pool and len(chosen) < most:
                sentence = pool.pop()
                if sentence.text not in texts:
                    chosen.append(sentence)
                    texts.add(sentence.text)
    return [chosen[int(i)] for i in rng.permutation(len(chosen))]


def write_split(
    bank: SpriteBank, spec: SplitSpec, out: Path, name: str, overwrite: bool = False
) -> Path:
    """Generate a split into `out/name`, which appears only when it is complete.

    Raises:
        FileExistsError: The folder is there and `overwrite` is off, or it holds no split.
        ValueError: `name` is no plain folder name; or see `generate`.
        OSError: The place cannot be written.
    """
    if not is_plain_name(name):
        raise ValueError(f"{name!r} is no name for a split: it must be one folder below {out}")
    target = out / name
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already: choose another or pass --overwrite")
    with complete_folder(target, lambda f: (f / "meta_expressions.json").is_file()) as part:
        videos, masks = {}, {}
        clips = generate(bank, spec)
        for number, named in enumerate(tqdm(clips, "clips", spec.clips, disable=None)):
            _write_frames(part / "JPEGImages" / named.name, named.clip.frames, spec.quality)
            first = len(masks)
            for o in range(len(named.clip.objects)):
                masks[str(first + o)] = [encode(m) for m in named.clip.masks[o]]
            videos[named.name] = _describe_video(named, number, first)
        _write_json(part / "mask_dict.json", masks)
        _write_json(part / "meta_expressions.json", {"videos": videos})
    return target


def encode(mask: np.ndarray) -> dict | None:
    """(H, W) bool -> COCO RLE with ASCII counts; None for an empty mask, as MeViS has it."""
    if not mask.any():
        return None
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def _describe_video(named: NamedClip, number: int, first: int) -> dict:
    """One entry of meta_expressions.json; mask ids of the clip start at `first`."""
    clip = named.clip
    expressions = {
        str(i): {
            "exp": s.text,
            "obj_id": list(s.objects),
            "anno_id": [first + o for o in s.objects],
            "kind": s.kind,
            "noun": s.noun,
            "art": clip.objects[s.objects[0]].style if s.objects else None,
        }
        for i, s in enumerate(named.sentences)
    }
    return {
        "expressions": expressions,
        "vid_id": number,
        "frames": [f"{t:05d}" for t in range(len(clip.frames))],
        "height": clip.frames.shape[1],
        "width": clip.frames.shape[2],
        "fps": clip.fps,
        "background": clip.background,
        "heldout_art": named.heldout_art,
        "heldout_background": named.heldout_background,
        # Every object, also those no sentence is about: baselines choose among them.
        "objects": [
            {"noun": o.noun, "art": o.style, "anno_id": first + i}
            for i, o in enumerate(clip.objects)
        ],
    }


def _write_frames(folder: Path, frames: np.ndarray, quality: int) -> None:
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        path = folder / f"{t:05d}.jpg"
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if not cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, quality]):
            raise OSError(f"cannot write {path}")


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="ascii")
