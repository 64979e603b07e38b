"""What the evaluation commands share: options, errors, a model's identity, files and tables."""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "modeling_findtrack"
# One file of the package, since the package itself loads torch, which most of `eval` does without.
_SPEC = spec_from_file_location("findtrack_shipped", PACKAGE / "shipped.py")
shipped = module_from_spec(_SPEC)
_SPEC.loader.exec_module(shipped)
# What `from_pretrained` reads of a checkpoint folder.
_LOADED = ("*.safetensors", "*.json", "clip_tokenizer/*")
# What `cli.load_model` takes, as `findtrack segment` offers it.
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--device` and `--dtype`, the arguments of `cli.load_model`."""
    parser.add_argument(
        "--model",
        type=shipped.checkpoint,
        default=shipped.DEFAULT_MODEL,
        help=shipped.MODEL_HELP,
    )
    parser.add_argument("--device", default="auto", choices=DEVICES, help="(auto)")
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="(auto)")


def one_line_errors(command: str) -> Callable:
    """Decorate a `main`: unusable input becomes one line on stderr and exit status 2."""

    def decorate(main: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(main)
        def guarded(*args) -> int:
            try:
                return main(*args)
            except (OSError, ValueError) as error:
                if os.environ.get("FINDTRACK_DEBUG"):
                    raise
                print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
                return 2

        return guarded

    return decorate


def run_command(command: str, work: Callable[[], int], interrupted: str | None) -> int:
    """Exit status of `work`; 2 on unusable input, 130 after Ctrl-C or SIGTERM, each with one line.

    Args:
        command: Its name, before every message.
        work: The command without its options.
        interrupted: What to say of an interrupt; None says nothing.
    """
    signals: list[int] = []
    try:
        from modeling_findtrack import cli  # loads torch, where Ctrl-C may come too

        with cli.interruptible(signals):
            return one_line_errors(command)(work)()
    except (KeyboardInterrupt, TypeError) as error:
        # An interrupt inside pycocotools comes out as a TypeError.
        if isinstance(error, TypeError) and not signals:
            raise
        if interrupted is not None:
            print(f"{command}: {interrupted}", file=sys.stderr)
        return 130


def peak_memory() -> int:
    """Highest resident memory of this process so far, bytes."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def positive(text: str) -> int:
    """An integer of at least 1, for `type=`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, at least 1")
    return int(text)


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def model_digest(name: str | Path) -> str:
    """SHA-256 (hex) of a checkpoint and of the code that runs it, so that a cached result lives
    no longer than what it came from. A Hub id stands for itself.

    Of the checkpoint's folder only what is loaded counts: results may be written below it.
    """
    folder = Path(name)
    sha = hashlib.sha256(b"" if folder.is_dir() else str(name).encode())
    paths = [p for pattern in _LOADED for p in folder.glob(pattern)] if folder.is_dir() else []
    for path in sorted(paths) + sorted(PACKAGE.glob("*.py")):
        sha.update(path.name.encode() + b"\0")
        part = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                part.update(block)
        sha.update(part.digest())
    return sha.hexdigest()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to; the file gets its own once the block has ended well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value) -> None:
    """`write_text` of strict JSON; a NaN is an error."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table with aligned columns; floats get three decimals, None a dash."""

    def cell(value) -> str:
        if value is None:
            return "-"
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        return text.removeprefix("0") if text.startswith("0.") else text

    table = [[cell(v) for v in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]

    def line(row) -> str:
        first, *rest = (
            text.ljust(w) if i == 0 else text.rjust(w)
            for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join((first, *rest)) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(table[0]), rule, *map(line, table[1:])])
