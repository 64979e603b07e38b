"""Ref-DAVIS17 (Khoreva et al. 2018), from the unzipped archives of DAVIS and of its texts:

    ROOT/DAVIS/JPEGImages/480p/<video>/<frame>.jpg
    ROOT/DAVIS/Annotations_unsupervised/480p/<video>/<frame>.png     255 is void
    ROOT/DAVIS/Annotations/480p/<video>/<frame>.png
    ROOT/DAVIS/ImageSets/2017/{train,val}.txt
    ROOT/davis_text_annotations/Davis17_annot{1,2}{,_full_video}.txt

Either folder may also be ROOT itself. Nothing is moved or converted: the usual conversion empties
the DAVIS tree, which evaluation needs. Expressions are numbered as by that conversion: the object
that is k-th in its video has 4k to 4k+3, one per text file in the order of `TEXTS`.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from datasets import Features, Value

from eval.conventions import VOID

from .base import COMMON, MASK_IMAGES, Benchmark, frame_columns, image_columns
from .tree import LayoutError, check_files, checked_name, few, require

logger = logging.getLogger(__name__)

# Two people wrote a text per object, each once from the first frame and once from the full video.
TEXTS = (
    ("Davis17_annot1.txt", "first"),
    ("Davis17_annot1_full_video.txt", "full"),
    ("Davis17_annot2.txt", "first"),
    ("Davis17_annot2_full_video.txt", "full"),
)
MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
FOLDERS = {"unsupervised": "Annotations_unsupervised", "2017": "Annotations"}
_LINE = re.compile(r"(\S+)\s+(\d+)\s+(\S.*)")


class RefDAVIS17(Benchmark):
    """One split of Ref-DAVIS17; each expression refers to one object.

    A text about an object that the annotations lack has an empty truth in every frame. Loading says
    nothing of it; `warn_empty()` does, and so do scorer and runner.

    Args:
        root: Folder as above.
        split: "train" or "valid"; "val" is the same as "valid".
        videos: Names of the videos to keep; all of the split if None.
        annotations: "unsupervised" for the masks of 2019, which published results are measured
            on, or "2017" for those the texts were written for. Some objects differ.
        check_frames: Whether to check that every frame has a label map, and the reverse.

    Raises:
        LayoutError: The tree is incomplete, or its files do not follow the layout.
        ValueError: Unusable options.
    """

    name = "ref-davis17"
    title = "Ref-DAVIS17"
    splits = ("train", "valid")
    released = {"train": 60, "valid": 30}
    features = Features(
        COMMON
        | MASK_IMAGES
        | {
            "annotator": Value("int32"),  # 0..3, which of `TEXTS`
            "style": Value("string"),  # "first" or "full": what its writer had seen
        }
    )

    def __init__(
        self,
        root: str | Path,
        split: str,
        videos: Sequence[str] | None = None,
        annotations: str = "unsupervised",
        check_frames: bool = True,
    ):
        super().__init__(root, "valid" if split == "val" else split)
        if annotations not in FOLDERS:
            raise ValueError(f"annotations are {' or '.join(FOLDERS)}, not {annotations!r}")
        self._annotations = annotations
        davis = self.root if (self.root / "ImageSets").is_dir() else self.root / "DAVIS"
        texts = self.root / "davis_text_annotations"
        if (self.root / TEXTS[0][0]).is_file():
            texts = self.root
        self._frames = davis / "JPEGImages" / "480p"
        self._masks = davis / FOLDERS[annotations] / "480p"
        sets = davis / "ImageSets" / "2017"
        self._sets = {"train": sets / "train.txt", "valid": sets / "val.txt"}
        self._texts = tuple(texts / name for name, _ in TEXTS)
        require(
            self.root, self.title, [self._frames, self._masks, *self._sets.values(), *self._texts]
        )
        listed = {part: _read_set(path) for part, path in self._sets.items()}
        self.videos = self._keep(listed[self.split], videos)
        # Video of the split -> object -> the text of each annotator, or None.
        self._slots = self._read_texts(set().union(*listed.values()))
        if check_frames:
            self._check_files()

    @property
    def has_truth(self) -> bool:
        """Always: DAVIS publishes the masks of both splits."""
        return True

    def rows(self, video: str) -> list[dict]:
        """One dict per expression, in the order of their numbers."""
        names = self._frame_names(video)
        common = {
            "video_id": video,
            "mask_images": image_columns(self._masks / video, names, ".png"),
        } | frame_columns(self._frames / video, names)
        return [
            common
            | {
                "exp_id": exp_id,
                "expression": text,
                "obj_ids": [obj_id],
                "annotator": annotator,
                "style": TEXTS[annotator][1],
            }
            for exp_id, obj_id, annotator, text in self._expressions(video)
        ]

    def _expressions(self, video: str) -> list[tuple[str, int, int, str]]:
        """(exp_id, object, annotator, text) of each, in the order of their numbers."""
        return [
            (str(len(TEXTS) * k + annotator), obj_id, annotator, text)
            for k, (obj_id, texts) in enumerate(sorted(self._slots[video].items()))
            for annotator, text in enumerate(texts)
            if text is not None
        ]

    def _inputs(self, video: str) -> tuple[list[str], dict[str, str]]:
        texts = {exp_id: text for exp_id, _, _, text in self._expressions(video)}
        return self._frame_names(video), texts

    def _meta_files(self) -> list[Path]:
        return [self._sets[self.split], *self._texts]

    def _options(self) -> dict:
        # No file lists the frames, so what lies in the folders decides.
        frames = {video: self._frame_names(video) for video in self.videos}
        return {"annotations": self._annotations, "frames": frames}

    def _frame_names(self, video: str) -> list[str]:
        return sorted(_stems(self._frames / video, ".jpg"))

    def _read_texts(self, listed: set[str]) -> dict[str, dict[int, list[str | None]]]:
        slots = {video: {} for video in self.split_videos}
        unknown, repeated = set(), []
        for annotator, path in enumerate(self._texts):
            for video, obj_id, text in _read_text(path):
                if video not in listed:
                    unknown.add(video)
                elif video in slots:
                    slot = slots[video].setdefault(obj_id, [None] * len(TEXTS))
                    if slot[annotator] is None:
                        slot[annotator] = text
                    else:
                        repeated.append(f"{video} {obj_id} in {path.name}")
        absent = [
            f"{video} {obj_id} in {TEXTS[annotator][0]}"
            for video, objects in slots.items()
            if video in self.videos
            for obj_id, texts in sorted(objects.items())
            for annotator, text in enumerate(texts)
            if text is None
        ]
        if silent := [video for video in self.videos if not slots[video]]:
            raise LayoutError(f"the texts below {self._texts[0].parent} leave out {few(silent)}")
        if unknown:
            logger.warning("%s: texts about unlisted videos: %s", self.title, few(sorted(unknown)))
        if repeated:
            logger.warning("%s: several texts, the first counts: %s", self.title, few(repeated))
        if absent:
            logger.warning("%s: no text, so no expression: %s", self.title, few(absent))
        return slots

    def _check_files(self) -> None:
        frames, masks = {}, {}
        for video in self.videos:
            folders = (self._frames / video, self._masks / video)
            # No file lists the frames, but each has a label map, so one of the two tells what the
            # other lacks. Where both have nothing, the first frame is missing.
            names = _stems(folders[0], ".jpg") | _stems(folders[1], ".png") or {"00000"}
            frames[folders[0]] = [f"{name}.jpg" for name in sorted(names)]
            masks[folders[1]] = [f"{name}.png" for name in sorted(names)]
        remedy = "if a conversion has moved these folders, unzip the archive of DAVIS again"
        check_files(self.root, self.title, frames | masks, remedy)


def _stems(folder: Path, suffix: str) -> set[str]:
    """Names of the images in a folder, also of those whose suffix is in capitals."""
    found = folder.iterdir() if folder.is_dir() else ()
    return {p.stem for p in found if p.suffix.lower() == suffix and p.name[0] != "."}


def _read_set(path: Path) -> list[str]:
    """Names of the videos of an image set."""
    lines = path.read_text(encoding="utf-8").split()
    return [checked_name(line, str(path)) for line in lines]


def _read_text(path: Path) -> list[tuple[str, int, str]]:
    """(video, object, expression) of every line `<video> <object> "<expression>"`."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # as the second annotator's files are
    entries = []
    # Not splitlines(): it breaks at control characters too, which stray bytes become in Latin-1.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or not 0 < int(match[2]) < VOID:
            raise LayoutError(f'{path}, line {number} is not <video> <object> "<expression>"')
        video, obj_id, expression = match.groups()
        expression = expression.removeprefix('"').removesuffix('"')
        if not expression.strip():
            raise LayoutError(f"{path}, line {number}: expression of {video} {obj_id} has no text")
        entries.append((MISSPELT.get(video, video), int(obj_id), expression))
    return entries
