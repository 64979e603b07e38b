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

    def describe(self) -> str:
        """One line for the visitor."""
        return (
            f"Up to {duration(self.max_upload_seconds)}, {self.max_megabytes} MB and "
            f"{self.max_pixels / 1e6:.1f} megapixels (1920×1080 has 2.1); "
            f"{duration(self.max_seconds)} at a time."
        )


def duration(seconds: float) -> str:
    """In words: "45 s", "5 min"."""
    return (
        f"{seconds / 60:g} min"
        if seconds >= 60 and seconds % 60 == 0
        else f"{round(seconds, 1):g} s"
    )
