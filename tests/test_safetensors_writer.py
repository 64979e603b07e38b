"""The streaming writer against the library's reader."""

import json
import weakref

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from modeling_findtrack.checkpoint_files import CheckpointError, LazyTensor
from modeling_findtrack.safetensors_writer import write_sharded


def lazy(tensors: dict[str, torch.Tensor]) -> dict[str, LazyTensor]:
    return {k: LazyTensor(v.to("meta"), lambda v=v: v, (k,)) for k, v in tensors.items()}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "half": torch.randn(3).half(),  # an odd number of two bytes: what follows must be aligned
        "brain": torch.randn(5, 7).bfloat16(),
        "single": torch.randn(4, 5),
        "turned": torch.randn(4, 5).T,
        "double": torch.randn(2).double(),
        "long": torch.arange(3),
        "byte": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "names are free: ä/..": torch.ones(1),
    }


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a
    )


def test_one_file(tensors, tmp_path):
    seen = []
    assert write_sharded(tmp_path, lazy(tensors), progress=seen.append) == ["model.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert same(load_file(tmp_path / "model.safetensors"), tensors)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert seen == sorted(seen) and seen[-1] == sum(t.nbytes for t in tensors.values())
    data = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    for name, tensor in tensors.items():
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0


def test_shards_and_their_index(tensors, tmp_path):
    files = write_sharded(tmp_path, lazy(tensors), max_shard_bytes=90)
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert set(index["weight_map"].values()) == set(files)
    merged = {}
    for file in files:
        part = load_file(tmp_path / file)
        assert all(index["weight_map"][name] == file for name in part)
        assert sum(t.nbytes for t in part.values()) <= 90 or len(part) == 1
        merged |= part
    assert same(merged, tensors)


def test_only_one_tensor_is_held(tmp_path):
    alive = []

    def load(i):
        assert not any(ref() is not None for ref in alive), "an earlier tensor is still held"
        tensor = torch.full((1000,), float(i))
        alive.append(weakref.ref(tensor))
        return tensor

    meta = torch.empty(1000, device="meta")
    write_sharded(
        tmp_path, {f"{i}": LazyTensor(meta, lambda i=i: load(i), (f"{i}",)) for i in range(5)}
    )
    assert len(alive) == 5


def test_a_file_that_changes_under_way(tmp_path):
    meta = torch.empty(4, device="meta")
    for now in (torch.zeros(5), torch.zeros(4).half()):
        tensor = LazyTensor(meta, lambda now=now: now, ("a",))
        with pytest.raises(CheckpointError, match="a: its file changed"):
            write_sharded(tmp_path, {"a": tensor})
