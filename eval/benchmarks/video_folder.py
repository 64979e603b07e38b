"""Your own videos, as a folder in the convention of the Hugging Face Hub:

    ROOT/metadata.jsonl     one JSON object per line, one line per sentence
    ROOT/...                what its lines name: video files, folders of frames, folders of masks

A line holds

    file_name       a video file, or a folder of frames (.jpg, .png, ...)
    expression      the sentence
    masks           optional: a folder of PNGs, one per frame, both sorted by name (2 before 10):
                    0 is background, all else the target, or a label per object
    object_id       optional: the label of the target in `masks`, or a list of them. [] says that
                    the sentence names nothing in this video; then `masks` are not looked at
    start, end      optional: the part of the video that is meant, by the numbers of its first
                    frame and of the frame after its last. `masks` has a PNG for each frame of the
                    part, or for each of the video
    expression_id   optional: what the sentence is called; otherwise 0, 1, ... in its video
    split           optional: a row without it belongs to every split, and the split "all" takes
                    all rows

and whatever else, which is ignored; null is the same as leaving a field out. Paths are relative to
ROOT and stay below it, links included (so download from the Hub with `local_dir`). The rows of a
split either all say where their target is, by `masks` or `object_id`, or none does: then there is
nothing to score against.

Each part is a video of its own, whose predictions lie in a folder named after it: clip.mp4,
day1+clip.mp4 for day1/clip.mp4, clip.mp4@0-40 for a part of it.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Features
from tqdm import tqdm

from .base import ANY_LABEL, COMMON, MASK_IMAGES, VIDEO_FILE, Benchmark, image_columns
from .mask_folder import MASK_SUFFIXES, check_header, check_labels
from .tree import LayoutError, few, list_files
from .video_metadata import ALL, EXAMPLE, METADATA, Sentence, checked_split, read_sentences

# As `modeling_findtrack.video_images` has it, which is not imported: it loads torch, which the
# processes that score do without.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})


class VideoFolder(Benchmark):
    """One split of a folder of videos.

    Args:
        root: Folder that the paths in the metadata are relative to.
        split: "all", or one that rows name.
        videos: Names of the videos to keep; all of the split if None.
        metadata: The file of the rows; ROOT/metadata.jsonl if None.
        check_frames: Whether to open all videos and look at all masks.

    Raises:
        LayoutError: A row cannot be used; the message names it.
        ValueError: There is no such split, or it has none of these videos.
    """

    name = "video-folder"
    title = "Video folder"
    splits = ()
    splits_overlap = True
    features = Features(COMMON | VIDEO_FILE | MASK_IMAGES)

    def __init__(
        self,
        root: str | Path,
        split: str = ALL,
        videos: Sequence[str] | None = None,
        metadata: str | Path | None = None,
        check_frames: bool = True,
    ):
        super().__init__(root, checked_split(split, "split"))
        self._meta = self.root / METADATA if metadata is None else Path(metadata).absolute()
        if not self._meta.is_file():
            place = METADATA if metadata is None else self._meta
            raise LayoutError(
                f"{self.root} is no video folder: expected {place}, one line per sentence, as "
                f"{EXAMPLE}; missing {place}"
            )
        named = {s.split for v in read_sentences(self._meta).values() for s in v} - {None}
        if split != ALL and named and split not in named:
            raise ValueError(
                f"no row of {self._meta} has split {split!r}, only {few(sorted(named))}; {ALL!r} "
                "takes all rows"
            )
        self.videos = self._keep(filter(self._sentences, read_sentences(self._meta)), videos)
        self._has_truth = self._check_truth()
        # (T, H, W) of whole videos, by file_name: of files known only after decoding all of it.
        self._shapes: dict[str, tuple[int, int, int]] = {}
        if check_frames:
            bar = tqdm(
                self.videos, desc="looking at videos", unit="video", leave=False,
                disable=not sys.stderr.isatty(),
            )  # fmt: skip
            for video in bar:
                self._check_masks(video)

    @property
    def has_truth(self) -> bool:
        """Whether the rows say where their targets are."""
        return self._has_truth

    @property
    def _split_name(self) -> str:
        return "all_rows" if self.split == ALL else self.split  # they keep "all" to themselves

    def rows(self, video: str) -> list[dict]:
        """One dict per expression, in the order of the file.

        Raises:
            LayoutError: The video or the masks of a row cannot be used.
        """
        sentences = self._sentences(video)
        common = {"video_id": video} | self._frame_columns(sentences[0])
        return [
            common
            | {
                "exp_id": sentence.exp_id,
                "expression": sentence.expression,
                "obj_ids": _object_ids(sentence),
                "mask_images": self._mask_column(sentence),
            }
            for sentence in sentences
        ]

    def _sentences(self, video: str) -> list[Sentence]:
        """Those of the split; none of a video that is not in it."""
        sentences = read_sentences(self._meta)[video]
        return [s for s in sentences if self.split == ALL or s.split in (None, self.split)]

    def _inputs(self, video: str) -> tuple[list[str], dict[str, str]]:
        sentences = self._sentences(video)
        names, _ = self._names(sentences[0])
        return names, {s.exp_id: s.expression for s in sentences}

    def _meta_files(self) -> list[Path]:
        return [self._meta]

    def _options(self) -> dict:
        # No file lists frames and masks, so what lies in the folders decides.
        frames = {video: self._inputs(video)[0] for video in self.videos}
        folders = {s.masks for v in self.videos for s in self._sentences(v) if s.masks is not None}
        masks = {name: list_files(self.root / name, MASK_SUFFIXES) for name in sorted(folders)}
        return {"frames": frames, "masks": masks}

    def _first_size(self, video: str) -> tuple[int, int]:
        return self._shape(self._sentences(video)[0])[1:]

    # ---- videos --------------------------------------------------------------------------------

    def _frame_columns(self, sentence: Sentence) -> dict:
        """Columns `frame_names`, `frames`, `height`, `width`, `video_file`, `first_frame`."""
        names, files = self._names(sentence)
        path, (_, height, width) = self._path(sentence), self._shape(sentence)
        columns = {"frame_names": names, "height": height, "width": width}
        if files is None:
            where = {"frames": None, "video_file": str(path), "first_frame": sentence.start}
        else:
            where = {"frames": image_columns(path, files, ""), "video_file": None}
            where["first_frame"] = None
        return columns | where

    def _names(self, sentence: Sentence) -> tuple[list[str], list[str] | None]:
        """Names of the part's frames, and their files; None of a video file."""
        path, (count, _, _) = self._path(sentence), self._shape(sentence)
        start, stop = _part(sentence, count)
        if not path.is_dir():
            return [f"{t:05d}" for t in range(start, stop)], None
        files = list_files(path, IMAGE_SUFFIXES)[start:stop]
        return [Path(file).stem for file in files], files

    def _path(self, sentence: Sentence) -> Path:
        """The video file, or the folder of frames."""
        path = self._inside(sentence, "file_name", sentence.file_name)
        if not os.path.exists(path):
            raise LayoutError(
                f"{sentence.where}: file_name: {path} is not there; give a video file or a folder "
                f"of frames, relative to {self.root}"
            )
        return path

    def _shape(self, sentence: Sentence) -> tuple[int, int, int]:
        """(T, H, W) of the whole video.

        Raises:
            LayoutError: It cannot be read.
        """
        if sentence.file_name not in self._shapes:
            from . import frames  # not at the top: see IMAGE_SUFFIXES

            path = self._path(sentence)
            where = f"{sentence.where}: file_name"
            files = _frame_files(path, where) if path.is_dir() else None
            try:
                if files is None:
                    shape = frames.file_shape(str(path))
                else:
                    shape = frames.images_shape([str(path / file) for file in files])
            except (OSError, ValueError) as error:
                raise LayoutError(f"{where}: {error}") from error
            self._shapes[sentence.file_name] = shape
        return self._shapes[sentence.file_name]

    def _inside(self, sentence: Sentence, field: str, name: str) -> Path:
        """The path that a row names, which no link leads out of the root."""
        path = self.root / name
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            raise LayoutError(
                f"{sentence.where}: {field}: {name} is a link that leads out of {self.root}; copy "
                "there what it points to"
            )
        return path

    # ---- truth ---------------------------------------------------------------------------------

    def _check_truth(self) -> bool:
        """Whether the rows say where their targets are; if only some do, that is an error."""
        rows = [s for video in self.videos for s in self._sentences(video)]
        known = [s for s in rows if s.has_truth]
        for row in rows if known else ():
            if not row.has_truth:
                raise LayoutError(
                    f"{row.where}: masks and object_id are missing, though other rows of split "
                    f'{self.split!r} have them; add masks, write "object_id": [] if the sentence '
                    "names nothing in the video, or give the row a split of its own"
                )
        return bool(known)

    def _mask_column(self, sentence: Sentence) -> list[dict] | None:
        """Column `mask_images`; None where no masks are looked at."""
        if sentence.masks is None or sentence.object_ids == ():
            return None
        folder = self._mask_folder(sentence)
        return image_columns(folder, self._mask_files(sentence, folder), "")

    def _mask_folder(self, sentence: Sentence) -> Path:
        folder = self._inside(sentence, "masks", sentence.masks)
        if not folder.is_dir():
            raise LayoutError(
                f"{sentence.where}: masks: {folder} is no folder; give one of PNGs, relative to "
                f"{self.root}"
            )
        return folder

    def _mask_files(self, sentence: Sentence, folder: Path) -> list[str]:
        """The PNGs of the part's frames."""
        count = self._shape(sentence)[0]
        start, stop = _part(sentence, count)
        files = list_files(folder, MASK_SUFFIXES)
        if len(files) == count:
            return files[start:stop]
        if len(files) == stop - start:
            return files
        part = f", {stop - start} of them in the part," if stop - start < count else ""
        raise LayoutError(
            f"{sentence.where}: masks: {folder} holds {len(files)} PNGs, but {sentence.file_name} "
            f"has {count} frames{part} and each needs one; write black ones where the target is "
            "not in sight, or choose a part by start and end"
        )

    def _check_masks(self, video: str) -> None:
        """Look at the video and at all masks of its sentences.

        Raises:
            LayoutError: One cannot be used, or shows nothing of a target.
        """
        sentences = self._sentences(video)
        self._names(sentences[0])
        size = self._shape(sentences[0])[1:]
        folders: dict[str, list[Sentence]] = {}
        for sentence in sentences:
            if sentence.masks is not None and sentence.object_ids != ():
                folders.setdefault(sentence.masks, []).append(sentence)
        for users in folders.values():
            folder = self._mask_folder(users[0])
            for file in self._mask_files(users[0], folder):
                check_header(folder / file, size, f"{users[0].where}: masks")
            # Of all the folder: a target need not be in sight in every part of a video.
            check_labels([folder / n for n in list_files(folder, MASK_SUFFIXES)], users)


def _part(sentence: Sentence, count: int) -> tuple[int, int]:
    """First frame of the part and the one after its last, of `count`.

    Raises:
        LayoutError: They are not in the video.
    """
    stop = count if sentence.end is None else sentence.end
    if not sentence.start < stop <= count:
        field, value = ("start", sentence.start) if sentence.end is None else ("end", stop)
        raise LayoutError(
            f"{sentence.where}: {field} is {value}, but {sentence.file_name} has {count} frames; "
            "choose a part of them"
        )
    return sentence.start, stop


def _object_ids(sentence: Sentence) -> list[int] | None:
    """Column `obj_ids`."""
    if not sentence.has_truth:
        return None
    return list(ANY_LABEL if sentence.object_ids is None else sentence.object_ids)


def _frame_files(folder: Path, where: str) -> list[str]:
    """Names of the frames in a folder.

    Raises:
        LayoutError: There is none, or two have the same name but for the suffix.
    """
    files = list_files(folder, IMAGE_SUFFIXES)
    if not files:
        raise LayoutError(f"{where}: {folder} holds no images; give a folder of frames")
    stems: dict[str, str] = {}
    for file in files:
        other = stems.setdefault(Path(file).stem, file)
        if other != file:
            raise LayoutError(
                f"{where}: {folder} holds {other} and {file}; frames are named without suffix, so "
                "rename or remove one"
            )
    return files
