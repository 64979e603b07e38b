"""EVF-SAM: an expression and a frame in, mask logits, predicted IoU and presence out.

"EVF-SAM: Early Vision-Language Fusion for Text-Prompted Segment Anything Model", arXiv
2406.20076. BEiT-3 fuses text and image; its class token, projected, is the only sparse prompt of
a SAM or SAM 2 mask decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2Model, SamModel
from transformers.models.sam2.modeling_sam2 import Sam2VisionNeck

from .beit3 import Beit3Model
from .word_map import WordMap

# Of the heat map's places, sorted, those whose logits the presence head reads: a share of them all.
PEAKS = (0.0, 0.01, 0.03, 0.1)
PEAK_SCALE = 4.0  # logits, about the deviation of a heat map that is sure


@dataclass(frozen=True)
class FinderImages:
    """What the finder knows of K frames before it has read any expression."""

    embeddings: Tensor  # (K, C, h, w) input of the mask decoder
    high_resolution: tuple[Tensor, ...]  # SAM 2: (K, C/8, 4h, 4w), (K, C/4, 2h, 2w); SAM: empty
    tokens: Tensor  # (K, 1 + P, D) BEiT-3 image tokens
    words: Tensor | None = None  # (K, D, S / 8, S / 8) to compare words with; None without a map

    def select(self, index: Tensor) -> "FinderImages":
        """The frames at `index` (P,), repeats allowed."""
        return FinderImages(
            self.embeddings[index],
            tuple(level[index] for level in self.high_resolution),
            self.tokens[index],
            None if self.words is None else self.words[index],
        )

    @classmethod
    def join(cls, parts: Sequence["FinderImages"]) -> "FinderImages":
        """Frames of several as one."""
        return cls(
            torch.cat([part.embeddings for part in parts]),
            tuple(map(torch.cat, zip(*[part.high_resolution for part in parts], strict=True))),
            torch.cat([part.tokens for part in parts]),
            None if parts[0].words is None else torch.cat([part.words for part in parts]),
        )


@dataclass(frozen=True)
class FinderOutput:
    """One answer per (frame, expression) pair, P pairs."""

    mask_logits: Tensor  # (P, s, s), s = image size / 4
    iou: Tensor  # (P,) predicted IoU
    presence: Tensor | None  # (P,) logits; None where the model does not predict it
    # (P, g, g) logits over the image tokens, with a word map at stride 8; None without that prompt
    grounding: Tensor | None


class EvfFinder(nn.Module):
    """The finder on a SAM 2 or a SAM decoder.

    Args:
        config: A `FinderConfig`.
        own_vision_encoder: False removes the image encoder: features come from the tracker's.
    """

    def __init__(self, config, own_vision_encoder: bool = True):
        super().__init__()
        self.config = config
        self.is_sam2 = config.sam_config.model_type == "sam2"
        if not (self.is_sam2 or own_vision_encoder):
            raise ValueError("only a SAM 2 finder can share the tracker's vision encoder")
        self.sam = (Sam2Model if self.is_sam2 else SamModel)(config.sam_config)
        if not own_vision_encoder:
            del self.sam.vision_encoder
        self.beit3 = Beit3Model(config.beit3_config)
        width = config.beit3_config.hidden_size
        prompt = config.sam_config.prompt_encoder_config.hidden_size
        self.text_projection = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, prompt)
        )
        self.grounding_head = nn.Linear(width, 1) if config.grounding_prompt else None
        # With a word map it also reads how sure the heat map is of its peak.
        extra = len(PEAKS) if config.word_map else 0
        self.presence_head = nn.Linear(width + extra, 1) if config.presence_head else None
        self.word_map = self.pyramid = self.salience = None
        if config.word_map:
            vision = config.sam_config.vision_config
            self.pyramid = Sam2VisionNeck(vision)
            self.word_map = WordMap(vision.backbone_channel_list[::-1], width)
            # Which words say what to look for: a share per word, less for later ones, and one for
            # its place in the sentence. A mark on the image tokens tells BEiT-3 where they are.
            self.salience = nn.Embedding(config.beit3_config.vocab_size, 1)
            self.salience_head = nn.Linear(width, 1)
            self.lateness = nn.Parameter(torch.full((1,), 0.5))
            self.mark = nn.Parameter(torch.zeros(width))

    def encode(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Image features of the finder's own encoder.

        Args:
            pixel_values: (K, 3, S, S).

        Returns:
            SAM 2: the FPN maps at strides 4, 8, 16. SAM: the image embedding alone.
        """
        output = self.sam.vision_encoder(pixel_values, return_dict=True)
        return tuple(output.fpn_hidden_states) if self.is_sam2 else (output.last_hidden_state,)

    def prepare(
        self, levels: tuple[Tensor, ...], beit3_pixels: Tensor | None = None
    ) -> FinderImages:
        """All that does not depend on an expression.

        Args:
            levels: What `encode` returns, or the tracker's FPN maps if they are shared; with a word
                map the four channels-last maps of the tracker's backbone.
            beit3_pixels: (K, 3, b, b) input of BEiT-3; not needed with a word map.
        """
        if self.word_map is not None:
            words, features = self.word_map(levels)
            maps, _ = self.pyramid(levels)
            images = self._decoder_inputs(maps[-3:][::-1], self.beit3.embed_image(features))
            return replace(images, words=words)
        tokens = self.beit3.embed_image(beit3_pixels)
        if not self.is_sam2:
            return FinderImages(levels[0], (), tokens)
        return self._decoder_inputs(levels, tokens)

    def _decoder_inputs(self, levels: Sequence[Tensor], tokens: Tensor) -> FinderImages:
        """FPN maps at strides 4, 8, 16 as SAM 2's mask decoder wants them."""
        decoder = self.sam.mask_decoder
        embeddings = levels[2] + self.sam.no_memory_embedding.reshape(1, -1, 1, 1)
        high = (decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]))
        return FinderImages(embeddings, high, tokens)

    def forward(
        self, images: FinderImages, input_ids: Tensor, attention_mask: Tensor
    ) -> FinderOutput:
        """Answer P (frame, expression) pairs.

        Args:
            images: P frames, see `FinderImages.select`.
            input_ids: (P, L) token ids.
            attention_mask: (P, L), 0 on padding.
        """
        fused, grounding = self.ground(images, input_ids, attention_mask)
        prompt = self.text_projection(fused[:, :1])  # (P, 1, C)
        masks, iou, presence = self.decode(images, prompt[:, None], self._dense(images, grounding))
        if self.word_map is not None:  # the decoder corrects the heat map
            masks = masks + _resized(grounding, masks.shape[-2:])
        if self.presence_head is not None:
            presence = self.presence(fused[:, 0], grounding)
        return FinderOutput(masks, iou, presence, grounding)

    def ground(
        self, images: FinderImages, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Read P sentences on P frames: all that comes before the mask decoder.

        Returns:
            BEiT-3's tokens (P, 1 + patches + L, D) and the heat map logits (P, g, g), or None.
        """
        count, tokens = images.tokens.shape[1], images.tokens
        if self.word_map is None:
            fused = self.beit3(tokens, input_ids, attention_mask)
            return fused, self.heat_map(fused[:, 1:count])
        late = self.lateness * torch.arange(input_ids.shape[1], device=input_ids.device)
        salience = self.salience(input_ids)[..., 0] - late
        salience = salience.masked_fill(~attention_mask.bool(), float("-inf"))
        marked = self._named(images, input_ids, salience)[:, None]
        side = int((count - 1) ** 0.5)
        marked = F.adaptive_max_pool2d(marked, side).flatten(2).transpose(1, 2)  # (P, patches, 1)
        marks = F.pad((marked / PEAK_SCALE).tanh() * self.mark, (0, 0, 1, 0))  # none on the class
        fused = self.beit3(tokens + marks.to(tokens.dtype), input_ids, attention_mask)
        named = self._named(
            images, input_ids, salience + self.salience_head(fused[:, count:])[..., 0]
        )
        return fused, named + _resized(self.heat_map(fused[:, 1:count]), named.shape[-2:])

    def _named(self, images: FinderImages, input_ids: Tensor, salience: Tensor) -> Tensor:
        """(P, S / 8, S / 8) logits of the words (P, L), each counting by its salience (P, L)."""
        words = self.beit3.text_embed(input_ids)
        meant = (salience.softmax(dim=1)[..., None].to(words.dtype) * words).sum(dim=1)
        return self.word_map.similarity(images.words, meant[:, None])[:, 0]

    def presence(self, first: Tensor, heat: Tensor | None) -> Tensor:
        """Presence logits (P,) from BEiT-3's first token (P, D) and, with a word map, the heat."""
        if self.word_map is not None:
            ordered = heat.flatten(1).sort(dim=1, descending=True).values
            places = [int(share * (ordered.shape[1] - 1)) for share in PEAKS]
            first = torch.cat([first, ordered[:, places].to(first.dtype) / PEAK_SCALE], dim=1)
        return self.presence_head(first)[:, 0]

    def decode(
        self, images: FinderImages, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run the mask decoder, one prompt per frame.

        Args:
            images: P frames.
            sparse: (P, 1, n, C) sparse prompt embeddings.
            dense: (P, C, h, w) dense prompt embeddings.

        Returns:
            Mask logits (P, s, s), predicted IoU (P,), object score logits (P,) or None (SAM).
        """
        # Its matrix is a buffer, which stays in float32 where only parameters are cast.
        position = self.sam.get_image_wide_positional_embeddings().to(self._dtype)
        inputs = {
            "image_embeddings": images.embeddings,
            "image_positional_embeddings": position.expand(len(sparse), -1, -1, -1),
            "sparse_prompt_embeddings": sparse,
            "dense_prompt_embeddings": dense,
            "multimask_output": self.config.multimask_output,
        }
        if self.is_sam2:
            high = list(images.high_resolution)
            masks, iou, _, presence = self.sam.mask_decoder(**inputs, high_resolution_features=high)
            presence = presence[:, 0, 0]
        else:
            masks, iou = self.sam.mask_decoder(**inputs)
            presence = None
        masks, iou = masks[:, 0], iou[:, 0]  # (P, M, s, s), (P, M)
        best = iou.argmax(dim=1)  # of one mask it is that mask
        rows = torch.arange(len(best), device=best.device)
        return masks[rows, best], iou[rows, best], presence

    @property
    def _dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.text_projection[0].weight.dtype

    def heat_map(self, patches: Tensor) -> Tensor | None:
        """Fused image tokens (P, g * g, D) -> heat map logits (P, g, g)."""
        if self.grounding_head is None:
            return None
        side = int(patches.shape[1] ** 0.5)
        return self.grounding_head(patches).view(-1, side, side)

    def _dense(self, images: FinderImages, grounding: Tensor | None) -> Tensor:
        """Dense prompt: the heat map as a low-resolution mask, or "no mask"."""
        encoder = self.sam.prompt_encoder
        count, _, height, width = images.embeddings.shape
        if grounding is None:
            return encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(count, -1, height, width)
        return encoder.mask_embed(_resized(grounding, (4 * height, 4 * width))[:, None])


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(P, a, b) -> (P, *size), bilinear."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]
