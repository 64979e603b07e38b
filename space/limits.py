"""What an upload may be. Every limit is a setting, and told before anything is uploaded."""

import os
from dataclasses import dataclass, fields

PREFIX = "FINDTRACK_SPACE_"  # environment: FINDTRACK_SPACE_MAX_SECONDS=120, ...


@dataclass(frozen=True)
class Limits:
    """Whatever is above is refused with a message that names the limit."""

    max_megabytes: int = 100  # of the uploaded file
    max_upload_seconds: int = 300  # of the uploaded video
    max_seconds: int = 60  # of the part between start and end
    max_frames: int = 1800  # of that part
    max_pixels: int = 1920 * 1080  # per frame
    min_side: int = 16  # pixels
    max_expressions: int = 8
    max_characters: int = 200  # per expression
    max_key_frames: int = 20
    max_gpu_seconds: int = 120  # of a request, on a GPU that is lent for it (ZeroGPU)
    max_queue: int = 40  # requests that wait
    keep_seconds: int = 3600  # results stay so long for download

    @classmethod
    def from_environment(cls) -> "Limits":
        """The defaults, changed by `FINDTRACK_SPACE_<NAME>` where that is set.

        Raises:
            ValueError: A setting is not a whole number above 0.
        """
        changed = {}
        for field in fields(cls):
            name = PREFIX + field.name.upper()
            text = os.environ.get(name)
            if text is None:
                continue
            if not text.strip().isdecimal() or int(text) < 1:
                raise ValueError(f"{name}={text!r}: give a whole number above 0")
            changed[field.name] = int(text)
        return cls(**changed)

    @property
    def max_bytes(self) -> int:
        """Of the uploaded file; Gradio's own "MB" are larger."""
        return self.max_megabytes * 10**6

    def describe(self, shared_gpu: bool = False) -> str:
        """One line of Markdown for the visitor.

        Args:
            shared_gpu: Whether `max_gpu_seconds` matters.
        """
        gpu = f" Together up to {self.max_gpu_seconds} s of GPU time." if shared_gpu else ""
        return (
            f"**Video**: up to {duration(self.max_upload_seconds)}, {self.max_megabytes} MB and "
            f"{self.max_pixels / 1e6:.1f} megapixels (1920×1080 has 2.1), at least "
            f"{self.min_side} pixels a side; up to {duration(self.max_seconds)} and "
            f"{self.max_frames} frames at a time. "
            f"**Text**: up to {self.max_expressions} lines of {self.max_characters} characters, "
            f"looked for on up to {self.max_key_frames} key frames.{gpu}"
        )


def duration(seconds: float) -> str:
    """In words: "45 s", "5 min"."""
    return (
        f"{seconds / 60:g} min"
        if seconds >= 60 and seconds % 60 == 0
        else f"{round(seconds, 1):g} s"
    )
