"""Group: the processes that share a training. Each computes some parts of every update; all end with the same sum."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from compress.errors import EnvironmentFault


class LostProcessError(EnvironmentFault):
    """Another process that shares a training has ended."""


@dataclass(frozen=True)
class Group:
    """This process among those that share a training, or one that is alone.

    Attributes:
        rank: of this process, from 0; the first one alone writes.
        size: how many there are.
        local_rank: of this process among those of its machine.
        local_size: how many there are on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

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
            LostProcessError: when another process has ended.
        """
        if self.size == 1:
            return [value]
        found = [torch.empty_like(value) for _ in range(self.size)]
        with _together():
            distributed.all_gather(found, value)
        return found

    def add(self, value: Tensor) -> Tensor:
        """Return the sum of every process's value, in whatever order is fastest; raises as ``gather`` does."""
        if self.size > 1:
            with _together():
                distributed.all_reduce(value)
        return value

    def tell(self, value: Any = None) -> Any:
        """Return the first process's JSON value to all of them, whatever the others give; raises as ``gather`` does."""
        if self.size == 1:
            return value
        content = json.dumps(value).encode() if self.writes else b""
        length = torch.tensor([len(content)])
        with _together():
            distributed.broadcast(length, 0)
            told = torch.zeros(int(length), dtype=torch.uint8)
            if self.writes:
                told.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            distributed.broadcast(told, 0)
        return json.loads(bytes(told.tolist()))

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


def unshared(root: Path) -> EnvironmentFault:
    """Return the refusal of processes that do not see what the others write."""
    return EnvironmentFault(
        "a process does not find in the store what another one has committed",
        expected="one store for all processes",
        where=root,
        hint="name a directory of a file system that all machines share with --store",
    )


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process that shares this training has ended",
            got=str(error).splitlines()[0],
            hint="it says why; the same command goes on from the last checkpoint, with any number of processes",
        ) from error
