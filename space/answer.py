"""One request from upload to downloads, in a folder of its own."""

import json
import zipfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from modeling_findtrack.export import export, to_result
from modeling_findtrack.results import Track
from modeling_findtrack.video_base import Video

from .background import Result, Step, in_steps
from .gallery import gallery
from .intake import (
    Options,
    check_gpu_seconds,
    check_options,
    open_upload,
    read_expressions,
)
from .limits import Limits
from .segmenter import Segmenter
from .timeline import css_color, seconds_of, timeline


@dataclass(frozen=True)
class Answer:
    """What a visitor gets. Paths lie in the request's folder."""

    overlay: str
    verdict: str  # HTML: found or not, per expression
    pictures: list[tuple[str, str]]  # path, caption
    timeline: str  # HTML
    files: list[str]
    result: dict  # as in `result.json`
    missing: list[str]  # expressions that were not found


def answer(
    upload: str | None,
    text: str | None,
    options: Options,
    *,
    segmenter: Segmenter,
    limits: Limits,
    folder: Path,
) -> Iterator[Step | Answer]:
    """Check, find, track, write; steps on the way, the answer last.

    Raises:
        RequestError: With what to say to the visitor.
    """
    expressions = read_expressions(text, limits)
    options = check_options(options, limits)
    yield Step("read", 0, 1)
    with open_upload(upload, options, limits) as video:
        request = video, expressions, options.key_frames, options.threshold
        if segmenter.shared_gpu:
            check_gpu_seconds(segmenter.seconds(*request), limits)
        tracks = yield from _value(segmenter.segment(*request))
        yield from _value(
            in_steps(lambda progress: _write(video, tracks, folder, options, progress))
        )
        result = to_result(video, tracks, model=segmenter.name)
        result["part"] = {"first_frame": video.first, "start": video.start}  # of the upload
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        yield Answer(
            overlay=str(folder / "overlay.mp4"),
            verdict=verdict(video, tracks, options.threshold, map(segmenter.remark, expressions)),
            pictures=gallery(video, tracks, folder, options.opacity),
            timeline=timeline(video, tracks),
            files=_downloads(folder, tracks),
            result=result,
            missing=[t.expression for t in tracks if not t.found],
        )


def _value(steps: Iterator[Step | Result]) -> Generator[Step, None, Any]:
    """Pass the steps on, return the result; closing this closes them at once."""
    with closing(steps):
        for event in steps:
            if isinstance(event, Result):
                return event.value
            yield event
    raise RuntimeError("the work ended without a result")


def _write(video: Video, tracks: list[Track], folder: Path, options: Options, progress) -> None:
    kinds = ("masks", "overlay", "coco", "matte")
    export(video, tracks, folder, kinds=kinds, opacity=options.opacity, progress=progress)


def _downloads(folder: Path, tracks: list[Track]) -> list[str]:
    """A zip with a PNG per frame and expression, the COCO RLE, mattes; under names for visitors."""
    archive = folder / "masks.zip"
    with zipfile.ZipFile(archive, "w") as file:  # PNGs do not get smaller
        for path in sorted((folder / "masks").rglob("*.png")):
            file.write(path, path.relative_to(folder))
        file.write(folder / "result.json", "result.json")
    coco = (folder / "coco.json").rename(folder / "masks-coco-rle.json")
    mattes = [
        (folder / "matte" / f"{n}.mp4").rename(folder / f"matte-{n}.mp4")
        for n in range(len(tracks))
    ]
    return [str(path) for path in (archive, coco, *mattes)]


def verdict(
    video: Video, tracks: list[Track], threshold: float, remarks: Iterable[str | None]
) -> str:
    """HTML: a line per expression; "not found" is an answer like another.

    Args:
        video: Which the tracks are of.
        tracks: The answers.
        threshold: They were found with.
        remarks: On the words of each expression.
    """
    times = seconds_of(video)
    lines = []
    for number, (track, remark) in enumerate(zip(tracks, remarks, strict=True)):
        if track.found:
            seen = 100 * float((track.masks.areas() > 0).mean())
            said = (
                f"found, score {track.score:.2f}; tracked from frame {track.key_frame} "
                f"({times[track.key_frame]:.1f} s), in {seen:.0f} % of the frames"
            )
        else:
            best = sorted(track.candidates, key=lambda c: (not c.area, -c.score))[:3]
            frames = ", ".join(f"frame {c.frame} with {c.score:.2f}" for c in best)
            said = f"not found; the best candidates were {frames}" if best else "not found"
            seen = [c.presence for c in track.candidates if c.presence is not None]
            if seen:
                said += f"; presence at most {max(seen):.2f}, threshold {threshold:.2f}"
        color = css_color(number) if track.found else "transparent"
        lines.append(
            f'<li class="{"found" if track.found else "missing"}">'
            f'<i style="background:{color}"></i><b>{escape(track.expression)}</b> '
            f"<span>{said}</span>{_note(remark)}</li>"
        )
    return f'<ul class="verdict">{"".join(lines)}</ul>'


def _note(remark: str | None) -> str:
    return f"<small>{escape(remark)}</small>" if remark else ""
