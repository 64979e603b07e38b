"""FindTrack's inference as it was published, one expression at a time, in a straight line.

A second opinion for the tests. It follows the order of operations of the paper's code (the scripts
`run_ytvos.py` and `run_mevis.py`) and not this package: networks and tokenizers are given to it,
everything between them is written out. Nothing is batched, shared or kept: a frame is prepared and
encoded as often as that code does it, the key frame is stepped twice. Numbers are the published
ones; only sizes can be made smaller. In float32, where the scripts run in half precision.

Shapes: T frames, R reference frames, H, W source size, C channels.
"""

import html
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

# How Cutie is set in the scripts for the two benchmarks, and what is the same in both.
CUTIE_SCRIPTS = {
    "ref-youtube-vos": {"mem_every": 1, "use_long_term": False},
    "mevis": {"mem_every": 3, "use_long_term": True},
}
CUTIE_ALWAYS = {
    "max_mem_frames": 10,
    "flip_aug": True,
    "top_k": 30,
    "stagger_updates": 5,
    "chunk_size": -1,
}
LONG_TERM = {
    "count_usage": True,
    "max_mem_frames": 10,
    "min_mem_frames": 5,
    "num_prototypes": 128,
    "max_num_tokens": 10000,
    "buffer_tokens": 2000,
}


@dataclass(frozen=True)
class Networks:
    """What was trained."""

    sam: nn.Module  # transformers' `SamModel`
    beit3: nn.Module
    text_projection: nn.Module  # BEiT-3's class token -> SAM's prompt
    alpha_clip: nn.Module
    cutie: nn.Module  # rf-cutie's `CUTIE`
    cutie_model: dict  # the `model` section of its configuration
    beit3_tokenizer: object
    clip_tokenizer: object


@dataclass(frozen=True)
class Sizes:
    """Pixels per side, and tokens; the defaults are the published ones."""

    sam: int = 1024
    beit3: int = 224
    clip: int = 336
    clip_context: int = 77
    cutie: int = 600
    long_term: dict = field(default_factory=lambda: LONG_TERM)


@dataclass(frozen=True)
class Answer:
    """What the pipeline says of one expression."""

    references: list[int]  # R frames, repeats among them where the video is short
    ious: list[float]  # R
    cosines: list[float]  # R
    scores: list[float]  # R
    key_frame: int
    key_logits: Tensor  # (H, W) of the key frame's mask, before Cutie
    key_mask: Tensor  # (H, W) bool, where they are positive
    probabilities: Tensor  # (T, 2, H, W) of background and object
    masks: Tensor  # (T, H, W) bool


class OfficialPipeline:
    """The networks and the way from a video to its masks.

    Args:
        networks: In evaluation mode.
        sizes: Of what they read.
        setting: "ref-youtube-vos" or "mevis".
    """

    def __init__(self, networks: Networks, sizes: Sizes, setting: str = "ref-youtube-vos"):
        self.networks, self.sizes, self.setting = networks, sizes, setting

    @torch.inference_mode()
    def run(self, frames: np.ndarray, expression: str, references: int) -> Answer:
        """The masks of one expression.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            expression: One sentence.
            references: R, frames to look at.
        """
        last = len(frames) - 1
        indices = [int(r * last / (references - 1)) for r in range(references)]
        logits, ious, cosines = [], [], []
        for index in indices:
            x, iou = self.segment(frames[index], expression)
            logits.append(x)
            ious.append(iou)
            cosines.append(self.cosine(frames[index], x > 0, expression))
        scores = torch.stack(
            [0.5 * iou + 0.5 * cosine for iou, cosine in zip(ious, cosines, strict=True)]
        )
        best = int(scores.argmax())
        key_frame = int(best * last / (references - 1))
        key_mask = logits[best] > 0
        probabilities = self.propagate(frames, key_frame, key_mask)
        return Answer(
            indices,
            torch.stack(ious).tolist(),
            torch.stack(cosines).tolist(),
            scores.tolist(),
            key_frame,
            logits[best],
            key_mask,
            probabilities,
            probabilities.argmax(1) == 1,
        )

    # ---- EVF-SAM -----------------------------------------------------------------------------

    def sam_pixels(self, frame: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, S, S): the long side to S, zeros right and below."""
        height, width = self.sam_shape(frame)
        image = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
        std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
        x = (x - mean) / std
        return F.pad(x, (0, self.sizes.sam - width, 0, self.sizes.sam - height))[None]

    def sam_shape(self, frame: np.ndarray) -> tuple[int, int]:
        """(h', w') that the frame is resized to for SAM."""
        height, width = frame.shape[:2]
        scale = self.sizes.sam / max(height, width)
        return int(height * scale + 0.5), int(width * scale + 0.5)

    def beit3_pixels(self, frame: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, b, b): squashed, with torchvision's default antialiasing."""
        x = to_tensor(frame)[None]
        size = (self.sizes.beit3, self.sizes.beit3)
        x = F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
        return (x - 0.5) / 0.5

    def beit3_ids(self, expression: str) -> Tensor:
        """(1, L) ids; the expression is taken as it is."""
        return torch.tensor([self.networks.beit3_tokenizer(expression)["input_ids"]])

    @torch.inference_mode()
    def segment(self, frame: np.ndarray, expression: str) -> tuple[Tensor, Tensor]:
        """The mask's logits (H, W) of the expression on one frame, and its predicted IoU ()."""
        n, size = self.networks, self.sizes.sam
        image_tokens = n.beit3.embed_image(self.beit3_pixels(frame))
        fused = n.beit3(image_tokens, self.beit3_ids(expression))
        prompt = n.text_projection(fused[:, :1])  # (1, 1, C), of the class token
        embedding = n.sam.vision_encoder(self.sam_pixels(frame)).last_hidden_state
        dense = n.sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        logits, iou = n.sam.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=n.sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=prompt[:, None],
            dense_prompt_embeddings=dense.expand_as(embedding),
            multimask_output=False,
        )
        x = F.interpolate(logits[:, 0], (size, size), mode="bilinear", align_corners=False)
        height, width = self.sam_shape(frame)
        x = x[..., :height, :width]
        x = F.interpolate(x, frame.shape[:2], mode="bilinear", align_corners=False)
        return x[0, 0], iou[0, 0, 0]

    # ---- Alpha-CLIP --------------------------------------------------------------------------

    def clip_pixels(self, frame: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, c, c): the short side to c, then the centre."""
        side = self.sizes.clip
        height, width = frame.shape[:2]
        short = min(height, width)
        height, width = int(side * height / short), int(side * width / short)
        image = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - side) / 2), round((height - side) / 2)
        x = to_tensor(np.array(image.crop((left, top, left + side, top + side))))
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
        return ((x - mean) / std)[None]

    def alpha(self, mask: Tensor) -> Tensor:
        """(H, W) bool -> (1, 1, c, c): the whole mask, squashed, whatever became of the image."""
        size = (self.sizes.clip, self.sizes.clip)
        x = mask.float()[None, None]
        x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        return (x - 0.5) / 0.26

    def clip_ids(self, expression: str) -> Tensor:
        """(1, context) ids, zeros behind the end of text; too long a text loses its end."""
        # CLIP's `basic_clean`, with the only step of ftfy's that well encoded sentences need
        for curly, straight in zip("‘’“”", "''\"\"", strict=True):
            expression = expression.replace(curly, straight)
        expression = html.unescape(html.unescape(expression)).strip()
        ids = self.networks.clip_tokenizer(expression)["input_ids"]
        end, context = ids[-1], self.sizes.clip_context
        if len(ids) > context:
            ids = [*ids[: context - 1], end]
        return torch.tensor([ids + [0] * (context - len(ids))])

    def cosine(self, frame: np.ndarray, mask: Tensor, expression: str) -> Tensor:
        """Agreement () of the masked region with the expression."""
        clip = self.networks.alpha_clip
        pixels = torch.cat([self.clip_pixels(frame), self.alpha(mask)], dim=1)
        image = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
        ids = self.clip_ids(expression)
        hidden = clip.text_model(input_ids=ids).last_hidden_state
        text = clip.text_projection(hidden[:, int(ids.argmax())])  # the largest id ends a text
        image, text = image / image.norm(dim=-1), text / text.norm(dim=-1)
        return (image * text).sum()

    # ---- Cutie -------------------------------------------------------------------------------

    def core(self):
        """rf-cutie's `InferenceCore`; frames are resized before, as FindTrack's also enlarges."""
        from cutie.inference.inference_core import InferenceCore  # an optional package

        settings = {
            **CUTIE_SCRIPTS[self.setting],
            **CUTIE_ALWAYS,
            "long_term": self.sizes.long_term,
            "max_internal_size": -1,
            "save_aux": False,
            "model": self.networks.cutie_model,
        }
        return InferenceCore(self.networks.cutie, OmegaConf.create(settings))

    @torch.inference_mode()
    def propagate(self, frames: np.ndarray, key_frame: int, mask: Tensor) -> Tensor:
        """Probabilities (T, 2, H, W) of background and object.

        Frames behind the key frame first; then everything is forgotten, the key frame is stepped
        again and the frames before it follow, backwards.
        """
        core = self.core()
        probabilities = [None] * len(frames)
        probabilities[key_frame] = self.step(core, frames[key_frame], mask)
        for t in range(key_frame + 1, len(frames)):
            probabilities[t] = self.step(core, frames[t])
        core.clear_memory()
        probabilities[key_frame] = self.step(core, frames[key_frame], mask)
        for t in range(key_frame - 1, -1, -1):
            probabilities[t] = self.step(core, frames[t])
        core.clear_memory()
        return torch.stack(probabilities)

    def step(self, core, frame: np.ndarray, mask: Tensor | None = None) -> Tensor:
        """One frame, with a mask (H, W) bool on the key frame -> (2, H, W) probabilities."""
        image = to_tensor(frame)
        height, width = image.shape[1:]
        short, size = min(height, width), self.sizes.cutie
        mask = mask if mask is None else mask.long()
        if short != size:
            shape = (int(height / short * size), int(width / short * size))
            image = F.interpolate(image[None], shape, mode="bilinear", align_corners=False)[0]
            if mask is not None:
                mask = F.interpolate(mask[None, None].float(), shape, mode="nearest-exact")[0, 0]
                mask = mask.round().long()
        given = {} if mask is None else {"mask": mask, "objects": [1]}
        probability = core.step(image, **given)
        if short != size:
            probability = F.interpolate(
                probability[None], (height, width), mode="bilinear", align_corners=False
            )[0]
        return probability


def to_tensor(frame: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in 0..1."""
    return torch.from_numpy(frame.copy()).permute(2, 0, 1).float() / 255
