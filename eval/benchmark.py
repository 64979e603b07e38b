"""Run a model on a benchmark: masks for every expression, then scores or a zip, and a report.

    python -m eval.benchmark ref-sprites --model tiny --out DIR
    python -m eval.benchmark ref-youtube-vos --root ROOT --split valid --out DIR
    python -m eval.benchmark video-folder --root ROOT --out DIR       your own videos
    accelerate launch -m eval.benchmark mevis --root ROOT --split valid_u --out DIR

An interrupted run goes on where it stopped when the command is given again; so does one that was
limited by --limit or --videos. `accelerate launch` deals the videos out over GPUs and machines;
DIR is then a folder all of them see. What lies in DIR:

    predictions/<video>/<exp_id>/<frame>.png   8-bit grey, 0 or 255, source size
    report.json, report.html                   scores, what was run, what it took
    submission.zip                             where a server scores the split, once it is complete
    run.json, records/                         what the run is, and what is finished
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from eval.benchmarks import BENCHMARKS, load_benchmark
from eval.benchmarks.base import Benchmark
from eval.benchmarks.tree import LayoutError
from eval.options import TRACKER_SETTINGS, add_loader_options, loader_options, video_names
from eval.report import add_model_options, cores, positive, run_command

# Heavy modules are imported where they are used: processes that score import this one, too.

SPRITES = Path(__file__).parent / "data" / "ref_sprites"
# The split a benchmark is validated on; of MeViS the one whose masks are published, and of a folder
# of videos everything.
DEFAULT_SPLITS = {
    "ref-youtube-vos": "valid",
    "ref-davis17": "valid",
    "mevis": "valid_u",
    "ref-sprites": "valid",
    "video-folder": "all",
}
_UNUSABLE = 2  # exit status


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--root", type=Path, help="the benchmark's folder; ref-sprites: shipped")
    defaults = ", ".join(f"{name}: {split}" for name, split in DEFAULT_SPLITS.items())
    parser.add_argument("--split", help=f"default: {defaults}")
    add_model_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N videos")
    parser.add_argument("--key-frames", type=positive, metavar="K", help="default: the model's")
    parser.add_argument(
        "--tracker-settings",
        choices=TRACKER_SETTINGS,
        help="the published ones of a benchmark, for a Cutie tracker; default: the model's",
    )
    parser.add_argument(
        "--workers", type=positive, default=cores(), metavar="N", help="processes that score"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the results of another run, if that is what --out holds",
    )
    add_loader_options(parser)
    args = parser.parse_args(argv)
    if args.root is None and args.name != "ref-sprites":
        parser.error(f"{args.name} needs --root, the folder of its unzipped files")
    args.options = loader_options(parser, args, args.name)
    args.root, args.split = args.root or SPRITES, args.split or DEFAULT_SPLITS[args.name]
    return args


def _load(args: argparse.Namespace) -> tuple[Benchmark, Benchmark]:
    """The whole split, and what --videos and --limit leave of it."""

    def load(videos: Sequence[str] | None, **how) -> Benchmark:
        options = args.options | how
        return load_benchmark(args.name, args.root, args.split, videos=videos, **options)

    names = video_names(args.videos)
    if names is None:
        whole = benchmark = load(None)
    else:
        benchmark = load(names)
        try:
            whole = load(None, check_frames=False)  # those of other videos may be missing
        except LayoutError:
            whole = benchmark  # nothing tells what the split is, so it is what was named
    if args.limit is not None and args.limit < len(benchmark.videos):
        benchmark = load(benchmark.videos[: args.limit])
    return whole, benchmark


def _run(args: argparse.Namespace) -> None:
    from eval.benchmark_run import run_benchmark, set_tracker
    from eval.prediction_writer import RunFolder
    from eval.processes import Processes
    from modeling_findtrack import cli

    processes = Processes.join(args.device)
    whole, benchmark = _load(args)
    model, processor = cli.load_model(args.model, args.device, args.dtype)
    if args.tracker_settings is not None:
        set_tracker(model, args.tracker_settings)
    folder = RunFolder(args.out)
    report = run_benchmark(
        benchmark,
        model,
        processor,
        folder,
        model_name=args.model,
        whole=whole,
        key_frames=args.key_frames,
        overwrite=args.overwrite,
        workers=args.workers,
        processes=processes,
        options=args.options,
    )
    if report is not None:
        print(_summary(report, whole, folder))


def _summary(report: dict, whole: Benchmark, folder) -> str:
    """What the command prints: the scores as `eval.score` does, or where the zip is."""
    from eval.scoring import format_scores
    from eval.submission import TOP_FOLDERS

    about, count = report["benchmark"], len(report["expressions"])
    title = f"{about['name']} {about['split']}, {about['videos']} videos, {count} expressions"
    done = sum(map(folder.finished, whole.videos))
    if report["scores"] is not None:
        lines = [f"{title}; percent\n\n{format_scores(report['scores'])}\n"]
    elif whole.name not in TOP_FOLDERS:
        lines = [title, "no scores: there are no masks to score against"]
    elif done == len(whole.videos):
        lines = [title, f"for the server: {folder.submission}, {done} videos"]
    else:
        lines = [
            title,
            f"no {folder.submission.name}: {done} of {len(whole.videos)} videos are done and the "
            "server takes complete splits; give the command without --limit and --videos",
        ]
    return "\n".join([*lines, f"report: {folder.path / 'report.html'}"])


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when the report is written, 2 on unusable input, 130 when interrupted."""
    args = _parse(argv)  # first: nothing heavy is loaded for --help
    from eval.processes import PeerError

    speaks = os.environ.get("RANK", "0") == "0"  # one of several processes is enough

    def work() -> int:
        try:
            _run(args)
        except (PeerError, LayoutError) as error:
            # What a peer has told, or tells in the same words, need not be told twice.
            if speaks or isinstance(error, LayoutError) and os.environ.get("LOCAL_RANK") == "0":
                raise
            return _UNUSABLE
        return 0

    note = "interrupted; the same command goes on where it stopped"
    return run_command("eval.benchmark", work, note if speaks else None)


if __name__ == "__main__":
    raise SystemExit(main())
