"""Group: the processes that share a training. Each computes some parts of every update; all end with the same sum."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from compress.errors import EnvironmentFault


@dataclass(frozen=True)
class Group:
    """This process among those that share a training, or one that is alone.

    Attributes:
        rank: of this process, from 0; the first one alone writes.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> "Group":
        """Return the group that this process has joined with ``torch.distributed.init_process_group``."""
        if not distributed.is_available() or not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return every process's value, of one shape and type, by rank.

        Raises:
            EnvironmentFault: when another process has ended.
        """
        if self.size == 1:
            return [value]
        found = [torch.empty_like(value) for _ in range(self.size)]
        with _together():
            distributed.all_gather(found, value)
        return found

    def total(self, *counts: int) -> tuple[int, ...]:
        """Return sums over all processes; raises as ``gather`` does."""
        if self.size == 1:
            return counts
        return tuple(torch.stack(self.gather(torch.tensor(counts))).sum(0).tolist())

    def any(self, flag: bool) -> bool:
        """Return whether it is true in some process; raises as ``gather`` does."""
        return bool(self.total(int(flag))[0])

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process do the block before the others do, so that they find what it has written."""
        if self.size > 1 and not self.writes:
            self.total(0)
        yield
        if self.size > 1 and self.writes:
            self.total(0)


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise EnvironmentFault(
            "another process that shares this training has ended",
            got=str(error).splitlines()[0],
            hint="it says why; the same command goes on from the last checkpoint, with any number of processes",
        ) from error
