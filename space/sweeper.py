"""Files of visitors go when they are old. Gradio's own clean-up misses some: those of components
that were updated before, and what comes over MCP."""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path


class Sweeper:
    """Removes old files of a folder, again and again, until the process ends.

    Args:
        folder: Holds folders of files, as Gradio's folder of uploads and downloads does.
        age: Seconds since a file came; older ones go.
        spared: Says which files stay whatever their age.
    """

    def __init__(self, folder: Path, age: float, spared: Callable[[], Iterable[str]]):
        self.folder, self.age, self.spared = folder, age, spared

    def start(self) -> None:
        """Sweep from now on, beside everything else."""
        threading.Thread(target=self._run, daemon=True).start()

    def sweep(self) -> None:
        """Once."""
        spared = {Path(path) for path in self.spared()}
        for file in self.folder.glob("*/*"):
            try:
                if file not in spared and time.time() - file.lstat().st_ctime > self.age:
                    file.unlink()
                    file.parent.rmdir()
            except OSError:  # gone meanwhile, or the folder holds more
                continue

    def _run(self) -> None:
        while True:
            time.sleep(max(self.age / 4, 1))
            self.sweep()
