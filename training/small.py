"""Train `findtrack-small` from ImageNet's weights: `python -m training.small --photos DIR`.

DIR is a folder of real pictures that `training.photos.prepare` has made. Each stage is a run of
`training.finetune` with a configuration of training/configs/small, see `stages.py`. Stopped at any
moment, the same command goes on.
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
    "words": (),
    "track": (),
    "ground": ("words",),
    "decode": ("words",),
    "find": ("ground", "decode"),
    "track_on": ("track", "words"),
}
RECIPE = Recipe(Path(__file__).parent / "configs" / "small", STAGES, "SMALL_RUNS")
NAME = "findtrack-small"
# Parts of the result -> the stage they are from; the rest is from LAST.
JOINED, LAST = {"tracker": "track_on"}, "find"
STARTING = 64  # pictures by which the starting weights are scaled


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.small", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--photos", type=Path, default=Path("data/photos"), help="(data/photos)")
    parser.add_argument("--out", type=Path, default=Path("runs/small"), help="(runs/small)")
    parser.add_argument("--jobs", type=positive, default=cores(), help="stages at a time (cores)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend",
        help="changes to the configuration of every stage",
    )  # fmt: skip
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    from transformers.utils import logging

    from .photos.rows import read_photos

    os.environ[RECIPE.variable] = str(args.out)  # the configurations name their folders by it
    changes = [f"photos.root={args.photos}", *args.set]
    RECIPE.check(changes)
    photos = read_photos(args.photos, "train")
    if not photos:
        raise ValueError(f"{args.photos} has no train pictures")
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    if not (args.out / "start" / "model.safetensors").is_file():
        _start(photos, args.out / "start", args.seed)
    RECIPE.run(args.out, args.jobs, args.seed, changes)
    join(args.out, args.out / NAME)
    print(f"findtrack-small: {args.out / NAME}")
    return 0


def _start(photos: Sequence, folder: Path, seed: int) -> None:
    import numpy as np
    from PIL import Image

    from .photos.source import load
    from .small_model import FINDER_SIZE, write_start

    size = (FINDER_SIZE, FINDER_SIZE)
    some = photos[:: max(1, len(photos) // STARTING)][:STARTING]
    pictures = [np.asarray(Image.fromarray(load(photo)).resize(size)) for photo in some]
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_start(folder, np.stack(pictures), seed)


def join(runs: Path, out: Path) -> None:
    """What the stages have learnt as one checkpoint in half precision, with all curves.

    Args:
        runs: Folder of the stages.
        out: Where to write; an earlier checkpoint there is replaced.
    """
    import torch
    from safetensors.torch import load_file

    from modeling_findtrack import FindTrackModel

    from .plot import plot
    from .small_model import build_processor, finished, small_config

    processor = build_processor()
    model = FindTrackModel(small_config(len(processor.tokenizer)))
    weights = load_file(runs / LAST / "last" / "model.safetensors")
    for part, stage in JOINED.items():
        trained = load_file(runs / stage / "last" / "model.safetensors")
        weights |= {k: v for k, v in trained.items() if k.startswith(f"{part}.")}
    model.load_state_dict(weights)
    model, processor = finished(model, processor)
    half = {
        name: tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    with complete_folder(out, lambda f: (f / "config.json").is_file()) as part:
        model.save_pretrained(part, state_dict=half)
        processor.save_pretrained(part)
        plot([runs / stage for stage in STAGES], part / "training.png", NAME)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when trained, 2 on unusable input, 130 when interrupted."""
    args = _parse(argv)
    note = "interrupted; the same command goes on from the last checkpoints"
    return run_command("training.small", lambda: _run(args), note)


if __name__ == "__main__":
    raise SystemExit(main())
