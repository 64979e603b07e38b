"""Random checkpoints with the official names, shapes and file formats, of any size."""

import json
import math
import string
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Nothing heavy: see eval/fullsize.py, which measures memory.
from eval.report import write_json, write_text

KEYS = Path(__file__).resolve().parents[1] / "tests" / "golden" / "keys"
CORPUS = [  # of a tokenizer; vocabularies may be smaller than the embeddings
    "the red car on the left is moving to the right",
    "a big dog running after two smaller ones",
    "the person in white who is sitting down",
    "the smallest panda climbing over another one",
]
SHARD_BYTES = 2 * 10**9  # of EVF-SAM's checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint without its numbers."""

    file: str  # its name; EVF-SAM's becomes several if it is large
    shapes: dict[str, Sequence[int]]  # by the official names
    settings: dict[str, Any] | None = None  # config.json beside it; published ones need none


def official_checkpoints(preset: str) -> dict[str, Checkpoint]:
    """The checkpoints of a preset at full size, by option of `findtrack assemble`.

    Raises:
        ValueError: The lists of names and shapes are not there.
    """
    evf, clip = _listed("evfsam"), _listed("alphaclip")
    if preset == "sam2":
        visual = _listed("evfsam2_visual")
        evf = {k: v for k, v in evf.items() if not k.startswith("visual_model.")} | visual
        shapes = {_sam2_name(k.removeprefix("visual_model.")): v for k, v in visual.items()}
        tracker = {"sam2": Checkpoint("sam2_hiera_large.pt", shapes)}
    else:
        tracker = {"cutie": Checkpoint("cutie-base-mega.pth", _listed("cutie"))}
    alpha = {k.removeprefix("visual."): v for k, v in clip.items() if k.startswith("visual.")}
    # Alpha-CLIP has made two modules of what are single parameters in CLIP.
    clip = {k.replace(".in_proj.", ".in_proj_"): v for k, v in clip.items()}
    del clip["visual.conv1_alpha.weight"]
    return {
        "evf-sam": Checkpoint("model.safetensors", evf),
        "alpha-clip": Checkpoint("clip_l14_336_grit_20m_4xe.pth", alpha),
        "clip": Checkpoint("ViT-L-14-336px.pt", clip),
        **tracker,
    }


def _listed(name: str) -> dict[str, list[int]]:
    path = KEYS / f"keys_{name}.json"
    if not path.is_file():
        raise ValueError(f"{path} is not there; run this from a whole checkout")
    return json.loads(path.read_text(encoding="utf-8"))


def _sam2_name(name: str) -> str:
    """EVF-SAM2 calls one parameter otherwise than SAM 2."""
    fuser, layer, rest = name.partition("memory_encoder.fuser.layers.")
    is_scale = layer and rest.count(".") == 1 and rest.endswith(".weight")
    return f"{fuser}{layer}{rest.removesuffix('weight')}gamma" if is_scale else name


def write_checkpoints(folder: str, checkpoints: dict[str, dict], dtype: str) -> dict:
    """Write random checkpoints, each into a folder named after its option.

    EVF-SAM's, the largest, is written tensor by tensor; the others are held one at a time, as
    `torch.save` wants it.
    """
    import torch

    from modeling_findtrack.checkpoint_files import LazyTensor
    from modeling_findtrack.safetensors_writer import write_sharded

    start = time.perf_counter()
    for option, fields in checkpoints.items():
        checkpoint, place = Checkpoint(**fields), Path(folder) / option
        place.mkdir(parents=True)
        stored = torch.float32 if option == "cutie" else getattr(torch, dtype)

        def lazy(name: str, shape: Sequence[int], stored: torch.dtype = stored) -> LazyTensor:
            # Without the prefix, so that EVF-SAM2 and SAM 2 have the same image encoder.
            bare = name.removeprefix("visual_model.")
            kind = torch.int64 if name.endswith("num_batches_tracked") else stored
            meta = torch.empty(tuple(shape), dtype=kind, device="meta")
            return LazyTensor(meta, lambda: random_tensor(bare, shape).to(kind), (name,))

        tensors = {name: lazy(name, shape) for name, shape in checkpoint.shapes.items()}
        if checkpoint.file == "model.safetensors":
            write_sharded(place, tensors, SHARD_BYTES)
        else:
            whole = {name: tensor.load() for name, tensor in tensors.items()}
            torch.save({"model": whole} if option == "sam2" else whole, place / checkpoint.file)
        if checkpoint.settings is not None:
            write_json(place / "config.json", checkpoint.settings)
    write_sentencepiece(Path(folder) / "evf-sam")
    write_clip_vocabulary(Path(folder) / "clip")
    return {"seconds": {"write": time.perf_counter() - start}}


def random_tensor(name: str, shape: Sequence[int]):
    """Numbers that depend on the name alone, and keep activations finite however deep they go.

    Matrices divide by the root of their inputs, norms are near 1; the rules are those of the golden
    sets of Cutie.
    """
    import torch

    if name.endswith("num_batches_tracked"):
        return torch.zeros(tuple(shape))
    if name.endswith("inv_freq"):  # no parameter: the frequencies of Cutie's positions
        return 128.0 ** -(torch.arange(shape[0]) / shape[0])
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    x = torch.randn(tuple(shape), generator=generator)
    if name.endswith("running_var"):
        return 1 + 0.2 * x.clamp(-2, 2)
    if len(shape) >= 2:
        # Memories are compared by distance: large keys would be unlike all others.
        gain = 0.15 if name.startswith(("key_proj.key_proj", "key_proj.d_proj")) else 1
        return x.mul_(gain / math.prod(shape[1:]) ** 0.5)
    return 1 + 0.1 * x if name.endswith("weight") else 0.1 * x


def write_sentencepiece(folder: Path) -> None:
    """A tokenizer of the kind that BEiT-3 has, trained on four sentences."""
    import sentencepiece

    with open(folder / "sentencepiece.bpe.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS * 4),
            model_writer=file,
            vocab_size=70,
            model_type="unigram",
            hard_vocab_limit=False,
            minloglevel=2,
        )


def write_clip_vocabulary(folder: Path) -> None:
    """A tokenizer of the kind that CLIP has, which knows letters only."""
    letters = string.ascii_lowercase + string.digits
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    write_json(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    write_text(folder / "merges.txt", "#version: 0.2\n")
