"""Writing and reading the checkpoints of a run, all processes together."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from modeling_findtrack.hub_folder import as_stored, save_weights

from .engine import Training
from .launch import uses_deepspeed
from .parameters import merged
from .run_folder import STATE, RunFolder
from .wording import counted

TRAINED, AVERAGE = "trained.safetensors", "average.safetensors"
PREFIX = "model."  # of the model within the learner
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Checkpoints:
    """Checkpoints of one run.

    Args:
        folder: Where they lie.
        training: What is saved and restored.
        processor: Saved along.
        scalars: Names of parameters that have a dimension in training only.
    """

    def __init__(self, folder: RunFolder, training: Training, processor, scalars: Sequence[str]):
        self.folder, self.training, self.processor = folder, training, processor
        self.scalars = scalars
        self.accelerator = training.accelerator
        self.deepspeed = uses_deepspeed(self.accelerator)
        if not self.deepspeed:
            # `save` and `load` take care of the weights: of what is trained only, under names that
            # do not depend on the number of processes.
            self.accelerator.register_save_state_pre_hook(lambda _, weights, place: weights.clear())
            self.accelerator.register_load_state_pre_hook(lambda models, place: models.clear())

    def save(self, step: int, seconds: float) -> None:
        """Write a checkpoint, which appears only when every process has written its part."""
        accelerator, part = self.accelerator, self.folder.part(step)
        if accelerator.is_main_process:
            part.mkdir(parents=True, exist_ok=True)
        accelerator.wait_for_everyone()
        options = {"exclude_frozen_parameters": True} if self.deepspeed else {}
        accelerator.save_state(str(part / STATE), **options)
        accelerator.wait_for_everyone()  # each writes its own part there
        # Collective where the weights are sharded; elsewhere it would be copies for nothing.
        if accelerator.is_main_process or self._sharded:
            weights = accelerator.get_state_dict(self.training.learner)
        if accelerator.is_main_process:
            self._write(part, weights)
            facts = {
                "total": self.training.total,
                "seconds": round(seconds, 2),
                "batch_size": self.training.share.batch_size,
                "processes": accelerator.num_processes,
                "distributed": str(accelerator.distributed_type.value),
            }
            self.folder.publish(step, facts)
        accelerator.wait_for_everyone()

    @property
    def _sharded(self) -> bool:
        """Whether a process holds only a part of every weight."""
        return self.deepspeed and self.accelerator.state.deepspeed_plugin.zero_stage == 3

    def _write(self, part: Path, weights: dict) -> None:
        """The main process's part: raw and averaged weights, and what users load."""
        weights |= {name: weights[name].reshape(()) for name in self.scalars}
        if not self.deepspeed:
            raw = {name: weights[name].contiguous() for name in self._trained()}
            save_file(raw, part / STATE / TRAINED)
        average = self.training.average
        if average is not None:
            average.save(part / STATE / AVERAGE)
            weights = average.applied(weights)
        own = {k[len(PREFIX) :]: v for k, v in weights.items() if k.startswith(PREFIX)}
        save_weights(self.training.plain.model, self.processor, self._stored(own), part)

    def _stored(self, state: dict) -> dict:
        """Weights as checkpoints hold them: without adapters, in the dtype asked for."""
        config = self.training.config
        plain = {k: v.detach().cpu() for k, v in merged(state, config.lora).items()}
        if config.save_dtype is None:
            return as_stored(plain, config.start)
        dtype = _DTYPES[config.save_dtype]
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in plain.items()}

    def load(self, step: int) -> float:
        """Restore everything as it was after `step`; returns the seconds trained by then.

        Raises:
            ValueError: The checkpoint is of processes that these cannot take over from.
        """
        facts, accelerator = self.folder.facts(step), self.accelerator
        size = self.training.share.batch_size
        if facts["batch_size"] != size:
            raise ValueError(
                f"{self.folder.path} was trained with {counted(facts['batch_size'], 'sample')} per "
                f"step on {counted(facts['processes'], 'process')}, this run takes {size} on "
                f"{accelerator.num_processes}: use as many processes, and as large a "
                "device_batch_size, as before"
            )
        then = (facts["distributed"], facts["processes"])
        now = (str(accelerator.distributed_type.value), accelerator.num_processes)
        if now != then and "DEEPSPEED" in (now[0], then[0]):
            raise ValueError(
                f"{self.folder.path} was trained by {counted(then[1], 'process')} of {then[0]}, "
                f"now there are {now[1]} of {now[0]}: DeepSpeed resumes only what is alike"
            )
        place = self.folder.checkpoint(step) / STATE
        # Not strict: frozen weights are those of the model the run started from.
        options = {"load_module_strict": False} if self.deepspeed else {}
        accelerator.load_state(str(place), **options)
        # Checkpoints lie between steps. What was restored here counts forwards, of which a step may
        # have another number now.
        accelerator.step = 0
        if not self.deepspeed:
            trained, stored = self._trained(), load_file(place / TRAINED)
            if set(trained) != set(stored):
                raise ValueError(f"{place / TRAINED} is of another model: choose another folder")
            with torch.no_grad():
                for name, tensor in stored.items():
                    trained[name].copy_(tensor)
        if self.training.average is not None:
            self.training.average.load(place / AVERAGE)
        return facts["seconds"]

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        """What learns, heads included, by names without wrapping."""
        return {n: p for n, p in self.training.plain.named_parameters() if p.requires_grad}


def fingerprint(name: str) -> str:
    """SHA-256 (hex) of the weights of a checkpoint folder; a Hub id stands for itself."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    sha = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        sha.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(2**20):
                sha.update(block)
    return sha.hexdigest()
