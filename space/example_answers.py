"""The examples: their answers are computed when first asked for, and kept."""

import filecmp
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from .answer import Answer
from .background import Step
from .intake import Options


class ExampleAnswers:
    """Answers to examples, as long as the process lives.

    Args:
        examples: Video and text of each.
        options: With which an example is asked for.
    """

    def __init__(self, examples: Sequence[tuple[Path, str]], options: Options):
        self.examples, self.options = examples, options
        self._root = tempfile.TemporaryDirectory(prefix="findtrack-examples-")
        self._kept: dict[tuple[Path, str], Answer] = {}

    def match(self, video: str | None, text: str | None, options: Options) -> tuple | None:
        """The example that a request is, whatever name its upload has; None if it is none."""
        if not video or options != self.options:
            return None
        for example in self.examples:
            path, words = example
            if text == words and os.path.isfile(video) and filecmp.cmp(video, path, shallow=False):
                return example
        return None

    def get(self, example: tuple | None) -> Answer | None:
        """Its answer, if there is one already."""
        return self._kept.get(example)

    def compute(
        self, example: tuple, work: Callable[[Path], Generator[Step | Answer, None, None]]
    ) -> Iterator[Step | Answer]:
        """What `work(folder)` yields; from then on `get` gives the answer."""
        folder = Path(tempfile.mkdtemp(dir=self._root.name))
        try:
            with closing(work(folder)) as events:  # it has stopped before its folder goes
                for event in events:
                    if isinstance(event, Answer):
                        self._kept[example] = event
                    yield event
        finally:
            if example not in self._kept:
                shutil.rmtree(folder, ignore_errors=True)
