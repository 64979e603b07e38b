"""FindTrack: find the object of an expression on a few frames, track the best mask through all.

"Find First, Track Next", arXiv 2503.03492. Shapes: T frames, K sampled frames, N expressions, H, W
source size, S model size, C channels.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from .alpha_clip import AlphaCLIPModel
from .configuration_findtrack import CutieConfig, FindTrackConfig
from .conv_backbone import ConvBackbone
from .efficientnet_lite import EfficientNetLite
from .feature_cache import FeatureCache
from .finder import EvfFinder, FinderImages
from .keyframes import choose_key_frame, sample_frames
from .results import Candidate, MaskSequence, Track, encode_mask
from .sweep import KeyMask, Sweep
from .tracker_cutie import CutieFeatures, CutieTracker
from .tracker_sam2 import FrameFeatures, Sam2Tracker
from .video_base import Video
from .video_io import open_video

Progress = Callable[[str, int, int], None]  # stage ("find" or "track"), done, total
# Below transformers' own, as remote code, too: so its verbosity counts.
logger = logging.get_logger("transformers.findtrack")


class FindTrackModel(PreTrainedModel):
    """Finder, aligner and tracker, and the flow between them.

    Example:
        >>> tracks = model.segment("clip.mp4", ["the panda on the left"], processor=processor)
        >>> tracks[0].masks[12]  # (H, W) bool
    """

    config_class = FindTrackConfig
    base_model_prefix = "findtrack"
    main_input_name = "video"
    input_modalities = ("video", "text")
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    _no_split_modules = ["Beit3Layer"]

    def __init__(self, config: FindTrackConfig):
        super().__init__(config)
        is_cutie = config.tracker_config.model_type == CutieConfig.model_type
        self.tracker = (CutieTracker if is_cutie else Sam2Tracker)(config.tracker_config)
        if config.conv_backbone_widths:
            backbone = ConvBackbone(config.conv_backbone_widths)
            self.tracker.sam2.vision_encoder.backbone = backbone
        if config.efficientnet_lite:
            backbone = EfficientNetLite(config.efficientnet_lite)
            self.tracker.sam2.vision_encoder.backbone = backbone
        self.finder = EvfFinder(config.finder_config, not config.share_vision_encoder)
        self.aligner = None
        if config.aligner == "alpha_clip":
            self.aligner = AlphaCLIPModel(config.aligner_config)
        self.post_init()
        # SAM's prompt encoder shares a matrix that is stored once. transformers looks for such only
        # in parts that are models themselves, which the finder around SAM is not.
        self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=True)

    @torch.inference_mode()
    def segment(
        self,
        video,
        expressions: str | Sequence[str],
        *,
        processor,
        key_frames: int | None = None,
        threshold: float | None = None,
        progress: Progress | None = None,
    ) -> list[Track]:
        """Segment what each expression refers to, in every frame.

        An expression with words that the model does not know is answered all the same, with a
        warning in transformers' log; see `Track.unknown_words`.

        Args:
            video: A path, a file object, a folder of images, a list of images or of their paths,
                an array (T, H, W, 3) uint8, or an open `Video`.
            expressions: One sentence or several; they are answered together.
            processor: The `FindTrackProcessor` that belongs to this model.
            key_frames: K, frames to search; the config's `num_key_frames` if not given.
            threshold: See `choose`; the config's if not given.
            progress: Called with ("find" or "track", steps done, steps in all).

        Returns:
            One `Track` per expression, in their order.

        Raises:
            VideoError: If the video cannot be read.
            ValueError: If an expression is empty, or there is none.
        """
        texts = checked_expressions(expressions)
        for text in dict.fromkeys(texts):
            if remark := processor.remark(text):
                logger.warning(f'"{text}": {remark}')
        with open_video(video) as clip:
            cache = FeatureCache(self.config.feature_cache_bytes)
            found = self.find(
                clip, texts, processor=processor, key_frames=key_frames, progress=progress,
                cache=cache,
            )  # fmt: skip
            chosen = [self.choose(candidates, threshold) for candidates in found]
            keys = [KeyMask(c.frame, c.mask) for c in chosen if c is not None]
            tracked = iter(
                self.track(clip, keys, processor=processor, progress=progress, cache=cache)
            )
            size, length = (clip.height, clip.width), clip.num_frames
            nothing = (MaskSequence.empty(length, size), np.zeros(length, dtype=np.float32))
        tracks = []
        for text, candidates, best in zip(texts, found, chosen, strict=True):
            masks, presence = nothing if best is None else next(tracked)
            frame = None if best is None else best.frame
            score = max(c.score for c in candidates) if best is None else best.score
            unknown = tuple(processor.unknown_words(text))
            tracks.append(
                Track(text, frame is not None, score, frame, candidates, masks, presence, unknown)
            )
        return tracks

    @torch.inference_mode()
    def find(
        self,
        video,
        expressions: str | Sequence[str],
        *,
        processor,
        key_frames: int | None = None,
        progress: Progress | None = None,
        cache: FeatureCache | None = None,
    ) -> list[tuple[Candidate, ...]]:
        """Look for each expression on K frames spread over the video.

        Args:
            cache: Takes the image features the tracker will need again, if it shares them.

        Returns:
            Per expression one `Candidate` per sampled frame, in video order.
        """
        texts = checked_expressions(expressions)
        with open_video(video) as clip:
            indices = sample_frames(clip.num_frames, key_frames or self.config.num_key_frames)
            frames = clip.read(indices)
            images = self._finder_images(frames, indices, processor, cache)
            tokens = self._to_device(processor.finder_tokens(texts))
            judge = _Judge(self, frames, texts, processor)
            pairs = [(k, n) for n in range(len(texts)) for k in range(len(frames))]
            answers: list[Candidate] = []
            for begin in range(0, len(pairs), self.config.finder_batch_size):
                chunk = pairs[begin : begin + self.config.finder_batch_size]
                k = torch.tensor([pair[0] for pair in chunk], device=self.device)
                n = torch.tensor([pair[1] for pair in chunk], device=self.device)
                output = self.finder(
                    images.select(k), tokens["input_ids"][n], tokens["attention_mask"][n]
                )
                answers += judge(output, k, n, [indices[pair[0]] for pair in chunk])
                if progress:
                    progress("find", len(answers), len(pairs))
        count = len(frames)
        return [tuple(answers[n * count : (n + 1) * count]) for n in range(len(texts))]

    def choose(
        self, candidates: Sequence[Candidate], threshold: float | None = None
    ) -> Candidate | None:
        """The candidate to track, by the thresholds of the config; None for "not found".

        Args:
            threshold: Instead of the config's `presence_threshold`; where the finder predicts no
                presence, instead of its `score_threshold`.
        """
        score, presence = self.config.score_threshold, self.config.presence_threshold
        if threshold is not None:
            if any(candidate.presence is not None for candidate in candidates):
                presence = threshold
            else:
                score = threshold
        best = choose_key_frame(
            candidates,
            score_threshold=score,
            presence_threshold=presence,
            accept_empty=self.config.accept_empty_masks,
        )
        return None if best is None else candidates[best]

    @torch.inference_mode()
    def track(
        self,
        video,
        keys: Sequence[KeyMask],
        *,
        processor,
        progress: Progress | None = None,
        cache: FeatureCache | None = None,
    ) -> list[tuple[MaskSequence, np.ndarray]]:
        """Propagate masks both ways from their key frames, all of them together.

        Returns:
            Per key mask, T masks at source size and presence (T,) in 0..1.
        """
        if not keys:
            return []
        with open_video(video) as clip:
            size = (clip.height, clip.width)
            for key in keys:
                if key.mask.shape != size:
                    raise ValueError(f"mask of shape {key.mask.shape} for a video of size {size}")
                if not 0 <= key.frame < clip.num_frames:
                    raise ValueError(f"key frame {key.frame} of {clip.num_frames} frames")
            sweep = Sweep(
                self.tracker,
                clip,
                encode=lambda frame: self.encode(processor.tracker_pixels([frame])),
                decode=lambda logits: processor.masks_to_source(logits, size, "tracker"),
                cache=cache or FeatureCache(self.config.feature_cache_bytes),
                progress=progress and (lambda done, total: progress("track", done, total)),
                resample_key_masks=self.config.resample_key_masks,
            )
            rles, presence = sweep.run(keys)
        return [(MaskSequence(r, size), p) for r, p in zip(rles, presence, strict=True)]

    def propagate(self, video, mask: np.ndarray, key_frame: int = 0, *, processor) -> MaskSequence:
        """Tracking alone: one mask (H, W) bool on `key_frame` -> T masks."""
        keys = [KeyMask(key_frame, np.asarray(mask, dtype=bool))]
        return self.track(video, keys, processor=processor)[0][0]

    def encode(self, pixel_values: Tensor) -> FrameFeatures | CutieFeatures:
        """Frames (B, 3, S, S), Cutie's (B, 3, h, w) -> the tracker's image features."""
        return self.tracker.encode(pixel_values.to(self.device, self.tracker.dtype))

    def encode_maps(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Frames (B, 3, S, S) -> what a finder with a word map reads: the channels-last maps of the
        tracker's backbone at strides 4, 8, 16, 32. S need not be the tracker's."""
        backbone = self.tracker.sam2.vision_encoder.backbone
        pixels = pixel_values.to(self.device, self.tracker.dtype)
        return tuple(backbone(pixels).intermediate_hidden_states)

    @property
    def dtype(self) -> torch.dtype:
        """Of finder and aligner; a Cutie tracker stays in float32 whatever it is."""
        return next(self.finder.parameters()).dtype

    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        # Loading leaves buffers that no checkpoint holds unset.
        if module is getattr(self.tracker, "cutie", None):
            self.tracker.set_pixel_statistics()

    def _finder_images(
        self, frames: list[np.ndarray], indices: list[int], processor, cache: FeatureCache | None
    ) -> FinderImages:
        """What the finder needs of K frames; one at a time, so that memory does not peak."""
        parts = []
        for frame, index in zip(frames, indices, strict=True):
            if self.config.finder_config.word_map:
                parts.append(
                    self.finder.prepare(self.encode_maps(processor.finder_pixels([frame])))
                )
                continue
            beit3 = processor.beit3_pixels([frame]).to(self.device, self.dtype)
            if self.config.share_vision_encoder:
                features = self.encode(processor.tracker_pixels([frame]))
                if cache is not None:
                    cache.put(index, features)
                levels = features.levels
            else:
                pixels = processor.finder_pixels([frame]).to(self.device, self.dtype)
                levels = self.finder.encode(pixels)
            parts.append(self.finder.prepare(levels, beit3))
        return FinderImages.join(parts)

    def _to_device(self, tokens) -> dict[str, Tensor]:
        return {name: torch.as_tensor(value).to(self.device) for name, value in tokens.items()}


class _Judge:
    """Scores masks by predicted IoU and by the aligner's cosine with the text."""

    def __init__(self, model: FindTrackModel, frames, texts: list[str], processor):
        self.model, self.processor = model, processor
        self.size = frames[0].shape[:2]
        if model.aligner is None:
            return
        self.pixels = processor.aligner_pixels(frames).to(model.device, model.dtype)
        tokens = model._to_device(processor.aligner_tokens(texts))
        self.texts = model.aligner.encode_text(tokens["input_ids"], tokens["attention_mask"])

    def __call__(self, output, frame: Tensor, text: Tensor, indices: list[int]) -> list[Candidate]:
        """P answers of the finder about frames (P,) for texts (P,) -> P candidates."""
        config = self.model.config
        rles, alphas = [], []
        for logits in output.mask_logits:  # one at a time: they are as large as the video
            mask = self.processor.masks_to_source(logits, self.size, "finder") > 0
            rles.append(encode_mask(mask.cpu().numpy()))
            if self.model.aligner is not None:
                alphas.append(self.processor.alpha(mask[None]))
        iou, cosine = output.iou.float(), None
        score = iou
        if self.model.aligner is not None:
            regions = torch.cat([self.pixels[frame], torch.cat(alphas).to(self.pixels)], dim=1)
            cosine = (self.model.aligner.encode_image(regions) * self.texts[text]).sum(dim=1)
            score = config.iou_weight * iou + config.alignment_weight * cosine
        presence = None if output.presence is None else output.presence.float().sigmoid()
        return [
            Candidate(
                frame=index,
                iou=float(iou[p]),
                alignment=None if cosine is None else float(cosine[p]),
                presence=None if presence is None else float(presence[p]),
                score=float(score[p]),
                rle=rles[p],
            )
            for p, index in enumerate(indices)
        ]


def checked_expressions(expressions: str | Sequence[str]) -> list[str]:
    """A list of expressions; ValueError where one is empty or there is none."""
    texts = [expressions] if isinstance(expressions, str) else list(expressions)
    if not texts:
        raise ValueError("no expression given: say what to look for, as in 'the dog on the left'")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"empty expression {text!r}: say what to look for")
    return texts


__all__ = ["FindTrackModel", "KeyMask", "Video"]
