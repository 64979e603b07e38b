"""The scores of one video, frame by frame: what a worker process of `eval.scoring` does.

Imports nothing heavy, so that workers start fast.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eval.benchmarks.base import Benchmark, decode_mask, own_columns, read_labels
from eval.conventions import (
    DAVIS_SEMI,
    DAVIS_UNSUPERVISED,
    PER_EXPRESSION,
    VOID,
    davis_semi,
    davis_unsupervised,
)
from eval.davis_tree import DavisTree
from eval.metrics.jf.core import Region, SequenceScores
from eval.prediction_folder import EXPRESSIONS, NUM_ANNOTATORS, PredictionFolder

logger = logging.getLogger(__name__)

_MATCHED = {DAVIS_SEMI: davis_semi, DAVIS_UNSUPERVISED: davis_unsupervised}


@dataclass(frozen=True)
class ExpressionScore:
    """One expression under the per-expression convention: all frames count, nothing is void."""

    video_id: str
    exp_id: str
    expression: str
    no_target: bool  # the truth is "nothing"
    empty: bool  # no predicted mask has a pixel
    absent: bool  # no true mask has one, be it that there is no target or that it never shows
    scores: SequenceScores = field(repr=False)
    facts: dict = field(repr=False)  # the benchmark's own columns of the row, without masks

    def as_dict(self) -> dict:
        """What reports say of the expression; plain JSON values."""
        return {
            "video_id": self.video_id,
            "exp_id": self.exp_id,
            "expression": self.expression,
            "J&F": self.scores.jf,
            "J": self.scores.j_mean,
            "F": self.scores.f_mean,
            "no_target": self.no_target,
            "empty": self.empty,
            **self.facts,
        }


@dataclass(frozen=True)
class ObjectScore:
    """One object under a DAVIS convention."""

    video_id: str
    annotator: int | None  # whose expressions, on Ref-DAVIS17
    obj_id: int
    scores: SequenceScores = field(repr=False)


@dataclass(frozen=True)
class VideoScores:
    """All that is known of one video."""

    video_id: str
    expressions: tuple[ExpressionScore, ...]  # () where predictions are label maps
    objects: tuple[ObjectScore, ...]  # () under the per-expression convention


def score_video(
    truth: Benchmark | DavisTree, folder: PredictionFolder, protocol: str, video: str
) -> VideoScores:
    """Score one video; never holds more than one frame of it.

    Expressions are scored one by one wherever the folder has their masks, whatever the protocol.

    Raises:
        ValueError: A PNG cannot be used; the message names it.
    """
    if isinstance(truth, DavisTree):
        maps = [str(path) for path in truth.label_maps(video)]
        preds = map(truth.objects, _label_maps(folder, (video,), maps))
        labels = map(truth.objects, map(read_labels, maps))
        return VideoScores(video, (), _score_objects(video, None, preds, labels, protocol))
    rows = truth.rows(video)
    if not rows:
        return VideoScores(video, (), ())
    if protocol == PER_EXPRESSION:
        masks = _ExpressionMasks(truth, rows, folder)
        for t in range(len(rows[0]["frame_names"])):
            masks.read(t)
        return VideoScores(video, masks.scores(), ())
    maps = [image["path"] for image in rows[0]["mask_images"]]
    expressions, objects = [], []
    for annotator in range(NUM_ANNOTATORS):
        if folder.layout == EXPRESSIONS:
            own = [row for row in rows if row["annotator"] == annotator]
            masks = _ExpressionMasks(truth, own, folder)
            objects += _score_objects(
                video, annotator, _merged(masks, maps, protocol), map(read_labels, maps), protocol
            )
            expressions += masks.scores()
        else:
            preds = _label_maps(folder, (f"anno_{annotator}", video), maps)
            labels = map(read_labels, maps)
            objects += _score_objects(video, annotator, preds, labels, protocol)
    order = [row["exp_id"] for row in rows]
    expressions.sort(key=lambda e: order.index(e.exp_id))
    return VideoScores(video, tuple(expressions), tuple(objects))


class _ExpressionMasks:
    """Reads the predictions of some expressions of a video, frame by frame, and scores each in
    passing: so every PNG is read once, and what is true of several expressions prepared once."""

    def __init__(self, benchmark: Benchmark, rows: Sequence[dict], folder: PredictionFolder):
        self.rows = rows
        self._folder = folder
        self._facts = own_columns(benchmark.features)
        self._values: list[list[tuple[float, float]]] = [[] for _ in rows]  # J and F per frame
        self._empty, self._absent = [True] * len(rows), [True] * len(rows)

    def read(self, t: int) -> list[np.ndarray]:
        """The predictions (H, W) uint8 at frame `t`; call it for t = 0, 1, ... T - 1."""
        targets: dict[tuple, Region] = {}
        masks = []
        for n, row in enumerate(self.rows):
            key = _target(row, t)
            if key not in targets:
                targets[key] = Region(decode_mask(row, t))
            parts = row["video_id"], row["exp_id"], row["frame_names"][t]
            masks.append(self._folder.read(*parts, size=(row["height"], row["width"])))
            pred = Region(masks[-1])
            self._values[n].append((pred.jaccard(targets[key]), pred.boundary_f(targets[key])))
            self._empty[n] = self._empty[n] and pred.area == 0
            self._absent[n] = self._absent[n] and targets[key].area == 0
        return masks

    def scores(self) -> tuple[ExpressionScore, ...]:
        """Of every expression, once all frames are read."""
        return tuple(
            ExpressionScore(
                video_id=row["video_id"],
                exp_id=row["exp_id"],
                expression=row["expression"],
                no_target=not row["obj_ids"],
                empty=self._empty[n],
                absent=self._absent[n],
                scores=SequenceScores(*np.array(self._values[n]).T),
                facts={k: row[k] for k in self._facts},
            )
            for n, row in enumerate(self.rows)
        )


def _target(row: dict, t: int) -> tuple:
    """Equal for two rows of a video only if their masks at frame `t` are equal."""
    if not row["obj_ids"]:
        return ()
    if row.get("mask_rles") is not None:
        return tuple(rle["counts"] for rle in row["mask_rles"][t])
    return (row["mask_images"][t]["path"], *row["obj_ids"])


def _score_objects(
    video: str,
    annotator: int | None,
    preds: Iterable[np.ndarray],
    labels: Iterable[np.ndarray],
    protocol: str,
) -> tuple[ObjectScore, ...]:
    try:
        scores = _MATCHED[protocol](preds, labels)
    except ValueError as error:
        raise ValueError(f"video {video}: {error}") from error
    if not scores and annotator in (None, 0):  # once per video
        logger.warning(
            "video %s: its first true frame shows no object, so it counts nothing", video
        )
    return tuple(ObjectScore(video, annotator, k, s) for k, s in scores.items())


def _label_maps(
    folder: PredictionFolder, parts: tuple[str, ...], maps: Sequence[str]
) -> Iterator[np.ndarray]:
    """Predicted label maps (H, W) uint8, named and sized as the true ones."""
    for path in maps:
        yield folder.read(*parts, Path(path).stem, size=read_labels(path).shape)


def _merged(masks: _ExpressionMasks, maps: Sequence[str], protocol: str) -> Iterator[np.ndarray]:
    """Masks of the expressions of one annotator as label maps (H, W) uint8, pixels object ids.

    Where masks overlap the pixel is that of the lower object: what the usual conversion, an argmax
    over planes that takes the first of equals, makes of hard masks. An object without an expression
    has no pixel, and counts.
    """
    ids = [row["obj_ids"][0] for row in masks.rows]
    painted = sorted(ids, reverse=True)
    if protocol == DAVIS_SEMI:  # which refuses objects that come later than the first frame
        first = read_labels(maps[0])
        painted = [obj_id for obj_id in painted if obj_id <= first[first != VOID].max(initial=0)]
    for t, path in enumerate(maps):
        labels = np.zeros_like(read_labels(path))
        found = dict(zip(ids, masks.read(t), strict=True))
        for obj_id in painted:
            labels[found[obj_id] > 0] = obj_id
        yield labels
