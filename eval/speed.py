"""Time and memory of parts of this project, next to the plain way to do the same.

    python -m eval.speed metric [--sizes 480x854 720x1280] [--frames 70] [--objects 3]

metric: J, F and the matching of objects to proposals (`eval.conventions.davis_unsupervised`) of one
synthetic video: seeded blobs of mixed sizes that move, with as many proposals as objects and a
strip of void.

- *core* takes label maps one at a time and prepares every mask once (`eval.metrics.jf.core`).
- *plain* is the definition as one would write it down, and as the usual script works: all label
  maps as one float64 stack, one float64 plane per object, every pair from scratch on the whole
  frame, dilation by `cv2.dilate` with a disk.

Each runs in a process of its own, on one thread. Seconds are of processor time, so that other work
on the machine counts little, and leave out the making of the label maps. Peak memory is that of the
whole process; in brackets, how far it is above what the interpreter and the imports take. The plain
way takes gigabytes. Exit status 1 if any two numbers are not equal to the last bit.
"""

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

# Nothing heavy, whose memory would hide what is measured here.
from eval.conventions import MAX_PROPOSALS, VOID, davis_unsupervised
from eval.report import markdown_table, peak_memory, positive

SIZES = ((480, 854), (720, 1280))
AREAS = (0.01, 0.09, 0.3)  # of the frame, for one object after the other

Scores = dict[int, tuple[list[float], list[float]]]  # object id -> J and F of T frames


@dataclass(frozen=True)
class Scene:
    """A synthetic video as label maps (H, W) uint8, made as they are asked for."""

    height: int
    width: int
    frames: int  # T
    objects: int
    seed: int = 0

    def truth(self) -> Iterator[np.ndarray]:
        """T label maps, ids 1 to `objects`, with a strip of void."""
        for t in range(self.frames):
            labels = self._draw(t, wobble=0.0, ids=range(1, self.objects + 1))
            labels[-self.height // 20 :, : self.width // 4] = VOID
            yield labels

    def prediction(self) -> Iterator[np.ndarray]:
        """T label maps of the same objects, somewhat off and with their ids reversed."""
        for t in range(self.frames):
            yield self._draw(t, wobble=0.03, ids=range(self.objects, 0, -1))

    def _draw(self, t: int, wobble: float, ids: Sequence[int]) -> np.ndarray:
        labels = np.zeros((self.height, self.width), dtype=np.uint8)
        size = np.array([self.width, self.height])
        angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        # Large ones first, so that they do not hide the small.
        for k in sorted(range(self.objects), key=lambda k: -AREAS[k % len(AREAS)]):
            rng = np.random.default_rng([self.seed, k])
            start, speed = rng.uniform(0.25, 0.75, 2), rng.uniform(-0.004, 0.004, 2)
            phases = rng.uniform(0, 2 * np.pi, 3)
            outline = 1 + sum(
                0.2 / n * np.sin(n * angles + phase + 0.05 * n * t)
                for n, phase in enumerate(phases, start=2)
            )
            outline += wobble * np.sin(9 * angles + 0.3 * t)
            radius = math.sqrt(AREAS[k % len(AREAS)] * self.height * self.width / math.pi)
            centre = (start + speed * t + wobble * np.sin(t) / 2) * size
            circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
            points = centre + radius * outline[:, None] * circle
            cv2.fillPoly(labels, [points.round().astype(np.int32)], int(ids[k]))
        return labels


def core_scores(preds: Iterable[np.ndarray], gts: Iterable[np.ndarray]) -> Scores:
    """Scores as this project computes them."""
    scores = davis_unsupervised(preds, gts)
    return {k: (s.j.tolist(), s.f.tolist()) for k, s in scores.items()}


def plain_scores(preds: Iterable[np.ndarray], gts: Iterable[np.ndarray]) -> Scores:
    """The same by the plain way; see the top of this file."""
    preds, gts = (np.stack(list(maps)).astype(np.float64) for maps in (preds, gts))
    void = gts == VOID
    gts[void] = 0
    preds, gts = _planes(preds, int(preds.max())), _planes(gts, int(gts[0].max()))
    if len(preds) < len(gts):
        preds = np.concatenate([preds, np.zeros((len(gts) - len(preds), *preds.shape[1:]))])
    j, f = np.zeros((2, len(preds), len(gts), len(void)))
    for p, pred in enumerate(preds):
        for g, gt in enumerate(gts):
            j[p, g] = _plain_j(pred, gt, void)
            f[p, g] = [_plain_f(*masks) for masks in zip(pred, gt, void, strict=True)]
    matched = linear_sum_assignment(-(j.mean(axis=2) + f.mean(axis=2)) / 2)
    pairs = sorted(zip(*matched, strict=True), key=lambda pair: pair[1])
    return {int(g) + 1: (j[p, g].tolist(), f[p, g].tolist()) for p, g in pairs}


def _planes(labels: np.ndarray, count: int) -> np.ndarray:
    """Label maps (T, H, W) as one mask per id: (count, T, H, W) float64."""
    return (labels == np.arange(1, count + 1)[:, None, None, None]).astype(np.float64)


def _plain_j(pred: np.ndarray, gt: np.ndarray, void: np.ndarray) -> np.ndarray:
    """J (T,) of masks (T, H, W)."""
    pred, gt = pred.astype(bool), gt.astype(bool)
    both = np.sum(pred & gt & ~void, axis=(1, 2))
    union = np.sum((pred | gt) & ~void, axis=(1, 2))
    return np.where(union == 0, 1.0, both / np.maximum(union, 1))


def _plain_f(pred: np.ndarray, gt: np.ndarray, void: np.ndarray) -> float:
    """F of masks (H, W)."""
    radius = math.ceil(0.008 * np.linalg.norm(gt.shape))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    edges = [_plain_boundary(mask.astype(bool) & ~void) for mask in (pred, gt)]
    reaches = [cv2.dilate(edge.astype(np.uint8), disk).astype(bool) for edge in edges]
    n_pred, n_gt = (np.sum(edge) for edge in edges)
    if n_pred == 0 or n_gt == 0:
        return float(n_pred == n_gt)
    precision = np.sum(edges[0] & reaches[1]) / n_pred
    hit_rate = np.sum(edges[1] & reaches[0]) / n_gt
    both = precision + hit_rate
    return float(2 * precision * hit_rate / both) if both else 0.0


def _plain_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels (H, W) that differ from their right, lower or lower-right neighbour."""
    right, low, corner = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    low[:-1] = mask[:-1] ^ mask[1:]
    corner[:-1, :-1] = mask[:-1, :-1] ^ mask[1:, 1:]
    return right | low | corner


@dataclass(frozen=True)
class Run:
    """What one way of scoring one scene took."""

    seconds: float  # processor time
    bare: float  # MiB before the work, interpreter and imports
    peak: float  # MiB, highest of the process
    scores: Scores


def measure(score: Callable[..., Scores], scene: Scene) -> Run:
    """Run `score` on a scene in a process of its own."""
    context = multiprocessing.get_context("spawn")  # forked, it would start with our memory
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_here, score, scene).result()


def _measure_here(score: Callable[..., Scores], scene: Scene) -> Run:
    cv2.setNumThreads(1)
    bare, waited = peak_memory() / 2**20, 0.0

    def watched(maps: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal waited
        while True:
            asked = time.process_time()
            labels = next(maps, None)
            waited += time.process_time() - asked
            if labels is None:
                return
            yield labels

    start = time.process_time()
    scores = score(watched(scene.prediction()), watched(scene.truth()))
    return Run(time.process_time() - start - waited, bare, peak_memory() / 2**20, scores)


def compare_metric(sizes: Sequence[tuple[int, int]], frames: int, objects: int) -> int:
    """Print the table of `metric`; 1 if the numbers differ."""
    runs = []
    for height, width in sizes:
        scene = Scene(height, width, frames, objects)
        runs.append((measure(plain_scores, scene), measure(core_scores, scene)))

    header = ["size", "plain s", "core s", "ratio", "plain MiB", "core MiB", "same numbers"]
    rows = [
        [
            f"{height}x{width}",
            f"{plain.seconds:.2f}",
            f"{core.seconds:.2f}",
            f"{plain.seconds / core.seconds:.1f}",
            *(f"{run.peak:.0f} (+{run.peak - run.bare:.0f})" for run in (plain, core)),
            "yes" if plain.scores == core.scores else "NO",
        ]
        for (height, width), (plain, core) in zip(sizes, runs, strict=True)
    ]
    print(f"{frames} frames, {objects} objects x {objects} proposals, one thread each\n")
    print(markdown_table(header, rows))
    return int(any(plain.scores != core.scores for plain, core in runs))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 480x854")
    return int(height), int(width)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 if the numbers agree, 1 if not, 2 on unusable options."""
    parser = argparse.ArgumentParser(prog="python -m eval.speed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    subjects = parser.add_subparsers(dest="subject", required=True)
    metric = subjects.add_parser("metric", help="J, F and matching against the plain way")
    metric.add_argument("--sizes", type=_size, nargs="+", default=SIZES, metavar="HxW")
    metric.add_argument("--frames", type=positive, default=70)
    metric.add_argument("--objects", type=positive, default=3)
    args = parser.parse_args(argv)
    if args.objects > MAX_PROPOSALS:
        parser.error(f"--objects: at most {MAX_PROPOSALS} proposals are allowed")
    return compare_metric(args.sizes, args.frames, args.objects)


if __name__ == "__main__":
    raise SystemExit(main())
