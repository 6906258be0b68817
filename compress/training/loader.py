"""Loaders: where training gets its batches from; ours draws them from a role by (seed, epoch) alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from compress.data import Samples
from compress.data.ahead import make_ahead
from compress.errors import StageError
from compress.stage import Optimization, size_faults
from compress.stage.group import Group
from compress.tasks import Batch, Task, View

Views = Callable[[int, torch.Generator], View | None]


class Loader(Protocol):
    """Batches of epoch after epoch, as many for every update of the weights as are accumulated."""

    @property
    def steps_per_epoch(self) -> int:
        """Updates of the weights in an epoch, at least 1."""
        ...

    @property
    def example(self) -> Batch:
        """A batch on which a module is tried before it is trained."""
        ...

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Sequence[Batch]]:
        """Yield the batches of each update of an epoch.

        Args:
            number: of the epoch, from 0.
            skip: updates at its beginning that are done already.
        """
        ...


@dataclass(frozen=True)
class RoleLoader:
    """A role's samples as a task reads them; order and views depend on (seed, epoch) alone.

    Attributes:
        task: makes batches, orders samples.
        samples: the role.
        optimization: says how many samples are in a batch, and how many batches in an update.
        seed: decides order and views.
        views: gives the view of a batch from the epoch and a generator.
        group: the processes that share an update's batches: process r has the batches r, r + size, ...
    """

    task: Task
    samples: Samples
    optimization: Optimization
    seed: int
    views: Views
    group: Group = field(default_factory=Group)

    def __post_init__(self) -> None:
        """Refuse a role that is smaller than one update, and an update that the processes cannot share."""
        for fault in size_faults(self.optimization, samples=len(self.samples), processes=self.group.size):
            raise StageError(fault)

    @property
    def _per_update(self) -> int:
        return self.optimization.batch_size * self.optimization.accumulate

    @property
    def steps_per_epoch(self) -> int:
        """Whole updates; the samples that are left over are others in each epoch."""
        return len(self.samples) // self._per_update

    @property
    def example(self) -> Batch:
        """The first two samples."""
        return self.task.batch(self.samples, torch.arange(min(2, len(self.samples))))

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Sequence[Batch]]:
        """Yield the batches of each update of an epoch; samples on disk are read ahead by threads; see `Loader`."""
        updates = self._updates(number, skip)
        return make_ahead(self._read, updates) if self.samples.on_disk else map(self._read, updates)

    def _updates(self, number: int, skip: int) -> Iterator[list[tuple[Tensor, View | None]]]:
        """Yield the positions and the view of every batch of each update."""
        size = self.optimization.batch_size
        generator = torch.Generator().manual_seed(self.seed * 100_003 + number)
        order = self.task.order(self.samples, generator, size=self._per_update)
        for step in range(self.steps_per_epoch):
            drawn = [self.views(number, generator) for _ in range(self.optimization.accumulate)]
            if step < skip:
                continue
            start = step * self._per_update
            rows = order[start : start + self._per_update].split(size)
            yield [*zip(rows, drawn, strict=True)][self.group.rank :: self.group.size]

    def _read(self, update: Sequence[tuple[Tensor, View | None]]) -> list[Batch]:
        return [self.task.batch(self.samples, index, view=view) for index, view in update]
