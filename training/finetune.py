"""Train or fine-tune FindTrack.

    python -m training.finetune --config training/configs/ref-sprites.yaml
    accelerate launch -m training.finetune --config CONFIG [--set KEY=VALUE ...]

Stopped at any moment, the same command goes on from the last checkpoint. What lies in the run's
folder is described in training/run_folder.py, every key of a configuration in training/config.py.
Accelerate's own settings (processes, DeepSpeed) have examples in training/accelerate/.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from eval.report import run_command


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.finetune", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend",
        help="change keys of the configuration, as in optimizer.lr=1e-5",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="folder of the run; the configuration's")
    parser.add_argument(
        "--overwrite", action="store_true", help="delete another run that --out holds"
    )
    parser.add_argument(
        "--at-least", type=float, metavar="J&F", help="fail unless the best validation reaches this"
    )
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    from .config import read_config
    from .session import Session

    overrides = list(args.set) + ([f"out={args.out}"] if args.out else [])
    config = read_config(args.config, overrides)
    if args.at_least is not None and config.validation is None:
        raise ValueError("--at-least: the configuration has no validation that could reach it")
    folder = None
    try:
        session = Session(config, Path(args.config).stem, _command(args), args.overwrite)
        folder = session.folder
        session.train(session.begin())
        session.finish()
    finally:
        if folder is not None:
            folder.release()
    if args.at_least is not None:
        best = folder.best()
        reached = None if best is None else best[1]
        if reached is None or reached < args.at_least:
            raise ValueError(f"the best J&F is {reached}, below --at-least {args.at_least}")
    return 0


def _command(args: argparse.Namespace) -> str:
    """What the model card says the run was started with."""
    from .launch import launcher

    words = ["-m", "training.finetune", "--config", args.config]
    words += ["--set", *args.set] if args.set else []
    words += ["--out", args.out] if args.out else []
    return f"{launcher()} {shlex.join(words)}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when trained, 2 on unusable input, 130 when interrupted."""
    args = _parse(argv)
    speaks = os.environ.get("RANK", "0") == "0"
    note = "interrupted; the same command goes on from the last checkpoint"
    started = time.perf_counter()
    status = run_command("training.finetune", lambda: _run(args), note if speaks else None)
    if status == 0 and speaks:
        print(f"done in {(time.perf_counter() - started) / 60:.1f} min", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
