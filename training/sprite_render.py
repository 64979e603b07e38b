"""Drawing sprites into frames: antialiased warps, exact visible masks, shadows, camera faults."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

LEVELS = (1.0, 0.5, 0.25)  # of a sprite's stored size; the next larger one is warped
BEND = 0.1  # longest sides by which a point of a drawing that bends moves at most
SHADOW_PAD = 12  # pixels around a sprite for its blurred shadow


@dataclass(frozen=True)
class Drawing:
    """A sprite ready to be warped: premultiplied RGBA (h, w, 4) uint8 at falling sizes."""

    levels: tuple[np.ndarray, ...]
    shadow: np.ndarray | None  # (h, w) uint8 of the full size level, padded and blurred
    opaque: float  # area of the drawing at full size, pixels

    @property
    def longest(self) -> int:
        """Longest side at full size, pixels."""
        return max(self.levels[0].shape[:2])


@dataclass(frozen=True)
class BendingDrawing(Drawing):
    """A drawing whose shape changes smoothly from frame to frame."""

    lattice: np.ndarray  # (P, 4, 4, 2) float32 displacements x, y in longest sides

    def bent(self, step: int, size: float) -> tuple[Drawing, float]:
        """Its shape at one planned frame for a longest side of `size` pixels, and the new side."""
        wanted = min(size / self.longest, 1.0)
        image = self.levels[max((i for i, s in enumerate(LEVELS) if s >= wanted), default=0)]
        height, width = image.shape[:2]
        longest, pad = max(height, width), int(np.ceil(BEND * max(height, width)))
        shape = (width + 2 * pad, height + 2 * pad)
        source = cv2.resize(self.lattice[step] * longest, shape, interpolation=cv2.INTER_CUBIC)
        source[..., 0] += np.arange(-pad, width + pad, dtype=np.float32)
        source[..., 1] += np.arange(-pad, height + pad, dtype=np.float32)[:, None]
        image = cv2.remap(image, source, None, cv2.INTER_LINEAR)
        return replace(self, levels=(image,) * len(LEVELS)), size * (longest + 2 * pad) / longest


@dataclass(frozen=True)
class Pose:
    """Where a drawing goes in one frame."""

    x: float  # pixels, centre
    y: float
    size: float  # pixels, longest side of the drawing
    angle: float  # radians, clockwise
    flip: bool


def colour_matrix(rng: np.random.Generator, strength: float) -> np.ndarray:
    """(3, 4) float32: random hue turn, saturation, brightness and contrast, as `y = A x + b`."""
    turn, saturation = rng.normal(0, 0.18 * strength), np.exp(rng.normal(0, 0.2 * strength))
    gain, offset = np.exp(rng.normal(0, 0.16 * strength)), rng.normal(0, 12 * strength)
    # Turn and stretch the colour plane across the grey axis (Rodrigues' formula).
    cos, sin = np.cos(turn), np.sin(turn) / np.sqrt(3)
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    colour = saturation * (cos * (np.eye(3) - grey) + sin * cross)
    return np.hstack([gain * (grey + colour), np.full((3, 1), offset)]).astype(np.float32)


def prepare(image: np.ndarray, matrix: np.ndarray | None, shadow: bool) -> Drawing:
    """Recolour and premultiply an RGBA image (h, w, 4) uint8 with straight alpha."""
    rgb, alpha = image[..., :3], image[..., 3]
    if matrix is not None:
        rgb = cv2.transform(rgb, matrix)
    rgb = cv2.multiply(rgb, cv2.merge([alpha, alpha, alpha]), scale=1 / 255)
    levels = [np.dstack([rgb, alpha])]
    for scale in LEVELS[1:]:
        height, width = (max(2, round(side * scale)) for side in image.shape[:2])
        levels.append(cv2.resize(levels[0], (width, height), interpolation=cv2.INTER_AREA))
    blurred = None
    if shadow:
        pad = SHADOW_PAD
        blurred = cv2.copyMakeBorder(alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
        blurred = cv2.GaussianBlur(blurred, (0, 0), pad / 3)
    return Drawing(tuple(levels), blurred, float(np.count_nonzero(alpha >= 128)))


def warp(
    image: np.ndarray, scale: float, pose: Pose, shape: tuple[int, int]
) -> tuple[np.ndarray, tuple[slice, slice]] | None:
    """Draw `image` at `scale` frame pixels per image pixel into its window of the frame.

    Returns:
        The warped window and its place, or None when it lies outside the frame (H, W) `shape`.
    """
    height, width = image.shape[:2]
    cos, sin = scale * np.cos(pose.angle), scale * np.sin(pose.angle)
    reach_x = (abs(cos) * width + abs(sin) * height) / 2
    reach_y = (abs(sin) * width + abs(cos) * height) / 2
    left, right = int(max(0, pose.x - reach_x - 1)), int(min(shape[1], pose.x + reach_x + 2))
    top, bottom = int(max(0, pose.y - reach_y - 1)), int(min(shape[0], pose.y + reach_y + 2))
    if right <= left or bottom <= top:
        return None
    mirror = -1.0 if pose.flip else 1.0
    matrix = np.array([[cos * mirror, -sin, 0.0], [sin * mirror, cos, 0.0]])
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix[:, 2] = np.array([pose.x - left, pose.y - top]) - matrix[:, :2] @ middle
    window = cv2.warpAffine(image, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    return window, (slice(top, bottom), slice(left, right))


def draw(
    frame: np.ndarray, drawing: Drawing, pose: Pose
) -> tuple[np.ndarray, tuple[slice, slice]] | None:
    """Composite a drawing onto `frame` (H, W, 3) uint8 in place.

    Returns:
        Its opaque part (alpha of at least one half) as bool and the window that covers, or None
        when nothing falls into the frame.
    """
    wanted = pose.size / drawing.longest
    level = max((i for i, s in enumerate(LEVELS) if s >= min(wanted, 1.0)), default=0)
    image = drawing.levels[level]
    drawn = warp(image, pose.size / max(image.shape[:2]), pose, frame.shape[:2])
    if drawn is None:
        return None
    window, place = drawn
    target = frame[place]
    alpha = window[..., 3]
    # 256 - alpha, with 255 counted as 256: exact at both ends and needs no division.
    keep = 256 - alpha.astype(np.uint16) - (alpha >> 7)
    under = (target * keep[..., None]) >> 8
    np.add(window[..., :3], under.astype(np.uint8), out=target)
    return alpha >= 128, place


def cast_shadow(frame: np.ndarray, drawing: Drawing, pose: Pose, depth: float) -> None:
    """Darken `frame` in place by up to `depth` (0..1) under the drawing's blurred outline."""
    drawn = warp(drawing.shadow, pose.size / drawing.longest, pose, frame.shape[:2])
    if drawn is not None:
        window, place = drawn
        keep = (256 - window.astype(np.float32) * np.float32(depth)).astype(np.uint16)
        frame[place] = (frame[place] * keep[..., None]) >> 8


def cutout(canvas: np.ndarray, rng: np.random.Generator, side: int = 72) -> np.ndarray:
    """(h, w, 4) uint8: a bar or a smooth blob cut from a background canvas, straight alpha."""
    size = (side, side)
    if rng.random() < 0.3:
        size = (side, int(side * rng.uniform(0.2, 0.5)))
    top, left = (int(rng.integers(canvas.shape[i] - size[i] + 1)) for i in (0, 1))
    rgb = canvas[top : top + size[0], left : left + size[1]]
    alpha = np.zeros(size, np.uint8)
    if size[0] != size[1]:
        alpha[1:-1, 1:-1] = 255
    else:
        angles = np.arange(0, 2 * np.pi, 0.12)
        reach = np.ones_like(angles)
        for wave in (2, 3, 5):
            reach += rng.uniform(0, 0.8) / wave * np.sin(wave * angles + rng.uniform(0, 6.3))
        reach = (side / 2 - 1) * reach[:, None] / reach.max()
        points = side / 2 + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(alpha, [np.int32(points * 16)], 255, cv2.LINE_AA, 4)
    return np.dstack([rgb, alpha])


@dataclass(frozen=True)
class CameraFaults:
    """What a cheap camera does to every frame of a clip."""

    matrix: np.ndarray | None  # (3, 4) colour
    flicker: float  # relative brightness swing
    blur: float  # Gaussian sigma, pixels; 0 is none
    noise: np.ndarray | None  # (h, w, 3) int16, larger than a frame
    quality: int  # JPEG; 0 is none

    def apply(self, frame: np.ndarray, index: int, rng: np.random.Generator) -> np.ndarray:
        """A degraded copy of `frame` (H, W, 3) uint8."""
        if self.matrix is not None:
            swing = np.float32(1 + self.flicker * np.sin(index * 0.7))
            frame = cv2.transform(frame, self.matrix * swing)
        if self.blur:
            frame = cv2.GaussianBlur(frame, (0, 0), self.blur)
        if self.noise is not None:
            room = np.array(self.noise.shape[:2]) - frame.shape[:2]
            top, left = (int(rng.integers(r + 1)) for r in room)
            tile = self.noise[top : top + frame.shape[0], left : left + frame.shape[1]]
            frame = cv2.add(frame, tile, dtype=cv2.CV_8U)
        if self.quality:
            # OpenCV takes the channels for BGR; only the chroma weighting notices.
            _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            frame = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return frame
