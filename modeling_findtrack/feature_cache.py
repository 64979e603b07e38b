"""Image features of a few frames, kept while they fit a budget."""

from .tracker_cutie import CutieFeatures
from .tracker_sam2 import FrameFeatures

Features = FrameFeatures | CutieFeatures


class FeatureCache:
    """Maps a frame index to its features until `budget` bytes are used; then it takes no more.

    Args:
        budget: Bytes of tensors to hold at most.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self.used = 0
        self._features: dict[int, Features] = {}

    def put(self, frame: int, features: Features) -> None:
        """Keep the features of `frame` if there is room."""
        room = self.budget - self.used
        if frame not in self._features and features.nbytes <= room:
            self._features[frame] = features
            self.used += features.nbytes

    def get(self, frame: int) -> Features | None:
        """The features of `frame`, or None."""
        return self._features.get(frame)
