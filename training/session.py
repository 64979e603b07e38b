"""One run of training from its configuration to its checkpoints."""

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import datasets
import torch
from accelerate.utils import broadcast_object_list, set_seed
from omegaconf import OmegaConf
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from modeling_findtrack.cli import load_model
from modeling_findtrack.shipped import checkpoint

from .averaging import MovingAverage
from .checkpoints import Checkpoints, fingerprint
from .config import Config
from .data import load_data
from .embedding_cache import EmbeddingCache, encoder_digest
from .engine import Report, Training, evaluate, mean_losses, train_one_epoch
from .finish import finish_run
from .frame_batch import Reads, is_frozen, vision_encoder
from .launch import (
    configure_deepspeed,
    enable_checkpointing,
    make_accelerator,
    set_attention,
    uses_deepspeed,
)
from .learner import Learner, build_objectives
from .loader import Places, Share, TaskSamples, task_loader
from .new_words import add_new_words
from .parameters import add_lora, choose_trained, rate_groups, take_parts, widen_scalars
from .run_folder import RunFolder
from .wording import counted, duration

# Keys that do not change what is learnt: a run may be resumed with others.
_FREE = (
    "out", "workers", "device_batch_size", "embedding_cache", "embedding_cache_gigabytes", "keep",
    "trackers", "log_every", "checkpoint_every", "validation", "validate_every", "heldout",
    "save_dtype", "precision",
)  # fmt: skip


class Session:
    """Prepares, trains and finishes one run.

    Args:
        config: The configuration.
        name: What the run is called.
        command: How it was started, for the model card.
        overwrite: Delete another run that the folder holds.

    Raises:
        ValueError, OSError: Model, data or folder are not what the configuration says.
    """

    def __init__(self, config: Config, name: str, command: str, overwrite: bool = False):
        self.config, self.name, self.command = config, name, command
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
            transformers_logging.disable_progress_bar()
        self.accelerator = make_accelerator(config)
        self.main = self.accelerator.is_main_process
        self.folder = RunFolder(config.out)
        set_seed(config.seed)
        self.data = self._main_first(lambda: load_data(config, self._say))
        self.share = Share.of(
            config.batch_size, config.device_batch_size, self.accelerator.num_processes
        )
        if self.share.batch_size != config.batch_size:
            self._say(
                f"batch_size {config.batch_size} becomes {self.share.batch_size}: "
                f"{counted(self.share.processes, 'process')} x "
                f"{counted(self.share.accumulate, 'forward')} x {self.share.micro}"
            )
        # As soon as it is known what the run is: models may take minutes to load.
        self.resumed = self._agree(self._claim, overwrite)
        self.epoch_steps = self._epoch_steps()
        self.total = config.steps or max(1, round(config.epochs * self.epoch_steps))
        learner = self._learner()
        self.trained_count = sum(p.numel() for p in learner.parameters() if p.requires_grad)
        scalars = widen_scalars(learner) if uses_deepspeed(self.accelerator) else []
        self.training = self._prepare(learner)
        self.checkpoints = Checkpoints(self.folder, self.training, self.processor, scalars)
        self.seconds = 0.0

    # ---- preparing -----------------------------------------------------------------------------

    def _epoch_steps(self) -> int:
        if self.data.source.length is None:
            return (self.config.scenes or self.config.photos).steps_per_epoch
        return -(-self.data.source.length // self.share.batch_size)

    def _learner(self) -> Learner:
        """Model and objectives, with only what is to learn learning."""
        config = self.config
        # In float32, whatever the checkpoint is stored in: small steps vanish in half precision.
        model, self.processor = load_model(config.start, "cpu", "float32")
        take_parts(model, config.parts)
        if config.new_words:
            words = add_new_words(model, self.processor, self.data.texts, config.seed)
            if words:
                self._say(f"{counted(len(words), 'new word')}: {', '.join(words[:20])}")
        choose_trained(model, config.train)
        if config.lora is not None:
            add_lora(model, config.lora)
        set_attention(model, config.attention)
        if config.gradient_checkpointing:
            enable_checkpointing(model)
        cache = None
        if config.embedding_cache is not None:
            encoder = vision_encoder(model)
            if not is_frozen(encoder):
                raise ValueError("embedding_cache: the vision encoder is trained, so it changes")
            digest = encoder_digest(encoder, self.processor)
            limit = config.embedding_cache_gigabytes * 1e9
            processes = self.accelerator.num_processes
            cache = EmbeddingCache(config.embedding_cache, digest, limit, processes)
        objectives = build_objectives(config, model, self.processor, self.data.nouns, cache)
        reads = Reads.of(model)
        self.collators = {name: o.collator(reads) for name, o in objectives.items()}
        return Learner(model, objectives, config.tasks)

    def _prepare(self, learner: Learner) -> Training:
        """Wrap the learner for its processes."""
        config, accelerator = self.config, self.accelerator
        accelerator.gradient_accumulation_steps = self.share.accumulate
        deepspeed = uses_deepspeed(accelerator)
        if deepspeed:
            configure_deepspeed(accelerator, config, self.share)
        else:
            learner.to(accelerator.device)
        how = config.optimizer
        optimizer = torch.optim.AdamW(
            rate_groups(learner, how.slow),
            lr=how.lr,
            betas=tuple(how.betas),
            weight_decay=how.weight_decay,
            fused=not deepspeed,
        )
        wrapped, optimizer = accelerator.prepare(learner, optimizer)
        average = MovingAverage(learner, config.ema) if config.ema else None
        return Training(accelerator, wrapped, optimizer, config, self.share, self.total, average)

    def _claim(self, overwrite: bool) -> int:
        """Make the folder this run's; the step that an earlier try came to."""
        text = OmegaConf.to_yaml(OmegaConf.structured(self.config))
        return self.folder.begin(self._identity(), text, overwrite) or 0

    def _agree(self, decide: Callable, *arguments):
        """What `decide` says in the main process, in all of them: on a shared file system they may
        not see the same files at the same time."""
        values = [None, None]  # an answer, or what went wrong
        if self.main:
            try:
                values[0] = decide(*arguments)
            except (OSError, ValueError) as error:
                values[1] = error
        if self.accelerator.num_processes > 1:
            broadcast_object_list(values)
        if values[1] is not None:
            raise values[1]
        return values[0]

    def _main_first(self, work: Callable):
        """What `work` returns here, once the main process has done it; if it fails there, nobody
        tries, let alone waits."""
        done: list = []
        self._agree(lambda: done.append(work()))
        return done[0] if self.main else work()

    # ---- training ------------------------------------------------------------------------------

    def begin(self) -> int:
        """Load what an earlier try left; the step to go on from."""
        if self.config.trackers:
            told = {"name": self.name, "lr": self.config.optimizer.lr, "steps": self.total}
            self.accelerator.init_trackers("findtrack", config=told)
        if self.resumed:
            self.seconds = self.checkpoints.load(self.resumed)
            self._say(f"going on from step {self.resumed} of {self.total}")
            self._evaluate_if_due(self.resumed)
        else:
            self._say(
                f"{counted(self.trained_count, 'parameter')}, {counted(self.total, 'step')} of "
                f"{counted(self.share.batch_size, 'sample')}, "
                f"{counted(self.accelerator.num_processes, 'process')}"
            )
        return self.resumed

    def _identity(self) -> dict:
        values = {k: v for k, v in asdict(self.config).items() if k not in _FREE}
        origins = {
            part: checkpoint(origin.partition(":")[0]) for part, origin in self.config.parts.items()
        }
        values["weights"] = fingerprint(self.config.start)
        # Also what is kept apart for validation: it decides what is left to train on.
        texts = "\0".join(self.data.texts)
        values["data"] = hashlib.sha256(texts.encode()).hexdigest()
        values["weights of parts"] = {part: fingerprint(o) for part, o in origins.items()}
        return values

    def train(self, first: int) -> None:
        """From step `first` to the end."""
        every = self.config.checkpoint_every or self.epoch_steps
        bar = tqdm(
            total=self.total, initial=first, unit="step",
            disable=not (self.main and sys.stderr.isatty()),
        )  # fmt: skip
        self.started = time.perf_counter()
        step, pending = first, []
        while step < self.total:
            stop = min((step // self.epoch_steps + 1) * self.epoch_steps, self.total)
            started = time.perf_counter()
            for report in train_one_epoch(self.training, self._loaders(step, stop), step, stop):
                pending.append(report)
                bar.update()
                last = report.step == self.total
                logs, saves = report.step % self.config.log_every == 0, report.step % every == 0
                if not (logs or saves or last):
                    continue
                self.seconds += time.perf_counter() - started
                self._log(pending, bar)
                pending = []  # in a checkpoint, too
                if saves or last:
                    self.checkpoints.save(report.step, self.seconds)
                    self._tell(report.step, first)
                    self._evaluate_if_due(report.step)
                    self.training.learner.train()
                started = time.perf_counter()
            self.seconds += time.perf_counter() - started
            step = stop
        bar.close()

    def _loaders(self, first: int, stop: int) -> dict:
        return {
            name: task_loader(
                self.config, name, self.data.source, self.collators[name], self.share,
                self.accelerator.process_index, first, stop, self.total,
            )
            for name in self.config.tasks
        }  # fmt: skip

    def _log(self, reports: list[Report], bar: tqdm) -> None:
        losses = mean_losses(self.training, reports)
        last, self.loss = reports[-1], losses["total"]
        row = {
            "step": last.step,
            "epoch": last.step / self.epoch_steps,
            "lr": last.lr,
            "grad_norm": last.grad_norm,
            "seconds": round(self.seconds, 2),
            "losses": losses,
        }
        if self.main:
            self.folder.append(row)
            bar.set_postfix(loss=f"{losses['total']:.3f}")
        if self.config.trackers:
            told = {"lr": last.lr, "grad_norm": last.grad_norm}
            self.accelerator.log(
                losses | {k: v for k, v in told.items() if v is not None}, step=last.step
            )

    def _tell(self, step: int, first: int) -> None:
        """One line per checkpoint for who has no bar to look at."""
        if not sys.stderr.isatty():
            spent = time.perf_counter() - self.started
            left = duration(spent / (step - first) * (self.total - step))
            self._say(f"step {step} of {self.total}, loss {self.loss:.4f}, {left} to go")

    def _is_due(self, step: int) -> bool:
        """Whether the checkpoint of `step` is to be measured and has not been."""
        every = self.config.validate_every or 1
        done = any(
            row["step"] == step and "validation" in row and row.get("judge") == self._judge()
            for row in self.folder.rows()
        )
        wanted = self.data.judge is not None or self.config.heldout > 0
        return wanted and not done and (step % every == 0 or step == self.total)

    def _judge(self) -> str | None:
        """What scores are comparable by."""
        return None if self.data.judge is None else self.data.judge.digest

    def _evaluate_if_due(self, step: int) -> None:
        """Measure the checkpoint of `step` unless that was done or is not asked for."""
        if self._agree(self._is_due, step):
            place = self.folder.checkpoint(step)
            # As users will load it, whatever wrapped it in training.
            model, processor = load_model(str(place), self.accelerator.device.type, "auto")
            result = evaluate(self.accelerator, model, processor, self.data.judge, self._heldout())
            numbers = {k: v for k, v in result.items() if isinstance(v, float)}
            if self.main:
                self.folder.append({"step": step, "judge": self._judge(), "validation": result})
                self._say(f"step {step}: " + ", ".join(f"{k} {v:.3f}" for k, v in numbers.items()))
            if self.config.trackers:
                told = {f"validation/{k}": v for k, v in numbers.items()}
                self.accelerator.log(told, step=step)
        self.accelerator.wait_for_everyone()
        if self.main:
            self.folder.tidy(self.config.keep)
        self.accelerator.wait_for_everyone()

    def _heldout(self) -> dict:
        """Task -> objective and held-out batches; the same ones every time."""
        count, found = self.config.heldout, {}
        for name, task in self.config.tasks.items() if count else ():
            samples = TaskSamples(self.data.heldout, task, self.config.augment, 0)
            share = Share(min(self.config.batch_size, 8), 1, 1)
            places = Places(None, share, 0, 0, 0, count, count)
            last = 1 - 1e-9  # of a curriculum, its last stage
            batches = [
                self.collators[name]([samples[p._replace(progress=last)] for p in batch])
                for batch in places
            ]
            found[name] = (self.training.plain.objectives[name], batches)
        return found

    def finish(self) -> None:
        """Curves and model card."""
        if self.main:
            finish_run(self)
            where = "the last" if self.folder.best() is None else "the best"
            self._say(f"{where} checkpoint, with its card and curves: {self.folder.path / 'best'}")
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def _say(self, text: str) -> None:
        if self.main:
            tqdm.write(text, file=sys.stderr)
