"""The metric as a module of 🤗 evaluate: `evaluate.load("eval/metrics/jf")`.

evaluate copies this file and the two it imports relatively to a folder of its cache that is named
after the code of all three. It finds imports with a regular expression: one module per line, and no
comment behind it.
"""

from collections.abc import Mapping

import datasets
import evaluate
import numpy as np

from .core import SequenceScores, sequence_scores
from .rle import checked_rle, decode

_DESCRIPTION = """
Region similarity J, boundary accuracy F and their mean J&F, as referring video object segmentation
reports them per expression: each clip is one expression's masks, all of its frames count, no pixel
is void, two empty masks agree (J = F = 1), and every clip weighs the same. J is the intersection
over union of the masks; F is the harmonic mean of the precision and the recall of their boundaries
within 0.8 % of the image diagonal. Recall is the share of frames above 0.5, decay the mean of the
first quarter of the frames less that of the last. Each frame's J and F equal those of the official
DAVIS 2017 evaluation to the last bit.
"""

_CITATION = r"""
@inproceedings{perazzi2016benchmark,
  title     = {A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation},
  author    = {Perazzi, Federico and Pont-Tuset, Jordi and McWilliams, Brian and Van Gool, Luc and
               Gross, Markus and Sorkine-Hornung, Alexander},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year      = {2016}
}
@article{ponttuset2017davis,
  title   = {The 2017 DAVIS Challenge on Video Object Segmentation},
  author  = {Pont-Tuset, Jordi and Perazzi, Federico and Caelles, Sergi and Arbel{\'a}ez, Pablo and
             Sorkine-Hornung, Alexander and Van Gool, Luc},
  journal = {arXiv:1704.00675},
  year    = {2017}
}
@software{findtrack,
  title   = {FindTrack},
  author  = {{FindTrack contributors}},
  version = {0.1.0},
  license = {Apache-2.0}
}
"""

_RESULT = """
    per_clip: Whether to return the scores of every clip as well.

Returns:
    A dict of "J&F", "J", "F", "J_recall", "F_recall", "J_decay" and "F_decay", means over clips as
    fractions; "convention" ("per-expression"); "clips", their number; and with `per_clip` also
    "per_clip", a dict of the same seven names, each a list with one value per clip.
"""

_MASKS_INPUTS = (
    """
Args:
    predictions: Clips, each a list with one COCO RLE per frame: {"size": [H, W], "counts": str},
        compressed, counts as text. A frame without the object has the RLE of an all-zero mask.
    references: True masks: as many clips, with as many frames of the same sizes.\
"""
    + _RESULT
    + """
Examples:
    >>> import evaluate
    >>> import numpy as np
    >>> from pycocotools import mask as coco
    >>> def encode(mask):
    ...     rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    ...     return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    >>> mask = np.zeros((48, 64), dtype=bool)
    >>> mask[10:30, 20:40] = True
    >>> truth, lost = encode(mask), encode(np.zeros_like(mask))
    >>> metric = evaluate.load("eval/metrics/jf")
    >>> scores = metric.compute(
    ...     predictions=[[truth, truth, lost, lost], [truth, truth]],
    ...     references=[[truth, truth, truth, truth], [truth, truth]],
    ...     per_clip=True,
    ... )
    >>> scores["J&F"], scores["J"], scores["F"], scores["clips"]
    (0.75, 0.75, 0.75, 2)
    >>> scores["per_clip"]["J_decay"]
    [1.0, 0.0]

    Clips may come one by one or in batches; here the prediction is the left half of the mask:

    >>> mask[:, 30:] = False
    >>> metric.add(prediction=[encode(mask)], reference=[truth])
    >>> metric.add_batch(predictions=[[truth]], references=[[truth]])
    >>> metric.compute()["J"]
    0.75
"""
)

_SCORES_INPUTS = (
    """
Args:
    j: J of each clip: its values per frame (T,), or their mean. Fractions from 0 to 1.
    f: F of each clip, likewise. From means alone there is no recall and no decay: they are None.\
"""
    + _RESULT
    + """
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/jf", "scores")
    >>> metric.add(j=[1.0, 0.75, 0.5], f=[1.0, 0.5, 0.0])
    >>> metric.add(j=[0.25, 0.25], f=[0.0, 0.5])
    >>> scores = metric.compute()
    >>> scores["J&F"], scores["J"], scores["F"]
    (0.4375, 0.5, 0.375)
    >>> scores["J_decay"]
    0.1875
    >>> metric.compute(j=[0.75, 0.25], f=[0.5, 0.25])["J&F"]
    0.4375
"""
)

_RLE = {
    "size": datasets.List(datasets.Value("int32"), length=2),
    "counts": datasets.Value("string"),
}
_FLOAT = datasets.Value("float64")
_CONFIGS = {
    "default": (
        _MASKS_INPUTS,
        datasets.Features(
            {"predictions": datasets.List(_RLE), "references": datasets.List(_RLE)},
        ),
    ),
    "scores": (
        _SCORES_INPUTS,
        [
            datasets.Features({"j": _FLOAT, "f": _FLOAT}),
            datasets.Features({"j": datasets.List(_FLOAT), "f": datasets.List(_FLOAT)}),
        ],
    ),
}


class JF(evaluate.Metric):
    """J, F and J&F over clips, from run-length encoded masks or ("scores") from their J and F."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in _CONFIGS:
            raise ValueError(f"no configuration {self.config_name!r}; there are {list(_CONFIGS)}")
        inputs, features = _CONFIGS[self.config_name]
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=inputs,
            features=features,
            license="Apache-2.0",
            reference_urls=[
                "https://arxiv.org/abs/1704.00675",
                "https://github.com/davisvideochallenge/davis2017-evaluation",
                "https://github.com/henghuiding/MeViS",
            ],
        )

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one clip.

        Raises:
            ValueError: The clip does not fit the description below; nothing is added.
        """
        one = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: None if clip is None else [clip] for name, clip in one.items()})

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add several clips.

        Raises:
            ValueError: A clip does not fit the description below; none of the batch is added.
        """
        given = {"predictions": predictions, "references": references, **kwargs}
        given = {name: clips for name, clips in given.items() if clips is not None}
        first, second = self._feature_names()
        if set(given) != {first, second}:
            raise ValueError(
                f"the configuration {self.config_name!r} takes {first} and {second}, not "
                f"{' and '.join(given) or 'nothing'}"
            )
        if len(given[first]) != len(given[second]):
            raise ValueError(
                f"{first} has {len(given[first])} clips, {second} has {len(given[second])}"
            )
        if len(given[first]) == 0:
            raise ValueError(f"no clips: {first} and {second} are empty")
        # Before evaluate sees them: it would turn bytes into text that says b'...', and a score
        # that fails in the end would take all clips with it.
        check = _checked_masks if self.config_name == "default" else _checked_scores
        pairs = zip(given[first], given[second], strict=True)
        clips = [check(*pair, clip=len(self) + i) for i, pair in enumerate(pairs)]
        if len({type(clip[0]) for clip in clips}) > 1:
            raise ValueError("some clips have means and others values per frame; give one kind")
        columns = zip(*clips, strict=True)
        super().add_batch(**dict(zip((first, second), map(list, columns), strict=True)))

    def compute(self, *, predictions=None, references=None, per_clip=False, **kwargs):
        """Score all clips added so far and these, and start anew.

        Raises:
            ValueError: There are no clips, or one does not fit the description below.
        """
        unknown = sorted(set(kwargs) - set(self._feature_names()))
        if unknown:
            raise ValueError(
                f"compute in the configuration {self.config_name!r} does not know "
                f"{' and '.join(unknown)}, only {', '.join(self._feature_names())} and per_clip"
            )
        nothing = all(clips is None for clips in (predictions, references, *kwargs.values()))
        if nothing and len(self) == 0:
            raise ValueError("no clips to score: add some, or give them to compute")
        return super().compute(
            predictions=predictions, references=references, per_clip=per_clip, **kwargs
        )

    def _compute(self, *, per_clip: bool = False, **columns) -> dict:
        score = _score_masks if self.config_name == "default" else _score_scores
        clips = [score(*pair) for pair in zip(*columns.values(), strict=True)]
        means = {name: _mean([clip[name] for clip in clips]) for name in clips[0]}
        means["J&F"] = (means["J"] + means["F"]) / 2
        means |= {"convention": "per-expression", "clips": len(clips)}
        if per_clip:
            means["per_clip"] = {name: [clip[name] for clip in clips] for name in clips[0]}
        return means


def _score_masks(prediction: list[dict], reference: list[dict]) -> dict:
    return sequence_scores(map(decode, prediction), map(decode, reference)).as_dict()


def _score_scores(j: list[float] | float, f: list[float] | float) -> dict:
    summary = SequenceScores(j=np.atleast_1d(j), f=np.atleast_1d(f)).as_dict()
    if isinstance(j, float):  # a mean says nothing of the frames
        summary |= dict.fromkeys(("J_recall", "F_recall", "J_decay", "F_decay"))
    return summary


def _mean(values: list) -> float | None:
    return None if None in values else float(np.mean(values))


def _checked_masks(prediction, reference, clip: int) -> tuple[list[dict], list[dict]]:
    """Both sides of a clip in plain Python types, fit to be scored."""
    sides = {"predictions": prediction, "references": reference}
    for name, frames in sides.items():
        if isinstance(frames, Mapping | str) or not hasattr(frames, "__len__"):
            raise ValueError(
                f"clip {clip} of {name} is of type {type(frames).__name__}, not a list of COCO "
                "RLEs, one per frame (a single clip is a list within a list)"
            )
        if len(frames) == 0:
            raise ValueError(f"clip {clip} of {name} has no frames")
        sides[name] = [
            checked_rle(rle, f"frame {t} of clip {clip} of {name}") for t, rle in enumerate(frames)
        ]
    predictions, references = sides.values()
    if len(predictions) != len(references):
        raise ValueError(
            f"clip {clip} has {len(predictions)} frames in predictions, {len(references)} in "
            "references; a frame without the object needs an empty mask"
        )
    for t, (mine, truth) in enumerate(zip(predictions, references, strict=True)):
        if mine["size"] != truth["size"]:
            raise ValueError(
                f"frame {t} of clip {clip} is {mine['size']} in predictions, {truth['size']} in "
                "references; resize the prediction to the source size first"
            )
    return predictions, references


def _checked_scores(j, f, clip: int) -> tuple[list[float] | float, list[float] | float]:
    """J and F of a clip as floats or as lists of floats."""
    try:
        j, f = np.asarray(j, dtype=np.float64), np.asarray(f, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"clip {clip}: j and f are numbers or lists of them: {error}") from None
    if j.shape != f.shape or j.ndim > 1 or j.size == 0:
        raise ValueError(
            f"clip {clip} has j of shape {j.shape} and f of shape {f.shape}; give one value each, "
            "or one per frame"
        )
    for name, values in (("j", j), ("f", f)):
        if not np.all((values >= 0) & (values <= 1)):
            raise ValueError(
                f"{name} of clip {clip} goes from {values.min():g} to {values.max():g}; give "
                "fractions from 0 to 1"
            )
    return j.tolist(), f.tolist()
