"""The folder of a training run: its log and its checkpoints, each whole or absent.

config.yaml                     what is trained
log.jsonl                       losses and validation, a JSON object per line
checkpoints/step-00000200/      an ordinary Hub folder, with trainer.json and
    state/                      what resuming needs: optimizer, random numbers, raw weights
last, best                      links to checkpoints; at the end these two get a model card
training.png                    at the end: curves
"""

import json
import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from eval.report import write_json, write_text

STATE, LOCK = "state", ".lock"


class RunFolder:
    """Where a run keeps everything; see above.

    Args:
        path: The folder; made when something is written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.log = self.path / "log.jsonl"
        self._lock = None

    def checkpoint(self, step: int) -> Path:
        """The checkpoint after so many steps."""
        return self.checkpoints / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps of the checkpoints that can be resumed from, ascending."""
        return sorted(
            step
            for step, folder in self._folders().items()
            if (folder / "trainer.json").is_file() and (folder / STATE).is_dir()
        )

    def facts(self, step: int) -> dict:
        """What `trainer.json` of a checkpoint says."""
        return json.loads((self.checkpoint(step) / "trainer.json").read_text(encoding="utf-8"))

    def begin(self, identity: dict, config_text: str, overwrite: bool) -> int | None:
        """Make the folder this run's own.

        Args:
            identity: What a run is; JSON values. Two runs that agree in it may share a folder.
            config_text: The configuration, to be kept.
            overwrite: Delete another run's checkpoints and log.

        Returns:
            The step to resume from; None to start anew.

        Raises:
            ValueError: The folder holds another run, or a running process uses it.
            FileExistsError: It holds something else.
        """
        marker = self.path / "run.json"
        ours = _read(marker)
        others = [p for p in self.path.glob("*") if p.suffix != ".part" and p.name != LOCK]
        if ours is None and others:
            raise FileExistsError(f"{self.path} holds something other than a run: choose another")
        self._claim()
        if ours is not None and ours != identity:
            changed = [k for k in sorted({*ours, *identity}) if ours.get(k) != identity.get(k)]
            # A start that came to nothing, on a wrong model say, keeps nobody out.
            if not overwrite and (self._folders() or self.rows()):
                raise ValueError(
                    f"{self.path} holds another run ({', '.join(changed)} differ): choose another "
                    "folder, or pass --overwrite to delete it"
                )
            # The marker last: until then the folder is the other run's, with fewer checkpoints.
            _remove(self.checkpoints)
            for name in ("log.jsonl", "training.png", "best", "last"):
                (self.path / name).unlink(missing_ok=True)
        for pattern in (".*.part", "checkpoints/.*.part", "checkpoints/*/.*.part"):
            for partial in self.path.glob(pattern):  # of a run that was killed while it wrote
                _delete(partial)
        write_json(marker, identity)
        write_text(self.path / "config.yaml", config_text)
        steps = self.steps()
        step = steps[-1] if steps else None
        self._forget_after(step or 0)
        return step

    def _claim(self) -> None:
        """Let nobody else write here until `release`, or until this process ends in any way."""
        self.path.mkdir(parents=True, exist_ok=True)
        if fcntl is not None:
            self._lock = (self.path / LOCK).open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.release()
                raise ValueError(f"another process is training in {self.path}") from None

    def release(self) -> None:
        """Let others use the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def append(self, row: dict) -> None:
        """Add a row to the log. What is not finite becomes null, as JSON has it: in half precision
        the norm of a gradient may overflow, and that step is left out."""
        known = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(known, allow_nan=False) + "\n")

    def rows(self) -> list[dict]:
        """The log; a last line that was cut off is left out."""
        if not self.log.is_file():
            return []
        lines = self.log.read_text(encoding="utf-8").splitlines()
        rows = []
        for number, line in enumerate(lines):
            try:
                rows.append(json.loads(line))
            except ValueError:
                if number < len(lines) - 1:
                    raise ValueError(f"{self.log}, line {number + 1}, is damaged") from None
        return rows

    def part(self, step: int) -> Path:
        """Where a checkpoint is written before it is complete."""
        return self.checkpoints / f".step-{step:08d}.part"

    def publish(self, step: int, facts: dict) -> Path:
        """Give a complete checkpoint its name, and let `last` point to it."""
        part, folder = self.part(step), self.checkpoint(step)
        write_json(part / "trainer.json", facts | {"step": step})
        _remove(folder)  # if the run was resumed from an earlier one
        part.rename(folder)
        self._link("last", folder)
        return folder

    def validations(self) -> list[dict]:
        """The rows of validation that can be compared with the newest."""
        return comparable([row for row in self.rows() if "validation" in row])

    def best(self) -> tuple[int, float] | None:
        """Step and J&F of the best validated checkpoint that is still here; the first on ties."""
        best = None
        for row in self.validations():
            score = row["validation"].get("J&F")
            if score is None or not self.checkpoint(row["step"]).is_dir():
                continue
            if best is None or score > best[1]:
                best = (row["step"], score)
        return best

    def tidy(self, keep: int) -> None:
        """Link `best`; delete all but the best and the `keep` newest checkpoints, and of an older
        best one what only resuming needs."""
        best = self.best()
        kept = self.steps()[-keep:]
        chosen = best[0] if best is not None else kept[-1]
        # Again: a run may have been killed between giving a checkpoint its name and linking it.
        self._link("last", self.checkpoint(kept[-1]))
        self._link("best", self.checkpoint(chosen))
        for step, folder in self._folders().items():
            if step == chosen and step not in kept:
                _remove(folder / STATE)
            elif step not in kept and step != chosen:
                _remove(folder)

    def _folders(self) -> dict[int, Path]:
        """Checkpoints by step. What else lies beside them is not ours to read or delete."""
        found = self.checkpoints.glob("step-*")
        return {int(f.name[5:]): f for f in found if re.fullmatch(r"step-\d{8,}", f.name)}

    def _link(self, name: str, folder: Path) -> None:
        partial = self.path / f".{name}.part"
        partial.unlink(missing_ok=True)
        partial.symlink_to(os.path.relpath(folder, self.path), target_is_directory=True)
        partial.replace(self.path / name)

    def _forget_after(self, step: int) -> None:
        """Drop from the log what will be done again."""
        rows = [row for row in self.rows() if row["step"] <= step]
        if self.log.is_file():
            write_text(self.log, "".join(json.dumps(row) + "\n" for row in rows))


def comparable(rows: Sequence[dict]) -> list[dict]:
    """Of rows of validation, oldest first, those that the judge of the newest J&F has scored.

    A run may be resumed with other validation videos: what those give says nothing about earlier
    checkpoints. Rows without J&F, of held-out batches alone, stay.
    """
    scored = [row for row in rows if row["validation"].get("J&F") is not None]
    judge = scored[-1].get("judge") if scored else None
    return [r for r in rows if r["validation"].get("J&F") is None or r.get("judge") == judge]


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _remove(folder: Path) -> None:
    """Delete a folder so that, interrupted, nothing half-deleted looks whole."""
    if folder.is_dir():
        doomed = folder.with_name(f".{folder.name}.gone.part")
        _delete(doomed)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def _delete(path: Path) -> None:
    """Delete whatever it is, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
