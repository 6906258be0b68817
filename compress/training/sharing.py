"""One update of the weights by several processes: the gradients of its parts, summed in the order of the parts.

Whoever computed them, they are added as one process that accumulates adds them: the number of processes changes no bit.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compress.stage.group import Group


class SharedUpdate:
    """The sum of an update's gradients so far.

    Args:
        group: whose processes compute the parts, in turn: process r has the parts r, r + size, ...
        trained: whose parameters have the gradients. The running statistics in its buffers are averaged over processes
            after each round, in the order of the processes.
        seed: what a part draws, such as dropout, depends on (seed, step, part) alone; None leaves the generators alone.
    """

    def __init__(self, group: Group, trained: nn.Module, *, seed: int | None) -> None:
        self.group, self.seed = group, seed
        self.parameters = [value for value in trained.parameters() if value.requires_grad]
        self.buffers = [buffer for buffer in trained.buffers() if buffer.is_floating_point()]
        self.sums: list[Tensor] = []

    def begin(self, step: int, number: int) -> None:
        """Begin this process's part of a round, counted from 0."""
        if self.seed is not None:
            part = number * self.group.size + self.group.rank
            torch.manual_seed((self.seed * 1_000_003 + step * 1024 + part) % 2**63)

    def add(self, terms: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Add the gradients of this round's parts, one of each process, in their order; clear this process's own.

        Args:
            terms: means of the loss terms of this process's part.

        Returns:
            Those of all parts, in their order.
        """
        if self.group.size == 1:
            return [dict(terms)]
        gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in self.parameters]
        has = torch.tensor([float(value.grad is not None) for value in self.parameters], device=gradients[0].device)
        means = torch.stack([value.detach().float() for value in terms.values()])
        values = [*gradients, has, means, *self.buffers]
        flat = torch.cat([value.float().flatten() for value in values])
        sizes = [value.numel() for value in values]
        parts = [part.split(sizes) for part in self.group.gather(flat)]
        count = len(gradients)
        for part in parts:
            for position, value in enumerate(part[: count + 1]):
                if len(self.sums) <= position:
                    self.sums.append(value.clone())
                else:
                    self.sums[position] += value
        for value in self.parameters:
            value.grad = None
        for position, buffer in enumerate(self.buffers, start=count + 2):
            seen = [part[position] for part in parts]
            if any(not torch.equal(seen[0], other) for other in seen[1:]):
                buffer.copy_((sum(seen[1:], seen[0]) / len(seen)).view(buffer.shape))
        return [dict(zip(terms, part[count + 1], strict=True)) for part in parts]

    def release(self) -> None:
        """Give the parameters the sums as their gradients, none where no part had one, and start anew."""
        if self.group.size == 1:
            return
        *sums, has = self.sums
        for value, found, parts in zip(self.parameters, sums, has, strict=True):
            # In the parameter's own layout, as backward leaves it, so that norms add up in the same order.
            value.grad = torch.empty_like(value).copy_(found.view(value.shape)) if parts else None
        self.sums = []
