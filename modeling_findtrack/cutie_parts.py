"""What FindTrack takes from `rf-cutie`, with the faults mended that would show here.

Its code is used as it is; single names that it looks up are replaced by others.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from types import FunctionType, SimpleNamespace

from torch import Tensor, nn

from .configuration_findtrack import CutieConfig

try:
    from cutie.inference import memory_manager
    from cutie.inference.inference_core import InferenceCore
    from cutie.model import big_modules
    from cutie.model.cutie import CUTIE
    from cutie.model.utils.memory_utils import do_softmax
    from omegaconf import OmegaConf
except ImportError:  # `build_network` says so
    CUTIE = None

_building = threading.Lock()


class MissingExtraError(ImportError, ValueError):
    """A dependency of an extra is not installed; a ValueError, which commands tell in one line."""


def build_network(config: CutieConfig) -> nn.Module:
    """An untrained `CUTIE`, in float32: parts of it compute in float32 whatever they are fed.

    Raises:
        MissingExtraError: If rf-cutie is not installed.
    """
    if CUTIE is None:
        raise MissingExtraError(
            'the Cutie tracker needs the package rf-cutie: pip install "findtrack[cutie]"'
        )
    with _without_pretrained_backbones():
        return CUTIE(OmegaConf.create({"model": config.network})).float()


def new_core(network: nn.Module, config: CutieConfig) -> "InferenceCore":
    """An `InferenceCore` with an empty memory, for frames that are resized and padded already."""
    settings = OmegaConf.create(
        {
            "mem_every": config.mem_every,
            "use_long_term": config.use_long_term,
            "max_mem_frames": config.max_mem_frames,
            "long_term": config.long_term,
            "flip_aug": config.flip_aug,
            "top_k": config.top_k,
            "stagger_updates": config.stagger_updates,
            "chunk_size": config.chunk_size,
            "max_internal_size": -1,
            "save_aux": False,
            "model": config.network,
        }
    )
    core = InferenceCore(network, settings)
    core.memory = _memory_class(config.stable_softmax)(settings, core.object_manager)
    return core


def top_k_softmax(similarity: Tensor, top_k: int | None = None, *, stable: bool, **options):
    """rf-cutie's `do_softmax` over memory tokens (dim 1), with two faults mended.

    Args:
        similarity: (V, tokens, pixels), overwritten.
        top_k: Tokens that count per pixel: all where there are fewer, as on small frames.
        stable: Subtract the maximum. Without, a pixel whose similarities are all below -104
            (float32) gets 0 / 0.
        options: Of `do_softmax`.
    """
    if stable:
        similarity = similarity.sub_(similarity.amax(dim=1, keepdim=True))
    if top_k is not None:
        top_k = min(top_k, similarity.shape[1])
    return do_softmax(similarity, top_k, **options)


@functools.lru_cache
def _memory_class(stable: bool) -> type:
    """rf-cutie's `MemoryManager`, whose `read` calls `top_k_softmax` and is else the same code."""
    original = memory_manager.MemoryManager
    names = {**vars(memory_manager), "do_softmax": functools.partial(top_k_softmax, stable=stable)}
    return type("Memory", (original,), {"read": FunctionType(original.read.__code__, names)})


@contextlib.contextmanager
def _without_pretrained_backbones() -> Iterator[None]:
    """Let rf-cutie build its ResNets without fetching ImageNet weights: a checkpoint follows."""
    resnet = big_modules.resnet

    def untrained(build: Callable) -> Callable:
        return lambda pretrained, **options: build(pretrained=False, **options)

    with _building:
        big_modules.resnet = SimpleNamespace(
            resnet18=untrained(resnet.resnet18), resnet50=untrained(resnet.resnet50)
        )
        try:
            yield
        finally:
            big_modules.resnet = resnet
