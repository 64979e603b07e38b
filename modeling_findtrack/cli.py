"""The `findtrack` command. Heavy imports wait inside the subcommands: help comes at once."""

import argparse
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .shipped import DEFAULT_MODEL, MODEL_HELP, checkpoint, short_name

_DEVICES = ("auto", "cpu", "cuda", "mps")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_OUTPUTS = {  # what `segment --write` takes, and the entry each kind makes
    "masks": "masks",
    "overlay": "overlay.mp4",
    "coco": "coco.json",
    "npz": "masks.npz",
    "matte": "matte",
}
_KINDS = tuple(_OUTPUTS)
_UNUSABLE, _INTERRUPTED = 2, 130  # exit statuses


class CliError(ValueError):
    """Unusable input; the message is the one line the user sees."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. With FINDTRACK_DEBUG set, errors keep their traceback.

    Returns:
        0 when done (also when nothing was found), 2 for unusable input with one line on stderr,
        130 when interrupted.
    """
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # --help, or a usage error already told
        return int(stop.code or 0)
    seen: list[int] = []
    try:
        with interruptible(seen):
            args.run(args)
    except (ValueError, OSError, TypeError) as error:  # what unusable input raises
        if seen:  # an interrupt inside pycocotools comes out as a TypeError
            return _say_interrupted(args)
        if isinstance(error, TypeError) or os.environ.get("FINDTRACK_DEBUG"):
            raise
        sys.stderr.write(f"findtrack: error: {_one_line(error)}\n")
        for line in getattr(error, "details", ()):  # names, where there are many
            sys.stderr.write(f"  {line}\n")
        return _UNUSABLE
    except KeyboardInterrupt:
        return _say_interrupted(args)
    return 0


def _say_interrupted(args: argparse.Namespace) -> int:
    written = getattr(args, "written", None)  # a command says so once its folder is in place
    sys.stderr.write(f"findtrack: interrupted, {written or 'nothing'} was written\n")
    return _INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(_UNUSABLE, f"findtrack: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    from .assemble_options import add_assemble

    parser = _Parser(
        prog="findtrack",
        description="Find the object a sentence names, track it.",
        epilog="With FINDTRACK_DEBUG set in the environment, errors keep their traceback.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    segment = commands.add_parser(
        "segment",
        help="a video and sentences in, one mask per frame and sentence out",
        description="Segment and track what each sentence names. Writes DIR/result.json, "
        "DIR/contact_sheet.png (the frames looked at, with scores) and what --write lists.",
    )
    segment.add_argument("video", metavar="VIDEO", help="a video file, or a folder of images")
    segment.add_argument("expressions", metavar="EXPRESSION", nargs="+", help="one object each")
    segment.add_argument("--out", metavar="DIR", help="default: VIDEO's name + .findtrack, here")
    _add_model_options(segment)
    segment.add_argument(
        "--key-frames", type=_positive, metavar="K", help="frames to look at (default: the model's)"
    )
    segment.add_argument(
        "--write",
        type=_kinds,
        default=("masks", "overlay"),
        metavar="KINDS",
        help=f"comma-separated: {', '.join(_KINDS)} (default: masks,overlay)",
    )
    segment.add_argument(
        "--overwrite",
        action="store_true",
        help="write into DIR though it holds other files; of these none is replaced "
        "(an earlier result in DIR is always replaced)",
    )
    segment.add_argument(
        "--quiet",
        action="store_true",
        help="no progress bars, no summary, no line about words that the model does not know",
    )
    segment.set_defaults(run=_segment)

    hub = commands.add_parser(
        "hub-folder",
        help="make a Hub-ready folder of a model: weights, configs, remote code",
        description="Write MODEL with everything AutoModel.from_pretrained needs, its weights in "
        "the number format they are stored in. A model card (README.md) is copied where MODEL is "
        "a folder that has one; otherwise none is written.",
    )
    hub.add_argument(
        "model", metavar="MODEL", nargs="?", type=checkpoint, default=DEFAULT_MODEL, help=MODEL_HELP
    )
    hub.add_argument("--out", metavar="DIR", required=True, help="the folder to make")
    hub.add_argument(
        "--push", metavar="REPO_ID", help="upload the files written to this Hub repository"
    )
    hub.add_argument(
        "--overwrite",
        action="store_true",
        help="write into DIR though it holds other files; of these none is replaced "
        "(an earlier Hub folder in DIR is always replaced)",
    )
    hub.set_defaults(run=_hub_folder)

    nouns = commands.add_parser(
        "nouns",
        help="list the nouns that a model knows",
        description="Print the nouns that a model was trained to find, one per line, with the "
        "other words that it reads as them in brackets; of a model that lists no nouns, all words "
        "it knows.",
    )
    _add_model_option(nouns)
    nouns.set_defaults(run=_nouns)
    add_assemble(commands).set_defaults(run=_assemble)
    return parser


def _add_model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=checkpoint, default=DEFAULT_MODEL, metavar="NAME", help=MODEL_HELP
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    _add_model_option(parser)
    parser.add_argument(
        "--device",
        choices=_DEVICES,
        default="auto",
        help="where to compute (default: auto, which takes cuda, then mps, then cpu)",
    )
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        default="auto",
        help="number format to compute in (default: auto, which is float32, and bfloat16 on a GPU "
        "that has it)",
    )


def _positive(text: str) -> int:
    number = int(text) if text.strip().isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError("must be a whole number, at least 1")
    return number


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(kind.strip() for kind in text.split(",") if kind.strip())
    for kind in kinds:
        if kind not in _KINDS:
            raise argparse.ArgumentTypeError(f"'{kind}' is none of {', '.join(_KINDS)}")
    return kinds


def _segment(args: argparse.Namespace) -> None:
    """Check every input, then load, segment, write: what can fail cheaply fails first."""
    expressions = _checked_expressions(args.expressions)
    from .export import OUTPUT_NAMES, export, is_result_folder
    from .output_folder import OutputFolder
    from .progress_bars import progress_bars
    from .video_io import open_video

    out = args.out or f"{Path(args.video).resolve().stem}.findtrack"
    expected = ["result.json", "contact_sheet.png", *(_OUTPUTS[kind] for kind in args.write)]
    output = OutputFolder(out, OUTPUT_NAMES, is_result_folder, args.overwrite, expected=expected)
    with open_video(args.video) as video, output as folder:
        model, processor = load_model(args.model, args.device, args.dtype)
        if not args.quiet:
            _tell_unknown_words(processor, expressions, args.model)
        with progress_bars(args.quiet) as progress:
            tracks = model.segment(
                video,
                expressions,
                processor=processor,
                key_frames=args.key_frames,
                progress=progress,
            )
            export(
                video,
                tracks,
                folder,
                kinds=args.write,
                model=model_name(args.model),
                source=args.video,
                progress=progress,
            )
    args.written = out
    if not args.quiet:
        _say(_summary(tracks, Path(out)))


def _checked_expressions(expressions: Sequence[str]) -> list[str]:
    for number, expression in enumerate(expressions, 1):
        if not expression.strip():
            which = "the sentence" if len(expressions) == 1 else f"sentence {number}"
            raise CliError(f"{which} is empty; say what to look for")
    return list(expressions)


def _tell_unknown_words(processor, expressions: Sequence[str], model: str) -> None:
    """A line per sentence that is answered without being understood, before the long work."""
    for expression in dict.fromkeys(expressions):
        remark = processor.remark(expression)
        if remark is None:
            continue
        if processor.nouns:
            remark += f" (all: {_nouns_command(model)})"
        sys.stderr.write(f'findtrack: "{" ".join(expression.split())}": {remark}\n')


def _nouns_command(model: str) -> str:
    """What lists the nouns of a model."""
    named = [] if model == DEFAULT_MODEL else ["--model", short_name(model) or model]
    return shlex.join(["findtrack", "nouns", *named])


def load_model(name: str, device: str = "auto", dtype: str = "auto") -> tuple:
    """Model and processor of a checkpoint, with the installed code, on a device.

    Args:
        name: Checkpoint folder, Hub id, or short name of a shipped checkpoint.
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: "auto" is float32, and bfloat16 on CUDA where it has that.

    Raises:
        CliError: If the checkpoint or the device is not there, or is no FindTrack model.
    """
    import torch
    from safetensors import SafetensorError

    _say_errors_alone()
    name, device = checkpoint(name), _pick_device(torch, device)
    if dtype == "auto":
        fast = device == "cuda" and torch.cuda.is_bf16_supported()
        dtype = "bfloat16" if fast else "float32"
    _check_checkpoint(name)
    from .modeling_findtrack import FindTrackModel
    from .processing_findtrack import FindTrackProcessor

    try:
        model, loading = FindTrackModel.from_pretrained(
            name,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
        )
        processor = FindTrackProcessor.from_pretrained(name)
    except SafetensorError as error:  # cut off, or the text that stands for a Git LFS file
        raise CliError(
            f"{name}: the weights are damaged or not fully downloaded ({_one_line(error)})"
        ) from None
    except (OSError, ValueError) as error:
        raise CliError(f"{name}: the model cannot be loaded ({_one_line(error)})") from None
    # transformers fills what a checkpoint lacks with random numbers, with no more than a warning.
    mismatched = [key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"]]
    lacking = sorted(loading["missing_keys"]) + sorted(mismatched)
    if lacking:
        raise CliError(
            f"{name}: the checkpoint does not fit its config, {len(lacking)} tensors are missing "
            f"or of another shape ({lacking[0]}, ...)"
        )
    return model.to(device).eval(), processor


def load_processor(name: str):
    """The processor of a checkpoint alone.

    Args:
        name: As for `load_model`.

    Raises:
        CliError: If it is not there, or of no FindTrack model.
    """
    _say_errors_alone()
    name = checkpoint(name)
    _check_checkpoint(name)
    from .processing_findtrack import FindTrackProcessor

    try:
        return FindTrackProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CliError(f"{name}: the processor cannot be loaded ({_one_line(error)})") from None


def _say_errors_alone() -> None:
    """An error is one line, without warnings and retries told on the way."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _pick_device(torch, device: str) -> str:
    available = {"cpu": True, "cuda": torch.cuda.is_available()}
    available["mps"] = torch.backends.mps.is_available()
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if device not in available:
        raise CliError(f"device {device}: unknown; choose one of {', '.join(_DEVICES)}")
    if not available[device]:
        raise CliError(f"device {device}: not available here; use --device cpu")
    return device


def _check_checkpoint(name: str) -> None:
    """Tell a missing folder, and a model of another kind, before anything large is read."""
    from transformers import PreTrainedConfig

    path = Path(name)
    looks_local = path.is_absolute() or name.startswith(".") or name.count("/") != 1
    if not path.is_dir() and (looks_local or path.exists()):
        if short := short_name(name):
            raise CliError(
                f"{short}: this checkpoint is not installed; a checkout of FindTrack's repository "
                f"has it as {path.parent.name}/{short}"
            )
        raise CliError(f"{name}: no such model folder")
    try:
        config, _ = PreTrainedConfig.get_config_dict(name)
    except (OSError, ValueError):
        config = {}
    if not config:
        raise CliError(f"{name}: no model there (no config.json found, or the Hub not reached)")
    kind = config.get("model_type")
    if kind != "findtrack":
        raise CliError(f"{name}: not a FindTrack model, but of type {kind}")


def model_name(name: str) -> str:
    """What results call a model: as it was named, but for those that ship."""
    short = short_name(name)
    return f"findtrack-{short}" if short else name


def _hub_folder(args: argparse.Namespace) -> None:
    """Save a checkpoint together with the code it runs on."""
    from .hub_folder import hub_folder, push, save

    with hub_folder(args.out, args.overwrite) as folder:
        model, processor = load_model(args.model, device="cpu", dtype="float32")
        written = save(model, processor, args.model, folder)
    args.written = args.out
    _say(f"model folder: {args.out}\n")
    if args.push:
        _say(f"uploaded: {push(args.push, args.out, written)}\n")


def _nouns(args: argparse.Namespace) -> None:
    """Print what a model knows."""
    from .nouns_command import run

    _say(run(load_processor(args.model), model_name(args.model)))


def _assemble(args: argparse.Namespace) -> None:
    """Convert published checkpoints, or tell what would be fetched."""
    if not args.dry_run and not args.out:
        raise CliError("say which folder to make with --out DIR")
    from .assemble_command import run

    _say(run(args))


def _summary(tracks: Sequence, out: Path) -> str:
    lines = []
    for track in tracks:
        score = "" if track.score is None else f" {track.score:.2f}"
        if track.found:
            verdict = f"found, score{score}, key frame {track.key_frame}"
        else:
            verdict = f"not found{', best score' + score if score else ''}"
        lines.append(f"{' '.join(track.expression.split())}: {verdict}")
    outputs = {
        "overlay": "overlay.mp4",
        "masks": "masks",
        "mattes": "matte",
        "COCO": "coco.json",
        "NPZ": "masks.npz",
        "contact sheet": "contact_sheet.png",
        "result": "result.json",
    }
    for label, name in outputs.items():
        if (out / name).exists():
            lines.append(f"{label + ':':<15}{out / name}")
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # a sentence may exceed it
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


def _one_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def interruptible(seen: list[int]) -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that clean-up runs, and note the signals in `seen`."""

    def interrupt(number, _):
        seen.append(number)
        raise KeyboardInterrupt

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, interrupt)
    except ValueError:  # not in the main thread: the host handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
