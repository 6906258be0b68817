"""One update of the weights by several processes: the gradients of its parts, summed in the order of the parts.

Whoever computed them, they are added as one process that accumulates adds them: the number of processes changes no bit.
Or they are added by all-reduce, in whatever order is fastest: then the last bits depend on the number of processes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compress.stage.group import Group
from compress.stage.host import Reduction
from compress.training.running import RunningStatistics


class SharedUpdate:
    """The sum of an update's gradients so far.

    Args:
        group: whose processes compute the parts, in turn: process r has the parts r, r + size, ...
        trained: whose parameters have the gradients. Batch norms are moved on part by part; whatever else changes in
            its buffers is averaged over the processes after each round, in their order.
        seed: what a part draws, such as dropout, depends on (seed, step, part) alone; None for an update of one part,
            which leaves the generators and the norms alone.
        reduction: how gradients are added.
    """

    def __init__(self, group: Group, trained: nn.Module, *, seed: int | None, reduction: Reduction = "exact") -> None:
        self.group, self.seed, self.reduction = group, seed, reduction
        self.parameters = [value for value in trained.parameters() if value.requires_grad]
        self.running = RunningStatistics(trained) if seed is not None else None
        moved = set() if self.running is None else {id(value) for value in self.running.buffers}
        self.buffers = [value for value in trained.buffers() if value.is_floating_point() and id(value) not in moved]
        self.sums: list[Tensor] = []

    @contextmanager
    def part(self, step: int, number: int) -> Iterator[None]:
        """Have the block compute this process's part of a round, counted from 0."""
        if self.seed is None or self.running is None:
            yield
            return
        part = number * self.group.size + self.group.rank
        torch.manual_seed((self.seed * 1_000_003 + step * 1024 + part) % 2**63)
        with self.running.apart():
            yield

    def add(self, terms: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Add this round's parts, one of each process, in their order; where that is exact, clear the gradients.

        Args:
            terms: means of the loss terms of this process's part.

        Returns:
            Those of all parts, in their order.
        """
        seen = [] if self.running is None else self.running.seen
        if self.group.size == 1:
            if self.running is not None:
                self.running.move([seen])
            return [dict(terms)]
        gradients = self._take_gradients() if self.reduction == "exact" else []
        means = torch.stack([value.detach().float() for value in terms.values()])
        parts = self._gather([*gradients, means, *seen, *self.buffers])
        count = len(gradients)
        for part in parts:
            for position, value in enumerate(part[:count]):
                if len(self.sums) <= position:
                    self.sums.append(value.clone())
                else:
                    self.sums[position] += value
        first = count + 1 + len(seen)
        if self.running is not None:
            self.running.move([part[count + 1 : first] for part in parts])
        for position, buffer in enumerate(self.buffers, start=first):
            found = [part[position] for part in parts]
            if any(not torch.equal(found[0], other) for other in found[1:]):
                buffer.copy_((sum(found[1:], found[0]) / len(found)).view(buffer.shape))
        return [dict(zip(terms, part[count], strict=True)) for part in parts]

    def release(self) -> None:
        """Give the parameters the sums as their gradients, none where no part had one, and start anew."""
        if self.group.size == 1:
            return
        if self.reduction == "fast":
            values = self._take_gradients()
            total = self.group.add(torch.cat([value.float().flatten() for value in values]))
            self.sums = list(total.split([value.numel() for value in values]))
        *sums, has = self.sums
        for value, found, parts in zip(self.parameters, sums, has, strict=True):
            # In the parameter's own layout, as backward leaves it, so that norms add up in the same order.
            value.grad = torch.empty_like(value).copy_(found.view(value.shape)) if parts else None
        self.sums = []

    def _take_gradients(self) -> list[Tensor]:
        """Return the gradients, zeros where there are none, and last which of them there are; leave none."""
        gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in self.parameters]
        has = torch.tensor([float(value.grad is not None) for value in self.parameters], device=gradients[0].device)
        for value in self.parameters:
            value.grad = None
        return [*gradients, has]

    def _gather(self, values: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """Return every process's values, flat and in float32, by rank."""
        sizes = [value.numel() for value in values]
        flat = torch.cat([value.float().flatten() for value in values])
        return [part.split(sizes) for part in self.group.gather(flat)]
