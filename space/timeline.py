"""Presence over time as a picture that follows the page's colours: one row per expression."""

from html import escape

import numpy as np

from modeling_findtrack.drawing import DIM, Color, object_color
from modeling_findtrack.overlay import DEFAULT_FPS
from modeling_findtrack.results import Track
from modeling_findtrack.video_base import Video

WIDTH, ROW = 1000, 60  # of the drawing, which is stretched to the page
POINTS = 500  # drawn per row at most
LAST = 95  # % of the axis; a centred label further right would stick out
LEGEND = (
    "Height: how sure the tracker is that it is visible; none where the mask is empty. "
    "◆ key frame, | searched frame."
)


def css_color(number: int) -> str:
    """The colour of expression `number` wherever it appears."""
    return _hex(object_color(number))


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def seconds_of(video: Video) -> list[float]:
    """When each of T frames is shown."""
    if video.timestamps is not None:
        return [float(t - video.timestamps[0]) for t in video.timestamps]
    return [i / float(video.fps or DEFAULT_FPS) for i in range(video.num_frames)]


def timeline(video: Video, tracks: list[Track]) -> str:
    """HTML: per track an area of its presence (T,), a diamond at the key frame, ticks at the
    frames that were searched; below them one time axis."""
    times = seconds_of(video)
    end = times[-1] + 1 / float(video.fps or DEFAULT_FPS)
    rows = "".join(_row(n, track, times, end) for n, track in enumerate(tracks))
    start = getattr(video, "start", 0)
    note = f" Times count from Start, {start:.1f} s." if start else ""
    return f'<div class="timeline">{rows}{_axis(end)}<p>{LEGEND}{note}</p></div>'


def _row(number: int, track: Track, times: list[float], end: float) -> str:
    color = css_color(number) if track.found else _hex(DIM)
    picked = np.linspace(0, len(times) - 1, min(len(times), POINTS)).round().astype(int).tolist()
    heights = track.presence * (track.masks.areas() > 0)
    points = [(WIDTH * times[i] / end, ROW * (1 - float(heights[i]))) for i in picked]
    points.append((WIDTH, points[-1][1]))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = "".join(_mark("tick", times[c.frame], end, "searched") for c in track.candidates)
    if track.key_frame is not None:
        marks += _mark("key", times[track.key_frame], end, "key frame", color)
    label = escape(f"Presence of {track.expression}: {_in_words(track, times, end)}", quote=True)
    square, note = (color, "") if track.found else ("transparent", " <span>not found</span>")
    return (
        f'<figure class="{"found" if track.found else "missing"}"><figcaption>'
        f'<i style="background:{square}"></i>{escape(track.expression)}{note}</figcaption><div>'
        f'<svg viewBox="0 0 {WIDTH} {ROW}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}"><polygon points="0,{ROW} {line} {WIDTH},{ROW}" fill="{color}" '
        f'fill-opacity=".35"/><polyline points="{line}" fill="none" stroke="{color}" '
        f'stroke-width="2" vector-effect="non-scaling-stroke"/></svg>{marks}</div></figure>'
    )


def _mark(kind: str, seconds: float, end: float, says: str, color: str = "") -> str:
    """A mark on a row's base line; HTML, since the drawing's width is stretched."""
    style = f"left:{100 * seconds / end:.2f}%" + (f";background:{color}" if color else "")
    return f'<b class="{kind}" style="{style}" title="{says}, {seconds:.1f} s"></b>'


def _in_words(track: Track, times: list[float], end: float) -> str:
    """What a screen reader says of a row."""
    if not track.found:
        return "not found"
    there = np.flatnonzero(track.masks.areas())
    if not len(there):
        return "no mask in any frame"
    first, last = times[there[0]], times[there[-1]]
    share = 100 * len(there) / len(times)
    return (
        f"in {share:.0f} % of the frames, from {first:.1f} s to {last:.1f} s of {end:.1f} s; "
        f"key frame at {times[track.key_frame]:.1f} s"
    )


def _axis(end: float) -> str:
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60) if end / s <= 8), 120)
    marks = [step * i for i in range(int(end / step) + 1)]
    spans = "".join(_label(100 * s / end, f"{s:g} s") for s in marks)
    return f'<div class="axis" aria-hidden="true">{spans}</div>'


def _label(left: float, says: str) -> str:
    kind = ' class="end"' if left > LAST else ""
    return f'<span{kind} style="left:{left:.2f}%">{says}</span>'
