"""The folder of a benchmark run: which run it is, what is finished, and the masks themselves.

    DIR/run.json                                      what the run is
    DIR/predictions/<video>/<exp_id>/<frame>.png      8-bit grey, 0 or 255, source size
    DIR/records/<video>.json                          what else is known of a finished video

A video gets its place in `predictions` in one rename and counts as finished once its record is
there, which is written last. So a run may end at any moment, by `kill -9` too, and the next one
goes on with the same bytes as if nothing had happened.
"""

import contextlib
import json
import math
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from eval.report import write_json
from modeling_findtrack.results import Track

try:
    import fcntl
except ImportError:  # Windows has no such locks; two runs in one folder are then not told apart
    fcntl = None

RUN_VERSION = 1  # of what the files of a run mean; part of every run's identity
_RUN, _PREDICTIONS, _RECORDS, _PARTIAL = "run.json", "predictions", "records", ".partial"
_SUBMISSION = "submission.zip"
_ABANDONED = 86400  # seconds after which a video half-written on another machine is given up
_HOST = platform.node() or "host"
_OWNER = f"{_HOST}-{os.getpid()}"
# What a run leaves in its folder besides run.json; `overwrite` removes these in this order.
_RESULTS = ("report.json", "report.html", _SUBMISSION, _RECORDS, _PREDICTIONS)


class RunFolder:
    """The folder of one run, on a file system that all processes of the run see.

    Args:
        path: DIR of the layout above; made where it is not there.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.predictions = self.path / _PREDICTIONS
        self.records = self.path / _RECORDS
        self.submission = self.path / _SUBMISSION
        self._partial = self.path / _PARTIAL

    @contextlib.contextmanager
    def claimed(self, identity: dict, overwrite: bool = False) -> Iterator[None]:
        """Make the folder this run's, or go on with it; for one process, before others write.

        Removes what an interrupted run left half-written. While the context is open no other run
        can claim the folder; a run that is killed lets go of it.

        Args:
            identity: What predictions depend on; plain JSON values by readable names.
            overwrite: Remove the results of another run first; this run's own stay.

        Raises:
            ValueError: The folder holds another run's results, or files that are no run's.
            OSError: Another run is writing there, or the folder is not writable.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock():
            stored = self._stored_identity()
            if stored is None:
                self._refuse_foreign_files()
            elif stored != identity:
                if not overwrite:
                    raise ValueError(
                        f"{self.path} holds another run ({_difference(stored, identity)}); choose "
                        "another --out, or add --overwrite to replace it"
                    )
                self._remove_results()
            write_json(self.path / _RUN, identity)
            self._remove_leftovers()
            for folder in (self.predictions, self.records, self._partial):
                folder.mkdir(exist_ok=True)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # not empty if another process was killed
                    self._partial.rmdir()

    def finished(self, video: str) -> bool:
        """Whether all masks of a video are in place; if one was lost since, they are not."""
        try:
            record = self.record(video)
            folders = [self.predictions / video / e["exp_id"] for e in record["expressions"]]
            counts = [sum(name.endswith(".png") for name in os.listdir(f)) for f in folders]
        except (OSError, ValueError):  # ValueError: cut off when the machine went down
            return False
        return (self.predictions / video).is_dir() and set(counts) <= {record["frames"]}

    def record(self, video: str) -> dict:
        """What `write` noted of a finished video."""
        return json.loads(self._record_path(video).read_text(encoding="utf-8"))

    def write(
        self,
        video: str,
        rows: Sequence[dict],
        tracks: Sequence[Track],
        seconds: dict,
        process: int = 0,
    ) -> None:
        """Write all masks of a video, then its record; the video is finished then, not before.

        Args:
            video: Its name.
            rows: The video's rows of the benchmark; none if nothing is asked about it.
            tracks: The answer to each of them.
            seconds: Of the stages so far; "write" is added.
            process: Which one of the run's answered.

        Raises:
            ValueError: A track is not of its row's size or length, or its score is no number.
        """
        begin = time.perf_counter()
        for row, track in zip(rows, tracks, strict=True):
            _check(row, track)
        partial = self._partial / f"{_OWNER}.{uuid.uuid4().hex}"
        partial.mkdir()
        try:
            for row, track in zip(rows, tracks, strict=True):
                _write_masks(partial / row["exp_id"], row["frame_names"], track)
            place = self.predictions / video
            if place.exists():  # in place, but its record never came
                shutil.rmtree(place)
            partial.rename(place)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        record = {
            "video_id": video,
            "process": process,
            "frames": len(rows[0]["frame_names"]) if rows else 0,
            "seconds": seconds | {"write": time.perf_counter() - begin},
            "expressions": [
                {
                    "exp_id": row["exp_id"],
                    "expression": row["expression"],
                    "found": track.found,
                    "score": track.score,
                    "key_frame": track.key_frame,
                    "empty": not track.masks.areas().any(),
                }
                for row, track in zip(rows, tracks, strict=True)
            ],
        }
        write_json(self._record_path(video), record)

    def _record_path(self, video: str) -> Path:
        return self.records / f"{video}.json"

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other runs out. The lock is the process's: the system frees it whatever happens."""
        with (self.path / ".lock").open("w") as file:
            if fcntl is not None:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except (BlockingIOError, PermissionError):
                    raise OSError(
                        f"another run is writing into {self.path}; wait for it, or choose "
                        "another --out"
                    ) from None
                except OSError:  # a file system without locks
                    pass
            yield

    def _stored_identity(self) -> dict | None:
        try:
            return json.loads((self.path / _RUN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise ValueError(f"{self.path / _RUN} is damaged; choose another --out") from None

    def _refuse_foreign_files(self) -> None:
        """Nothing is ever removed that no run has made."""
        for name in _RESULTS:
            if os.path.lexists(self.path / name):
                raise ValueError(
                    f"{self.path}: {name} is there already and not from a run; move it away or "
                    "choose another --out"
                )

    def _remove_results(self) -> None:
        """Records go before predictions: without its record a video is not finished."""
        for name in _RESULTS:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        """All but what a process of an earlier run, orphaned, may still be writing."""
        for path in self._partial.glob("*"):
            old = time.time() - path.stat().st_mtime > _ABANDONED
            if old or not _alive(path.name):
                shutil.rmtree(path, ignore_errors=True)
        for folder in (self.path, self.records):
            for path in folder.glob(".*.part"):
                path.unlink()


def _alive(partial: str) -> bool:
    """Whether the process that made a partial folder runs, as far as this machine can tell."""
    host, _, pid = partial.rpartition(".")[0].rpartition("-")
    if host != _HOST or not pid.isdecimal():
        return host not in ("", _HOST)
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is someone else's
        return True
    return int(pid) != os.getpid()


def _difference(stored, identity: dict) -> str:
    """What two identities differ in, long digests cut."""
    if not isinstance(stored, dict):
        return "run.json is of another kind"
    keys = [k for k in {**stored, **identity} if stored.get(k) != identity.get(k)]
    return ", ".join(
        f"{k} {str(stored.get(k))[:12]}, now {str(identity.get(k))[:12]}" for k in keys
    )


def _check(row: dict, track: Track) -> None:
    """Refuse what would become an unusable prediction.

    Raises:
        ValueError: The track is not of the row's size or length, or its score is no number.
    """
    what = f"video {row['video_id']}, expression {row['exp_id']}"
    expected = (len(row["frame_names"]), row["height"], row["width"])
    if (len(track.masks), *track.masks.size) != expected:
        raise ValueError(f"{what}: {track.masks!r} for {expected} (frames, height, width)")
    if track.score is not None and not math.isfinite(track.score):
        raise ValueError(f"{what}: the model's score is {track.score}; try --dtype float32")


def _write_masks(folder: Path, names: Sequence[str], track: Track) -> None:
    """One PNG per frame: the same mask gives the same bytes, whatever Pillow's defaults become."""
    folder.mkdir()
    for name, mask in zip(names, track.masks, strict=True):
        image = Image.fromarray(mask.view(np.uint8) * np.uint8(255))
        image.save(folder / f"{name}.png", format="PNG", optimize=False, compress_level=6)
