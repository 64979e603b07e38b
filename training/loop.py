"""One training loop for every stage of the tiny recipe: time-boxed, resumable, logged."""

import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How one stage is optimised."""

    minutes: float  # of processor time, resumed runs counted together
    lr: float = 1.2e-3  # reached after the warm-up
    warmup: int = 200  # steps
    hold: float = 0.25  # fraction of the time before the cosine decay sets in
    final: float = 0.02  # fraction of `lr` at the end
    weight_decay: float = 0.03
    clip: float = 1.0  # of the gradient's norm
    ema: float = 0.998

    def rate(self, step: int, progress: float) -> float:
        """Learning rate at `step`, with `progress` in 0..1 of the time used."""
        decay = min(max((progress - self.hold) / (1 - self.hold), 0), 1)
        cosine = self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * decay))
        return self.lr * min(1, (step + 1) / self.warmup) * cosine


class NonFiniteLossError(RuntimeError):
    """The loss is no number; the message names the step and the terms."""


def total(losses: dict[str, Tensor], step: int) -> Tensor:
    """Sum of named, already weighted losses; stops on a non-finite one."""
    loss = sum(losses.values())
    if not torch.isfinite(loss):
        terms = {name: float(value.detach()) for name, value in losses.items()}
        raise NonFiniteLossError(f"step {step}: {terms}")
    return loss


def write_atomically(path: Path, save: Callable[[Path], None]) -> None:
    """Let `save` write a temporary file beside `path`, then rename it."""
    temporary = path.with_name(path.name + ".partial")
    save(temporary)
    os.replace(temporary, path)


class Stage:
    """Trains `module` with `losses(step, progress)` until the schedule's time is used.

    The folder holds `ema.safetensors` (what later stages read), `last.pt` (weights, optimiser,
    clock and random state, to resume from) and `log.jsonl`. Training steps take their data from
    the closure, whose state is not saved: a resumed run goes on learning, but not from the scenes
    that an undisturbed run would have seen.
    """

    def __init__(self, module: nn.Module, schedule: Schedule, folder: Path, save_every: int = 300):
        self.module, self.schedule, self.folder = module, schedule, folder
        self.save_every = save_every
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=schedule.lr,
            betas=(0.9, 0.98),
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        self.ema = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "last.pt").exists():
            self._load()

    @property
    def progress(self) -> float:
        """Fraction of the time used, 0..1."""
        return min(self.seconds / (60 * self.schedule.minutes), 1.0)

    def run(
        self,
        losses: Callable[[int, float], dict[str, Tensor]],
        evaluate: Callable[[], dict] | None = None,
        evaluate_every: int = 600,
    ) -> None:
        """Train to the end of the time; `evaluate` sees the module with its EMA weights."""
        self.module.train()
        averages: dict[str, float] = {}
        while self.progress < 1:
            started = time.process_time()
            rate = self.schedule.rate(self.step, self.progress)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            terms = losses(self.step, self.progress)
            self.optimizer.zero_grad(set_to_none=True)
            total(terms, self.step).backward()
            nn.utils.clip_grad_norm_(self.trained, self.schedule.clip)
            self.optimizer.step()
            self._update_ema()
            self.step += 1
            self.seconds += time.process_time() - started
            for name, value in ((name, float(term.detach())) for name, term in terms.items()):
                averages[name] = 0.95 * averages.get(name, value) + 0.05 * value
            if self.step % 50 == 0:
                self._log({"lr": rate, **{k: round(v, 4) for k, v in averages.items()}})
            if self.step % self.save_every == 0:
                self.save()
            if evaluate and self.step % evaluate_every == 0:
                self._log(self.with_ema(evaluate))
        self.save()
        if evaluate:
            self._log(self.with_ema(evaluate))

    def with_ema(self, function: Callable[[], dict]) -> dict:
        """Call `function` while the module holds its EMA weights in evaluation mode."""
        own = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.module.load_state_dict(self.ema)
        self.module.eval()
        with torch.no_grad():
            result = function()
        self.module.load_state_dict(own)
        self.module.train()
        return result

    def save(self) -> None:
        """Write `ema.safetensors` and `last.pt`."""
        ema = {k: v.contiguous() for k, v in self.ema.items()}
        write_atomically(self.folder / "ema.safetensors", lambda p: save_file(ema, p))
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
        }
        write_atomically(self.folder / "last.pt", lambda p: torch.save(state, p))

    def _load(self) -> None:
        state = torch.load(self.folder / "last.pt", weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema, self.step, self.seconds = state["ema"], state["step"], state["seconds"]
        torch.set_rng_state(state["rng"])
        logger.info("resumed %s at step %d, %.1f min", self.folder, self.step, self.seconds / 60)

    @torch.no_grad()
    def _update_ema(self) -> None:
        keep = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.module.state_dict().items():
            if value.dtype.is_floating_point:
                self.ema[name].lerp_(value, 1 - keep)

    def _log(self, row: dict) -> None:
        row = {"step": self.step, "min": round(self.seconds / 60, 2), **row}
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        logger.info("%s", row)


def load_part(module: nn.Module, file: Path, prefix: str = "") -> None:
    """Load the tensors of `file` that start with `prefix` (dropped) into `module`, all of them."""
    with safe_open(file, "pt") as tensors:
        names = [name for name in tensors.keys() if name.startswith(prefix)]  # noqa: SIM118
        state = {name[len(prefix) :]: tensors.get_tensor(name) for name in names}
    if not state:
        raise ValueError(f"{file} has no tensor whose name starts with {prefix!r}")
    module.load_state_dict(state)
