"""Reading checkpoints of every format as the same lazy tensors."""

import os
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from modeling_findtrack import checkpoint_files
from modeling_findtrack.checkpoint_files import CheckpointError, choose_weights, open_checkpoint


class Net(torch.nn.Module):
    """Several dtypes, a scalar, a transposed and an empty tensor."""

    def __init__(self):
        super().__init__()
        self.part = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Linear(6, 2).half())
        self.turned = torch.nn.Parameter(torch.randn(3, 5).T)
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.sizes, self.rate, self.nothing = [1, 2], 2.5, None

    def forward(self, x):
        return self.part[0](x) * self.rate + self.sizes[0]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Net().state_dict()


def save_shards(state, folder, kind):
    names = sorted(state)
    for i, part in enumerate((names[:2], names[2:]), 1):
        tensors = {name: state[name].contiguous() for name in part}
        if kind == "safetensors":
            save_file(tensors, folder / f"model-{i:05}-of-00002.safetensors")
        else:
            torch.save(tensors, folder / f"pytorch_model-{i:05}-of-00002.bin")


def save_torchscript(state, folder):
    net = Net()
    net.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(str(folder / "net.pt"))


WRITERS = {
    "safetensors": lambda s, f: save_file(
        {k: v.contiguous() for k, v in s.items()}, f / "model.safetensors"
    ),
    "safetensors shards": lambda s, f: save_shards(s, f, "safetensors"),
    "bin": lambda s, f: torch.save(s, f / "pytorch_model.bin"),
    "bin shards": lambda s, f: save_shards(s, f, "bin"),
    "pth": lambda s, f: torch.save(s, f / "net.pth"),
    "below model": lambda s, f: torch.save({"model": s, "epoch": 3}, f / "net.pt"),
    "below state_dict": lambda s, f: torch.save({"state_dict": s}, f / "net.pt"),
    "parameters": lambda s, f: torch.save(
        {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
        f / "net.pth",
    ),
    "before PyTorch 1.6": lambda s, f: torch.save(
        s, f / "net.pth", _use_new_zipfile_serialization=False
    ),
    "torchscript": save_torchscript,
}


@pytest.mark.parametrize("reopen", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_tensors(kind, reopen, state, tmp_path, monkeypatch):
    if reopen:  # after every tensor
        monkeypatch.setattr(checkpoint_files, "_REOPEN_AFTER", 0)
    WRITERS[kind](state, tmp_path)
    names = choose_weights(os.listdir(tmp_path), "there")
    tensors = open_checkpoint([tmp_path / name for name in names])
    assert tensors.keys() == state.keys()
    for name, expected in state.items():
        tensor = tensors[name]
        assert (tensor.shape, tensor.dtype) == (tuple(expected.shape), expected.dtype)
        assert tensor.nbytes == expected.nbytes and tensor.sources == (name,)
        assert torch.equal(tensor.load(), expected)
        assert not tensor.load().requires_grad


def test_operations_are_those_of_tensors(state, tmp_path):
    save_file({"a": state["part.0.weight"], "b": torch.ones(6, 3)}, tmp_path / "x.safetensors")
    lazy = open_checkpoint([tmp_path / "x.safetensors"])
    real = {name: tensor.load() for name, tensor in lazy.items()}
    for change in (
        lambda t: t["a"].T.contiguous(),
        lambda t: t["a"].chunk(3)[1].contiguous(),
        lambda t: torch.cat([t["b"], t["a"]], dim=1),
        lambda t: F.pad(t["a"], (0, 0, 0, 1)),
        lambda t: t["a"].clone(),
    ):
        assert torch.equal(change(lazy).load(), change(real))
        assert change(lazy).shape == tuple(change(real).shape)
    assert torch.cat([lazy["b"], lazy["a"]]).sources == ("b", "a")


class Payload:
    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("form", ["torch.save", "torchscript", "plain pickle"])
def test_code_is_never_run(form, state, tmp_path):
    evil, path = Payload(), tmp_path / "evil.pth"
    evil.path = str(tmp_path / "owned")
    if form == "torch.save":
        torch.save({"a": torch.zeros(1), "b": evil}, path)
    elif form == "plain pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", pickle.dumps(evil, protocol=2))
            archive.writestr("net/constants.pkl", b"")
    with pytest.raises(CheckpointError, match=r"other things than tensors|damaged") as error:
        open_checkpoint([path])
    assert len(str(error.value).splitlines()) == 1 and "weights_only" not in str(error.value)
    assert not (tmp_path / "owned").exists()


def test_damaged_files(state, tmp_path):
    torch.save(state, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 155820\n"
    for name in ("x.pth", "x.safetensors"):
        for content in (whole[:400], b"", b"garbage" * 9, pointer):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(CheckpointError) as error:
                open_checkpoint([tmp_path / name])
            assert str(tmp_path / name) in str(error.value)
            assert len(str(error.value).splitlines()) == 1
    torch.save([1, 2], tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds a list, no state dict"):
        open_checkpoint([tmp_path / "x.pth"])
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no tensors in it"):
        open_checkpoint([tmp_path / "x.pth"])


def test_a_tensor_in_two_shards(state, tmp_path):
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1), name: torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="x is in another shard"):
        open_checkpoint([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    "names, chosen",
    [
        (["model.safetensors", "pytorch_model.bin", "x.pt"], ["model.safetensors"]),
        ([*SHARDS, "model.safetensors.index.json", "pytorch_model.bin"], SHARDS),
        (["pytorch_model.bin", "config.json", "tf_model.h5"], ["pytorch_model.bin"]),
        (["sam2_hiera_large.pt", "sam2_hiera_l.yaml", "README.md"], ["sam2_hiera_large.pt"]),
        (["only.pth", "deeper/model.safetensors"], ["only.pth"]),
    ],
)
def test_the_weights_of_a_folder(names, chosen):
    assert choose_weights(names, "there") == chosen


@pytest.mark.parametrize(
    "names, message",
    [
        (["README.md"], "there: no checkpoint there"),
        (["a.pth", "b.pth"], "there: several checkpoints there"),
        (SHARDS[:1], "there: shards are missing"),
        ([*SHARDS, "model-00001-of-00003.safetensors"], "there: shards are missing or of several"),
    ],
)
def test_folders_without_one_checkpoint(names, message):
    with pytest.raises(CheckpointError, match=message) as error:
        choose_weights(names, "there")
    assert error.value.details == (("a.pth", "b.pth") if "a.pth" in names else ())
