"""Train `findtrack-tiny` on Ref-Sprites, stage by stage: `python -m training.tiny STAGE`.

sam     backbone and mask decoder, from boxes and coarse heat maps
words   nouns and sentences on the token grid          (beside sam)
find    sentences prompt the decoder                   (after sam and words)
track   memory, on the frozen backbone                 (after sam)
align   the aligner                                    (any time)
pack    all of it as one checkpoint in fp16
"""

import argparse
import logging
import sys
from pathlib import Path

import torch

# Stage -> processor minutes.
STAGES = {"sam": 16.0, "words": 24.0, "find": 32.0, "track": 44.0, "align": 14.0, "pack": 0.0}


def main(argv: list[str] | None = None) -> int:
    """Run one stage; returns the exit status: 0 done, 2 without sprite art or earlier stages."""
    parser = argparse.ArgumentParser(
        prog="python -m training.tiny",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=STAGES)
    minutes = "processor minutes to train; default: as the shipped checkpoint was"
    parser.add_argument("--minutes", type=float, help=minutes)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="folder of all stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--art", type=Path, help="folder of sprite art")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    from .sprite_art import ArtError

    try:
        run(args.stage, args.minutes or STAGES[args.stage], args.out, args.seed, args.art)
    except ArtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FileNotFoundError as error:  # of an earlier stage, which is the only thing read here
        print(f"error: {error}: run the stages before {args.stage} first", file=sys.stderr)
        return 2
    return 0


def run(stage: str, minutes: float, out: Path, seed: int, art: Path | None) -> None:
    """One stage with its inputs under `out`."""
    from . import align_stage, find_stages, pack, track_stage
    from .batches import SceneBatches
    from .expressions import vocabulary
    from .scenes import SceneSampler
    from .sprite_art import ready_art

    bank = ready_art(art)
    words = vocabulary(bank)
    if stage == "pack":
        return pack.pack(words, out)
    # Each stage sees scenes of its own.
    batches = SceneBatches(SceneSampler(bank, seed), seed + 1000 * list(STAGES).index(stage))
    if stage == "align":
        return align_stage.train_align(words, batches, out / stage, minutes)
    if stage == "track":
        batches.sampler.textured = 0.4
        return track_stage.train_track(batches, out / "sam/ema.safetensors", out / stage, minutes)
    parts = find_stages.FinderParts(len(find_stages.tokenizers(words)[0]))
    if stage == "sam":
        return find_stages.train_sam(parts, batches, out / stage, minutes)
    if stage == "words":
        return find_stages.train_words(parts, words, batches, out / stage, minutes)
    find_stages.start_find(parts, out / "sam/ema.safetensors", out / "words/ema.safetensors")
    return find_stages.train_find(parts, words, batches, out / stage, minutes)


if __name__ == "__main__":
    sys.exit(main())
