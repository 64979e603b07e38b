"""Reading checkpoints of every format as the same lazy tensors."""

import os
import pickle
import random
import warnings

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from modeling_findtrack import checkpoint_files
from modeling_findtrack.checkpoint_files import CheckpointError, open_checkpoint
from modeling_findtrack.weight_files import choose_weights


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
    checkpoint = open_checkpoint([tmp_path / name for name in names])
    tensors = checkpoint.tensors
    assert checkpoint.stray == checkpoint.training == ()
    assert tensors.keys() == state.keys()
    for name, expected in state.items():
        tensor = tensors[name]
        assert (tensor.shape, tensor.dtype) == (tuple(expected.shape), expected.dtype)
        assert tensor.nbytes == expected.nbytes and tensor.sources == (name,)
        assert torch.equal(tensor.load(), expected)
        assert not tensor.load().requires_grad


def test_operations_are_those_of_tensors(state, tmp_path):
    save_file({"a": state["part.0.weight"], "b": torch.ones(6, 3)}, tmp_path / "x.safetensors")
    lazy = open_checkpoint([tmp_path / "x.safetensors"]).tensors
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
    with pytest.raises(CheckpointError, match=r"x.pth: .*holds a list, no state dict"):
        open_checkpoint([tmp_path / "x.pth"])
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no tensors in it"):
        open_checkpoint([tmp_path / "x.pth"])


FORMATS = {
    "safetensors": ("safetensors", "model.safetensors"),
    "pth": ("pth", "net.pth"),
    "before PyTorch 1.6": ("before PyTorch 1.6", "net.pth"),
    "torchscript": ("torchscript", "net.pt"),
}


def mutated(whole: bytes, chance: random.Random) -> bytes:
    """Some bytes replaced, anywhere or where a zip archive lists its entries, or some cut out."""
    data = bytearray(whole)
    start = chance.choice((0, max(0, len(data) - 900)))
    if chance.random() < 0.3:
        at = chance.randrange(start, len(data))
        del data[at : at + chance.randrange(1, 50)]
    for _ in range(chance.choice((1, 3, 20))):
        data[chance.randrange(start, len(data))] = chance.randrange(256)
    return bytes(data)


@pytest.mark.filterwarnings("ignore")  # of readers, about what they are given
@pytest.mark.parametrize("kind", FORMATS)
def test_damage_of_any_kind_is_told_as_such(kind, state, tmp_path):
    writer, name = FORMATS[kind]
    WRITERS[writer](state, tmp_path)
    path, chance, refused = tmp_path / name, random.Random(0), 0
    whole = path.read_bytes()
    for _ in range(150):
        path.write_bytes(mutated(whole, chance))
        try:
            for tensor in open_checkpoint([path]).tensors.values():
                tensor.load()
        except CheckpointError as error:
            refused += 1
            assert str(path) in str(error) and len(str(error).splitlines()) == 1
    assert refused > 75


def test_damage_that_shows_only_when_a_tensor_is_read(state, tmp_path):
    save_torchscript(state, tmp_path)
    path = tmp_path / "net.pt"
    data = bytearray(path.read_bytes())
    data[data.find(state["part.0.weight"].numpy().tobytes()) + 5] ^= 0xFF
    path.write_bytes(data)
    tensors = open_checkpoint([path]).tensors
    with pytest.raises(CheckpointError, match=r"net.pt: damaged, .*Bad CRC-32"):
        tensors["part.0.weight"].load()
    with pytest.raises(CheckpointError, match=r"net.pt: damaged"):
        torch.cat([tensors["part.0.weight"].T, tensors["part.0.weight"].T]).load()
    path.unlink()
    with pytest.raises(CheckpointError, match=r"net.pt: damaged"):
        tensors["part.0.bias"].load()


@pytest.mark.parametrize("name", ["README.md", "model.safetensors.index.json", "x.pt"])
def test_other_files_are_no_checkpoints(name, tmp_path):
    path = tmp_path / name
    path.write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match=r"not? a? ?checkpoint") as error:
        open_checkpoint([path])
    assert str(path) in str(error.value) and "run code" not in str(error.value)
    assert ("give their folder" in str(error.value)) == name.endswith(".index.json")


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(
    "tensor, kind",
    [
        (torch.zeros(3, dtype=torch.complex64), "complex64"),
        (torch.zeros(3).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.eye(3).to_sparse(), "sparse_coo"),
        (torch.zeros(3, device="meta"), "without data"),
    ],
)
def test_tensors_that_cannot_be_written_are_told_at_once(tensor, kind, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(2), "odd": tensor}, path)
    with pytest.raises(CheckpointError, match=f"x.pth: odd is {kind}, not supported"):
        open_checkpoint([path])


def test_tensors_elsewhere_in_a_file_are_named(state, tmp_path):
    """Nothing is dropped without a word: neither beside the state dict nor in a list in it."""
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]}
    file = {
        "model": {**state, "deep": {"w": torch.zeros(1), "list": [0, (torch.zeros(1),)]}},
        "optimizer": moments,
        "ema": dict(state),
        "epoch": 3,
        "scheduler": {"last_epoch": 3},
        "extra": torch.zeros(2),
        "teacher": {"w": torch.zeros(1)},
    }
    torch.save(file, tmp_path / "x.pt")
    checkpoint = open_checkpoint([tmp_path / "x.pt"])
    assert checkpoint.tensors.keys() == state.keys()
    assert checkpoint.stray == ("deep.list.1.0", "deep.w", "extra", "teacher.w")
    assert checkpoint.training == ("ema", "optimizer")
    torch.save({**state, "optimizer": moments}, tmp_path / "x.pt")
    assert open_checkpoint([tmp_path / "x.pt"]).training == ("optimizer",)
    torch.save({"net": state}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no tensors in it, at the top or below model"):
        open_checkpoint([tmp_path / "x.pt"])
    torch.save({"1": torch.zeros(1), 1: torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="two keys are called 1"):
        open_checkpoint([tmp_path / "x.pt"])


class Collecting(torch.nn.Module):
    """Keeps tensors where no state dict has them."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.list = [torch.ones(1), torch.ones(2)]
        self.dict = {"a": torch.ones(3)}

    def forward(self, x):
        return self.layer(x) + self.list[0] + self.dict["a"][0]


@pytest.mark.filterwarnings("ignore")  # torch thinks little of TorchScript now
def test_tensors_in_collections_of_a_program_are_named(tmp_path):
    torch.jit.script(Collecting()).save(str(tmp_path / "x.pt"))
    names = set(open_checkpoint([tmp_path / "x.pt"]).tensors)
    assert names == {"layer.weight", "layer.bias", "list[0]", "list[1]", "dict[a]"}


@pytest.mark.parametrize("version, safe", [("2.5.1+cu121", False), ("2.6.0", True)])
def test_an_old_pytorch_reads_no_pickles(version, safe, state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "x.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    monkeypatch.setattr(torch, "__version__", version)
    assert open_checkpoint([tmp_path / "x.safetensors"])
    if safe:
        assert open_checkpoint([tmp_path / "x.pth"])
        return
    with pytest.raises(CheckpointError, match=r"needs PyTorch 2.6 or later, this is 2.5.1\+cu121"):
        open_checkpoint([tmp_path / "x.pth"])


def test_a_tensor_in_two_shards(state, tmp_path):
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1), name: torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="x is in another shard"):
        open_checkpoint([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


OTHER_SHARDS = ["evf-00001-of-00002.pth", "evf-00002-of-00002.pth"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    "names, chosen",
    [
        (["model.safetensors", "pytorch_model.bin", "x.pt"], ["model.safetensors"]),
        ([*SHARDS, "model.safetensors.index.json", "pytorch_model.bin"], SHARDS),
        (["pytorch_model.bin", "config.json", "tf_model.h5"], ["pytorch_model.bin"]),
        (["sam2_hiera_large.pt", "sam2_hiera_l.yaml", "README.md"], ["sam2_hiera_large.pt"]),
        (["only.pth", "deeper/model.safetensors"], ["only.pth"]),
        (["evf-00001-of-00002.pth", "evf-00002-of-00002.pth", "a.yaml"], OTHER_SHARDS),
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
        (OTHER_SHARDS[:1], "there: shards are missing"),
        ([*OTHER_SHARDS, "a.pth"], "there: several .* shards need a folder of their own"),
    ],
)
def test_folders_without_one_checkpoint(names, message):
    with pytest.raises(CheckpointError, match=message) as error:
        choose_weights(names, "there")
    assert error.value.details == (tuple(sorted(names)) if "a.pth" in names else ())
