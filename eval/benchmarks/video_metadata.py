"""The file `metadata.jsonl` of a folder of videos: one JSON object per line, one line per sentence.

What a line may hold is described in video_folder.py. Here it is checked as far as that goes without
a look at the videos; names in it become paths only after `relative_path`.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from .tree import LayoutError, cached_by_file, checked_name

METADATA = "metadata.jsonl"
ALL = "all"  # the split of all rows
EXAMPLE = '{"file_name": "clip.mp4", "expression": "the red car"}'
_SPLIT = re.compile(r"\w+(\.\w+)*")  # as `datasets` has it
_UNWRITABLE = re.compile(r"[\x00\ud800-\udfff]")  # NUL, and halves of characters
_LONGEST_NAME = 120  # bytes; of folders of predictions, to which suffixes are added


@dataclass(frozen=True)
class Sentence:
    """One row: a sentence about a video, or about a part of it."""

    where: str  # file and line, for messages
    file_name: str  # of the video, relative, "/" between folders
    start: int  # first frame of the part
    end: int | None  # frame after its last; None is the video's end
    expression: str
    exp_id: str  # unique in the part
    masks: str | None  # folder of PNGs, relative as `file_name`
    object_ids: tuple[int, ...] | None  # labels of the target; () nothing, None any but 0
    split: str | None  # None belongs to every split

    @property
    def has_truth(self) -> bool:
        """Whether the row says where its target is."""
        return self.masks is not None or self.object_ids is not None

    @property
    def video(self) -> str:
        """What the part is called: a folder of predictions, another one for every part."""
        return video_name(self.file_name, self.start, self.end)


@cached_by_file(maxsize=8)
def read_sentences(path: Path) -> dict[str, tuple[Sentence, ...]]:
    """Video -> its sentences, in the order of the file. The result is shared.

    Raises:
        LayoutError: A line cannot be used; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LayoutError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from None
    videos: dict[str, list[Sentence]] = {}
    # Not splitlines(): it breaks at characters that JSON allows in texts.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            sentence = _sentence(_object(line, where), where, videos)
            videos.setdefault(sentence.video, []).append(sentence)
    if not videos:
        raise LayoutError(f"{path} has no rows; write one line per sentence, as {EXAMPLE}")
    return {video: tuple(sentences) for video, sentences in videos.items()}


def _object(line: str, where: str) -> dict:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:  # not only JSONDecodeError: of huge numbers, too
        raise LayoutError(
            f"{where} is not JSON ({error}); write one object per line, as {EXAMPLE}"
        ) from None
    if not isinstance(entry, dict):
        raise LayoutError(f"{where} is {_shown(entry)}, not an object as {EXAMPLE}")
    return entry


def _sentence(entry: dict, where: str, videos: dict[str, list[Sentence]]) -> Sentence:
    """The row of one line, given those of the lines before."""
    start, end = _number(entry, "start", where) or 0, _number(entry, "end", where)
    if end is not None and end <= start:
        raise LayoutError(
            f"{where}: end is {end} and start {start}; end is the frame after the last, so above it"
        )
    file_name = relative_path(_required(entry, "file_name", where), f"{where}: file_name")
    masks = _text(entry, "masks", where)
    object_ids = _object_ids(entry, where)
    if object_ids and masks is None:
        raise LayoutError(
            f"{where}: object_id is given, but no masks whose labels it names; add their folder as "
            'masks, or write "object_id": [] if the sentence names nothing in the video'
        )
    known = videos.get(video_name(file_name, start, end), ())
    sentence = Sentence(
        where=where,
        file_name=file_name,
        start=start,
        end=end,
        expression=_required(entry, "expression", where),
        exp_id=_exp_id(entry, where) or str(len(known)),
        masks=None if masks is None else relative_path(masks, f"{where}: masks"),
        object_ids=object_ids,
        split=_split(entry, where),
    )
    for other in known:
        if (other.file_name, other.start, other.end) != (file_name, start, end):
            raise LayoutError(
                f"{where}: file_name: {file_name} and {other.file_name} would both be called "
                f"{sentence.video}; rename one of them"
            )
        if other.exp_id == sentence.exp_id:
            raise LayoutError(
                f"{where}: expression_id is {sentence.exp_id!r}, as in {_line(other.where)}; give "
                "every row of a video its own (without one they count 0, 1, ...)"
            )
    return sentence


def relative_path(name: str, where: str) -> str:
    """`name` without "." and double slashes, if it leads nowhere but down.

    Raises:
        LayoutError: It does not.
    """
    parts = PurePosixPath(name).parts  # without "." already
    if "\\" in name:
        raise LayoutError(f"{where} is {_shown(name)}; write / between folders")
    if PureWindowsPath(name).anchor or ".." in parts:
        raise LayoutError(f"{where} is {_shown(name)}; give a path below the root, without ..")
    if not parts:
        raise LayoutError(f"{where} is {_shown(name)}, which names no file")
    return "/".join(parts)


def video_name(file_name: str, start: int, end: int | None) -> str:
    """What a part of a video is called: a plain name without white space, unlike any other's.

    Letters, digits, "-", "_" and "." stay as they are, "+" stands between folders, and everything
    else is written as its bytes, as in addresses.
    """
    name = re.sub(r"[^\w.+/-]|[+]|^[.]", _as_bytes, file_name).replace("/", "+")
    if len(name.encode()) > _LONGEST_NAME:
        digest = hashlib.sha256(file_name.encode()).hexdigest()[:16]
        end_of_name = name.encode()[17 - _LONGEST_NAME :].decode(errors="ignore")
        name = f"{digest}~{end_of_name}"
    if start or end is not None:
        name += f"@{start}-{'' if end is None else end}"
    return name


def _as_bytes(match: re.Match) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode())


def _line(where: str) -> str:
    return where.rpartition(", ")[2]


def _text(entry: dict, field: str, where: str) -> str | None:
    """A text that files may be called; None where it is not given, or null."""
    value = entry.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise LayoutError(f"{where}: {field} is {_shown(value)}; write a text")
    if not value.strip():
        raise LayoutError(f"{where}: {field} is empty; fill it in or leave it out")
    if _UNWRITABLE.search(value):
        raise LayoutError(
            f"{where}: {field} is {_shown(value)}, with characters that no file can have; remove "
            "them"
        )
    return value


def _required(entry: dict, field: str, where: str) -> str:
    value = _text(entry, field, where)
    if value is None:
        raise LayoutError(f"{where}: {field} is missing; every row needs it, as {EXAMPLE}")
    return value


def _number(entry: dict, field: str, where: str) -> int | None:
    value = entry.get(field)
    if value is not None and not (_is_whole(value) and value >= 0):
        raise LayoutError(f"{where}: {field} is {_shown(value)}; write the number of a frame, >= 0")
    return value


def _object_ids(entry: dict, where: str) -> tuple[int, ...] | None:
    value = entry.get("object_id")
    if value is None:
        return None
    ids = value if isinstance(value, list) else [value]
    if not all(_is_whole(i) and 0 < i < 256 for i in ids):
        raise LayoutError(
            f"{where}: object_id is {_shown(value)}; write a label of the masks, 1 to 255, a list "
            "of such, or [] if the sentence names nothing in the video"
        )
    return tuple(sorted(set(ids)))


def _exp_id(entry: dict, where: str) -> str | None:
    value = _text(entry, "expression_id", where)
    if value is not None:
        checked_name(value, f"{where}: expression_id")
        if len(value.encode()) > _LONGEST_NAME:
            raise LayoutError(
                f"{where}: expression_id has more than {_LONGEST_NAME} bytes; it names a folder, "
                "choose a shorter one"
            )
    return value


def _split(entry: dict, where: str) -> str | None:
    value = _text(entry, "split", where)
    if value is not None:
        checked_split(value, f"{where}: split")
        if value.lower() == ALL:  # `datasets` has no other spelling of it either
            raise LayoutError(
                f"{where}: split is {value!r}, which stands for all rows; leave the field out to "
                "have the row in every split"
            )
    return value


def checked_split(name: str, where: str) -> str:
    """`name` if it may be that of a split.

    Raises:
        LayoutError: It may not.
    """
    if not _SPLIT.fullmatch(name):
        raise LayoutError(f"{where} is {_shown(name)}; write letters, digits and _ only")
    return name


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value) -> str:
    """A value as JSON has it, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
