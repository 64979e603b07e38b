"""Read a benchmark split in the MeViS layout: frames, sentences and run-length coded masks.

    ROOT/SPLIT/JPEGImages/<video>/<frame>.jpg
    ROOT/SPLIT/meta_expressions.json
    ROOT/SPLIT/mask_dict.json

The reader is strict: what is missing or contradictory is an error, since a sentence that silently
drops out raises the score.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from pycocotools import mask as coco_mask


@dataclass(frozen=True)
class Sentence:
    """One referring expression of a video."""

    exp_id: str  # unique in the video; folder name in submissions, kept verbatim
    text: str
    anno_ids: tuple[str, ...]  # keys of the objects referred to; empty = no target
    kind: str  # noun, position, size, relation, motion, motion-only, no-target
    noun: str
    art: str | None  # art style of the target; None without one


@dataclass(frozen=True)
class Clip:
    """One video of the split."""

    name: str
    folder: Path  # holds one JPEG per frame and nothing else
    frames: tuple[str, ...]  # T names without suffix, in temporal order
    height: int
    width: int
    background: str
    heldout_art: bool  # drawn in a style that training never saw
    heldout_background: bool  # likewise for the background family
    anno_ids: tuple[str, ...]  # of every object, also those no sentence refers to
    sentences: tuple[Sentence, ...]


class MevisSplit:
    """The clips of one split, with their masks decoded on demand.

    Args:
        root: Folder of the benchmark.
        split: Name of the split below it.

    Raises:
        FileNotFoundError: A file or frame is missing.
        ValueError: A file does not follow the layout.
    """

    def __init__(self, root: str | Path, split: str):
        self.folder = Path(root) / split
        meta = _read_json(self.folder / "meta_expressions.json")
        self._rles = _read_json(self.folder / "mask_dict.json")
        try:
            videos = sorted(meta["videos"].items())
            self.clips = tuple(self._clip(name, video) for name, video in videos)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.folder}/meta_expressions.json does not follow the layout: "
                f"{type(error).__name__} {error}"
            ) from error
        if not self.clips:
            raise ValueError(f"{self.folder}/meta_expressions.json lists no videos")

    def masks(self, clip: Clip, anno_ids: tuple[str, ...]) -> Iterator[np.ndarray]:
        """Per frame the union (H, W) bool of the objects; background where there are none."""
        for t in range(len(clip.frames)):
            union = np.zeros((clip.height, clip.width), dtype=bool)
            for anno_id in anno_ids:
                rle = self._rles[anno_id][t]
                if rle is not None:
                    union |= coco_mask.decode(rle).astype(bool)
            yield union

    def mean_area(self, clip: Clip, anno_id: str) -> float:
        """Visible pixels of an object per frame, averaged over all frames."""
        seen = [rle for rle in self._rles[anno_id] if rle is not None]
        return sum(float(coco_mask.area(rle)) for rle in seen) / len(clip.frames)

    def digest(self, clip: Clip) -> str:
        """Changes when the sentences, frames or masks of the clip do; SHA-256 as hex."""
        facts = asdict(clip) | {"folder": clip.name}
        masks = {anno_id: self._rles[anno_id] for anno_id in clip.anno_ids}
        text = json.dumps([facts, masks], sort_keys=True)
        sha = hashlib.sha256(text.encode())
        for frame in clip.frames:
            sha.update((clip.folder / f"{frame}.jpg").read_bytes())
        return sha.hexdigest()

    def _clip(self, name: str, video: dict) -> Clip:
        for part in (name, *video["frames"]):
            _check_plain(part)
        clip = Clip(
            name=name,
            folder=self.folder / "JPEGImages" / name,
            frames=tuple(video["frames"]),
            height=int(video["height"]),
            width=int(video["width"]),
            background=video["background"],
            heldout_art=bool(video["heldout_art"]),
            heldout_background=bool(video["heldout_background"]),
            anno_ids=tuple(str(o["anno_id"]) for o in video["objects"]),
            sentences=tuple(_sentence(name, i, e) for i, e in video["expressions"].items()),
        )
        self._check_frames(clip)
        for anno_id in clip.anno_ids:
            self._check_masks(clip, anno_id)
        unknown = {a for s in clip.sentences for a in s.anno_ids} - set(clip.anno_ids)
        if unknown:
            raise ValueError(f"sentences of video {name} refer to unlisted objects: {unknown}")
        return clip

    def _check_frames(self, clip: Clip) -> None:
        if not clip.frames or not clip.sentences:
            raise ValueError(f"video {clip.name} has no frames or no sentences")
        # A video folder is given to the model as it is, so it must hold the listed frames exactly.
        listed = [f"{frame}.jpg" for frame in clip.frames]
        if listed != sorted(listed):
            raise ValueError(f"the frames of video {clip.name} are not listed in order")
        found = sorted(p.name for p in clip.folder.iterdir()) if clip.folder.is_dir() else []
        if found != listed:
            odd = sorted(set(found) ^ set(listed))[:3]
            raise FileNotFoundError(
                f"{clip.folder} does not hold exactly the {len(listed)} listed frames: {odd} ..."
            )

    def _check_masks(self, clip: Clip, anno_id: str) -> None:
        rles = self._rles.get(anno_id)
        if rles is None or len(rles) != len(clip.frames):
            raise ValueError(
                f"mask_dict.json has no list of {len(clip.frames)} masks for object {anno_id} "
                f"of video {clip.name}"
            )
        size = [clip.height, clip.width]
        if any(rle is not None and list(rle["size"]) != size for rle in rles):
            raise ValueError(f"object {anno_id} of video {clip.name} has masks not of size {size}")


def _check_plain(name: str) -> None:
    """Names become paths, of frames and of cached results: none may lead out of its folder."""
    if name in ("", "..") or PureWindowsPath(name).name != name:
        raise ValueError(f"meta_expressions.json: {name!r} is no plain file or folder name")


def _sentence(video: str, exp_id: str, entry: dict) -> Sentence:
    sentence = Sentence(
        exp_id=str(exp_id),
        text=entry["exp"],
        anno_ids=tuple(str(a) for a in entry["anno_id"]),
        kind=entry["kind"],
        noun=entry["noun"],
        art=entry["art"],
    )
    if (sentence.kind == "no-target") != (not sentence.anno_ids):
        raise ValueError(
            f"sentence {exp_id} of video {video} is of kind {sentence.kind} "
            f"but refers to {len(sentence.anno_ids)} objects"
        )
    return sentence


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
