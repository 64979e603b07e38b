"""The transformers pipeline: `pipeline("referring-video-segmentation", model=...)`."""

from transformers import Pipeline

from .modeling_findtrack import checked_expressions
from .results import Track

TASK = "referring-video-segmentation"


class FindTrackPipeline(Pipeline):
    """A video and sentences in, one `Track` per sentence out.

    Example:
        >>> segment = pipeline("referring-video-segmentation", model="PATH_OR_ID")
        >>> tracks = segment("clip.mp4", expressions=["the panda on the left"])
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __call__(self, video, expressions=None, **kwargs) -> list[Track]:
        """Segment one video, see `FindTrackModel.segment`.

        Args:
            video: Anything `open_video` reads. A list is one video of images.
            expressions: One sentence or several.
            key_frames: K, frames to search.
            progress: Called with (stage, done, total).

        Raises:
            ValueError: If there is no expression or an empty one, or the video cannot be read.
        """
        checked = checked_expressions(expressions if expressions is not None else [])
        # Wrapped, because a pipeline takes a list for several inputs.
        return super().__call__({"video": video, "expressions": checked}, **kwargs)

    def _sanitize_parameters(self, key_frames=None, progress=None):
        options = {"key_frames": key_frames, "progress": progress}
        return {}, {k: v for k, v in options.items() if v is not None}, {}

    def preprocess(self, inputs):
        """Nothing: frames are decoded as the model needs them."""
        return inputs

    def _forward(self, inputs, **options):
        return self.model.segment(
            inputs["video"], inputs["expressions"], processor=self.processor, **options
        )

    def postprocess(self, tracks):
        """The tracks as they are."""
        return tracks
