"""Image features of a few frames, kept while they fit a budget."""

from .tracker_sam2 import FrameFeatures


class FeatureCache:
    """Maps a frame index to its features until `budget` bytes are used; then it takes no more.

    Args:
        budget: Bytes of tensors to hold at most.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self.used = 0
        self._features: dict[int, FrameFeatures] = {}

    def put(self, frame: int, features: FrameFeatures) -> None:
        """Keep the features of `frame` if there is room."""
        size = sum(tensor.nbytes for tensor in (*features.levels, features.position))
        if frame not in self._features and self.used + size <= self.budget:
            self._features[frame] = features
            self.used += size

    def get(self, frame: int) -> FrameFeatures | None:
        """The features of `frame`, or None."""
        return self._features.get(frame)
