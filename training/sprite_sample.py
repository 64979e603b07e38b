"""Make the demo clip: `python -m training.sprite_sample --seed S --out DIR`."""

import argparse
import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from training.expressions import Expression
from training.folders import complete_folder
from training.scenes import Clip, SceneSampler
from training.sprite_art import SOURCES, TRAIN_STYLES, ArtError, SpriteBank, load_art

FRAMES, FPS, SIZE = 48, 16, (240, 320)


def find_clip(bank: SpriteBank, seed: int) -> tuple[Clip, Expression]:
    """The first clip of a seed with fully visible twins that a position or size word separates.

    Raises:
        ValueError: None among the first few hundred.
    """
    sampler = SceneSampler(bank, seed, styles=TRAIN_STYLES, backgrounds=("texture",), pool=4)
    for _ in range(400):
        clip = sampler.clip(FRAMES, SIZE, fps=FPS)
        if min(o.visibility.min() for o in clip.objects) < 0.85 or len(clip.objects) < 3:
            continue
        moving = [np.ptp(o.boxes[:, :2], axis=0).max() > 40 for o in clip.objects]
        for expression in clip.expressions:
            if expression.unique_noun or expression.kind not in ("position", "size"):
                continue
            if moving[expression.objects[0]]:
                return clip, expression
    raise ValueError(f"no suitable clip with seed {seed}: try another")


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """Encode (T, H, W, 3) uint8 RGB as H.264 that browsers play."""
    with av.open(str(path), "w") as container:
        # One thread and plain code paths: the bytes must not depend on the machine.
        options = {"crf": "22", "preset": "slow", "threads": "1"}
        options["x264-params"] = "cpu-independent=1"
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            yuv = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(yuv, format="yuv420p")))
        container.mux(stream.encode())


def write_sample(bank: SpriteBank, seed: int, out: Path) -> Path:
    """Write `sample.mp4`, `masks/` and `sample.json` into `out`, replacing an earlier sample.

    Raises:
        FileExistsError: `out` holds something else.
        ValueError: See `find_clip`.
    """
    with complete_folder(out, lambda folder: (folder / "sample.json").is_file()) as part:
        clip, expression = find_clip(bank, seed)
        target = expression.objects[0]
        write_video(part / "sample.mp4", clip.frames, clip.fps)
        (part / "masks").mkdir()
        for t, mask in enumerate(clip.masks[target]):
            cv2.imwrite(str(part / "masks" / f"{t:05d}.png"), mask.astype(np.uint8) * 255)
        styles = {o.style for o in clip.objects}
        facts = {
            "video": "sample.mp4",
            "masks": "masks",
            "expression": expression.text,
            "kind": expression.kind,
            "frames": len(clip.frames),
            "fps": clip.fps,
            "height": SIZE[0],
            "width": SIZE[1],
            "nouns": [o.noun for o in clip.objects],
            "seed": seed,
            "licences": [
                {"art": s.attribution, "licence": s.licence} for s in SOURCES if s.style in styles
            ],
        }
        (part / "sample.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="ascii")
    return out


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.sprite_sample", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="an earlier sample is replaced"
    )
    parser.add_argument("--art", type=Path, metavar="DIR", help="sprite art")
    args = parser.parse_args(argv)
    try:
        print(write_sample(load_art(args.art), args.seed, args.out))
    except (ArtError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
