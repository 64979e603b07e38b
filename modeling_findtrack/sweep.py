"""Two sweeps over a video that propagate every expression's key-frame mask at once.

Forwards, an expression joins at its key frame; backwards, it leaves from there. However many
expressions there are, each frame is encoded at most twice, once where its features were kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .feature_cache import FeatureCache
from .results import encode_mask
from .tracker_sam2 import FrameFeatures, Lane


@dataclass(frozen=True)
class KeyMask:
    """Where one expression's propagation starts."""

    frame: int
    mask: np.ndarray  # (H, W) bool


class Sweep:
    """Propagates N key masks through one video; holds what belongs to that video.

    Args:
        tracker: A tracker with `start` and `step`, see `Sam2Tracker`.
        clip: An open `Video` of T frames.
        encode: (H, W, 3) frame -> `FrameFeatures` of one frame.
        decode: (s, s) mask logits -> (H, W) logits.
        cache: Features that are known already, and room for those that both sweeps need.
        progress: Called with (frames done, frames to do).
    """

    def __init__(self, tracker, clip, encode: Callable, decode: Callable, cache: FeatureCache,
                 progress: Callable[[int, int], None] | None = None):  # fmt: skip
        self.tracker, self.clip = tracker, clip
        self.encode, self.decode, self.cache = encode, decode, cache
        self.progress = progress or (lambda done, total: None)
        self.done = self.total = 0

    def run(self, keys: Sequence[KeyMask]) -> tuple[list[list[dict]], np.ndarray]:
        """Propagate.

        Returns:
            Per expression T COCO RLE dicts at source size, and presence (N, T) in 0..1. The key
            frame keeps the mask it was given.
        """
        frames = [key.frame for key in keys]
        self.first, self.last = min(frames), max(frames)
        self.total = self.clip.num_frames - self.first + self.last
        self.rles = [[None] * self.clip.num_frames for _ in keys]
        self.presence = np.zeros((len(keys), self.clip.num_frames), dtype=np.float32)
        starts = self._forward(keys)
        self._backward(keys, starts)
        return self.rles, self.presence

    def _forward(self, keys: Sequence[KeyMask]) -> dict[int, Lane]:
        """Frames first .. T-1; returns each expression's lane as it was on its key frame."""
        running: dict[int, Lane] = {}
        starts: dict[int, Lane] = {}
        stop = self.clip.num_frames
        for t, frame in enumerate(self.clip.frames(self.first, stop), start=self.first):
            joining = [n for n, key in enumerate(keys) if key.frame == t]
            features = self._features(t, frame, keep=self.first <= t < self.last)
            if running:
                self._step(t, features, running)
            if joining:
                masks = torch.from_numpy(np.stack([keys[n].mask for n in joining]))[:, None]
                masks = masks.to(features.levels[0].device)
                lanes, output = self.tracker.start(features, masks, self.clip.num_frames)
                for n, lane, logit in zip(joining, lanes, output.presence, strict=True):
                    starts[n], running[n] = lane.copy(), lane
                    self.rles[n][t] = encode_mask(keys[n].mask)
                    self.presence[n, t] = torch.sigmoid(logit.float())
            self._tick()
        return starts

    def _backward(self, keys: Sequence[KeyMask], starts: dict[int, Lane]) -> None:
        """Frames last-1 .. 0; an expression takes part below its key frame."""
        if self.last == 0:
            return
        start = self.last - 1
        for t, frame in zip(range(start, -1, -1), self.clip.frames_reversed(start), strict=True):
            running = {n: lane for n, lane in starts.items() if keys[n].frame > t}
            self._step(t, self._features(t, frame, keep=False), running)
            self._tick()

    def _step(self, t: int, features: FrameFeatures, running: dict[int, Lane]) -> None:
        """One frame for all running expressions."""
        output = self.tracker.step(features, list(running.values()))
        presence = torch.sigmoid(output.presence.float()).cpu().numpy()
        for row, n in enumerate(running):
            # One at a time: at source size, all of them would not fit where the model does.
            mask = self.decode(output.mask_logits[row, 0]) > 0
            self.rles[n][t] = encode_mask(mask.cpu().numpy())
            self.presence[n, t] = presence[row]

    def _features(self, t: int, frame: np.ndarray, keep: bool) -> FrameFeatures:
        features = self.cache.get(t)
        if features is None:
            features = self.encode(frame)
            if keep:
                self.cache.put(t, features)
        return features

    def _tick(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)
