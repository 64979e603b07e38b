"""The Accelerator of a run, and what a model needs to be trained under it."""

import os
import shlex
from collections.abc import Sequence
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, LoggerType
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from .config import Config
from .loader import Share

PATIENCE = timedelta(hours=6)


def make_accelerator(config: Config) -> Accelerator:
    """An Accelerator that also does what it is told where there is no GPU.

    Raises:
        ValueError: Something that the configuration or the launcher wants is not installed, or
            cannot be done on this device.
    """
    _check_trackers(config.trackers)
    cuda = torch.cuda.is_available()
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    launched = "LOCAL_RANK" in os.environ
    # Tasks may take part in some steps only, so not every parameter is used in every one.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or it warns wherever it is installed
    if launched:
        # Left to themselves, Accelerate and DeepSpeed look for NCCL where there is no GPU and find
        # one process each; and processes lose patience while one of them reads a large benchmark.
        backend = "nccl" if cuda else "gloo"
        handlers.append(InitProcessGroupKwargs(backend=backend, timeout=PATIENCE))
    try:
        accelerator = Accelerator(
            cpu=not cuda and launched and not deepspeed,
            mixed_precision=config.precision,
            log_with=list(config.trackers) or None,
            project_dir=config.out,
            kwargs_handlers=handlers,
        )
    except (ImportError, NotImplementedError) as error:
        raise ValueError(f"accelerate: {error}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate would train in single precision and say that it did not.
        raise ValueError("precision: there is no fp16 on a CPU; use bf16 or no")
    if deepspeed:
        # Or `from_pretrained` would shard whatever it loads under ZeRO-3, checkpoints to be
        # judged included. What is trained is sharded by `prepare`.
        unset_hf_deepspeed_config()
    return accelerator


def _check_trackers(names: Sequence[str]) -> None:
    """ValueError unless all are there; Accelerate leaves out what is not installed."""
    known, here = LoggerType.list(), [str(name) for name in get_available_trackers()]
    for name in names:
        if name not in known:
            raise ValueError(f"trackers: there is no {name!r}, only {', '.join(known)}")
        if name not in [*here, "all"]:
            raise ValueError(
                f"trackers: {name} is not installed, only {', '.join(here) or 'none'}; "
                f"pip install {name.replace('_', '-')}"
            )


def launcher() -> str:
    """What starts processes as these were started, with options in place of a `--config_file`."""
    told = os.environ
    if "ACCELERATE_MIXED_PRECISION" not in told:  # which `accelerate launch` always sets
        return "python"
    count = int(told.get("WORLD_SIZE", 1))
    machines = count // int(told.get("LOCAL_WORLD_SIZE", count))
    words = ["accelerate", "launch", "--num_processes", str(count)]
    words += ["--num_machines", str(machines)] if machines > 1 else []
    words += ["--mixed_precision", told["ACCELERATE_MIXED_PRECISION"]]
    if told.get("ACCELERATE_USE_DEEPSPEED") == "true":
        words += ["--use_deepspeed"]
        if "ACCELERATE_DEEPSPEED_CONFIG_FILE" in told:
            words += ["--deepspeed_config_file", told["ACCELERATE_DEEPSPEED_CONFIG_FILE"]]
    elif count > 1:
        words += ["--multi_gpu"]
    # As in cpu.yaml: `--cpu` would start a single process.
    cpu = "ACCELERATE_USE_CPU=true " if told.get("ACCELERATE_USE_CPU", "").lower() == "true" else ""
    return cpu + shlex.join(words)


def uses_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed runs the show."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def configure_deepspeed(accelerator: Accelerator, config: Config, share: Share) -> None:
    """Put the numbers that DeepSpeed's own file leaves open.

    Raises:
        ValueError: The configuration asks for what a ZeRO stage cannot do.
    """
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    settings["train_micro_batch_size_per_gpu"] = share.micro
    settings["gradient_accumulation_steps"] = share.accumulate
    settings["gradient_clipping"] = config.optimizer.clip
    settings.pop("train_batch_size", None)
    if accelerator.state.deepspeed_plugin.zero_stage == 3:
        settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
        if config.ema:
            raise ValueError("ema: ZeRO-3 shards the weights that it averages; set ema=0")


def set_attention(model, implementation: str) -> None:
    """Choose it everywhere: parts of a composite model have configs of their own."""
    for module in model.modules():
        own = getattr(module, "config", None)
        if hasattr(own, "_attn_implementation"):
            own._attn_implementation = implementation


def enable_checkpointing(model) -> None:
    """Recompute activations in the backward pass instead of keeping them."""
    how = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # its name since transformers 5.24
        model.activation_checkpointing_enable(how)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
