"""Make the demo clips of photographs: `python -m training.photo_sample --out DIR`."""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np

from training.folders import complete_folder
from training.photo_outlines import PHOTOS, Photo
from training.photo_shot import FPS, film
from training.sprite_sample import write_video


def film_photo(photo: Photo) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) uint8 and masks (T, H, W) bool of a photograph in motion.

    Raises:
        ImportError: scikit-image is not installed.
    """
    pixels = photo.pixels()
    shape = pixels.shape[:2]
    return film(pixels, photo.target(shape), photo.shot, photo.subject(shape))


def write_sample(photo: Photo, out: Path) -> Path:
    """Write `sample.mp4`, `masks/` and `sample.json` into `out`, replacing an earlier sample.

    Raises:
        FileExistsError: `out` holds something else.
        ImportError: scikit-image is not installed.
    """
    with complete_folder(out, lambda folder: (folder / "sample.json").is_file()) as part:
        frames, masks = film_photo(photo)
        write_video(part / "sample.mp4", frames, FPS)
        (part / "masks").mkdir()
        for t, mask in enumerate(masks):
            cv2.imwrite(str(part / "masks" / f"{t:05d}.png"), mask.astype(np.uint8) * 255)
        facts = {
            "video": "sample.mp4",
            "masks": "masks",
            "truth": "an outline drawn by hand on the photograph, moved as its pixels are",
            "expression": photo.expression,
            "frames": len(frames),
            "fps": FPS,
            "height": frames.shape[1],
            "width": frames.shape[2],
            "licences": [
                {
                    "picture": photo.picture,
                    "author": photo.author,
                    "licence": photo.licence,
                    "from": f"scikit-image, skimage.data.{photo.function}",
                }
            ],
        }
        (part / "sample.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="ascii")
    return out


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.photo_sample", description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help=f"gets a folder each for {', '.join(PHOTOS)}; earlier samples there are replaced",
    )  # fmt: skip
    args = parser.parse_args(argv)
    try:
        for name, photo in PHOTOS.items():
            print(write_sample(photo, args.out / name))
    except (ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
