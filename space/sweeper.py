"""Files of visitors go when they are old. Gradio's own clean-up misses some: those of components
that were updated before, what comes over MCP, and uploads that broke off."""

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path


class Sweeper:
    """Removes old files and empty folders from a folder, again and again, until the process ends.

    Args:
        folder: Gradio's, of uploads and downloads: folders of files, and loose files, which are
            uploads on their way.
        age: Seconds since a file changed; older ones go.
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
        for name, _, files in os.walk(self.folder, topdown=False):
            folder = Path(name)
            idle = self._is_old(folder)  # a young one is about to be filled
            for file in (folder / name for name in files):
                if file not in spared and self._is_old(file):
                    idle = True
                    with suppress(OSError):  # gone meanwhile
                        file.unlink()
            if idle and folder != self.folder:
                with suppress(OSError):  # it holds more
                    folder.rmdir()

    def _is_old(self, path: Path) -> bool:
        """By its last change, its arrival included: a running upload stays young."""
        try:
            return time.time() - path.lstat().st_ctime > self.age
        except OSError:  # gone meanwhile
            return False

    def _run(self) -> None:
        while True:
            time.sleep(max(self.age / 4, 1))
            self.sweep()
