"""The model: loaded once, called on a GPU where there is one."""

from collections.abc import Callable, Iterator, Sequence

try:  # the package of ZeroGPU Spaces; it must come before torch, which it patches there
    import spaces
except ImportError:
    spaces = None

from modeling_findtrack.cli import load_model
from modeling_findtrack.video_base import Video

from .background import Result, Step, in_steps

# Seconds of a ZeroGPU slice for the full-size models; more than is used costs a place in the queue.
BASE, PER_CANDIDATE, PER_FRAME, PER_MASK = 5, 0.15, 0.1, 0.03
LONGEST = 120

Segment = Callable[[Video, Sequence[str], int, float], Iterator[Step | Result]]


def estimated_seconds(video: Video, expressions: Sequence[str], key_frames: int, _=0.0) -> int:
    """How long the GPU is asked for: both sweeps over all frames, K candidates per expression."""
    frames, count = video.num_frames, len(expressions)
    seconds = BASE + key_frames * (PER_FRAME + count * PER_CANDIDATE)
    return min(round(seconds + 2 * frames * (PER_FRAME + count * PER_MASK)), LONGEST)


class Segmenter:
    """A model with its processor and what the page must know of it.

    Args:
        name: Checkpoint folder or Hub id.
        device: As in `findtrack segment`.
    """

    def __init__(self, name: str, device: str = "auto"):
        self.model, self.processor = load_model(name, device)
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
        self.segment: Segment = (
            spaces.GPU(segment, duration=estimated_seconds) if spaces else segment
        )
