"""Videos made of images: folders, lists of paths, PIL images or arrays, arrays (T, H, W, 3)."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .video_base import Video, VideoError, check_sizes

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
_EXIF_ORIENTATION = 0x0112


class ImageVideo(Video):
    """Frames that are images of their own, fetched one by one."""

    def __init__(self, name: str, size: tuple[int, int], count: int, get: Callable):
        self.name, (self.height, self.width), self.num_frames = name, size, count
        self._get = get

    def _frames(self, start, stop):
        return (self._get(i) for i in range(start, stop))

    def _frames_reversed(self, start):
        return (self._get(i) for i in range(start, -1, -1))

    def _read(self, indices):
        return {i: self._get(i) for i in indices}


def open_folder(folder: Path) -> Video:
    """Images of one folder in natural order (frame_2 before frame_10), hidden files left out."""
    paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    paths = sorted((p for p in paths if not p.name.startswith(".")), key=_natural_key)
    if not paths:
        raise VideoError(f"{folder}: a folder without images; give one with .jpg or .png frames")
    return _open_paths(str(folder), folder.resolve().name, paths)


def open_images(images: Sequence) -> Video:
    """A list of paths, PIL images or arrays in temporal order, or an array (T, H, W, 3)."""
    if not isinstance(images, list | tuple):
        images = np.asarray(images)
        if images.ndim != 4:
            raise VideoError(f"array of shape {images.shape}: a video array is (T, H, W, 3)")
    if len(images) == 0:
        raise VideoError("images: no frames; give at least one")
    if all(isinstance(image, str | Path) for image in images):
        return _open_paths("images", "images", [Path(image) for image in images])

    def size(image) -> tuple[int, int]:
        return image.size[::-1] if isinstance(image, Image.Image) else np.shape(image)[:2]

    sizes = [size(image) for image in images]
    check_sizes("images", sizes, [f"frame {i}" for i in range(len(images))])
    to_rgb(images[0])  # a wrong dtype or layout is told at once, not after the long work
    return ImageVideo("images", sizes[0], len(images), lambda i: to_rgb(images[i]))


def _open_paths(label: str, name: str, paths: list[Path]) -> Video:
    sizes = [_image_size(path) for path in paths]
    check_sizes(label, sizes, [p.name for p in paths])
    return ImageVideo(name, sizes[0], len(paths), lambda i: load_image(paths[i]))


def to_rgb(image) -> np.ndarray:
    """PIL image, or array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8 -> (H, W, 3) uint8 RGB.

    Raises:
        VideoError: For another dtype or layout.
    """
    if isinstance(image, Image.Image):
        if image.mode.startswith("I;16"):  # PIL would clip 16 bits to 255, not scale them
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return np.array(image.convert("RGB"))
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise VideoError(f"frames of {array.dtype}: give uint8 values 0..255")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise VideoError(f"a frame of shape {array.shape}: give (H, W, 3)")
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    return np.array(array[..., :3], order="C")


def load_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as its EXIF says.

    Raises:
        VideoError: The image cannot be read.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise VideoError(f"{path}: too large an image ({error}); make it smaller") from None
    except (OSError, SyntaxError) as error:  # PIL's PNG reader raises SyntaxError when damaged
        raise VideoError(f"{path}: a damaged image ({error}); replace or remove it") from None


def _image_size(path: Path) -> tuple[int, int]:
    """(H, W) after EXIF orientation, from the header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    except Image.DecompressionBombError as error:
        raise VideoError(f"{path}: too large an image ({error}); make it smaller") from None
    except (OSError, SyntaxError) as error:
        raise VideoError(f"{path}: not a readable image ({error}); remove it") from None
    return (width, height) if turned else (height, width)


def _natural_key(path: Path) -> list:
    """Sort key by which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]
