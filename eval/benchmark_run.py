"""A model on a benchmark: predict what is not finished yet, then score, zip and report."""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence

from tqdm import tqdm

from eval.benchmarks.base import Benchmark
from eval.benchmarks.frames import open_frames
from eval.html_report import write_html
from eval.prediction_writer import RUN_VERSION, RunFolder
from eval.processes import PeerError, Processes
from eval.report import model_digest, write_json
from eval.run_report import build_report, versions
from eval.scoring import score_predictions
from eval.submission import TOP_FOLDERS, write_submission
from modeling_findtrack import cli
from modeling_findtrack.configuration_findtrack import CUTIE_SETTINGS, CutieConfig
from modeling_findtrack.results import Track

ALONE = Processes()
_MASKS_DEPEND_ON = ("torch", "transformers", "pillow")  # installed versions


def run_benchmark(
    benchmark: Benchmark,
    model,
    processor,
    folder: RunFolder,
    *,
    model_name: str,
    whole: Benchmark | None = None,
    key_frames: int | None = None,
    overwrite: bool = False,
    workers: int = 1,
    processes: Processes = ALONE,
    options: dict | None = None,
) -> dict | None:
    """Bring a run to its end, from wherever an earlier one left it.

    Args:
        benchmark: What to run, the whole split or some videos of it.
        model: A `FindTrackModel`.
        processor: Its processor.
        folder: Where everything goes.
        model_name: Folder or Hub id of the model; its content is part of the run's identity.
        whole: The whole split; None if `benchmark` is that. A run of a part can be extended.
        key_frames: K, frames to search; the model's own number if None.
        overwrite: Replace another run's results.
        workers: Processes that score.
        processes: Those that share the work.
        options: Those the benchmark was loaded with, for the report; plain JSON values.

    Returns:
        The content of report.json; None in processes other than the main one.

    Raises:
        ValueError: The folder holds another run, or a video cannot be answered.
        OSError: A file cannot be read or written; `PeerError` if another process has failed.
    """
    whole = whole or benchmark
    key_frames = key_frames or model.config.num_key_frames
    with contextlib.ExitStack() as stack:
        unfinished: list[str] | None = None
        try:
            if processes.main:
                identity = _identity(whole, model, model_name, key_frames)
                stack.enter_context(folder.claimed(identity, overwrite))
                unfinished = [v for v in benchmark.videos if not folder.finished(v)]
        finally:
            unfinished = processes.tell(unfinished)  # None: nothing will come, nobody shall wait
        if unfinished is None:
            raise PeerError("the main process could not begin; see what it says")
        share = unfinished[processes.rank :: processes.count]
        _predict(benchmark, share, model, processor, folder, key_frames, processes)
        processes.wait()
        if not processes.main:
            return None
        about = {
            "model": {"name": cli.model_name(model_name), "digest": identity["model digest"]},
            "config": _config(model, key_frames),
            "benchmark": {
                "name": benchmark.name,
                "split": benchmark.split,
                "root": str(benchmark.root),
                "digest": identity["benchmark digest"],  # of the whole split
                "videos": len(benchmark.videos),
                "videos_in_split": len(whole.videos),
                **(options or {}),
            },
        }
        return _finish(benchmark, whole, folder, about, workers)


def set_tracker(model, name: str) -> None:
    """Track as published for one benchmark.

    Args:
        model: A `FindTrackModel` with a Cutie tracker.
        name: A key of `CUTIE_SETTINGS`.

    Raises:
        ValueError: The model has another tracker.
    """
    config = model.config.tracker_config
    if config.model_type != CutieConfig.model_type:
        raise ValueError("--tracker-settings are Cutie's, and this model tracks with SAM 2")
    for setting, value in CUTIE_SETTINGS[name].items():
        setattr(config, setting, value)


def _tracker_settings(model) -> dict:
    """What `set_tracker` may change, as it is; nothing for another tracker."""
    config = model.config.tracker_config
    if config.model_type != CutieConfig.model_type:
        return {}
    return {setting: getattr(config, setting) for setting in next(iter(CUTIE_SETTINGS.values()))}


def _identity(whole: Benchmark, model, model_name: str, key_frames: int) -> dict:
    """All that masks depend on: two runs that agree in it may share a folder."""
    installed = versions()
    return {
        "version": RUN_VERSION,
        "benchmark": whole.name,
        "split": whole.split,
        # What the model was given, not what it is scored against: truth may come later.
        "benchmark digest": whole.input_digest(),
        "model digest": model_digest(model_name),
        "model revision": getattr(model.config, "_commit_hash", None),  # of one from the Hub
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "key frames": key_frames,
        **_tracker_settings(model),
        **{name: installed[name] for name in _MASKS_DEPEND_ON},
    }


def _config(model, key_frames: int) -> dict:
    rules = ("iou_weight", "alignment_weight", "score_threshold", "presence_threshold")
    return {
        "key_frames": key_frames,
        **{name: getattr(model.config, name) for name in (*rules, "accept_empty_masks")},
        **_tracker_settings(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
    }


def _predict(
    benchmark: Benchmark,
    videos: Sequence[str],
    model,
    processor,
    folder: RunFolder,
    key_frames: int,
    processes: Processes,
) -> None:
    """Write the masks of this process's videos; the main one shows how its share comes on."""
    bar = tqdm(
        videos,
        desc=f"process 1 of {processes.count}" if processes.count > 1 else None,
        unit="video",
        disable=not (processes.main and sys.stderr.isatty()),
    )
    for video in bar:
        rows, watch = benchmark.rows(video), _Stopwatch()
        try:
            tracks = _segment(model, processor, rows, key_frames, watch)
        except ValueError as error:
            raise ValueError(f"video {video}: {error}") from error
        folder.write(video, rows, tracks, watch.seconds, processes.rank)


def _segment(
    model, processor, rows: Sequence[dict], key_frames: int, watch: Callable
) -> list[Track]:
    """The answers to all expressions of a video, which are found and tracked together."""
    if not rows:
        return []
    tracks = model.segment(
        open_frames(rows[0]),
        [row["expression"] for row in rows],
        processor=processor,
        key_frames=key_frames,
        progress=watch,
    )
    watch("track")
    return tracks


class _Stopwatch:
    """A progress callback that adds up the seconds of each stage."""

    def __init__(self):
        self.seconds = {"find": 0.0, "track": 0.0}
        self._last = time.perf_counter()

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now


def _finish(
    benchmark: Benchmark, whole: Benchmark, folder: RunFolder, about: dict, workers: int
) -> dict:
    """Score, or zip a complete split that a server scores; then report."""
    result = seconds = None
    if benchmark.has_truth:
        begin = time.perf_counter()
        result = score_predictions(benchmark, folder.predictions, workers=workers)
        seconds = time.perf_counter() - begin
    elif whole.name in TOP_FOLDERS and all(map(folder.finished, whole.videos)):
        write_submission(whole, folder.predictions, folder.submission)
    report = build_report(benchmark, folder, result, about, seconds)
    write_json(folder.path / "report.json", report)
    write_html(folder.path / "report.html", report, result, benchmark, folder.predictions)
    return report
