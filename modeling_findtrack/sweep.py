"""Two sweeps over a video that propagate every expression's key-frame mask at once.

Forwards, an expression joins at its key frame; backwards, it leaves from there. However many
expressions there are, each frame is encoded at most twice, once where its features were kept.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .feature_cache import FeatureCache
from .results import encode_mask


@dataclass(frozen=True)
class KeyMask:
    """Where one expression's propagation starts."""

    frame: int
    mask: np.ndarray  # (H, W) bool


class Sweep:
    """Propagates N key masks through one video; holds what belongs to that video.

    Args:
        tracker: A tracker with `start` and `step`, see `Sam2Tracker` and `CutieTracker`.
        clip: An open `Video` of T frames.
        encode: (H, W, 3) frame -> the tracker's features of one frame.
        decode: One (h, w) of the tracker's `mask_logits` -> (H, W); the mask is where it is > 0.
        cache: Features that are known already, and room for those that both sweeps need.
        progress: Called with (frames done, frames to do).
        resample_key_masks: The key frame's mask goes through the tracker's resolution, as in the
            official code, instead of being kept as it was given.
    """

    def __init__(self, tracker, clip, encode: Callable, decode: Callable, cache: FeatureCache,
                 progress: Callable[[int, int], None] | None = None,
                 resample_key_masks: bool = False):  # fmt: skip
        self.tracker, self.clip = tracker, clip
        self.encode, self.decode, self.cache = encode, decode, cache
        self.resample_key_masks = resample_key_masks
        self.progress = progress or (lambda done, total: None)
        self.done = self.total = 0

    def run(self, keys: Sequence[KeyMask]) -> tuple[list[list[dict]], np.ndarray]:
        """Propagate.

        Returns:
            Per expression T COCO RLE dicts at source size, and presence (N, T) in 0..1.
        """
        frames = [key.frame for key in keys]
        self.first, self.last = min(frames), max(frames)
        self.total = self.clip.num_frames - self.first + self.last
        self.rles = [[None] * self.clip.num_frames for _ in keys]
        self.presence = np.zeros((len(keys), self.clip.num_frames), dtype=np.float32)
        starts = self._forward(keys)
        self._backward(keys, starts)
        return self.rles, self.presence

    def _forward(self, keys: Sequence[KeyMask]) -> dict:
        """Frames first .. T-1; returns each expression's lane as it was on its key frame."""
        running, starts = {}, {}  # expression -> lane
        stop = self.clip.num_frames
        for t, frame in enumerate(self.clip.frames(self.first, stop), start=self.first):
            joining = [n for n, key in enumerate(keys) if key.frame == t]
            features = self._features(t, frame, keep=self.first <= t < self.last)
            if running:
                self._step(t, features, running, last=t == stop - 1)
            if joining:
                masks = torch.from_numpy(np.stack([keys[n].mask for n in joining]))[:, None]
                masks = masks.to(features.device)
                lanes, output = self.tracker.start(features, masks, self.clip.num_frames)
                for n, lane in zip(joining, lanes, strict=True):
                    starts[n], running[n] = lane.copy(), lane
                given = None if self.resample_key_masks else [keys[n].mask for n in joining]
                self._note(t, joining, output, given)
            self._tick()
        return starts

    def _backward(self, keys: Sequence[KeyMask], starts: dict) -> None:
        """Frames last-1 .. 0; an expression takes part below its key frame."""
        if self.last == 0:
            return
        start = self.last - 1
        for t, frame in zip(range(start, -1, -1), self.clip.frames_reversed(start), strict=True):
            running = {n: lane for n, lane in starts.items() if keys[n].frame > t}
            self._step(t, self._features(t, frame, keep=False), running, last=t == 0)
            self._tick()

    def _step(self, t: int, features, running: dict, last: bool) -> None:
        """One frame for all running expressions."""
        output = self.tracker.step(features, list(running.values()), last)
        self._note(t, running, output)

    def _note(self, t: int, expressions: Iterable[int], output, masks=None) -> None:
        """Take down what the tracker says about frame `t`; `masks` (H, W) bool override its own."""
        presence = torch.sigmoid(output.presence.float()).cpu().numpy()
        for row, n in enumerate(expressions):
            # One at a time: at source size, all of them would not fit where the model does.
            mask = masks[row] if masks else self._decoded(output.mask_logits[row, 0])
            self.rles[n][t] = encode_mask(mask)
            self.presence[n, t] = presence[row]

    def _decoded(self, logits: torch.Tensor) -> np.ndarray:
        """(h, w) of the tracker's -> (H, W) bool."""
        return (self.decode(logits) > 0).cpu().numpy()

    def _features(self, t: int, frame: np.ndarray, keep: bool):
        features = self.cache.get(t)
        if features is None:
            features = self.encode(frame)
            if keep:
                self.cache.put(t, features)
        return features

    def _tick(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)
