"""Procedural backgrounds: canvases larger than a frame, for a camera to move over."""

import cv2
import numpy as np

TRAIN_FAMILIES = ("noise", "pattern", "shapes", "texture")
HELDOUT_FAMILIES = ("voronoi",)  # never trained on
CANVAS = 448  # pixels, side of a square canvas


def make_background(family: str, rng: np.random.Generator, side: int = CANVAS) -> np.ndarray:
    """Draw one canvas.

    Args:
        family: One of `TRAIN_FAMILIES` or `HELDOUT_FAMILIES`.
        rng: Source of every random choice.
        side: Pixels per side.

    Returns:
        (side, side, 3) uint8 RGB.

    Raises:
        ValueError: Unknown family.
    """
    makers = {
        "noise": _noise,
        "pattern": _pattern,
        "shapes": _shapes,
        "texture": _texture,
        "voronoi": _voronoi,
    }
    if family not in makers:
        raise ValueError(f"unknown background family {family!r}: choose from {sorted(makers)}")
    canvas = makers[family](rng, side)
    # Squeezing the range leaves most canvases calmer than the sprites on them, as real scenes are.
    low, high = sorted(rng.uniform(0, 255, 2))
    if high - low > 60 and rng.random() < 0.5:
        canvas = low + canvas * ((high - low) / 255.0)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def value_noise(
    rng: np.random.Generator, side: int, cells: int, octaves: int, gain: float = 0.5
) -> np.ndarray:
    """(side, side) float32 in 0..1: random grids of growing resolution, interpolated, summed."""
    total = np.zeros((side, side), np.float32)
    weight = 1.0
    for _ in range(octaves):
        grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
        total += weight * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
        weight *= gain
        cells *= 2
        if cells > side:
            break
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3) float32 0..255; half of the time shades of one hue, mostly not very vivid."""
    if rng.random() < 0.5:
        base = rng.uniform(20, 235, 3)
        colours = np.clip(base + rng.normal(0, 45, (count, 3)), 0, 255)
    else:
        colours = rng.uniform(0, 255, (count, 3))
    grey = colours.mean(axis=1, keepdims=True)
    return (grey + (colours - grey) * rng.uniform(0.15, 1.0)).astype(np.float32)


def _ramp(values: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Map (H, W) in 0..1 through a piecewise linear colour ramp -> (H, W, 3) float32."""
    stops = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), stops, c) for c in colours.T], axis=1)
    return table.astype(np.float32)[(values * 255).astype(np.uint8)]


def _plane(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (side, side) float32 coordinate maps, turned by a random angle."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _noise(rng: np.random.Generator, side: int) -> np.ndarray:
    values = value_noise(rng, side, int(rng.integers(2, 9)), int(rng.integers(2, 6)))
    if rng.random() < 0.5:
        u, _ = _plane(rng, side)
        u = (u - u.min()) / (u.max() - u.min())
        blend = np.float32(rng.uniform(0.2, 0.9))
        values = blend * u + (1 - blend) * values
    return _ramp(values, _colours(rng, int(rng.integers(2, 5))))


def _pattern(rng: np.random.Generator, side: int) -> np.ndarray:
    u, v = _plane(rng, side)
    period = rng.uniform(16, 72)
    kind = int(rng.integers(5))
    if kind == 0:  # stripes
        values = (u / period) % 1 < rng.uniform(0.3, 0.7)
    elif kind == 1:  # checks
        values = (np.floor(u / period) + np.floor(v / period)) % 2
    elif kind == 2:  # tiles with joints
        row = np.floor(v / period)
        joint = rng.uniform(0.04, 0.12)
        values = (((u / period / 1.7 + 0.5 * (row % 2)) % 1) < joint) | ((v / period % 1) < joint)
    elif kind == 3:  # dots
        values = np.hypot((u / period) % 1 - 0.5, (v / period) % 1 - 0.5) < rng.uniform(0.2, 0.4)
    else:  # blobs
        values = value_noise(rng, side, int(rng.integers(4, 12)), 2) > 0.5
    first, second = _colours(rng, 2)
    mix = cv2.GaussianBlur(values.astype(np.float32), (0, 0), rng.uniform(0.5, 1.5))[..., None]
    shade = value_noise(rng, side, 3, 3)[..., None] * rng.uniform(0, 60)
    return first * mix + second * (1 - mix) + shade - 20


def _shapes(rng: np.random.Generator, side: int) -> np.ndarray:
    colours = _colours(rng, 8)
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = colours[0]
    for _ in range(int(rng.integers(8, 30))):
        centre, radius = rng.uniform(0, side, 2), rng.uniform(0.04, 0.25) * side
        count = int(rng.integers(3, 9))
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        reach = radius * rng.uniform(0.5, 1.0, (count, 1))
        points = centre + reach * np.stack([np.cos(angles), np.sin(angles)], 1)
        colour = colours[int(rng.integers(8))].tolist()
        if rng.random() < 0.4:
            cv2.circle(canvas, centre.astype(int).tolist(), int(radius * 0.7), colour, -1)
        else:
            cv2.fillPoly(canvas, [points.astype(np.int32)], colour)
    return canvas


def _surface(rng: np.random.Generator, side: int) -> np.ndarray:
    """A rough surface lit from one side, with grain: (side, side, 3) float32."""
    height = value_noise(rng, side, int(rng.integers(3, 12)), 6, rng.uniform(0.5, 0.8))
    angle = rng.uniform(0, 2 * np.pi)
    slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) * np.float32(np.cos(angle))
    slope += cv2.Sobel(height, cv2.CV_32F, 0, 1) * np.float32(np.sin(angle))
    albedo = value_noise(rng, side, int(rng.integers(2, 7)), 4)
    colour = _ramp(albedo, _colours(rng, 3)) * 0.8 + 25
    light = 1 + np.clip(slope * rng.uniform(0.5, 3.5), -0.6, 0.6)
    return colour * light[..., None]


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Photographic-looking: lit surfaces, a horizon, uneven light, depth blur, film grain."""
    canvas = _surface(rng, side)
    if rng.random() < 0.5:  # ground below a second surface or a calm sky
        line = side * rng.uniform(0.25, 0.6) + (value_noise(rng, side, 4, 4)[0] - 0.5) * 60
        above = (np.arange(side)[:, None] < line[None]).astype(np.float32)
        above = cv2.GaussianBlur(above, (0, 0), 1.0)[..., None]
        back = _surface(rng, side) if rng.random() < 0.5 else _noise(rng, side)
        back = cv2.GaussianBlur(back, (0, 0), rng.uniform(0.8, 4.0))
        canvas = canvas * (1 - above) + back * above
    light = 0.65 + 0.7 * value_noise(rng, side, int(rng.integers(1, 4)), 2)
    canvas = canvas * light[..., None]
    if rng.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.8, 2.5))
    grain = rng.standard_normal((side, side), dtype=np.float32) * np.float32(rng.uniform(1, 7))
    return (canvas + grain[..., None]) * rng.uniform(0.8, 1.2, 3).astype(np.float32)


def _voronoi(rng: np.random.Generator, side: int) -> np.ndarray:
    """Cells with marbled colour and dark seams."""
    seeds = np.ones((side, side), np.uint8)
    count = int(rng.integers(25, 160))
    seeds[tuple(rng.integers(0, side, (2, count)))] = 0
    distance, labels = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = _colours(rng, int(labels.max()) + 1)
    canvas = colours[labels] * 0.8 + 60 * value_noise(rng, side, 4, 4)[..., None]
    edges = cv2.morphologyEx(labels.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3)))
    seam = cv2.GaussianBlur((edges > 0).astype(np.float32), (0, 0), 1.0)
    shade = 1 - 0.35 * np.minimum(distance / 40, 1) - rng.uniform(0.2, 0.8) * np.minimum(seam, 1)
    return canvas * np.maximum(shade, 0)[..., None]
