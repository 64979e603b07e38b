"""A recipe of several runs of `training.finetune`: as many at a time as there are processors.

Each stage has one thread and a configuration of its own. Stopped at any moment, the same command
goes on.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# PyTorch allocates and frees large tensors all the time; handed back to the system every time, as
# glibc does of itself, they cost a third of the training time in page faults.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}


@dataclass(frozen=True)
class Recipe:
    """Stages and where they lie.

    Attributes:
        configs: Folder of `STAGE.yaml`.
        builds_on: Stage -> the stages it builds on; in this order they are started as processors
            become free.
        variable: Of the environment, by which the configurations name the folder of the runs.
    """

    configs: Path
    builds_on: Mapping[str, Sequence[str]]
    variable: str

    def check(self, changes: Sequence[str]) -> None:
        """Read every configuration: a typing mistake is told now, not hours from now."""
        from .config import read_config

        for stage in self.builds_on:
            read_config(self._config(stage), changes)

    def run(self, out: Path, jobs: int, seed: int, changes: Sequence[str]) -> None:
        """Run all stages.

        Args:
            out: Folder of the runs; logs are `STAGE.txt` there.
            jobs: Stages at a time.
            seed: Runs with other seeds share no sample.
            changes: `KEY=VALUE` for every configuration.

        Raises:
            ValueError: A stage failed.
        """
        waiting, running, done = list(self.builds_on), {}, set()
        try:
            while waiting or running:
                ready = [s for s in waiting if done.issuperset(self.builds_on[s])]
                for stage in ready[: jobs - len(running)]:
                    waiting.remove(stage)
                    running[stage] = self._start(stage, out, seed, changes)
                time.sleep(0.2)
                for stage, process in list(running.items()):
                    status = process.poll()
                    if status is None:
                        continue
                    del running[stage]
                    if status:
                        log = out / f"{stage}.txt"
                        last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
                        raise ValueError(f"stage {stage} failed, see {log}: {last}")
                    done.add(stage)
                    print(f"{stage}: done", flush=True)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()

    def _start(self, stage: str, out: Path, seed: int, changes: Sequence[str]) -> subprocess.Popen:
        """One stage as a process of its own; what it says goes into a file."""
        # Samples of its own for every stage.
        own = [f"seed={1 + list(self.builds_on).index(stage) + len(self.builds_on) * seed}"]
        command = [sys.executable, "-m", "training.finetune", "--config", str(self._config(stage))]
        print(f"{stage}: started, its log is {out / f'{stage}.txt'}", flush=True)
        with (out / f"{stage}.txt").open("a") as log:
            return subprocess.Popen(
                [*command, "--set", *own, *changes],
                stdout=log,
                stderr=log,
                env=ALLOCATOR | os.environ | {"OMP_NUM_THREADS": "1", self.variable: str(out)},
            )

    def _config(self, stage: str) -> Path:
        return self.configs / f"{stage}.yaml"
