"""Frames and texts to tensors, one method per branch, and masks back to the size of the video.

Every branch has its own geometry because every component was trained with its own; they are
stated here, in the saved kwargs, and nowhere else. All methods take RGB uint8 frames and return
float32 tensors on the CPU.

Shapes: K frames, H x W the video's size, S the finder's or tracker's, b BEiT-3's, c the
aligner's, N texts, L tokens, M masks.
"""

import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .words import Vocabulary

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ALPHA_MEAN = 0.5  # Alpha-CLIP's normalisation of its fourth channel
ALPHA_STD = 0.26
SHORT_SIDE_MULTIPLE = 16  # the coarsest stride of Cutie's image encoder
STRAIGHT_QUOTES = str.maketrans(
    "\u02bc\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f", 5 * "'" + 4 * '"'
)

Frames = np.ndarray | Sequence[np.ndarray]  # (H, W, 3) or several of them, uint8 RGB


class FindTrackProcessor(ProcessorMixin):
    """Prepares the inputs of finder, aligner and tracker.

    Args:
        tokenizer: BEiT-3's tokenizer (XLM-R style).
        clip_tokenizer: The aligner's tokenizer; its vocabulary must be another one.
        finder_size: S, side of the finder's square input in pixels.
        finder_geometry: "squash" resizes to S x S (SAM 2); "pad" resizes the long side to S and
            pads with zeros at the right and the bottom (SAM).
        finder_mean: RGB mean of finder and tracker, for values in 0..1.
        finder_std: RGB deviation of finder and tracker.
        beit3_size: b, side of BEiT-3's input; the frame is squashed.
        beit3_antialias: Filter when shrinking for BEiT-3. The paper's inference does, its
            training and EVF-SAM do not.
        beit3_mean: RGB mean of BEiT-3.
        beit3_std: RGB deviation of BEiT-3.
        beit3_max_tokens: Longest text of the finder, in tokens.
        aligner_size: c, side of the aligner's input.
        aligner_geometry: "crop" resizes the short side to c and cuts out the centre (CLIP);
            "squash" keeps the whole frame.
        aligner_mean: RGB mean of the aligner.
        aligner_std: RGB deviation of the aligner.
        alpha_geometry: "aligned" takes the mask through the geometry of the image; "official"
            squashes it whatever happened to the image, as the paper's code does.
        aligner_max_tokens: Longest text of the aligner, in tokens.
        lowercase: Lower-case texts for BEiT-3 and normalise their white space, as in training.
            The paper's inference does not. CLIP's tokenizer always does.
        tracker_size: Side of the tracker's input; its short side where the geometry is that.
        tracker_geometry: "squash" resizes to a square, normalised (SAM 2); "short_side" resizes the
            short side, pads with black around to a multiple of 16 and leaves values in 0..1
            (Cutie, which normalises by itself).
        nouns: What the model was trained to find, in words that `tokenizer` knows; phrases, too,
            and plurals such as "geese" that no ending tells. None where nobody says.
        synonyms: Word or phrase -> the known one that both branches read in its place, whatever its
            case. With `nouns` or `synonyms`, plurals that `tokenizer` does not know are read as
            their singular.

    Raises:
        ValueError: An unknown geometry, an empty vocabulary, or twice the same one; a noun, or what
            a synonym stands for, that `tokenizer` does not know.
    """

    # Not keyword-only: ProcessorMixin.from_args_and_dict reads the positional names alone.
    def __init__(
        self,
        tokenizer,
        clip_tokenizer,
        finder_size: int = 1024,
        finder_geometry: str = "squash",
        finder_mean: Sequence[float] = IMAGENET_MEAN,
        finder_std: Sequence[float] = IMAGENET_STD,
        beit3_size: int = 224,
        beit3_antialias: bool = False,
        beit3_mean: Sequence[float] = (0.5, 0.5, 0.5),
        beit3_std: Sequence[float] = (0.5, 0.5, 0.5),
        beit3_max_tokens: int = 1022,
        aligner_size: int = 336,
        aligner_geometry: str = "crop",
        aligner_mean: Sequence[float] = CLIP_MEAN,
        aligner_std: Sequence[float] = CLIP_STD,
        alpha_geometry: str = "aligned",
        aligner_max_tokens: int = 77,
        lowercase: bool = True,
        tracker_size: int = 1024,
        tracker_geometry: str = "squash",
        nouns: Sequence[str] | None = None,
        synonyms: Mapping[str, str] | None = None,
    ):
        _check_choice("finder_geometry", finder_geometry, ("pad", "squash"))
        _check_choice("aligner_geometry", aligner_geometry, ("crop", "squash"))
        _check_choice("alpha_geometry", alpha_geometry, ("aligned", "official"))
        _check_choice("tracker_geometry", tracker_geometry, ("squash", "short_side"))
        super().__init__(tokenizer, clip_tokenizer)
        _check_vocabularies(tokenizer, clip_tokenizer)
        self.finder_size = finder_size
        self.finder_geometry = finder_geometry
        self.finder_mean = list(finder_mean)
        self.finder_std = list(finder_std)
        self.beit3_size = beit3_size
        self.beit3_antialias = beit3_antialias
        self.beit3_mean = list(beit3_mean)
        self.beit3_std = list(beit3_std)
        self.beit3_max_tokens = beit3_max_tokens
        self.aligner_size = aligner_size
        self.aligner_geometry = aligner_geometry
        self.aligner_mean = list(aligner_mean)
        self.aligner_std = list(aligner_std)
        self.alpha_geometry = alpha_geometry
        self.aligner_max_tokens = aligner_max_tokens
        self.lowercase = lowercase
        self.tracker_size = tracker_size
        self.tracker_geometry = tracker_geometry
        self.nouns = list(nouns) if nouns else None
        self.synonyms = dict(synonyms) if synonyms else None
        self.vocabulary().check()

    def __call__(self, images: Frames, text: str | Sequence[str]) -> BatchFeature:
        """Everything the finder needs.

        Args:
            images: K frames (H, W, 3) uint8 RGB.
            text: N expressions.

        Returns:
            `finder_pixels` (K, 3, S, S), `beit3_pixels` (K, 3, b, b), `input_ids` and
            `attention_mask` (N, L).
        """
        pixels = {
            "finder_pixels": self.finder_pixels(images),
            "beit3_pixels": self.beit3_pixels(images),
        }
        return BatchFeature({**pixels, **self.finder_tokens(text)})

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> list[str]:
        """Save as usual, and so that the second tokenizer is also found offline."""
        # Without this file a cached, offline load of the folder fails and falls back to the
        # first tokenizer. Written first, so that `push_to_hub` takes it along.
        folder = os.path.join(save_directory, "clip_tokenizer")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump({"model_type": "clip"}, file)
            file.write("\n")
        return super().save_pretrained(save_directory, **kwargs)

    def to_dict(self) -> dict:
        """The settings, without what nobody says of the vocabulary."""
        absent = {name for name in ("nouns", "synonyms") if getattr(self, name) is None}
        return {name: value for name, value in super().to_dict().items() if name not in absent}

    # ---- frames ------------------------------------------------------------------------------

    def finder_pixels(self, frames: Frames) -> torch.Tensor:
        """K frames -> (K, 3, S, S) for the finder's image encoder."""
        size = self.finder_size
        pixels = []
        for frame in _as_frames(frames):
            target = (size, size)
            if self.finder_geometry == "pad":
                target = long_side_shape(frame.shape[:2], size)
            x = _normalise(_resize(frame, target), self.finder_mean, self.finder_std)
            # After normalising: SAM's padding is the mean colour, not black.
            pixels.append(F.pad(x, (0, size - target[1], 0, size - target[0])))
        return torch.stack(pixels)

    def tracker_pixels(self, frames: Frames) -> torch.Tensor:
        """K frames -> (K, 3, S, S) for the tracker's image encoder; (K, 3, h, w) for Cutie's."""
        if self.tracker_geometry == "short_side":
            return torch.stack([self._short_side(frame) for frame in _as_frames(frames)])
        target = (self.tracker_size, self.tracker_size)
        resized = [_resize(frame, target) for frame in _as_frames(frames)]
        return torch.stack([_normalise(x, self.finder_mean, self.finder_std) for x in resized])

    def beit3_pixels(self, frames: Frames) -> torch.Tensor:
        """K frames -> (K, 3, b, b) for BEiT-3, squashed.

        Bicubic on floats, which overshoots; the official code does not clamp either.
        """
        size = (self.beit3_size, self.beit3_size)
        pixels = []
        for frame in _as_frames(frames):
            x = _normalise(frame, self.beit3_mean, self.beit3_std)[None]
            if frame.shape[:2] != size:
                x = F.interpolate(
                    x, size, mode="bicubic", align_corners=False, antialias=self.beit3_antialias
                )
            pixels.append(x[0])
        return torch.stack(pixels)

    def aligner_pixels(self, frames: Frames) -> torch.Tensor:
        """K frames -> (K, 3, c, c), the colour channels of the aligner."""
        pixels = []
        for frame in _as_frames(frames):
            resized, crop = self._aligner_geometry(frame.shape[:2])
            x = _resize(frame, resized, Image.Resampling.BICUBIC)[crop]
            pixels.append(_normalise(x, self.aligner_mean, self.aligner_std))
        return torch.stack(pixels)

    # ---- masks -------------------------------------------------------------------------------

    def alpha(self, masks: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The aligner's fourth channel.

        Args:
            masks: (M, H, W) at source size, bool or float in 0..1; a tensor's device is kept.

        Returns:
            (M, 1, c, c) normalised: -1.92 outside of the region, 1.92 inside.
        """
        x = torch.as_tensor(masks)[:, None].float()
        shape = tuple(x.shape[-2:])
        if self.alpha_geometry == "aligned":
            resized, crop = self._aligner_geometry(shape)
        else:  # departs from the image's geometry wherever that crops
            resized, crop = (self.aligner_size,) * 2, (slice(None), slice(None))
        if shape != resized:
            x = resize_filtered(x, resized)
        return (x[(..., *crop)] - ALPHA_MEAN) / ALPHA_STD

    def masks_to_source(
        self, logits: torch.Tensor, size: tuple[int, int], branch: str = "finder"
    ) -> torch.Tensor:
        """Undo a branch's geometry.

        Args:
            logits: (..., s, s) mask logits over the whole input, padding included, at any
                resolution; or anything else that may be resized linearly.
            size: (H, W) of the video.
            branch: "finder" or "tracker", whose input the logits cover.

        Returns:
            (..., H, W) float32 logits.
        """
        _check_choice("branch", branch, ("finder", "tracker"))
        x = logits.float().reshape(-1, 1, *logits.shape[-2:])
        if branch == "finder" and self.finder_geometry == "pad":
            height, width = long_side_shape(size, self.finder_size)
            square = (self.finder_size, self.finder_size)
            x = F.interpolate(x, square, mode="bilinear", align_corners=False)
            x = x[..., :height, :width]
        if branch == "tracker" and self.tracker_geometry == "short_side":
            height, width = short_side_shape(size, self.tracker_size)
            left, right, top, bottom = centred_padding((height, width))
            padded = (top + height + bottom, left + width + right)
            if tuple(x.shape[-2:]) != padded:
                x = F.interpolate(x, padded, mode="bilinear", align_corners=False)
            x = x[..., top : top + height, left : left + width]
        if tuple(x.shape[-2:]) != tuple(size):
            x = F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
        return x.reshape(*logits.shape[:-2], *size)

    # ---- texts -------------------------------------------------------------------------------

    def finder_tokens(self, texts: str | Sequence[str]):
        """N texts -> `input_ids`, `attention_mask` (N, L) for BEiT-3, padded at the right.

        Raises:
            ValueError: No text, or an empty one.
        """
        texts = self.reworded(_as_texts(texts))
        if self.lowercase:
            texts = [" ".join(text.lower().split()) for text in texts]
        return _tokenise(self.tokenizer, texts, self.beit3_max_tokens)

    def aligner_tokens(self, texts: str | Sequence[str]):
        """N texts -> `input_ids`, `attention_mask` (N, L) for the aligner, padded at the right.

        Raises:
            ValueError: No text, or an empty one.
        """
        texts = [_as_clip_reads(text) for text in self.reworded(_as_texts(texts))]
        return _tokenise(self.clip_tokenizer, texts, self.aligner_max_tokens)

    def unknown_words(self, text: str) -> list[str]:
        """What the finder's tokenizer has no word for, in order, lower case, without repeats.

        Always nothing where the tokenizer spells everything out of parts of words.
        """
        return list(self.vocabulary().read(text).unknown)

    def remark(self, text: str) -> str | None:
        """A line about a text with unknown words or without any of `nouns`, else None."""
        return self.vocabulary().remark(text)

    def vocabulary(self) -> Vocabulary:
        """What the finder's tokenizer knows as of now: it may have got new words."""
        return Vocabulary(self.tokenizer, self.nouns, self.synonyms)

    def reworded(self, texts: Iterable[str]) -> list[str]:
        """Texts with synonyms and unknown plurals replaced, as both branches read them."""
        if not (self.nouns or self.synonyms):
            return list(texts)
        vocabulary = self.vocabulary()
        return [vocabulary.read(text).text for text in texts]

    def _aligner_geometry(self, shape: tuple[int, int]):
        """Source (H, W) -> the shape to resize to, and the window of c x c to cut out of it."""
        c = self.aligner_size
        if self.aligner_geometry == "squash":
            return (c, c), (slice(None), slice(None))
        height, width = shape
        short = min(height, width)
        resized = (int(c * height / short), int(c * width / short))
        top, left = (round((x - c) / 2) for x in resized)  # halves to even, as torchvision
        return resized, (slice(top, top + c), slice(left, left + c))

    def _short_side(self, frame: np.ndarray) -> torch.Tensor:
        """(H, W, 3) uint8 -> (3, h, w) float32 in 0..1, resized without a filter and padded."""
        x = _to_float(frame)
        shape = short_side_shape(frame.shape[:2], self.tracker_size)
        if frame.shape[:2] != shape:
            x = F.interpolate(x[None], shape, mode="bilinear", align_corners=False)[0]
        return F.pad(x, centred_padding(shape))


def long_side_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """(H, W) scaled so that the long side is `size`, rounded half up as in SAM."""
    scale = size / max(shape)
    return max(1, int(shape[0] * scale + 0.5)), max(1, int(shape[1] * scale + 0.5))


def short_side_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """(H, W) scaled so that the short side is `size`, rounded down as in FindTrack's Cutie."""
    short = min(shape)
    if short == size:  # else 600 x 603 would become 600 x 602: 603 / 600 * 600 is a little less
        return shape
    return int(shape[0] / short * size), int(shape[1] / short * size)


def centred_padding(
    shape: tuple[int, int], multiple: int = SHORT_SIDE_MULTIPLE
) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) that make (h, w) multiples; an odd one goes right or bottom."""
    height, width = (-side % multiple for side in shape)
    return width // 2, width - width // 2, height // 2, height - height // 2


def resize_filtered(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """(N, C, H, W) float32 -> (N, C, *shape), bilinear, filtered when shrinking; device kept."""
    # MPS lacks this resize before torch 2.7. Masks are few, so the CPU does it for every torch.
    source = x.cpu() if x.device.type == "mps" else x
    resized = F.interpolate(
        source, tuple(shape), mode="bilinear", align_corners=False, antialias=True
    )
    return resized.to(x.device)


def _resize(
    frame: np.ndarray,
    shape: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """(H, W, 3) uint8 -> (*shape, 3) uint8, filtered when shrinking; untouched if it fits."""
    if frame.shape[:2] == tuple(shape):
        return frame
    return np.asarray(Image.fromarray(frame).resize((shape[1], shape[0]), resample))


def _normalise(frame: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32, (x / 255 - mean) / std."""
    mean, std = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (mean, std))
    return _to_float(frame).sub_(mean).div_(std)


def _to_float(frame: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in 0..1."""
    # The copy makes it writable, which torch asks of arrays that it shares memory with.
    x = torch.from_numpy(np.array(frame, order="C")).permute(2, 0, 1)
    return x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _as_frames(frames: Frames) -> list[np.ndarray]:
    """One frame or several -> a list, checked."""
    if getattr(frames, "ndim", None) == 3:
        frames = [frames]
    frames = [np.asarray(frame) for frame in frames]
    if not frames:
        raise ValueError("no frames given")
    for frame in frames:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"frames must be (H, W, 3) uint8 RGB, got {frame.shape} {frame.dtype}")
    return frames


def _as_texts(texts: str | Sequence[str]) -> list[str]:
    """One text or several -> a list, checked."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts or not all(text.strip() for text in texts):
        raise ValueError(f"expected at least one text and none empty, got {texts}")
    return texts


def _as_clip_reads(text: str) -> str:
    """Straight quotes, and HTML entities resolved, even those of entities.

    CLIP's own code does so before it tokenises, transformers' does not. CLIP leaves the quotes to
    ftfy; what else that mends, broken encodings and such, is not mended here.
    """
    return html.unescape(html.unescape(text.translate(STRAIGHT_QUOTES)))


def _tokenise(tokenizer, texts: list[str], max_tokens: int):
    """Pad at the right to the longest text, cut at what the model can take."""
    return tokenizer(
        texts,
        padding=True,
        padding_side="right",
        truncation=True,
        max_length=min(tokenizer.model_max_length, max_tokens),
        return_attention_mask=True,
        return_token_type_ids=False,
        return_tensors="pt",
    )


def _check_vocabularies(tokenizer, clip_tokenizer):
    """Refuse what transformers makes of incomplete folders with no more than a warning.

    Without tokenizer.json it builds a tokenizer of special tokens only; where it cannot load the
    second tokenizer it takes the first again, and CLIP would be fed ids of another vocabulary.
    """
    remedy = "a saved processor needs tokenizer.json beside it and in clip_tokenizer/"
    for name, each in (("tokenizer", tokenizer), ("clip_tokenizer", clip_tokenizer)):
        if len(each) <= len(set(each.all_special_ids)):
            raise ValueError(f"{name} has no words; {remedy}")
    if (
        len(tokenizer) == len(clip_tokenizer)
        and tokenizer.get_vocab() == clip_tokenizer.get_vocab()
    ):
        raise ValueError(f"tokenizer and clip_tokenizer have the same vocabulary; {remedy}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
