"""SAM 2 tracking as a small batched state machine over the parts of `Sam2VideoModel`.

A `Lane` follows one expression in one direction. It is started from a mask on its key frame and
advanced frame by frame; what it remembers has a fixed size. Everything depends only on how far away
the key frame is, so forwards and backwards are the same thing, and lanes of different expressions,
directions and videos share one batch.

The numbers are those of `track_step` of the official code, not those of the session API of
transformers: memories keep the model's dtype, and the key frame's pointer comes from mask token 0.

Shape letters: N lanes, B frames in a batch of features, S model size, D model channels (256),
M memory channels (64), h = w = S / 16, s = S / 4.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import NO_OBJ_SCORE, get_1d_sine_pe

from .processing_findtrack import resize_filtered

# A mask given by the caller becomes logits of +10 inside and -10 outside.
KEY_LOGIT = 10.0


@dataclass(frozen=True)
class FrameFeatures:
    """What the vision encoder says about B frames, before any decoder touches it.

    The two fine levels have not passed the mask decoder's `conv_s0` and `conv_s1`, so a finder and
    a tracker with decoders of their own can share one encoder pass.
    """

    levels: tuple[torch.Tensor, ...]  # (B, D, 4h, 4w), (B, D, 2h, 2w), (B, D, h, w)
    position: torch.Tensor  # (1 or B, D, h, w), sine encoding of the coarsest level

    @property
    def batch_size(self) -> int:
        """B."""
        return self.levels[0].shape[0]

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.levels[0].device

    @property
    def nbytes(self) -> int:
        """Bytes they take."""
        return sum(tensor.nbytes for tensor in (*self.levels, self.position))

    def select(self, index: int | Sequence[int] | torch.Tensor) -> "FrameFeatures":
        """Features of one frame (batch of 1), or of several in the given order, repeats allowed."""
        rows = slice(index, index + 1) if isinstance(index, int) else torch.as_tensor(index)
        position = self.position if self.position.shape[0] == 1 else self.position[rows]
        return FrameFeatures(tuple(level[rows] for level in self.levels), position)

    def expand(self, size: int) -> "FrameFeatures":
        """One frame's features as a batch of `size`, without copying."""
        levels = tuple(level.expand(size, -1, -1, -1) for level in self.levels)
        return FrameFeatures(levels, self.position)


def encode_frames(vision_encoder: nn.Module, pixel_values: torch.Tensor) -> FrameFeatures:
    """Run a `Sam2VisionModel`.

    Args:
        vision_encoder: The encoder: three pyramid levels, finest first.
        pixel_values: (B, 3, S, S) normalised frames.
    """
    outputs = vision_encoder(pixel_values, return_dict=True)
    return FrameFeatures(tuple(outputs.fpn_hidden_states), outputs.fpn_position_encoding[-1][:1])


@dataclass(frozen=True)
class TrackerOutput:
    """What one start or step says about N lanes."""

    mask_logits: torch.Tensor  # (N, 1, s, s), -1024 everywhere where the object is absent
    presence: torch.Tensor  # (N,) logit of "the object is in this frame"; absent at <= 0
    iou: torch.Tensor  # (N,) predicted IoU of the mask, 0..1
    raw_logits: torch.Tensor  # (N, 1, s, s) before the absence rule, for training

    @classmethod
    def gather(cls, parts: Sequence["TrackerOutput"], rows: Sequence[int]) -> "TrackerOutput":
        """Join `parts` so that the j-th of their lanes, counted through, becomes row `rows[j]`."""
        order = torch.tensor(rows).argsort().to(parts[0].presence.device)
        names = ("mask_logits", "presence", "iou", "raw_logits")
        return cls(**{name: torch.cat([getattr(p, name) for p in parts])[order] for name in names})


@dataclass
class Lane:
    """State of one expression in one direction; its size does not depend on the video's length.

    The two queues hold the frames nearest to the current one, farthest first.
    """

    key_memory: torch.Tensor  # (h * w, M) of the key frame
    key_pointer: torch.Tensor  # (D,) of the key frame
    memories: deque[torch.Tensor]  # up to 6 of (h * w, M)
    pointers: deque[torch.Tensor]  # up to 15 of (D,)
    video_frames: int | None  # length of the whole video, None if unknown
    distance: int = 0  # frames between the key frame and the last frame seen

    def advance(self, memory: torch.Tensor, pointer: torch.Tensor) -> None:
        """Take in what the next frame left behind; the oldest beyond the window falls out."""
        self.memories.append(memory)
        self.pointers.append(pointer)
        self.distance += 1

    def copy(self) -> "Lane":
        """A lane that goes its own way from here (one key frame, two directions)."""
        return replace(self, memories=self.memories.copy(), pointers=self.pointers.copy())


@dataclass(frozen=True)
class _Decoded:
    """The mask the decoder settled on, per lane."""

    logits: torch.Tensor  # (N, 1, s, s)
    iou: torch.Tensor  # (N,)
    token: torch.Tensor  # (N, D), the mask's output token
    score: torch.Tensor  # (N,) object score logits


class Sam2Tracker(nn.Module):
    """Propagates masks from frame to frame with the memory of SAM 2 (arXiv:2408.00714).

    Args:
        config: Of the wrapped `Sam2VideoModel`, which is kept as `sam2`.
        own_vision_encoder: False leaves the vision encoder out: features come from elsewhere.
    """

    def __init__(self, config: Sam2VideoConfig, own_vision_encoder: bool = True):
        super().__init__()
        self.sam2 = Sam2VideoModel(config)
        if not own_vision_encoder:
            del self.sam2.vision_encoder
        self.config = config

    def encode(self, pixel_values: torch.Tensor) -> FrameFeatures:
        """Features of B frames from the tracker's own encoder.

        Args:
            pixel_values: (B, 3, S, S) normalised frames.

        Raises:
            RuntimeError: If the tracker was built without a vision encoder.
        """
        if not hasattr(self.sam2, "vision_encoder"):
            raise RuntimeError(
                "this tracker has no vision encoder: pass features made by `encode_frames` "
                "with the encoder it shares"
            )
        return encode_frames(self.sam2.vision_encoder, pixel_values)

    def start(
        self, features: FrameFeatures, masks: torch.Tensor, video_frames: int | None = None
    ) -> tuple[list[Lane], TrackerOutput]:
        """Open one lane per mask on its key frame.

        Args:
            features: Of one frame shared by all masks, or of N frames, one per mask.
            masks: (N, 1, H, W) bool, or float in 0..1; any size, stretched to the model's.
            video_frames: Length of the whole video; None if it is not known.

        Returns:
            N lanes, and the given masks as an output (an empty mask is absent: presence -10).

        Raises:
            ValueError: If the shapes do not fit each other or the model.
        """
        if masks.ndim != 4 or masks.shape[1] != 1 or masks.shape[0] == 0:
            raise ValueError(f"masks must be (N, 1, H, W) with N >= 1, not {tuple(masks.shape)}")
        self._check_features(features, masks.shape[0])
        masks = self._resize_key_masks(masks)
        logits = (2 * masks - 1) * KEY_LOGIT
        low = resize_filtered(logits, self.sam2.prompt_encoder.mask_input_size).to(self.dtype)
        given = masks.flatten(1).any(dim=1)

        # The decoder runs on the given mask only for its pointer. Its single-mask token is used,
        # whatever the multimask settings, and `no_memory_embedding` is not added.
        prompt = self.sam2.mask_downsample(masks.to(self.dtype))
        decoded = self._decode(
            features.levels[-1],
            self._fine_levels(features),
            self.sam2.prompt_encoder.mask_embed(prompt),
            multimask=False,
        )
        pointers = self._pointers(decoded.token, given & (decoded.score > 0))
        memories = self._encode_memories(features.levels[-1], logits, given)
        lanes = [
            self._new_lane(m, p, video_frames) for m, p in zip(memories, pointers, strict=True)
        ]
        presence = (2 * given.to(self.dtype) - 1) * KEY_LOGIT
        return lanes, TrackerOutput(low, presence, torch.ones_like(presence), low)

    def step(
        self, features: FrameFeatures, lanes: Sequence[Lane], last: bool = False
    ) -> TrackerOutput:
        """Advance every lane by one frame, in place.

        Args:
            features: Of one frame that all lanes are on, or of N frames, one per lane.
            lanes: N distinct lanes, at any distance from their key frames.
            last: The lanes end here: this frame need not be remembered.

        Returns:
            Masks on this frame, in the order of `lanes`.

        Raises:
            ValueError: If the shapes do not fit each other or the model, or a lane would leave
                its video.
        """
        if not lanes:
            raise ValueError("there is no lane to step")
        self._check_features(features, len(lanes))
        for lane in lanes:
            if lane.video_frames is not None and lane.distance + 1 >= lane.video_frames:
                raise ValueError(f"a lane would leave its video of {lane.video_frames} frames")
        # Lanes with equally full queues make one batch without padding: soon all of them do.
        groups: dict[tuple[int, int], list[int]] = {}
        for i, lane in enumerate(lanes):
            groups.setdefault((len(lane.memories), len(lane.pointers)), []).append(i)
        fine = self._fine_levels(features)
        if len(groups) == 1:
            return self._step_group(features, fine, lanes, last)
        parts = []
        for rows in groups.values():
            shared = features.batch_size == 1
            part = features if shared else features.select(rows)
            part_fine = fine if shared else [level[rows] for level in fine]
            parts.append(self._step_group(part, part_fine, [lanes[i] for i in rows], last))
        return TrackerOutput.gather(parts, [i for rows in groups.values() for i in rows])

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; features, memories and logits have it too."""
        return self.sam2.no_memory_embedding.dtype

    def _step_group(
        self,
        features: FrameFeatures,
        fine: list[torch.Tensor],
        lanes: Sequence[Lane],
        last: bool,
    ) -> TrackerOutput:
        """`step` for lanes whose queues are equally full."""
        config, prompt_encoder = self.config, self.sam2.prompt_encoder
        decoded = self._decode(
            self._attend(features, lanes),
            fine,
            prompt_encoder.no_mask_embed.weight[:, :, None, None],
            # no point is given on a tracked frame, hence the comparison with 0
            multimask=config.multimask_output_in_sam
            and config.multimask_output_for_tracking
            and config.multimask_min_pt_num <= 0 <= config.multimask_max_pt_num,
        )
        present = decoded.score > 0
        logits = torch.where(present[:, None, None, None], decoded.logits, NO_OBJ_SCORE)
        output = TrackerOutput(logits, decoded.score, decoded.iou, decoded.logits)
        if last:
            for lane in lanes:
                lane.distance += 1
            return output
        # An absent frame is remembered too: as an empty mask and the "no object" pointer.
        pointers = self._pointers(decoded.token, present)
        size = (prompt_encoder.input_image_size,) * 2
        large = F.interpolate(logits.float(), size, mode="bilinear")
        memories = self._encode_memories(features.levels[-1], large, present)
        for lane, memory, pointer in zip(lanes, memories, pointers, strict=True):
            lane.advance(memory, pointer)
        return output

    def _decode(
        self,
        embeddings: torch.Tensor,
        fine: list[torch.Tensor],
        dense: torch.Tensor,
        multimask: bool,
    ) -> _Decoded:
        """Mask decoder without points, best of three by predicted IoU if `multimask`.

        Args:
            embeddings: (N, D, h, w), or (1, D, h, w) if `dense` has N rows.
            fine: The two fine levels after `conv_s0` and `conv_s1`, N or 1 rows.
            dense: Dense prompt, (N, D, h, w) or broadcastable.
            multimask: Use the three multimask tokens.
        """
        size = max(embeddings.shape[0], dense.shape[0])
        # "No point" is two padding points: one stands for the prompt, one always ends the list.
        no_point = self.sam2.prompt_encoder.not_a_point_embed.weight.expand(size, 1, 2, -1)
        logits, iou, tokens, score = self.sam2.mask_decoder(
            image_embeddings=embeddings.expand(size, -1, -1, -1),
            # Of a buffer, which stays in float32 where only parameters are cast.
            image_positional_embeddings=self.sam2.get_image_wide_positional_embeddings().to(
                self.dtype
            ),
            sparse_prompt_embeddings=no_point,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            high_resolution_features=fine,
        )
        logits, iou, tokens = logits[:, 0], iou[:, 0], tokens[:, 0]  # (N, 1 or 3, ...)
        rows, best = torch.arange(size, device=iou.device), iou.argmax(dim=1)
        return _Decoded(
            logits[rows, best, None], iou[rows, best], tokens[rows, best], score[:, 0, 0]
        )

    def _attend(self, features: FrameFeatures, lanes: Sequence[Lane]) -> torch.Tensor:
        """The coarsest level conditioned on what the lanes remember: (N, D, h, w)."""
        num_lanes, (channels, height, width) = len(lanes), features.levels[-1].shape[1:]
        current = features.levels[-1].flatten(2).permute(2, 0, 1)  # (hw, N or 1, D)
        spatial = torch.cat([m for lane in lanes for m in (lane.key_memory, *lane.memories)])
        spatial = spatial.view(num_lanes, -1, spatial.shape[-1])  # (N, memories * hw, M)
        pointers = torch.stack([p for lane in lanes for p in (lane.key_pointer, *lane.pointers)])
        # A pointer is as wide as D / M memory tokens and is cut into as many.
        pointers = pointers.view(num_lanes, -1, spatial.shape[-1])
        position = torch.cat(
            [
                self._spatial_positions(lanes[0], height, width).expand(num_lanes, -1, -1),
                self._pointer_positions(lanes, pointers.shape[1]).expand(num_lanes, -1, -1),
            ],
            dim=1,
        )
        fused = self.sam2.memory_attention(
            current_vision_features=current.expand(-1, num_lanes, -1),
            current_vision_position_embeddings=features.position.flatten(2).permute(2, 0, 1),
            memory=torch.cat([spatial, pointers], dim=1).transpose(0, 1),
            memory_posision_embeddings=position.transpose(0, 1),  # transformers spells it so
            num_object_pointer_tokens=pointers.shape[1],
        )  # (1, N, hw, D)
        return fused[0].transpose(1, 2).reshape(num_lanes, channels, height, width)

    def _spatial_positions(self, lane: Lane, height: int, width: int) -> torch.Tensor:
        """(1, memories * hw, M): place in the frame plus distance in time."""
        shape = torch.Size((1, self.sam2.mem_dim, height, width))
        place = self.sam2.memory_encoder.position_encoding(
            shape, lane.key_memory.device, self.dtype
        )
        # The key frame has the last entry, whatever its distance; a frame d away has entry d - 1.
        entries = [-1, *range(len(lane.memories) - 1, -1, -1)]
        time = self.sam2.memory_temporal_positional_encoding[entries, :, 0]  # (memories, 1, M)
        return (place.flatten(2).transpose(1, 2) + time).flatten(0, 1)[None]

    def _pointer_positions(self, lanes: Sequence[Lane], num_tokens: int) -> torch.Tensor:
        """(N or 1, num_tokens, M): SAM 2.1 encodes how far away a pointer is, 2.0 does not."""
        like = lanes[0].key_pointer
        if not self.config.enable_temporal_pos_encoding_for_object_pointers:
            return like.new_zeros(1, num_tokens, self.sam2.mem_dim)
        cap = self.config.max_object_pointers_in_encoder
        relative = []
        for lane in lanes:
            longest = min(lane.video_frames or cap, cap) - 1
            distances = [lane.distance + 1, *range(len(lane.pointers), 0, -1)]
            relative.append([distance / longest for distance in distances])
        relative = torch.tensor(relative, dtype=torch.float32, device=like.device)
        sine = get_1d_sine_pe(relative, dim=like.shape[-1]).to(like.dtype)  # (N, pointers, D)
        encoded = self.sam2.temporal_positional_encoding_projection_layer(sine)
        return encoded.repeat_interleave(num_tokens // encoded.shape[1], dim=1)

    def _encode_memories(
        self, embeddings: torch.Tensor, logits: torch.Tensor, present: torch.Tensor
    ) -> list[torch.Tensor]:
        """N memories (h * w, M) of masks given as (N, 1, S, S) float32 logits."""
        masks = torch.sigmoid(logits) * self.config.sigmoid_scale_for_mem_enc
        masks = masks + self.config.sigmoid_bias_for_mem_enc
        memories, _ = self.sam2.memory_encoder(embeddings, masks.to(self.dtype))
        occluded = self.sam2.occlusion_spatial_embedding_parameter  # (1, M), SAM 2.1 only
        if occluded is not None:
            absent = (~present).to(memories.dtype)[:, None, None, None]
            memories = memories + absent * occluded[..., None, None]
        # Cloned, so that a lane does not keep the memories of the whole batch alive.
        return [m.clone() for m in memories.flatten(2).transpose(1, 2)]

    def _pointers(self, tokens: torch.Tensor, present: torch.Tensor) -> list[torch.Tensor]:
        """N pointers (D,) from mask tokens (N, D); the learned "no object" where not `present`."""
        pointers = self.sam2.object_pointer_proj(tokens)
        pointers = torch.where(present[:, None], pointers, self.sam2.no_object_pointer)
        return [p.clone() for p in pointers]

    def _fine_levels(self, features: FrameFeatures) -> list[torch.Tensor]:
        """The two fine levels as the mask decoder wants them."""
        decoder = self.sam2.mask_decoder
        return [decoder.conv_s0(features.levels[0]), decoder.conv_s1(features.levels[1])]

    def _resize_key_masks(self, masks: torch.Tensor) -> torch.Tensor:
        """(N, 1, S, S) float32, 0 or 1; float32 because CPUs resize bfloat16 differently or not."""
        masks = masks.float()
        size = (self.sam2.prompt_encoder.input_image_size,) * 2
        if masks.shape[-2:] != size:
            masks = resize_filtered(masks, size)
        return (masks >= 0.5).float()

    def _new_lane(self, memory: torch.Tensor, pointer: torch.Tensor, frames: int | None) -> Lane:
        """A lane on its key frame; the window sizes count the key frame in."""
        memories = deque(maxlen=self.config.num_maskmem - 1)
        pointers = deque(maxlen=self.config.max_object_pointers_in_encoder - 1)
        return Lane(memory, pointer, memories, pointers, frames)

    def _check_features(self, features: FrameFeatures, num_lanes: int) -> None:
        """Raise ValueError unless `features` fit this model and this many lanes."""
        if features.batch_size not in (1, num_lanes):
            raise ValueError(
                f"features of {features.batch_size} frames for {num_lanes} lanes: give one frame, "
                "or one per lane"
            )
        size = tuple(self.sam2.prompt_encoder.image_embedding_size)
        if tuple(features.levels[-1].shape[-2:]) != size:
            raise ValueError(
                f"the coarsest level is {tuple(features.levels[-1].shape[-2:])}, this model "
                f"works at {size}: frames must be {self.sam2.prompt_encoder.input_image_size} px"
            )
