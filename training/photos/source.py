"""Training samples from real pictures: as they are, in mosaics, and as cut-outs in scenes."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from ..samples import ClipSample, FrameSample, Place
from .clips import clip_sampler, make_clip
from .nouns import confusable, nouns, true_of
from .rows import Photo, read_photos
from .sentences import SMALLEST, Describer

FRAME, CLIP = 0, 1  # keep the random numbers of both kinds of sample apart
TRIES = 50


class PhotoSource:
    """An endless source; a sample depends on the seed and its number alone.

    Args:
        folder: A prepared folder, see `prepare.py`.
        seed: Two sources with different seeds share no sample.
        side: Of the square frames, pixels.
        split: "train" or "val".
        mosaic: Share of the frames that are made of four pictures.
        pasted: Share of the frames onto which cut-outs are pasted.
        named: Share of the pictures that are class-named ones.
        plain: Whether pictures are squashed whole, without any change: to measure.
    """

    length = None

    def __init__(
        self, folder: str | Path, seed: int, side: int, split: str = "train",
        mosaic: float = 0.15, pasted: float = 0.15, named: float = 0.3, plain: bool = False,
    ):  # fmt: skip
        cv2.setNumThreads(1)
        self.photos = read_photos(folder, split)
        self.seed, self.side, self.plain = seed, side, plain
        self.mosaic, self.pasted, self.named = (0, 0, 0) if plain else (mosaic, pasted, named)
        self.truth = [p for p in self.photos if p.known and p.objects]
        self.cuts = [p for p in self.photos if not p.known and p.objects and p.objects[0].noun]
        if not self.truth:
            raise ValueError(f"{folder} has no {split} pictures with masks")
        if not self.cuts:
            self.named = self.pasted = 0

    @property
    def nouns(self) -> tuple[str, ...]:
        """All nouns that a picture may show."""
        return tuple(nouns())

    @cached_property
    def sampler(self):
        """Of clips of cut-outs."""
        return clip_sampler()

    @cached_property
    def _odds(self) -> tuple[np.ndarray, np.ndarray]:
        return _rare_first(self.truth), _rare_first(self.cuts) if self.cuts else np.zeros(0)

    def frame(self, place: Place, pairs: int, negatives: float) -> FrameSample:
        """One frame with exactly `pairs` sentences."""
        rng = np.random.default_rng((self.seed, FRAME, place.item))
        for _ in range(TRIES):
            scene = self._scene(rng)
            describer = Describer(scene.masks, scene.names, scene.seen, scene.complete, rng)
            chosen = describer.pairs(pairs, negatives, scene.absent)
            if chosen:
                break
        else:
            raise ValueError(f"of {TRIES} pictures none can be described: are there any objects?")
        return FrameSample(
            name=scene.name,
            frame=scene.image if self.plain else _camera(scene.image, rng),
            masks=scene.masks,
            pairs=tuple(chosen),
            nouns=scene.names,
            absent=scene.absent,
            partial=scene.partial,
            seed=int(rng.integers(2**32)),
        )

    def clip(self, place: Place, length: int, objects: int, strides: Sequence[int]) -> ClipSample:
        """One clip of moving cut-outs, or of a whole picture that bends."""
        rng = np.random.default_rng((self.seed, CLIP, place.item))
        return make_clip(self, rng, length, objects, strides, f"clip {place.item}")

    def _scene(self, rng: np.random.Generator) -> "Scene":
        if rng.random() < self.mosaic:
            scene = _mosaic(
                [self._picture(rng, self.side // 2 + 16) for _ in range(4)], self.side, rng
            )
        else:
            scene = self._picture(rng, self.side)
        if rng.random() < self.pasted:
            for _ in range(int(rng.integers(1, 4))):
                scene = _paste(scene, self.pick_cut(rng), rng)
        return scene

    def _picture(self, rng: np.random.Generator, side: int) -> "Scene":
        named = rng.random() < self.named
        pool, odds = (self.cuts, self._odds[1]) if named else (self.truth, self._odds[0])
        photo = pool[int(rng.choice(len(pool), p=odds))]
        return _view(photo, side, None if self.plain else rng)

    def pick_cut(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """A cut-out (h, w, 4) uint8 RGBA with its noun; half of them of class-named pictures."""
        for _ in range(TRIES):
            named = bool(self.cuts) and rng.random() < 0.5
            pool, odds = (self.cuts, self._odds[1]) if named else (self.truth, self._odds[0])
            photo = pool[int(rng.choice(len(pool), p=odds))]
            thing = photo.objects[int(rng.integers(len(photo.objects)))]
            mask = thing.mask(photo.size)
            if mask.mean() >= 0.02 and thing.noun and not _touches_edge(mask):
                return cut_out(load(photo), mask), thing.noun
        raise ValueError("the pictures hold no object that can be cut out")

    def pick_photo(self, rng: np.random.Generator) -> Photo:
        """A picture with objects that are no specks."""
        for _ in range(TRIES):
            pool = self.truth if rng.random() < 0.7 or not self.cuts else self.cuts
            photo = pool[int(rng.integers(len(pool)))]
            if any(o.mask(photo.size).mean() > 0.01 for o in photo.objects):
                return photo
        raise ValueError("the pictures hold no object that is large enough for a clip")

    def pick_image(self, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 RGB of any picture, for a background."""
        return load(self.photos[int(rng.integers(len(self.photos)))])

    @staticmethod
    def load(photo: Photo) -> np.ndarray:
        """See `load`."""
        return load(photo)


class Scene:
    """A square picture under construction.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        masks: (O, S, S) bool.
        names: Per object.
        seen: (O,) share of each that is still visible.
        complete: Nouns of which all are among the objects; of an absent one that is none.
        absent: Nouns that nothing shown is, surely.
        partial: Nouns of which more may be there than is annotated.
    """

    def __init__(self, name, image, masks, names, seen, complete, absent):
        self.name, self.image, self.masks = name, image, masks
        self.names, self.seen, self.complete = tuple(names), seen, frozenset(complete)
        self.absent = tuple(sorted(absent))
        self.partial = tuple(n for n in nouns() if n not in self.complete)


def _view(photo: Photo, side: int, rng: np.random.Generator | None) -> Scene:
    """A picture, or a random part of it, as a square."""
    image, (height, width) = load(photo), photo.size
    whole = [thing.mask(photo.size) for thing in photo.objects]
    if rng is None:
        x, y = side / width, side / height  # centres of pixels, as cv2.resize has them
        matrix = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])
    else:
        matrix = _random_view(whole, (height, width), side, rng)
    flags = cv2.INTER_AREA if rng is None else cv2.INTER_LINEAR
    if rng is None:
        picture = cv2.resize(image, (side, side), interpolation=flags)
    else:
        if np.sqrt(abs(np.linalg.det(matrix[:, :2]))) < 0.6:
            image = cv2.GaussianBlur(image, (0, 0), 0.7)
        # Not mirrored at the border: what would be seen there has no mask.
        fill = [int(v) for v in rng.integers(0, 256, 3)]
        picture = cv2.warpAffine(image, matrix, (side, side), flags=flags, borderValue=fill)
    scale = abs(np.linalg.det(matrix[:, :2]))
    masks, names, seen = [], [], []
    for thing, mask in zip(photo.objects, whole, strict=True):
        shown = cv2.warpAffine(mask.view(np.uint8), matrix, (side, side), flags=cv2.INTER_NEAREST)
        area = cv2.countNonZero(shown)
        if area:
            masks.append(shown.view(bool))
            names.append(thing.noun)
            seen.append(min(area / (cv2.countNonZero(mask.view(np.uint8)) * scale), 1.0))
    complete, absent = certain(photo)
    stack = np.stack(masks) if masks else np.zeros((0, side, side), bool)
    return Scene(photo.path, picture, stack, names, np.array(seen), complete, absent)


def certain(photo: Photo) -> tuple[set[str], set[str]]:
    """Nouns of which everything is annotated, and those of them that nothing in the picture is."""
    there = {o.noun for o in photo.objects if o.noun}
    maybe = {kin for noun in there for kin in confusable(noun)}
    known = set(photo.known)
    table = nouns()
    if len(known) > 15:  # a picture that is annotated with many nouns
        groups = {table[n].group for n in there}
        absent = {n for n in known if n not in maybe}
        # Unlisted animals and vehicles would have been annotated as their nearest of the list.
        absent |= {
            n for n, noun in table.items()
            if noun.group in ("animals", "vehicles") and noun.group not in groups
            and not any(kind in there for kind in noun.kinds) and n not in maybe
        }  # fmt: skip
        return known | {"animal"} | absent, absent
    if known:  # people, and clothes by name: of the rest nothing is known
        return known | there, set()
    # One main object: no other animal or vehicle is likely.
    group = {table[n].group for n in there}
    absent = {n for n, noun in table.items() if noun.group in group and n not in maybe}
    if "animals" in group:
        absent |= {n for n, noun in table.items() if noun.group == "vehicles" and noun.kinds}
    if "vehicles" in group:
        absent |= {n for n, noun in table.items() if noun.group == "animals"}
    if not group & {"animals", "vehicles"}:
        absent = set()
    return {kind for noun in there for kind in true_of(noun)} | absent, absent


def _random_view(
    masks: list[np.ndarray], size: tuple[int, int], side: int, rng: np.random.Generator
) -> np.ndarray:
    """(2, 3) picture -> square: zoomed, stretched, turned a little, maybe mirrored."""
    height, width = size
    zoom = float(np.exp(rng.uniform(np.log(0.55), np.log(2.0))))
    if rng.random() < 0.3:
        zoom = 1.0
    centre = np.array([width, height]) * rng.uniform(0.35, 0.65, 2)
    if masks and zoom > 1.05:  # towards an object, so that it is not cut off
        mask = masks[int(rng.integers(len(masks)))]
        ys, xs = np.nonzero(mask)
        if len(xs):
            box = np.array([np.ptp(xs) + 1, np.ptp(ys) + 1])
            zoom = min(
                zoom, float(1 / max((box / (width, height)).max() * rng.uniform(0.9, 1.3), 0.3))
            )
            zoom = max(zoom, 0.8)
            centre = (
                np.array([xs.mean(), ys.mean()]) + rng.normal(0, 0.12, 2) * (width, height) / zoom
            )
    # Squashed to the square as videos are, up to the whole way.
    squash = rng.uniform(0.3, 1.0)
    base = np.array([side / width, side / height])
    even = np.sqrt(base.prod())
    scale = zoom * base**squash * even ** (1 - squash) * np.exp(rng.normal(0, 0.06, 2))
    angle = rng.normal(0, 0.06)
    half = np.array([width, height]) / 2 / zoom
    centre = np.clip(
        centre,
        np.minimum(half, [width / 2, height / 2]),
        np.maximum([width, height] - half, [width / 2, height / 2]),
    )
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1.0])
    linear = mirror @ np.diag(scale) @ turn
    shift = side / 2 - linear @ centre
    return np.hstack([linear, shift[:, None]])


def _mosaic(parts: list[Scene], side: int, rng: np.random.Generator) -> Scene:
    """Four pictures in one, cut where two random lines cross."""
    image = np.empty((side, side, 3), np.uint8)
    x, y = (int(side * v) for v in rng.uniform(0.42, 0.58, 2))
    masks, names, seen = [], [], []
    for number, part in enumerate(parts):
        rows = slice(0, y) if number < 2 else slice(y, side)
        columns = slice(0, x) if number % 2 == 0 else slice(x, side)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        size = part.image.shape[0]
        top, left = (size - height) // 2, (size - width) // 2
        window = (
            slice(max(top, 0), max(top, 0) + height),
            slice(max(left, 0), max(left, 0) + width),
        )
        piece = part.image[window]
        image[rows, columns] = cv2.resize(piece, (width, height))
        for mask, name, share in zip(part.masks, part.names, part.seen, strict=True):
            small = cv2.resize(mask[window].astype(np.uint8), (width, height)) > 0
            if small.any():
                whole = np.zeros((side, side), bool)
                whole[rows, columns] = small
                masks.append(whole)
                names.append(name)
                seen.append(share * mask[window].sum() / mask.sum())
    complete = frozenset.intersection(*(p.complete for p in parts))
    absent = set.intersection(*(set(p.absent) for p in parts))
    stack = np.stack(masks) if masks else np.zeros((0, side, side), bool)
    return Scene(
        f"mosaic of {parts[0].name}", image, stack, names, np.array(seen), complete, absent
    )


def _paste(scene: Scene, cut: tuple[np.ndarray, str], rng: np.random.Generator) -> Scene:
    """Put a cut-out onto a scene; what it covers is no longer visible."""
    rgba, noun = cut
    side = scene.image.shape[0]
    wanted = side * float(np.exp(rng.uniform(np.log(0.15), np.log(0.6))))
    scale = wanted / max(rgba.shape[:2])
    angle = rng.normal(0, 0.12)
    centre = rng.uniform(0.15, 0.85, 2) * side
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    linear = scale * np.array(
        [[np.cos(angle) * mirror, -np.sin(angle)], [np.sin(angle) * mirror, np.cos(angle)]]
    )
    shift = centre - linear @ (np.array(rgba.shape[1::-1]) / 2)
    matrix = np.hstack([linear, shift[:, None]])
    if scale < 0.6:
        rgba = cv2.GaussianBlur(rgba, (0, 0), 0.5 / scale - 0.3)
    drawn = cv2.warpAffine(rgba, matrix, (side, side), flags=cv2.INTER_LINEAR)
    alpha = drawn[..., 3:].astype(np.float32) / 255
    light = np.float32(rng.uniform(0.75, 1.2))
    image = scene.image * (1 - alpha) + np.clip(drawn[..., :3] * light, 0, 255) * alpha
    opaque = alpha[..., 0] > 0.5
    if opaque.mean() < SMALLEST:
        return scene
    total = np.maximum(scene.masks.reshape(len(scene.masks), -1).sum(axis=1), 1)
    kept = scene.masks & ~opaque
    left = kept.reshape(len(kept), -1).sum(axis=1)
    shown = left > 0
    return Scene(
        scene.name,
        image.astype(np.uint8),
        np.concatenate([kept[shown], opaque[None]]),
        [*(n for n, keep in zip(scene.names, shown, strict=True) if keep), noun],
        np.append(scene.seen[shown] * (left / total)[shown], 1.0),
        scene.complete,
        set(scene.absent) - set(confusable(noun)),
    )


def _camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Color, light, blur, noise and JPEG of cameras and videos."""
    x = image
    if rng.random() < 0.7:
        gain, contrast, saturation = rng.uniform((0.7, 0.7, 0.4), (1.3, 1.3, 1.5))
        if rng.random() < 0.07:
            saturation = 0.0
        grey = np.full((3, 3), 1 / 3)
        matrix = gain * contrast * (grey + saturation * (np.eye(3) - grey))
        matrix *= rng.uniform(0.9, 1.1, 3)[:, None]
        shift = gain * (1 - contrast) * np.mean(cv2.mean(x)[:3])
        x = cv2.transform(x, np.hstack([matrix, np.full((3, 1), shift)]))
    if rng.random() < 0.25:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.12:  # motion
        length = int(rng.integers(3, 9))
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1 / length
        turn = cv2.getRotationMatrix2D((length / 2 - 0.5,) * 2, rng.uniform(0, 180), 1)
        kernel = cv2.warpAffine(kernel, turn, (length, length))
        x = cv2.filter2D(x, -1, kernel / max(kernel.sum(), 1e-6))
    if rng.random() < 0.25:
        noise = rng.standard_normal(x.shape, dtype=np.float32) * np.float32(rng.uniform(1, 9))
        x = cv2.add(x, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.3:
        _, data = cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
        x = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return x


def load(photo: Photo) -> np.ndarray:
    """(H, W, 3) uint8 RGB.

    Raises:
        ValueError: The file is gone, damaged, or another one than was prepared.
    """
    # As it is stored, whichever side a camera noted as up: so its masks lie.
    image = cv2.imread(photo.path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None or image.shape[:2] != photo.size:
        raise ValueError(f"{photo.path} is not what was prepared: prepare the pictures again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def cut_out(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(h, w, 4) uint8 RGBA with a soft edge, tight around the mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    alpha = cv2.GaussianBlur(mask.astype(np.uint8) * 255, (0, 0), 0.8)
    alpha = np.where(mask, alpha, 0)  # the edge is inside, so that no background comes along
    return np.dstack([image, alpha.astype(np.uint8)])[window]


def _touches_edge(mask: np.ndarray) -> bool:
    """Whether the picture's border cuts the object off, over more than a sliver."""
    border = mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()
    return bool(border > 0.5 * np.sqrt(mask.sum()))


def _rare_first(photos: list[Photo]) -> np.ndarray:
    """Odds of pictures, by the square root of how rare their rarest noun is; what people film
    counts more than things."""
    counts: dict[str, int] = {}
    for photo in photos:
        for noun in {o.noun for o in photo.objects}:
            counts[noun] = counts.get(noun, 0) + 1
    weight = np.array([
        max((counts[o.noun] ** -0.5 * _weight(o.noun) for o in photo.objects), default=0.0)
        for photo in photos
    ])  # fmt: skip
    return weight / weight.sum()


def _weight(noun: str) -> float:
    return {"people": 1.0, "animals": 1.0, "vehicles": 1.0, "things": 0.35}[
        nouns()[noun].group if noun else "things"
    ]
