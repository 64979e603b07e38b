"""The file `meta_expressions.json`, which Ref-YouTube-VOS and MeViS have in common.

    {"videos": {VIDEO: {"frames": [NAME, ...], "expressions": {EXP_ID: {"exp": TEXT, ...}}}}}

Whatever else a video or an expression holds is the benchmark's own.
"""

from pathlib import Path

from .tree import LayoutError, by_number, cached_by_file, checked_name, read_json


@cached_by_file(maxsize=8)
def read_videos(path: Path) -> dict[str, dict]:
    """Video -> its entry. Every name is a plain one, fit to become a path; the result is shared.

    Raises:
        LayoutError: The file does not follow the schema above.
    """
    try:
        videos = read_json(path)["videos"]
        for name, video in videos.items():
            checked_name(name, str(path))
            _check_video(video, f"{path}: video {name}")
    except (KeyError, TypeError, AttributeError) as error:
        raise LayoutError(
            f"{path} does not follow the layout: {type(error).__name__} {error}"
        ) from error
    return videos


def read_inputs(path: Path, video: str) -> tuple[list[str], dict[str, str]]:
    """Names of the video's frames in temporal order, and exp_id -> expression."""
    entry = read_videos(path)[video]
    texts = {exp_id: e["exp"] for exp_id, e in entry["expressions"].items()}
    return by_number(entry["frames"]), texts


def _check_video(video: dict, where: str) -> None:
    if "objects" in video and "expressions" not in video:
        raise LayoutError(
            f"{where} lists expressions by object, as the older files for URVOS do; use the "
            "meta_expressions of the release, which list them by expression"
        )
    frames, expressions = video["frames"], video["expressions"]
    if not isinstance(frames, list) or not frames:
        raise LayoutError(f"{where} lists no frames")
    for name in (*frames, *expressions):
        checked_name(name, where)
    if len(set(frames)) < len(frames):
        raise LayoutError(f"{where} lists a frame twice")
    for exp_id, entry in expressions.items():
        if not isinstance(entry["exp"], str) or not entry["exp"].strip():
            raise LayoutError(f"{where}: expression {exp_id} has no text")
