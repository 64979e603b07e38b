"""The model: loaded once, called on a GPU where there is one."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

try:  # the package of ZeroGPU Spaces; it must come before torch, which it patches there
    import spaces
except ImportError:
    spaces = None

from modeling_findtrack.cli import load_model, model_name
from modeling_findtrack.video_base import Video

from .background import Result, Step, in_steps

# Seconds of a ZeroGPU slice: too many cost a place in the queue, too few end the work. Guessed for
# the full-size models; a whole H200 then took .06 s for PER_CANDIDATE and PER_FRAME together, and
# .045 s for PER_FRAME and PER_MASK (eval.fullsize, preset sam2). BASE is for moving the weights.
BASE, PER_CANDIDATE, PER_FRAME, PER_MASK = 5, 0.15, 0.1, 0.03
SMALL, SMALL_SHARE = 100e6, 0.2  # below so many parameters, a share of that

Segment = Callable[[Video, Sequence[str], int, float], Iterator[Step | Result]]


def estimated_seconds(frames: int, expressions: int, key_frames: int, parameters: float) -> int:
    """How long the GPU is asked for: K candidates per expression, then all frames, twice if the
    expressions may have different key frames."""
    sweeps = min(expressions, 2)
    seconds = key_frames * (PER_FRAME + expressions * PER_CANDIDATE)
    seconds += sweeps * frames * PER_FRAME + expressions * frames * PER_MASK
    return math.ceil(BASE + seconds * (SMALL_SHARE if parameters < SMALL else 1))


class Segmenter:
    """A model with its processor and what the page must know of it.

    Args:
        name: Checkpoint folder, Hub id, or short name of a shipped checkpoint.
        device: As in `findtrack segment`.

    Attributes:
        name: For visitors.
    """

    def __init__(self, name: str, device: str = "auto"):
        self.model, self.processor = load_model(name, device)
        self.name = model_name(name)
        if os.path.isdir(self.name):  # where it lies on this machine is nobody's business
            self.name = Path(self.name).resolve().name
        # On ZeroGPU the weights are put away when the page is launched.
        self._parameters = self.model.num_parameters()
        self.key_frames: int = self.model.config.num_key_frames
        config = self.model.config
        # What the page starts with; as long as nobody changes it, the model's own rule stands.
        self.threshold: float = config.presence_threshold or config.score_threshold or 0.0

        def segment(
            video: Video, expressions: Sequence[str], key_frames: int, threshold: float
        ) -> Iterator[Step | Result]:
            yield from in_steps(
                lambda progress: self.model.segment(
                    video,
                    expressions,
                    processor=self.processor,
                    key_frames=key_frames,
                    threshold=None if threshold == self.threshold else threshold,
                    progress=progress,
                )
            )

        # Nothing but this runs on the GPU: reading and drawing would waste the visitor's share.
        self.segment: Segment = spaces.GPU(segment, duration=self.seconds) if spaces else segment
        self.shared_gpu: bool = bool(spaces) and spaces.config.Config.zero_gpu

    def remark(self, expression: str) -> str | None:
        """What the visitor should know of the words, see `FindTrackProcessor.remark`."""
        return self.processor.remark(expression)

    def seconds(
        self, video: Video, expressions: Sequence[str], key_frames: int, threshold: float = 0
    ) -> int:
        """How long `segment` of the same may take on a GPU that is lent for it."""
        return estimated_seconds(video.num_frames, len(expressions), key_frames, self._parameters)
