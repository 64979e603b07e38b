"""The processes that share a run, started by `accelerate launch`; without it, one."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch

# Processes wait for the slowest of them, and nobody knows how long it needs.
_PATIENCE = timedelta(days=30)


class PeerError(OSError):
    """Another process of the run has ended early; that one has said why."""


@dataclass(frozen=True)
class Processes:
    """This process among those of a run. Process 0 prepares, scores and reports."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, device: str) -> "Processes":
        """Meet the others, if there are any, and make this process's GPU the current one.

        Args:
            device: What the user asked for, "cpu" or one of which the process takes its own.
        """
        if "LOCAL_RANK" not in os.environ:  # what `accelerate launch` and torchrun set
            return cls()
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        # Left to itself, accelerate takes several processes without a GPU for so many single ones.
        cpu = device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU")
        cpu = cpu or not torch.cuda.is_available()
        # gloo, as only a few words are exchanged and it keeps no GPU busy while it waits.
        state = PartialState(cpu=cpu, backend="gloo", timeout=_PATIENCE)
        return cls(state.process_index, state.num_processes)

    @property
    def main(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def tell(self, value):
        """Process 0's `value`, in all of them.

        Raises:
            PeerError: One of them is gone.
        """
        values = [value]
        if self.count > 1:
            from accelerate.utils import broadcast_object_list

            with _peers_needed():
                broadcast_object_list(values, from_process=0)
        return values[0]

    def wait(self) -> None:
        """Go on when all are here.

        Raises:
            PeerError: One of them is gone.
        """
        if self.count > 1:
            from accelerate import PartialState

            with _peers_needed():
                PartialState().wait_for_everyone()


@contextlib.contextmanager
def _peers_needed() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # how gloo tells that a connection is lost
        raise PeerError("another process of the run has ended early; see what it says") from error
