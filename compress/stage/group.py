"""Group: the processes that share a training. Each computes some parts of every update; all end with the same sum."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from compress.errors import CompressError, EnvironmentFault, StageError

COUNTS = 2  # at most, that each process tells the others when they meet


class LostProcessError(EnvironmentFault):
    """Another process that shares a training has ended."""


class FailedProcessError(StageError):
    """Another process has failed at what is shared; all of them leave it, and may go on together."""


@dataclass(frozen=True)
class Group:
    """This process among those that share a training, or one that is alone.

    Attributes:
        rank: of this process, from 0; the first one alone writes.
        size: how many there are.
        local_rank: of this process among those of its machine.
        local_size: how many there are on its machine.
        meeting: where they wait for one another, on the CPU and for as long as it takes; None for torch's own group.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    meeting: "distributed.ProcessGroup | None" = None

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
            FailedProcessError: when another process has failed.
        """
        if self.size == 1:
            return [value]
        self._meet()
        found = [torch.empty_like(value) for _ in range(self.size)]
        with _together():
            distributed.all_gather(found, value)
        return found

    def add(self, value: Tensor) -> Tensor:
        """Return the sum of every process's value, in whatever order is fastest; raises as ``gather`` does."""
        if self.size > 1:
            self._meet()
            with _together():
                distributed.all_reduce(value)
        return value

    def tell(self, value: Any = None) -> Any:
        """Return the first process's JSON value to all of them, whatever the others give; raises as ``gather`` does."""
        if self.size == 1:
            return value
        content = json.dumps(value).encode() if self.writes else b""
        length = self._meet(len(content))[0][0]
        return json.loads(self._broadcast(content, length=length, source=0))

    def total(self, *counts: int) -> tuple[int, ...]:
        """Return sums over all processes, of at most `COUNTS` numbers; raises as ``gather`` does."""
        if self.size == 1:
            return counts
        return tuple(map(sum, zip(*self._meet(*counts), strict=True)))[: len(counts)]

    def any(self, flag: bool) -> bool:
        """Return whether it is true in some process; raises as ``gather`` does."""
        return bool(self.total(int(flag))[0])

    def meet(self) -> None:
        """Wait for all processes; raises as ``gather`` does."""
        self.total()

    def fail(self, error: CompressError) -> None:
        """Have the others leave what is shared, each at its next call, because this process has failed at it.

        Args:
            error: what they are told.

        Raises:
            LostProcessError: when another process has ended.
        """
        if self.size > 1:
            told = " ".join(str(part) for part in (f"{error.message}:", error.got, error.where) if part is not None)
            with suppress(FailedProcessError):
                self._meet(failure=told.encode())

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process do the block before the others do, so that they find what it has written."""
        if self.size > 1 and not self.writes:
            self.total(0)
        yield
        if self.size > 1 and self.writes:
            self.total(0)

    def _meet(self, *counts: int, failure: bytes = b"") -> list[list[int]]:
        """Wait for all processes and return the counts of each, by rank.

        Everything shared begins so: NCCL, which would wait for one that has failed or is gone, is then not begun.
        """
        assert len(counts) <= COUNTS
        row = torch.tensor([len(failure), *counts, *[0] * (COUNTS - len(counts))])
        found = [torch.empty_like(row) for _ in range(self.size)]
        with _together():
            distributed.all_gather(found, row, group=self.meeting)
        rows: list[list[int]] = [row.tolist() for row in found]
        for rank, (length, *_) in enumerate(rows):
            if length:
                told = self._broadcast(failure, length=length, source=rank)
                raise FailedProcessError(f"process {rank + 1} of {self.size} fails", got=told.decode())
        return [others for _, *others in rows]

    def _broadcast(self, content: Sequence[int], *, length: int, source: int) -> bytes:
        """Return the content that the process of rank ``source`` gives, whose length all know."""
        told = torch.tensor(list(content) if self.rank == source else [0] * length, dtype=torch.uint8)
        with _together():
            distributed.broadcast(told, source)
        return bytes(told.tolist())


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
