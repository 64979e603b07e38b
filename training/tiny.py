"""Train `findtrack-tiny` from nothing: `python -m training.tiny`.

Each stage is a run of `training.finetune` with a configuration of training/configs/tiny, see
`stages.py`. Stopped at any moment, the same command goes on.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.report import cores, positive, run_command

from .folders import complete_folder
from .stages import Recipe

STAGES = {
    "boxes": (),
    "nouns": (),
    "ground": ("nouns",),
    "track": ("boxes",),
    "find": ("boxes", "ground"),
    "align": (),
    "refine": ("find",),
}
RECIPE = Recipe(Path(__file__).parent / "configs" / "tiny", STAGES, "TINY_RUNS")

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

    from .sprite_art import ready_art
    from .tiny_model import write_start

    os.environ[RECIPE.variable] = str(args.out)  # the configurations name their folders by it
    changes = [*args.set, *([f"scenes.art={args.art}"] if args.art else [])]
    RECIPE.check(changes)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    bank = ready_art(args.art)  # before the stages, which would fetch it at the same time
    if not (args.out / "start" / "model.safetensors").is_file():
        write_start(args.out / "start", bank, args.seed)
    RECIPE.run(args.out, args.jobs, args.seed, changes)
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when trained, 2 on unusable input, 130 when interrupted."""
    args = _parse(argv)
    note = "interrupted; the same command goes on from the last checkpoints"
    return run_command("training.tiny", lambda: _run(args), note)


if __name__ == "__main__":
    raise SystemExit(main())
