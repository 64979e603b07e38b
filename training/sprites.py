"""Generate a split of Ref-Sprites: `python -m training.sprites --help`."""

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.sprites",
        description="Generate Ref-Sprites: videos of named sprites with masks and sentences, "
        "in the MeViS layout. The same arguments give the same bytes.",
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--clips", type=int, default=40, help="number of videos (default 40)")
    parser.add_argument("--split", default="train", metavar="NAME", help="default train")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the split goes to DIR/NAME")
    parser.add_argument(
        "--art", type=Path, metavar="DIR",
        help="sprite art (default $FINDTRACK_SPRITES, else ~/.cache/findtrack/sprites); "
        "only that last one is fetched unasked, with npm on first use",
    )  # fmt: skip
    parser.add_argument("--fetch-art", action="store_true", help="fetch the art (again)")
    parser.add_argument(
        "--size", type=int, default=160, metavar="PIXELS", help="short side (default 160)"
    )
    parser.add_argument(
        "--frames", type=int, nargs=2, default=(16, 48), metavar=("MIN", "MAX"),
        help="frames per clip (default 16 48)",
    )  # fmt: skip
    parser.add_argument(
        "--sentences", type=int, default=8, metavar="N", help="at most N per clip (default 8)"
    )
    parser.add_argument("--quality", type=int, default=78, help="of the JPEGs (default 78)")
    parser.add_argument(
        "--heldout-fraction", type=float, default=0.0, metavar="F",
        help="share of the clips drawn in the art style never trained on, and as many on the "
        "background family never trained on (default 0)",
    )  # fmt: skip
    parser.add_argument(
        "--nouns", choices=("trained", "new", "mixed"), default="trained",
        help="trained: those findtrack-tiny knows (default); new: ten others, to validate "
        "fine-tuning; mixed: at least one new noun in every clip, about half of all, to fine-tune "
        "without forgetting",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing split")
    args = parser.parse_args(argv)
    if args.out is None and not args.fetch_art:
        parser.error("--out is required")
    return args


def run(args: argparse.Namespace) -> None:
    """Fetch the art if need be, then write the split."""
    from training.sprite_art import build_art, ready_art
    from training.sprite_dataset import SplitSpec, write_split

    if args.fetch_art:
        build_art(args.art)
    if args.out is None:
        return
    spec = SplitSpec(
        seed=args.seed,
        clips=args.clips,
        short_side=args.size,
        frames=tuple(args.frames),
        sentences=args.sentences,
        quality=args.quality,
        heldout_fraction=args.heldout_fraction,
        mixed=args.nouns == "mixed",
    )
    bank = ready_art(args.art, "all" if spec.mixed else args.nouns)
    print(write_split(bank, spec, args.out, args.split, args.overwrite))


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 2 unusable input, 130 interrupted."""
    args = parse_args(argv)
    from training.sprite_art import ArtError

    try:
        run(args)
    except (ArtError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
