"""Film a still photograph: a hand-held camera moves over it, and what it shows may move in it.

Positions are in pixels of the photograph, from its top left corner. Nothing here is random.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.interpolate import CubicSpline

FPS = 16
SHUTTER = 0.5  # share of a frame's time in which it is exposed
EXPOSURES = 5  # instants of that time a frame is the mean of; the mask is of the middle one
FINE = 2  # a pixel is the mean of so many fine ones, squared
# A hand trembles in several rhythms: hertz, pixels of the frame across and down, degrees.
TREMOR = np.array([(0.7, 1.6, 1.1, 0.22), (1.9, 0.8, 0.9, 0.10), (3.1, 0.3, 0.3, 0.05)])


@dataclass(frozen=True)
class Key:
    """Where the camera or the subject is at one time; in between it moves smoothly."""

    time: float  # 0 is the start, 1 the end
    x: float
    y: float
    size: float
    degrees: float = 0.0  # clockwise


@dataclass(frozen=True)
class Shot:
    """How a photograph is filmed."""

    camera: Sequence[Key]  # the middle of the view, its height, how the camera is turned
    subject: Sequence[Key] = ()  # how far it is moved, enlarged and turned; none if it is still
    pivot: tuple[float, float] = (0, 0)  # what the subject turns about
    halo: int = 5  # pixels around the subject that must not stay behind: its seam, stray hairs
    light: float = 0.0  # relative swing of the brightness
    frames: int = 56  # T
    size: tuple[int, int] = (320, 480)  # H, W

    def matrices(self, times: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Photograph -> frame, (3, 3), of all that is still and of the subject, for each time.

        Args:
            times: (P,) in frames, fractions too.
        """
        height, width = self.size
        middle, pivot = np.array([width / 2, height / 2]), np.array(self.pivot)
        views = _path(self.camera, times / (self.frames - 1))
        moves = _path(self.subject or [Key(0, 0, 0, 1)], times / (self.frames - 1))
        for view, move, jolt in zip(views, moves, _tremor(times / FPS), strict=True):
            still = _similarity(view[:2], middle + jolt[:2], height / view[2], jolt[2] - view[3])
            yield still, still @ _similarity(pivot, pivot + move[:2], move[2], move[3])


def coverage(outline: Sequence[tuple[float, float]], shape: tuple[int, int]) -> np.ndarray:
    """(h, w) uint8: how much of each pixel, 0 to 255, lies within a polygon."""
    fine = 8
    drawn = np.zeros((shape[0] * fine, shape[1] * fine), np.uint8)
    # OpenCV counts from the middle of the first pixel, not from its corner.
    points = np.round(np.array(outline) * fine - 0.5).astype(np.int32)
    cv2.fillPoly(drawn, [points], 255)
    return cv2.resize(drawn, shape[::-1], interpolation=cv2.INTER_AREA)


def without(picture: np.ndarray, subject: np.ndarray, halo: int) -> np.ndarray:
    """A picture (h, w, 3) uint8 with its surroundings, out of focus, in the subject's place.

    Args:
        picture: The picture.
        subject: (h, w) uint8 coverage of what is to go.
        halo: Pixels around it that go, too.
    """
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * halo + 1, 2 * halo + 1))
    hole = cv2.dilate(subject, disk)
    filled = cv2.inpaint(picture, hole, 8, cv2.INPAINT_TELEA).astype(np.float32)
    share = cv2.GaussianBlur(hole, (0, 0), 3)[..., None] / np.float32(255)
    filled += share * (cv2.GaussianBlur(filled, (0, 0), 6) - filled)
    return np.round(filled).astype(np.uint8)


def film(
    picture: np.ndarray, target: np.ndarray, shot: Shot, subject: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Take a shot.

    Args:
        picture: (h, w, 3) uint8 RGB, the photograph.
        target: (h, w) uint8 coverage of the object the masks are of.
        shot: How it is filmed.
        subject: (h, w) uint8 coverage of all that moves; None if that is the target.

    Returns:
        Frames (T, H, W, 3) uint8 and masks (T, H, W) bool.
    """
    subject = target if subject is None else subject
    behind = without(picture, subject, shot.halo) if shot.subject else picture
    soft = cv2.GaussianBlur(subject, (0, 0), 0.8)
    frames, masks = [], []
    for t in range(shot.frames):
        times = t + SHUTTER * np.linspace(-0.5, 0.5, EXPOSURES)
        matrices = list(shot.matrices(times))
        exposed = np.zeros((*shot.size, 3), np.float32)
        for still, moved in matrices:
            frame = _warp(behind, still, shot.size).astype(np.float32)
            if shot.subject:
                cover = _warp(soft, moved, shot.size)[..., None] / np.float32(255)
                frame += cover * (_warp(picture, moved, shot.size) - frame)
            exposed += frame / EXPOSURES
        gain = 1 + shot.light * np.sin(2 * np.pi * t / (shot.frames - 1))
        frames.append(np.round(exposed * gain).clip(0, 255).astype(np.uint8))
        masks.append(_warp(target, matrices[EXPOSURES // 2][1], shot.size) >= 128)
    return np.stack(frames), np.stack(masks)


def _path(keys: Sequence[Key], times: np.ndarray) -> np.ndarray:
    """(P, 4): x, y, size and radians at times (P,) from 0 to 1; starts and ends at rest."""
    values = np.array([(k.x, k.y, k.size, np.radians(k.degrees)) for k in keys])
    if len(keys) == 1:
        return np.repeat(values, len(times), axis=0)
    return CubicSpline([k.time for k in keys], values, bc_type="clamped")(np.clip(times, 0, 1))


def _tremor(seconds: np.ndarray) -> np.ndarray:
    """(P, 3): pixels of the frame across and down, radians."""
    hertz, reach = TREMOR[:, :1], TREMOR[:, 1:] * [1, 1, np.pi / 180]
    phases = 2 * np.pi * hertz * seconds[:, None, None] + np.arange(3)
    return (reach * np.sin(phases)).sum(1)


def _similarity(source: np.ndarray, goal: np.ndarray, scale: float, angle: float) -> np.ndarray:
    """(3, 3): brings `source` to `goal`, all else is scaled and turned clockwise about it."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.vstack([np.column_stack([turn, goal - turn @ source]), [0, 0, 1]])


def _warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The frame (H, W) that a matrix makes of a photograph."""
    # OpenCV counts from the middle of the first pixel, not from its corner.
    fine = np.array([[FINE, 0, -0.5], [0, FINE, -0.5], [0, 0, 1]])
    matrix = fine @ matrix @ np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    shape = (size[1] * FINE, size[0] * FINE)
    return cv2.resize(
        cv2.warpAffine(image, matrix[:2], shape), size[::-1], interpolation=cv2.INTER_AREA
    )
