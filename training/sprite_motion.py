"""Trajectories of sprites and of the camera, in units of the frame's short side.

The camera maps world positions (what a still sprite keeps) to screen positions (what is seen).
"""

from dataclasses import dataclass

import numpy as np

PATHS = ("still", "linear", "arc", "sine", "bounce", "accelerate")
PATH_ODDS = (0.16, 0.34, 0.14, 0.12, 0.12, 0.12)


@dataclass(frozen=True)
class Camera:
    """A similarity about the frame centre for each of P planned frames."""

    zoom: np.ndarray  # (P,)
    shift: np.ndarray  # (P, 2) short sides, x then y
    angle: np.ndarray  # (P,) radians, clockwise on screen
    centre: np.ndarray  # (2,) short sides

    def to_screen(self, points: np.ndarray) -> np.ndarray:
        """World positions (P, 2) -> screen positions (P, 2)."""
        x, y = (points - self.centre).T
        cos, sin = self.zoom * np.cos(self.angle), self.zoom * np.sin(self.angle)
        turned = np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)
        return turned + self.centre + self.shift


@dataclass(frozen=True)
class Motion:
    """One sprite's motion in the world over P planned frames."""

    kind: str  # one of PATHS
    position: np.ndarray  # (P, 2) short sides
    extent: np.ndarray  # (P,) longest side of the drawing, short sides
    angle: np.ndarray  # (P,) radians
    spin: float  # radians per frame; 0 unless it turns steadily


def smooth_noise(rng: np.random.Generator, steps: int, width: int) -> np.ndarray:
    """(steps, 2) random walk-free jitter of unit scale, correlated over about `width` frames."""
    knots = rng.standard_normal((steps // width + 4, 2))
    where = np.arange(steps) / width + 1
    return np.stack([np.interp(where, np.arange(len(knots)), k) for k in knots.T], axis=1)


def sample_camera(rng: np.random.Generator, steps: int, aspect: np.ndarray, moving: bool) -> Camera:
    """A camera for `steps` frames of width x height `aspect` (2,) short sides."""
    still = np.zeros(steps)
    if not moving:
        return Camera(np.ones(steps), np.zeros((steps, 2)), still, aspect / 2)
    time = np.arange(steps) - (steps - 1) / 2
    angle = rng.uniform(0, 2 * np.pi)
    speed = min(rng.uniform(0, 0.012), 0.35 / max(steps, 1))
    shift = time[:, None] * speed * np.array([np.cos(angle), np.sin(angle)])
    zoom, turn = np.ones(steps), still
    if rng.random() < 0.4:
        zoom = np.exp(time / steps * rng.uniform(-0.35, 0.35))
    if rng.random() < 0.4:
        shift = shift + rng.uniform(0.001, 0.006) * smooth_noise(rng, steps, 2)
    if rng.random() < 0.3:
        turn = time / steps * rng.uniform(-0.12, 0.12)
    return Camera(zoom, shift, turn, aspect / 2)


def sample_speed(rng: np.random.Generator) -> float:
    """Short sides per frame: mostly 0.2 to 2 %, a tail up to 4 %."""
    if rng.random() < 0.15:
        return float(rng.uniform(0.02, 0.04))
    return float(0.002 * 10 ** rng.uniform(0, 1))


def sample_heading(rng: np.random.Generator) -> float:
    """Radians; mostly along an axis, so that "left" or "up" describe many paths."""
    if rng.random() < 0.75:
        axis = rng.choice(4, p=(0.32, 0.18, 0.32, 0.18))
        return float(axis * np.pi / 2 + rng.normal(0, 0.18))
    return float(rng.uniform(0, 2 * np.pi))


def sample_motion(
    rng: np.random.Generator,
    steps: int,
    aspect: np.ndarray,
    anchor: np.ndarray,
    extent: float,
    heading: float,
    largest: float = 0.6,
) -> Motion:
    """Motion over `steps` frames that passes `anchor` (2,) about half-way through.

    Args:
        rng: Source of every random choice.
        steps: Planned frames.
        aspect: (2,) width and height of the frame in short sides.
        anchor: (2,) a position to pass.
        extent: Longest side of the drawing at the anchor, short sides.
        heading: Main direction, radians, 0 to the right and clockwise.
        largest: Longest side at any time, short sides.
    """
    kind = PATHS[int(rng.choice(len(PATHS), p=PATH_ODDS))]
    time = np.arange(steps, dtype=np.float64)
    speed = sample_speed(rng)
    offset = _path(rng, kind, time, speed, heading)
    # Anchoring near the ends instead of the middle makes a sprite enter or leave the frame.
    share = rng.uniform(0.3, 0.7) if rng.random() < 0.75 else float(rng.integers(2))
    position = anchor + offset - offset[int(round(share * (steps - 1)))]
    if kind == "bounce":
        low, high = np.full(2, extent * 0.4), aspect - extent * 0.4
        high = np.maximum(high, low + 0.05)
        span = high - low
        position = low + span - np.abs((position - low) % (2 * span) - span)
    size = np.full(steps, extent)
    if rng.random() < 0.25:
        growth = rng.uniform(0.35, 0.8) * rng.choice((-1, 1))
        size = extent * np.exp(growth * (time / max(steps - 1, 1) - 0.5))
    angle, spin = np.full(steps, rng.normal(0, 0.2)), 0.0
    draw = rng.random()
    if draw < 0.14:
        spin = float(rng.uniform(0.05, 0.15) * rng.choice((-1, 1)))
        angle = angle + spin * time
    elif draw < 0.5:
        angle = angle + rng.uniform(0.02, 0.15) * np.sin(time * rng.uniform(0.1, 0.5))
    return Motion(kind, position, np.minimum(size, largest), angle, spin)


def _path(
    rng: np.random.Generator, kind: str, time: np.ndarray, speed: float, heading: float
) -> np.ndarray:
    """(P, 2) displacement over time for one of PATHS."""
    along = np.array([np.cos(heading), np.sin(heading)])
    across = np.array([-along[1], along[0]])
    distance = speed * time
    if kind == "still":
        return np.zeros((len(time), 2))
    if kind == "arc":
        turn = rng.uniform(0.3, 1.6) / max(len(time), 16) * rng.choice((-1, 1))
        steps = heading + turn * (time - time.mean())
        return np.cumsum(speed * np.stack([np.cos(steps), np.sin(steps)], axis=1), axis=0)
    if kind == "sine":
        wave = rng.uniform(0.02, 0.07) * np.sin(time * rng.uniform(0.15, 0.5))
        return distance[:, None] * along + wave[:, None] * across
    if kind == "accelerate":
        ramp = time / max(len(time) - 1, 1)
        ramp = ramp if rng.random() < 0.5 else 2 - ramp
        return (distance * ramp)[:, None] * along
    return distance[:, None] * along
