"""Random scenes of Ref-Sprites: named sprites over backgrounds, with masks and sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from training.backgrounds import CANVAS, TRAIN_FAMILIES, make_background
from training.canvas_pool import Canvas
from training.expressions import Expression, describe
from training.sprite_art import TRAIN_STYLES, SpriteBank
from training.sprite_measure import Layer, SpriteObject, measure
from training.sprite_motion import (
    Camera,
    sample_camera,
    sample_heading,
    sample_motion,
)
from training.sprite_render import (
    BEND,
    BendingDrawing,
    CameraFaults,
    Drawing,
    Pose,
    cast_shadow,
    colour_matrix,
    cutout,
    draw,
    prepare,
)

FRAME_RATES = (12, 15, 16, 20, 24)
HORIZON = 16  # planned frames behind a single image, so that motion words have a meaning there


@dataclass(frozen=True)
class Clip:
    """A scene: O objects over T frames."""

    frames: np.ndarray  # (T, H, W, 3) uint8 RGB
    masks: np.ndarray  # (O, T, H, W) bool, visible parts only
    objects: tuple[SpriteObject, ...]
    expressions: tuple[Expression, ...]
    background: str  # family
    fps: int


@dataclass
class SceneSampler:
    """Endless random clips, the same ones for the same arguments and the same calls.

    Sets OpenCV to one thread: its pool costs more than it gives at these sizes.

    Args:
        bank: The sprites.
        seed: Anything `numpy.random.default_rng` takes.
        styles: Art styles to draw from; ValueError if the bank lacks one.
        backgrounds: Background families to draw from.
        pool: Background canvases kept; they are cropped, turned and recoloured for every clip
            and replaced one by one. 0 if `seek` will bring some.
        textured: Share of the objects that are unnamed cut-outs of texture instead of sprites.
        moving_camera: Share of the clips with camera motion.
        warp: Share of the objects and occluders that bend from frame to frame.
        crossing: Share of the clips in which two objects, twins if there are any, cross paths.
        sizes: Smallest and largest side of a sprite, in short sides of the frame; while it moves it
            may grow by a third beyond.
        mixed: Whether about half of a scene's nouns, and at least one, are new ones of the bank,
            and so with the nouns of no-target sentences. Otherwise all nouns are equally likely.
    """

    bank: SpriteBank
    seed: int | Sequence[int]
    styles: Sequence[str] = TRAIN_STYLES
    backgrounds: Sequence[str] = TRAIN_FAMILIES
    pool: int = 32
    textured: float = 0.0
    moving_camera: float = 0.55
    warp: float = 0.0
    crossing: float = 0.0
    sizes: tuple[float, float] = (0.12, 0.45)
    mixed: bool = False
    _rng: np.random.Generator = field(init=False, repr=False)
    _canvases: Sequence[Canvas] = field(init=False, repr=False, default_factory=list)
    _renewing: bool = field(init=False, repr=False, default=True)

    def __post_init__(self):
        missing = set(self.styles) - set(self.bank.styles)
        if missing or not self.styles:
            raise ValueError(f"no art of style {sorted(missing)} (has {list(self.bank.styles)})")
        if self.mixed and not self.bank.new_nouns:
            raise ValueError("a mixture needs a bank with new nouns: load_art(nouns='all')")
        cv2.setNumThreads(1)
        self._rng = np.random.default_rng(self.seed)
        noise = self._rng.standard_normal((640, 640, 3), dtype=np.float32)
        self._noise = [(noise * sigma).astype(np.int16) for sigma in (2.5, 5.0, 9.0)]
        for number in range(self.pool):
            self._canvases.append(self._new_canvas(number))

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start the random numbers anew; the pool of backgrounds stays as it is."""
        self._rng = np.random.default_rng(seed)

    def seek(self, seed: int | Sequence[int], canvases: Sequence[Canvas]) -> None:
        """Make the clips from here on a function of these arguments and of the sampler's own.

        What was drawn before no longer matters, so sample number i can be made at any time, by
        any process: `sampler.seek((seed, i), pool.at(i))` with a `CanvasPool`.

        Args:
            seed: Anything `numpy.random.default_rng` takes.
            canvases: Backgrounds that take the place of the sampler's pool; never renewed.
        """
        self.reseed(seed)
        self._canvases, self._renewing = canvases, False

    def _new_canvas(self, number: int) -> Canvas:
        family = self.backgrounds[number % len(self.backgrounds)]
        return family, make_background(family, self._rng)

    def clip(
        self,
        num_frames: int,
        size: tuple[int, int],
        expressions_per_object: int | None = None,
        fps: int | None = None,
    ) -> Clip:
        """The next clip.

        Args:
            num_frames: T; 1 gives a still picture whose motion sentences describe a motion that
                is planned but not shown.
            size: (H, W) pixels.
            expressions_per_object: At most so many sentences per target, drawn at random; also
                caps the no-target ones. None keeps all that hold.
            fps: Frame rate to note; random if None.
        """
        rng = self._rng
        steps = num_frames if num_frames > 1 else HORIZON
        shown = np.arange(num_frames) if num_frames > 1 else np.array([HORIZON // 2])
        aspect = np.array([size[1], size[0]]) / min(size)
        moving = num_frames > 1 and rng.random() < self.moving_camera
        camera = sample_camera(rng, steps, aspect, moving)
        family, canvas = self._canvas(num_frames)
        layers = self._layers(steps, aspect)
        frames, masks, whole = self._render(layers, camera, canvas, shown, size)
        objects, facts = measure(layers, camera, masks, whole, shown, self.bank)
        expressions = describe(facts, self._speakable(), rng)
        if expressions_per_object is not None:
            expressions = _subsample(expressions, expressions_per_object, rng)
        rate = int(fps if fps is not None else FRAME_RATES[int(rng.integers(len(FRAME_RATES)))])
        return Clip(frames, masks, objects, tuple(expressions), family, rate)

    def _canvas(self, num_frames: int) -> Canvas:
        """A background of the pool, renewing one now and then."""
        rng = self._rng
        if not self._canvases:
            raise ValueError("a sampler without a pool of backgrounds must `seek` first")
        slot = int(rng.integers(len(self._canvases)))
        if self._renewing and rng.random() < (0.05 if num_frames == 1 else 0.3):
            self._canvases[slot] = self._new_canvas(int(rng.integers(len(self.backgrounds))))
        return self._canvases[slot]

    def _layers(self, steps: int, aspect: np.ndarray) -> list[Layer]:
        """Targets and occluders in drawing order, far to near."""
        rng = self._rng
        nouns = self._pick_nouns()
        style = self.styles[int(rng.integers(len(self.styles)))]
        shadow = rng.random() < 0.3
        size = _sample_size(rng, self.sizes)
        layers, anchors, headings = [], [], {}
        for noun in nouns:
            if not (noun and noun in headings):
                size = _sample_size(rng, self.sizes)
            elif rng.random() < 0.6:  # twins often differ, so that size words have work to do
                size = _other_size(rng, size, self.sizes)
            anchor = _sample_anchor(rng, aspect, anchors)
            heading = sample_heading(rng)
            if noun in headings and rng.random() < 0.5:
                heading = headings[noun] + np.pi
            headings[noun], anchors = heading, [*anchors, anchor]
            largest = self.sizes[1] * 4 / 3
            motion = sample_motion(rng, steps, aspect, anchor, size, heading, largest)
            if rng.random() < 0.4:
                style = self.styles[int(rng.integers(len(self.styles)))]
            image = self.bank.image(noun, style) if noun else self._cutout()
            matrix = colour_matrix(rng, 1.0) if rng.random() < 0.8 else None
            drawing = self._prepare(image, matrix, shadow, steps)
            flip = rng.random() < 0.5
            layers.append(Layer(drawing, motion, flip, len(layers), noun, style if noun else ""))
        if self.crossing and rng.random() < self.crossing:
            _cross(rng, layers, aspect)
        layers = [layers[i] for i in rng.permutation(len(layers))]
        if rng.random() < 0.2:
            anchor = rng.uniform(0.1, 0.9, 2) * aspect
            extent = rng.uniform(0.15, 0.45)
            motion = sample_motion(rng, steps, aspect, anchor, extent, sample_heading(rng))
            drawing = self._prepare(self._cutout(), None, shadow, steps)
            occluder = Layer(drawing, motion, False, None)
            layers.insert(int(rng.integers(len(layers) + 1)), occluder)
        return layers

    def _prepare(
        self, image: np.ndarray, matrix: np.ndarray | None, shadow: bool, steps: int
    ) -> Drawing:
        drawing, rng = prepare(image, matrix, shadow), self._rng
        if not (self.warp and rng.random() < self.warp):
            return drawing
        # Two shapes it swings into and back, each at its own pace.
        time = np.arange(steps)[:, None] * rng.uniform(0.1, 0.4, 2) + rng.uniform(0, 6.3, 2)
        shapes = rng.normal(0, rng.uniform(0.02, 0.06), (2, 4, 4, 2))
        lattice = np.tensordot(np.sin(time), shapes, 1).clip(-BEND, BEND).astype(np.float32)
        return BendingDrawing(drawing.levels, drawing.shadow, drawing.opaque, lattice)

    def _cutout(self) -> np.ndarray:
        canvas = self._canvases[int(self._rng.integers(len(self._canvases)))][1]
        return cutout(canvas, self._rng)

    def _pick_nouns(self) -> list[str]:
        """2 to 5 nouns; 60 % of the scenes hold 2 or 3 of one."""
        rng = self._rng
        count = int(rng.choice((2, 3, 4, 5), p=(0.3, 0.35, 0.22, 0.13)))
        available = self.bank.nouns
        picks = rng.choice(len(available), min(count, len(available)), replace=False)
        nouns = [available[int(i)] for i in picks]
        if rng.random() < 0.6:
            twins = 2 if count < 3 or rng.random() < 0.65 else 3
            nouns[:twins] = [nouns[0]] * twins
        if self.mixed:
            nouns = self._mix(nouns)
        return ["" if rng.random() < self.textured else noun for noun in nouns]

    def _mix(self, nouns: list[str]) -> list[str]:
        """The same pattern of twins with other nouns: new ones for about half, at least one."""
        rng = self._rng
        different = list(dict.fromkeys(nouns))
        wanted = rng.random(len(different)) < 0.5
        wanted[int(rng.integers(len(different)))] |= not wanted.any()
        new = rng.permutation(self.bank.new_nouns).tolist()
        old = rng.permutation(self._old_nouns()).tolist()
        pools = [new if (is_new and new) or not old else old for is_new in wanted]
        other = {noun: pool.pop() for noun, pool in zip(different, pools, strict=True)}
        return [other[noun] for noun in nouns]

    def _old_nouns(self) -> list[str]:
        return sorted(set(self.bank.nouns) - set(self.bank.new_nouns))

    def _speakable(self) -> Sequence[str]:
        """Nouns for no-target sentences; else "a new noun" would come to mean "it is there"."""
        if not self.mixed:
            return self.bank.nouns
        old, new = self._old_nouns(), list(self.bank.new_nouns)
        return new + self._rng.permutation(old)[: len(new)].tolist()

    def _render(
        self,
        layers: list[Layer],
        camera: Camera,
        canvas: np.ndarray,
        shown: np.ndarray,
        size: tuple[int, int],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames (T, H, W, 3), visible masks (O, T, H, W), drawn areas incl. hidden (O, T)."""
        rng, short = self._rng, min(size)
        count = sum(layer.index is not None for layer in layers)
        frames = np.empty((len(shown), *size, 3), np.uint8)
        masks = np.zeros((count, len(shown), *size), bool)
        whole = np.zeros((count, len(shown)))
        view = _view_of_canvas(rng, size)
        faults = self._faults()
        depth = rng.uniform(0.3, 0.65)
        offset = rng.normal(0, 0.03, 2) * short
        screens = [camera.to_screen(layer.motion.position) * short for layer in layers]
        for t, step in enumerate(shown):
            matrix = view @ screen_to_world(camera, int(step), short)
            frame = cv2.warpAffine(
                canvas, matrix[:2], size[::-1],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
            )  # fmt: skip
            for n, layer in enumerate(layers):
                extent = layer.motion.extent[step] * camera.zoom[step] * short
                x, y = screens[n][step]
                angle = layer.motion.angle[step] + camera.angle[step]
                if layer.drawing.shadow is not None:
                    under = Pose(x + offset[0], y + offset[1], extent, angle, layer.flip)
                    cast_shadow(frame, layer.drawing, under, depth)
                drawing, side = layer.drawing, extent
                if isinstance(drawing, BendingDrawing):
                    drawing, side = drawing.bent(int(step), extent)
                drawn = draw(frame, drawing, Pose(x, y, side, angle, layer.flip))
                if layer.index is not None:
                    scale = extent / layer.drawing.longest
                    whole[layer.index, t] = layer.drawing.opaque * scale**2
                if drawn is not None:
                    opaque, place = drawn
                    masks[(slice(None), t, *place)] &= ~opaque
                    if layer.index is not None:
                        masks[(layer.index, t, *place)] = opaque
            frames[t] = faults.apply(frame, t, rng)
        return frames, masks, whole

    def _faults(self) -> CameraFaults:
        rng = self._rng
        return CameraFaults(
            matrix=colour_matrix(rng, 0.6) if rng.random() < 0.6 else None,
            flicker=rng.uniform(0, 0.04) if rng.random() < 0.3 else 0.0,
            blur=float(rng.uniform(0.4, 1.1)) if rng.random() < 0.3 else 0.0,
            noise=self._noise[int(rng.integers(3))] if rng.random() < 0.4 else None,
            quality=int(rng.integers(25, 80)) if rng.random() < 0.12 else 0,
        )


def _cross(rng: np.random.Generator, layers: list[Layer], aspect: np.ndarray) -> None:
    """Send two of `layers`, twins if there are any, past each other around the way of the first."""
    nouns = [layer.noun for layer in layers]
    pairs = [(i, j) for j in range(len(layers)) for i in range(j)]
    twins = [(i, j) for i, j in pairs if nouns[i] and nouns[i] == nouns[j]]
    pairs = twins or pairs
    i, j = pairs[int(rng.integers(len(pairs)))]
    first, second = layers[i].motion, layers[j].motion
    steps = len(first.extent)
    meet = int(rng.uniform(0.3, 0.7) * steps)
    place = first.position[meet]
    middle = first.position + np.clip(place, 0.2 * aspect, 0.8 * aspect) - place
    # Apart at one end at least, unless they would have to hurry for it.
    reach = (first.extent[meet] + second.extent[meet]) * rng.uniform(0.5, 1.0)
    speed = min(2 * reach / steps, 0.05)
    angle = rng.uniform(0, 2 * np.pi)
    along, across = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    miss = rng.uniform(-0.3, 0.3) * reach
    apart = (np.arange(steps) - meet)[:, None] * speed * along + miss * across
    for n, sign in ((i, -0.5), (j, 0.5)):
        path = replace(layers[n].motion, position=middle + sign * apart)
        layers[n] = replace(layers[n], motion=path)


def _sample_size(rng: np.random.Generator, sizes: tuple[float, float]) -> float:
    """Longest side of a sprite in short sides of the frame."""
    low, high = sizes
    return float(low * (high / low) ** rng.uniform(0.1, 1.0))


def _other_size(rng: np.random.Generator, size: float, sizes: tuple[float, float]) -> float:
    """A size clearly different from `size`, within the same limits where possible."""
    low, high = sizes
    ratio = rng.uniform(1.4, 2.2)
    larger = size * ratio <= high and (size / ratio < low or rng.random() < 0.5)
    return size * ratio if larger else max(size / ratio, low / 1.2)


def _sample_anchor(
    rng: np.random.Generator, aspect: np.ndarray, taken: list[np.ndarray]
) -> np.ndarray:
    """(2,) short sides; the roomiest of a few random places."""
    places = (0.12 + 0.76 * rng.random((4, 2))) * aspect
    if not taken:
        return places[0]
    room = [min(float(np.hypot(*(p - q))) for q in taken) for p in places]
    return places[int(np.argmax(room))]


def _view_of_canvas(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(3, 3) world pixels -> canvas pixels: a random turned and scaled part of the canvas."""
    scale = (CANVAS / max(size)) * rng.uniform(0.45, 0.9)
    angle = rng.choice(4) * np.pi / 2 * (rng.random() < 0.3) + rng.normal(0, 0.08)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    mirror = 1 if rng.random() < 0.5 else -1
    turn = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
    shift = CANVAS * rng.uniform(0.4, 0.6, 2) - turn @ (np.array(size[::-1]) / 2)
    return np.vstack([np.hstack([turn, shift[:, None]]), [0, 0, 1]])


def screen_to_world(camera: Camera, step: int, short: int) -> np.ndarray:
    """(3, 3) screen pixels -> world pixels: the inverse of `Camera.to_screen` at one step."""
    zoom, angle = camera.zoom[step], camera.angle[step]
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom
    centre = camera.centre * short
    shift = centre - turn @ (centre + camera.shift[step] * short)
    return np.vstack([np.hstack([turn, shift[:, None]]), [0, 0, 1]])


def _subsample(
    expressions: list[Expression], most: int, rng: np.random.Generator
) -> list[Expression]:
    """At most `most` random sentences per target (and without a target), in their order."""
    kept: dict[tuple[int, ...], int] = {}
    chosen = []
    for i in rng.permutation(len(expressions)):
        targets = expressions[i].objects
        if kept.get(targets, 0) < most:
            kept[targets] = kept.get(targets, 0) + 1
            chosen.append(int(i))
    return [expressions[i] for i in sorted(chosen)]
