"""Score a folder of PNGs against a benchmark: of `eval.benchmark`, or anyone's precomputed results.

    python -m eval.score PREDICTIONS --dataset mevis --root ROOT --split valid_u
    python -m eval.score PREDICTIONS --dataset ref-davis17 --root ROOT --split valid
    python -m eval.score PREDICTIONS --dataset davis --root DAVIS --split val --protocol davis-semi
    python -m eval.score PREDICTIONS --dataset video-folder --root ROOT       your own videos

PREDICTIONS is a folder, or a zip of it as a server takes it. What lies in it:

    [Annotations/]<video>/<exp_id>/<frame>.png     one mask per expression; > 0 is foreground
    [valid/]anno_<0..3>/<video>/<frame>.png        ref-davis17: a label map per annotator
    [Annotations/]<video>/<frame>.png              davis: a label map per video

Protocols. per-expression: the mean over expressions of the mean over all frames; primary for
ref-youtube-vos, mevis, ref-sprites and video-folder, there over expressions that have a target.
davis-unsupervised: proposals are matched to objects, void is left out; primary for ref-davis17, as
the mean over the four sets of expressions. Masks of a set that overlap are merged first; a pixel
that several claim goes to the object with the lower number. davis-semi: objects are matched by
number, the first and the last frame do not count; primary for davis. Numbers of different protocols
cannot be compared.
"""

import argparse
import contextlib
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.benchmarks import BENCHMARKS, load_benchmark
from eval.benchmarks.base import Benchmark
from eval.benchmarks.video_folder import VideoFolder
from eval.benchmarks.video_metadata import ALL
from eval.conventions import CONVENTIONS, DAVIS_UNSUPERVISED
from eval.davis_tree import DavisTree
from eval.options import DAVIS, add_loader_options, loader_options, video_names
from eval.report import cores, positive, run_command, write_json
from eval.scoring import MISSING, Result, format_scores, score_predictions

DATASETS = (*BENCHMARKS, DAVIS)


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.score", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder or zip")
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument("--root", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--split", help="for davis also: all; video-folder: all if not given")
    parser.add_argument("--protocol", choices=CONVENTIONS, help="default: the dataset's primary")
    parser.add_argument(
        "--missing", choices=MISSING, default="error", help="what a missing PNG is (error)"
    )
    parser.add_argument("--workers", type=positive, default=cores(), metavar="N")
    parser.add_argument("--out", type=Path, metavar="JSON", help="scores of everything there is")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N videos")
    add_loader_options(parser)
    args = parser.parse_args(argv)
    args.options = loader_options(parser, args, args.dataset)
    if args.split is None:
        if args.dataset != VideoFolder.name:
            parser.error(f"{args.dataset} needs --split")
        args.split = ALL
    if args.out is not None and (args.out.is_dir() or not args.out.absolute().parent.is_dir()):
        parser.error(f"--out {args.out}: name a JSON file in a folder that is there")
    return args


def _load(args: argparse.Namespace) -> Benchmark | DavisTree:
    def load(videos: Sequence[str] | None) -> Benchmark | DavisTree:
        if args.dataset != DAVIS:
            options = args.options
            return load_benchmark(args.dataset, args.root, args.split, videos=videos, **options)
        made_for = "unsupervised" if args.protocol == DAVIS_UNSUPERVISED else "2017"
        options = {"annotations": made_for} | args.options
        return DavisTree(args.root, args.split, videos=videos, **options)

    benchmark = load(video_names(args.videos))
    if args.limit is not None and args.limit < len(benchmark.videos):
        benchmark = load(benchmark.videos[: args.limit])
    return benchmark


@contextlib.contextmanager
def _as_folder(path: Path) -> Iterator[Path]:
    """The folder itself, or what is in the zip while the context is open."""
    if not path.is_file():
        is_run = (path / "run.json").is_file()  # of `eval.benchmark`
        yield path / "predictions" if is_run else path
        return
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is neither a folder nor a zip, or was cut off")
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".png")]
                archive.extractall(folder, names)
        # RuntimeError: encrypted; NotImplementedError: packed in an unusual way.
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"{path} cannot be unpacked: {error}") from error
        yield Path(folder)


def _report(result: Result) -> dict:
    return {
        "scores": result.scores,
        "missing": result.missing,
        "expressions": [e.as_dict() for e in result.expressions],
        "videos": list(result.videos),
    }


def _run(args: argparse.Namespace) -> int:
    benchmark = _load(args)
    with _as_folder(args.predictions) as folder:
        result = score_predictions(
            benchmark,
            folder,
            protocol=args.protocol,
            missing=args.missing,
            workers=args.workers,
        )
    facts = [f"{args.dataset} {args.split}", f"{len(result.videos)} videos"]
    if result.expressions:
        facts.append(f"{len(result.expressions)} expressions")
    if args.missing == "empty":
        facts.append(f"{result.missing} missing PNGs counted as empty")
    print(f"{', '.join(facts)}; percent\n\n{format_scores(result.scores)}")
    if args.out is not None:
        write_json(args.out, _report(result))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when scored, 2 on unusable input, 130 when interrupted."""
    args = _parse(argv)
    return run_command("eval.score", lambda: _run(args), "interrupted")


if __name__ == "__main__":
    raise SystemExit(main())
