"""Training samples from benchmarks with masks: Ref-YouTube-VOS, MeViS, Ref-DAVIS17, Ref-Sprites,
folders of videos.

One item is one (video, expression). Its frame is drawn uniformly from the whole video, anew in
every epoch; the official code takes the earliest of five, which favours the beginnings of videos.
"""

import re
from collections.abc import Sequence

import numpy as np

from eval.benchmarks.base import Benchmark, decode_mask
from eval.benchmarks.frames import read_frames

from .samples import ClipSample, FrameSample, Pair, Place

# Visible pixels an object needs on the first frame of a clip, and share of the frame: at the size
# of the model something must be left of it.
SMALLEST, SMALLEST_SHARE = 40, 0.001
TRIES = 16  # frames looked at for an object before the item gives way to the next
FRAME, CLIP = 0, 1  # keep the random numbers of both kinds of sample apart
# Words that do not name a thing: two sentences that share only these speak of different things.
_LISTED = """
    a an the this that these those one two three other another some of on in at to from with
    and or by near next behind front is are was being be its it his her their who which while then
    left right top bottom upper lower middle center centre side far leftmost rightmost topmost
    lowest big bigger biggest large larger largest small smaller smallest little tiny fast faster
    fastest slow slower slowest only first second last most moving going turning video picture
    frame screen up down upwards downwards away closer above below over under close not no does
    move moves still standing s
"""
_EMPTY_WORDS = frozenset(_LISTED.split())


class BenchmarkSource:
    """The expressions of one or several benchmarks, as one finite source.

    Args:
        benchmarks: Splits with masks.
        seed: Of the frames and companions drawn; the order of items is not its business.

    Raises:
        ValueError: A split without masks, or no sentence to train on.
    """

    def __init__(self, benchmarks: Sequence[Benchmark], seed: int):
        for benchmark in benchmarks:
            if not benchmark.has_truth:
                raise ValueError(f"{benchmark.title} {benchmark.split} has no masks to train on")
        # On disk and memory-mapped: RLEs of a whole training split do not fit beside a model.
        self.datasets = [benchmark.dataset() for benchmark in benchmarks]
        self.seed = seed
        self.items: list[tuple[int, int]] = []  # (dataset, row) of every item
        self.texts: list[str] = []
        self.videos: list[tuple[int, str]] = []  # of every item
        self.companions: dict[tuple[int, str], list[int]] = {}  # video -> its items
        self.words: list[frozenset[str]] = []  # of every item
        self.video_words: dict[tuple[int, str], frozenset[str]] = {}
        for d, dataset in enumerate(self.datasets):
            kinds = dataset["kind"] if "kind" in dataset.column_names else [""] * len(dataset)
            columns = zip(dataset["video_id"], dataset["expression"], kinds, strict=True)
            for row, (video, text, kind) in enumerate(columns):
                # Of what is left out too: it is in the video.
                words = _content(text)
                known = self.video_words.get((d, video), frozenset())
                self.video_words[d, video] = known | words
                if kind == "motion-only":
                    continue  # Ref-Sprites says that no single frame shows which one is meant
                self.companions.setdefault((d, video), []).append(len(self.items))
                self.items.append((d, row))
                self.videos.append((d, video))
                self.texts.append(" ".join(text.split()))
                self.words.append(words)
        if not self.items:
            raise ValueError("the training data has no sentence that a single frame can show")

    @property
    def length(self) -> int:
        """Items of an epoch."""
        return len(self.items)

    def frame(self, place: Place, pairs: int, negatives: float) -> FrameSample:
        """A frame of the item's video with its sentence and `pairs - 1` more.

        A sentence whose target is not in this frame refers to nothing there. A share of `negatives`
        of the sentences is of other videos, chosen so that they name no thing that this one's
        sentences name.
        """
        rng = self._rng(FRAME, place)
        row = self._row(place.item)
        t = int(rng.integers(len(row["frame_names"])))
        own = self.companions[self.videos[place.item]]
        others = [i for i in own if i != place.item]
        rng.shuffle(others)
        masks, nouns, chosen = [], [], []
        for n in range(pairs):
            stranger = self._stranger(place.item, rng) if rng.random() < negatives else None
            if stranger is not None:
                chosen.append(Pair(self.texts[stranger], (), "negative"))
                continue
            item = place.item if n == 0 or not others else others[(n - 1) % len(others)]
            chosen.append(self._pair(item, t, masks, nouns))
        size = (row["height"], row["width"])
        path, number = _file(row, t)
        return FrameSample(
            name=f"video {row['video_id']} frame {row['frame_names'][t]}",
            frame=_read(row, [t])[0],
            masks=np.array(masks, dtype=bool).reshape(-1, *size),
            pairs=tuple(chosen),
            nouns=tuple(nouns),
            path=path,
            number=number,
            seed=int(rng.integers(2**32)),
        )

    def clip(self, place: Place, length: int, objects: int, strides: Sequence[int]) -> ClipSample:
        """A clip that starts, forwards or backwards, where the item's target is visible.

        An item without a visible target gives way to the next one that has one.
        """
        for shift in range(self.length):
            item = (place.item + shift) % self.length
            clip = self._clip(item, self._rng(CLIP, place), length, objects, strides)
            if clip is not None:
                return clip
        raise ValueError("no object of the training data is visible in any frame")

    def _clip(self, item, rng, length, objects, strides) -> ClipSample | None:
        row = self._row(item)
        if not row["obj_ids"]:
            return None
        count = len(row["frame_names"])
        least = max(SMALLEST, SMALLEST_SHARE * row["height"] * row["width"])
        for _ in range(TRIES):
            start, stride = int(rng.integers(count)), int(rng.choice(strides))
            # The direction with more frames left; a clip at the end of a video stands still.
            sign = 1 if (count - 1 - start >= start) == (rng.random() < 0.8) else -1
            times = np.clip(start + sign * stride * np.arange(length), 0, count - 1)
            if decode_mask(row, start).sum() >= least:
                break
        else:
            return None
        masks = [[decode_mask(row, t) for t in times]]
        others = [i for i in self.companions[self.videos[item]] if i != item]
        for other in rng.permutation(others)[: 2 * objects] if others else ():
            if len(masks) == objects:
                break
            companion = self._row(int(other))
            first = decode_mask(companion, start) if companion["obj_ids"] else None
            if first is None or first.sum() < least:
                continue
            if any(np.array_equal(first, known[0]) for known in masks):
                continue  # another sentence about the same object
            masks.append([decode_mask(companion, t) for t in times])
        frames = np.stack(_read(row, times.tolist()))
        name = f"video {row['video_id']} frames {row['frame_names'][start]}.."
        return ClipSample(name, frames, np.array(masks), int(rng.integers(2**32)))

    def _row(self, item: int) -> dict:
        dataset, row = self.items[item]
        return self.datasets[dataset][row]

    def _pair(self, item: int, t: int, masks: list[np.ndarray], nouns: list[str]) -> Pair:
        """The sentence of an item at frame `t`; mask and noun are added unless they are there."""
        row = self._row(item)
        text, kind = self.texts[item], row.get("kind") or ""
        mask = decode_mask(row, t) if row["obj_ids"] else None
        if mask is None or not mask.any():
            return Pair(text, (), kind)
        for n, known in enumerate(masks):
            if np.array_equal(mask, known):
                return Pair(text, (n,), kind)
        masks.append(mask)
        nouns.append(row.get("noun") or "")
        return Pair(text, (len(masks) - 1,), kind)

    def _stranger(self, item: int, rng: np.random.Generator) -> int | None:
        """An item of another video that names nothing this video's sentences name."""
        video = self.videos[item]
        for _ in range(TRIES):
            other = int(rng.integers(self.length))
            words = self.words[other]
            if self.videos[other] != video and words and not words & self.video_words[video]:
                return other
        return None

    def _rng(self, kind: int, place: Place) -> np.random.Generator:
        return np.random.default_rng((self.seed, kind, place.epoch, place.item))


def _content(text: str) -> frozenset[str]:
    """The words of a sentence that may name a thing, without a plural's s."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return frozenset(w.removesuffix("s") for w in words if w not in _EMPTY_WORDS)


def _file(row: dict, t: int) -> tuple[str, int | None]:
    """The file that frame `t` lies in, and which of its frames it is where that is a video."""
    if row.get("video_file") is None:
        return row["frames"][t]["path"], None
    return row["video_file"], row["first_frame"] + t


def _read(row: dict, times: Sequence[int]) -> list[np.ndarray]:
    """The frames at `times`, each (H, W, 3) uint8 RGB.

    Raises:
        ValueError: One is damaged, or of another size than its masks.
    """
    frames = read_frames(row, times)
    size = (row["height"], row["width"])
    for t, frame in zip(times, frames, strict=True):
        if frame.shape[:2] != size:
            path, _ = _file(row, t)
            raise ValueError(f"{path}: the frame is {frame.shape[:2]}, its masks are {size}")
    return frames
