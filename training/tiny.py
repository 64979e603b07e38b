"""Train `findtrack-tiny` from nothing: `python -m training.tiny`.

Each stage is a run of `training.finetune` with a configuration of training/configs/tiny, one thread
each, as many at a time as there are processors. Stopped at any moment, the same command goes on.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from eval.report import cores, positive, run_command

from .folders import complete_folder

CONFIGS = Path(__file__).parent / "configs" / "tiny"
# Stage -> the stages it builds on. In this order they are started as processors become free.
STAGES = {
    "boxes": (),
    "nouns": (),
    "ground": ("nouns",),
    "track": ("boxes",),
    "find": ("boxes", "ground"),
    "align": (),
    "refine": ("find",),
}

NAME = "findtrack-tiny"
# Part -> the stage it is from; the rest is from LAST.
JOINED, LAST = {"tracker": "track", "aligner": "align"}, "refine"


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.tiny", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="(runs/tiny)")
    parser.add_argument("--jobs", type=positive, default=cores(), help="stages at a time (cores)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--art", type=Path, metavar="DIR", help="folder of sprite art")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend",
        help="changes to the configuration of every stage",
    )  # fmt: skip
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    from transformers.utils import logging

    from .config import read_config
    from .sprite_art import ready_art
    from .tiny_model import write_start

    os.environ["TINY_RUNS"] = str(args.out)  # the configurations name their folders by it
    for stage in STAGES:  # a typing mistake is told now, not hours from now
        read_config(_config(stage), _changes(stage, args))
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    bank = ready_art(args.art)  # before the stages, which would fetch it at the same time
    if not (args.out / "start" / "model.safetensors").is_file():
        write_start(args.out / "start", bank, args.seed)
    waiting, running, done = list(STAGES), {}, set()
    try:
        while waiting or running:
            ready = [s for s in waiting if done.issuperset(STAGES[s])]
            for stage in ready[: args.jobs - len(running)]:
                waiting.remove(stage)
                running[stage] = _start(stage, args)
            time.sleep(0.2)
            for stage, process in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[stage]
                if status:
                    log = args.out / f"{stage}.txt"
                    last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
                    raise ValueError(f"stage {stage} failed, see {log}: {last}")
                done.add(stage)
                print(f"{stage}: done", flush=True)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    _join(args.out, bank)
    print(f"findtrack-tiny: {args.out / NAME}")
    return 0


def _join(out: Path, bank) -> None:
    """What the stages have learnt as one checkpoint in half precision, with all curves."""
    import torch
    from safetensors.torch import load_file

    from modeling_findtrack import FindTrackModel

    from .expressions import vocabulary
    from .plot import plot
    from .tiny_model import build_processor, tiny_config

    processor = build_processor(vocabulary(bank))
    model = FindTrackModel(tiny_config(len(processor.tokenizer), len(processor.clip_tokenizer)))
    weights = load_file(out / LAST / "last" / "model.safetensors")
    for part, stage in JOINED.items():
        trained = load_file(out / stage / "last" / "model.safetensors")
        weights |= {k: v for k, v in trained.items() if k.startswith(f"{part}.")}
    model.load_state_dict(weights)
    half = {
        name: tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    with complete_folder(out / NAME, lambda f: (f / "config.json").is_file()) as part:
        model.save_pretrained(part, state_dict=half)
        processor.save_pretrained(part)
        plot([out / stage for stage in STAGES], part / "training.png", NAME)


def _start(stage: str, args: argparse.Namespace) -> subprocess.Popen:
    """One stage as a process of its own; what it says goes into a file."""
    command = [sys.executable, "-m", "training.finetune", "--config", str(_config(stage))]
    print(f"{stage}: started, its log is {args.out / f'{stage}.txt'}", flush=True)
    with (args.out / f"{stage}.txt").open("a") as log:
        return subprocess.Popen(
            [*command, "--set", *_changes(stage, args)],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def _config(stage: str) -> Path:
    return CONFIGS / f"{stage}.yaml"


def _changes(stage: str, args: argparse.Namespace) -> list[str]:
    # Scenes of its own for every stage.
    changes = [f"seed={1 + list(STAGES).index(stage) + len(STAGES) * args.seed}", *args.set]
    return changes + ([f"scenes.art={args.art}"] if args.art else [])


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when trained, 2 on unusable input, 130 when interrupted."""
    args = _parse(argv)
    note = "interrupted; the same command goes on from the last checkpoints"
    return run_command("training.tiny", lambda: _run(args), note)


if __name__ == "__main__":
    raise SystemExit(main())
