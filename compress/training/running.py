"""Running statistics of batch norms, moved on by the parts of an update in their order, whoever computed them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] # what all of them are


class RunningStatistics:
    """The running means and variances of a module's batch norms.

    A norm moves its own by each batch that it sees. Here each part of an update starts from the same ones, its own mean
    and variance are taken instead, and all of them move the running ones afterwards, one after the other: the number of
    processes changes no bit.

    Args:
        trained: whose norms are meant; those without running statistics have none to move.
    """

    def __init__(self, trained: nn.Module) -> None:
        self.norms = [
            module for module in trained.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]
        self.seen: list[Tensor] = []

    @property
    def buffers(self) -> list[Tensor]:
        """The running means and variances themselves."""
        return [value for norm in self.norms for value in (norm.running_mean, norm.running_var) if value is not None]

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Take the statistics of the batch that the block runs; leave the running ones as they were before it."""
        running = self.buffers
        before, counts = [value.clone() for value in running], [self._count(norm).clone() for norm in self.norms]
        momenta = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 1.0  # the new value alone
        try:
            yield
            times = [self._count(norm) - count for norm, count in zip(self.norms, counts, strict=True)]
            self.seen = [*(value.clone() for value in running), *(value.float().view(1) for value in times)]
        finally:
            for norm, momentum in zip(self.norms, momenta, strict=True):
                norm.momentum = momentum
            for value, earlier in zip(running, before, strict=True):
                value.copy_(earlier)
            for norm, count in zip(self.norms, counts, strict=True):
                self._count(norm).copy_(count)

    def move(self, parts: Sequence[Sequence[Tensor]]) -> None:
        """Move the running statistics by what the parts have seen, one after the other; a norm that saw nothing stays.

        Args:
            parts: what was ``seen`` of each.
        """
        running = self.buffers
        for seen in parts:
            statistics, times = seen[: len(running)], seen[len(running) :]
            for position, norm in enumerate(self.norms):
                count, often = self._count(norm), times[position]
                count.add_(often.to(count.dtype).view(()))
                # A norm that one batch passes twice has kept the second alone, which then counts as both.
                share = often / count.clamp(min=1) if norm.momentum is None else 1 - (1 - norm.momentum) ** often
                for place in (2 * position, 2 * position + 1):
                    value = running[place]
                    value.copy_(torch.lerp(value, statistics[place].view(value.shape).to(value.dtype), share.view(())))

    @staticmethod
    def _count(norm: _BatchNorm) -> Tensor:
        assert norm.num_batches_tracked is not None  # there with the running mean
        return norm.num_batches_tracked
