"""Which sample is drawn when, and by which process: a function of the step alone.

So a resumed run goes on with exactly the samples it would have seen, and several processes share a
step's samples as one would have them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .augment import augment_clip, augment_frame
from .config import AlignTask, Augment, Config, FindTask, GroundTask, Task, TrackTask
from .samples import Place, Source

AUGMENT = 2  # keeps the random numbers of changes apart from those that draw samples, 0 and 1


@dataclass(frozen=True)
class Share:
    """How the samples of a step are dealt out."""

    micro: int  # samples of one forward on one device
    accumulate: int  # forwards of a step
    processes: int

    @property
    def batch_size(self) -> int:
        """Samples of a step."""
        return self.micro * self.accumulate * self.processes

    @classmethod
    def of(cls, batch_size: int, device_batch_size: int, processes: int) -> "Share":
        """Deal out at least `batch_size` samples in as few forwards as `device_batch_size` allows,
        and for so many forwards as few samples as can be; whatever the number of processes."""
        each = -(-batch_size // processes)
        accumulate = -(-each // device_batch_size)
        return cls(-(-each // accumulate), accumulate, processes)


class TaskSamples(Dataset):
    """The samples of one task, by `Place`.

    Args:
        source: Where they come from.
        task: What the task wants of each.
        augment: Changes to make.
        seed: Of the changes.
    """

    def __init__(self, source: Source, task: Task, augment: Augment, seed: int):
        self.source, self.task, self.augment, self.seed = source, task, augment, seed
        self.changes = bool(augment.flip or augment.colour or augment.crop < 1)

    def __getitem__(self, place: Place):
        task = self.task
        if isinstance(task, TrackTask):
            length = _at(task.frames, place.progress)
            sample = self.source.clip(place, length, task.objects, task.strides)
            change = augment_clip
        else:
            pairs, negatives = 1, 0.0
            if isinstance(task, FindTask | GroundTask):
                pairs, negatives = task.pairs, task.negatives
            elif isinstance(task, AlignTask):
                pairs = task.pairs
            sample = self.source.frame(place, pairs, negatives)
            change = augment_frame
        if self.changes:
            rng = np.random.default_rng((self.seed, AUGMENT, place.epoch, place.item))
            sample = change(sample, self.augment, rng)
        return sample


class Places(Sampler[list[Place]]):
    """For steps `first` to `stop`, the places of each forward of one process.

    Args:
        length: Samples of an epoch; None for an endless source.
        share: How steps are dealt out.
        rank: Of the process.
        seed: Of the order within an epoch.
        first, stop: Steps.
        total: Steps of the whole run.
        every: The task takes part in every n-th step.
    """

    def __init__(
        self, length: int | None, share: Share, rank: int, seed: int,
        first: int, stop: int, total: int, every: int = 1,
    ):  # fmt: skip
        self.length, self.share, self.rank, self.seed = length, share, rank, seed
        self.steps = [s for s in range(first, stop) if s % every == 0]
        self.total, self.every = total, every
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.steps) * self.share.accumulate

    def __iter__(self) -> Iterator[list[Place]]:
        share = self.share
        for step in self.steps:
            for part in range(share.accumulate):
                # Samples of a step in order: by forward, then by process.
                start = (step // self.every) * share.batch_size
                start += (part * share.processes + self.rank) * share.micro
                yield [self.place(start + i, step / self.total) for i in range(share.micro)]

    def place(self, number: int, progress: float) -> Place:
        """Where sample `number` of the run lies."""
        if self.length is None:
            return Place(0, number, progress)
        epoch, position = divmod(number, self.length)
        if epoch not in self._orders:
            rng = np.random.default_rng((self.seed, epoch))
            self._orders = {epoch: rng.permutation(self.length)} | {
                e: order for e, order in self._orders.items() if e == epoch - 1
            }
        return Place(epoch, int(self._orders[epoch][position]), progress)


def task_loader(
    config: Config, name: str, source: Source, collate, share: Share, rank: int,
    first: int, stop: int, total: int,
) -> DataLoader:  # fmt: skip
    """The batches of one task for the steps `first` to `stop` of one process."""
    task = config.tasks[name]
    samples = TaskSamples(source, task, config.augment, config.seed)
    places = Places(source.length, share, rank, config.seed, first, stop, total, task.every)
    return _Loader(
        samples,
        batch_sampler=places,
        collate_fn=collate,
        num_workers=config.workers,
        # Of its own, so that starting a loader draws nothing from the random numbers of training.
        generator=torch.Generator().manual_seed(config.seed),
        pin_memory=torch.cuda.is_available(),
    )


class _Loader(DataLoader):
    """A `DataLoader` whose workers' errors say what was wrong, not where in the code it was."""

    def __iter__(self) -> Iterator[dict]:
        try:
            yield from super().__iter__()
        except (OSError, ValueError) as error:
            if self.num_workers == 0:
                raise
            # torch puts the worker's traceback into the message; its last line is the error.
            last = str(error).strip().splitlines()[-1]
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(last.partition(": ")[2] or last) from error


def _at(values: list[Any], progress: float) -> Any:
    """The value whose equal share of the run `progress` lies in."""
    return values[min(int(progress * len(values)), len(values) - 1)]
