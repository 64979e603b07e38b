"""The training loop and the evaluation, for every task, on one process or many."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor

from eval.benchmarks.base import decode_mask
from eval.benchmarks.frames import open_frames
from eval.conventions import per_expression

from .averaging import MovingAverage
from .config import Config, Optimizer
from .data import Judge
from .learner import Learner
from .loader import Share
from .losses import NonFiniteLossError


@dataclass
class Training:
    """What a run consists of, wrapped for its processes."""

    accelerator: Accelerator
    learner: torch.nn.Module  # a `Learner`, as `accelerator.prepare` wraps it
    optimizer: torch.optim.Optimizer
    config: Config
    share: Share
    total: int  # steps
    average: MovingAverage | None = None

    @property
    def plain(self) -> Learner:
        """The learner without wrapping."""
        return self.accelerator.unwrap_model(self.learner)


@dataclass
class Report:
    """What one step did."""

    step: int  # steps done
    lr: float
    grad_norm: float | None
    sums: dict[str, Tensor] = field(default_factory=dict)  # loss -> sum over the step's forwards
    forwards: int = 0


def learning_rate(how: Optimizer, step: int, total: int) -> float:
    """The rate of step number `step`, counted from 0: warm-up, constant, cosine."""
    progress = step / total
    decay = 0.0 if how.hold >= 1 else min(max((progress - how.hold) / (1 - how.hold), 0), 1)
    cosine = how.final + (1 - how.final) * 0.5 * (1 + math.cos(math.pi * decay))
    return how.lr * min(1.0, (step + 1) / max(how.warmup, 1)) * cosine


def train_one_epoch(
    training: Training, loaders: Mapping[str, Iterator[dict]], first: int, stop: int
) -> Iterator[Report]:
    """Train from step `first` to `stop` and report each step.

    Args:
        training: What is trained.
        loaders: Task -> its batches for these steps, one per forward.

    Raises:
        NonFiniteLossError: A loss is no number.
    """
    accelerator, config = training.accelerator, training.config
    trained = [p for p in training.learner.parameters() if p.requires_grad]
    batches_of = {name: iter(loader) for name, loader in loaders.items()}
    training.learner.train()
    for step in range(first, stop):
        rate = learning_rate(config.optimizer, step, training.total)
        for group in training.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        report = Report(step + 1, rate, None)
        for _ in range(training.share.accumulate):
            batches = {
                name: next(batches)
                for name, batches in batches_of.items()
                if step % config.tasks[name].every == 0
            }
            with accelerator.accumulate(training.learner):
                losses = training.learner(
                    send_to_device(batches, accelerator.device, non_blocking=True)
                )
                _stop_if_not_finite(losses, step, batches)
                accelerator.backward(losses["total"])
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(trained, config.optimizer.clip)
                    report.grad_norm = None if norm is None else float(norm)
                    odd = not math.isfinite(report.grad_norm or 0.0)
                    if odd and not _scales_losses(accelerator):
                        raise _not_finite("gradient", losses, step, batches)
                training.optimizer.step()
                training.optimizer.zero_grad()
            for name, value in losses.items():
                report.sums[name] = report.sums.get(name, 0) + value.detach().float()
            report.forwards += 1
        if training.average is not None:
            training.average.update(training.plain, step + 1)
        yield report


def _stop_if_not_finite(losses: Mapping[str, Tensor], step: int, batches: Mapping) -> None:
    if not torch.isfinite(losses["total"]):
        raise _not_finite("loss", losses, step, batches)


def _scales_losses(accelerator: Accelerator) -> bool:
    """Whether steps with overflowing gradients are skipped, as is usual in float16."""
    return accelerator.mixed_precision == "fp16"


def _not_finite(what: str, losses: Mapping, step: int, batches: Mapping) -> NonFiniteLossError:
    terms = ", ".join(f"{name} {float(value.detach()):g}" for name, value in losses.items())
    names = "; ".join(f"{task}: {', '.join(b['names'])}" for task, b in batches.items())
    return NonFiniteLossError(
        f"the {what} of step {step + 1} is not finite ({terms}) on the samples {names}"
    )


def mean_losses(training: Training, reports: list[Report]) -> dict[str, float]:
    """Means over steps and processes; all processes must call this."""
    sums: dict[str, list[Tensor]] = {}
    for report in reports:
        for name, value in report.sums.items():
            sums.setdefault(name, []).append(value / report.forwards)
    names = sorted(sums)
    means = torch.stack([torch.stack(sums[name]).mean() for name in names])
    means = training.accelerator.reduce(means, reduction="mean")
    return dict(zip(names, means.tolist(), strict=True))


@torch.no_grad()
def evaluate(
    accelerator: Accelerator,
    model,
    processor,
    judge: Judge | None,
    heldout: Mapping[str, tuple[torch.nn.Module, list[dict]]],
) -> dict:
    """Judge a model as users would meet it; the processes share the work.

    Args:
        model: A `FindTrackModel`, loaded from the checkpoint that was just written.
        processor: Its processor.
        judge: The videos on which J&F is measured, by `segment`; None leaves that out.
        heldout: Task -> its objective and batches on which its metrics are measured.

    Returns:
        J&F, J, F (over expressions with a target), T-acc, N-acc (None without any such), and
        "task/metric" of the held-out batches.
    """
    rank, count = accelerator.process_index, accelerator.num_processes
    sums: list[tuple[str, float, float]] = []
    for task, (objective, batches) in heldout.items():
        for batch in batches[rank::count]:
            batch = send_to_device(batch, accelerator.device)
            for name, (total, number) in objective.metrics(model, batch).items():
                sums.append((f"{task}/{name}", total, number))
    answers: list[tuple[bool, float, float, bool]] = []
    for video in judge.videos[rank::count] if judge is not None else ():
        answers += _answers(judge.benchmark.rows(video), model, processor, judge.key_frames)
    if count > 1:
        sums, answers = gather_object(sums), gather_object(answers)
    result: dict = {}
    if judge is not None:
        result = _scores(answers) | {
            "videos": len(judge.videos), "expressions": len(answers),
            "benchmark": judge.benchmark.name, "split": judge.benchmark.split,
        }  # fmt: skip
    totals: dict[str, list[float]] = {}
    for name, total, number in sums:
        pair = totals.setdefault(name, [0.0, 0.0])
        pair[0], pair[1] = pair[0] + total, pair[1] + number
    return result | {name: t / n for name, (t, n) in sorted(totals.items()) if n}


def _answers(rows: list[dict], model, processor, key_frames) -> list[tuple]:
    """Of every expression of a video: has a target, J, F, answered with empty masks."""
    texts = [row["expression"] for row in rows]
    tracks = model.segment(open_frames(rows[0]), texts, processor=processor, key_frames=key_frames)
    answers = []
    for row, track in zip(rows, tracks, strict=True):
        truth = (decode_mask(row, t) for t in range(len(row["frame_names"])))
        scores = per_expression(iter(track.masks), truth)
        empty = not track.masks.areas().any()
        answers.append((bool(row["obj_ids"]), scores.j_mean, scores.f_mean, empty))
    return answers


def _scores(answers: list[tuple]) -> dict:
    shown = [a for a in answers if a[0]]
    absent = [a for a in answers if not a[0]]

    def mean(values: list) -> float | None:
        return float(np.mean(values)) if values else None

    j, f = mean([a[1] for a in shown]), mean([a[2] for a in shown])
    return {
        "J&F": None if j is None else (j + f) / 2,
        "J": j,
        "F": f,
        "T-acc": mean([not a[3] for a in shown]),
        "N-acc": mean([a[3] for a in absent]),
    }
