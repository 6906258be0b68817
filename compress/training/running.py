"""Running statistics of batch norms, moved on by the parts of an update in their order, whoever computed them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] # what all of them are


class RunningStatistics:
    """The running means and variances of a module's batch norms.

    A norm that passes k batches of statistics s_1, ..., s_k with momentum m makes v (1 - m)^k + c of the value v, where
    c = sum_i m (1 - m)^(k - i) s_i. Here each part of an update leaves c, and all of them move the running values
    afterwards, one after the other: the number of processes changes no bit.

    Args:
        trained: whose norms are meant; those without running statistics, or without a count of batches, are left alone.
    """

    def __init__(self, trained: nn.Module) -> None:
        self.norms = [
            module
            for module in trained.modules()
            if isinstance(module, _BatchNorm)
            and module.running_mean is not None
            and module.num_batches_tracked is not None
        ]
        self.seen: list[Tensor] = []

    @property
    def buffers(self) -> list[Tensor]:
        """The running means and variances themselves."""
        return [value for norm in self.norms for value in _statistics(norm)]

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Take what the block's batches add to the statistics; leave the running ones as they were before it."""
        before = [value.clone() for value in self.buffers]
        counts = [_count(norm).clone() for norm in self.norms]
        for norm in self.norms:
            if norm.momentum is None:
                _count(norm).zero_()  # the block's own mean, of which the value before is no part
            elif _writes_only(norm):
                for value in _statistics(norm):
                    value.zero_()  # what is added is then exact, whatever it is added to
        starts = [_count(norm).clone() for norm in self.norms]
        values = [value.clone() for value in self.buffers]
        try:
            yield
            self.seen = self._added(values, starts)
        finally:
            for value, earlier in zip(self.buffers, before, strict=True):
                value.copy_(earlier)
            for norm, count in zip(self.norms, counts, strict=True):
                _count(norm).copy_(count)

    def move(self, parts: Sequence[Sequence[Tensor]]) -> None:
        """Move the running statistics by what the parts have seen, one after the other; a norm that saw nothing stays.

        Args:
            parts: what was ``seen`` of each.
        """
        running = self.buffers
        for seen in parts:
            added, passes = seen[: len(running)], seen[len(running) :]
            for position, norm in enumerate(self.norms):
                count, often = _count(norm), passes[position].view(())
                count.add_(often.to(count.dtype))
                for place in (2 * position, 2 * position + 1):
                    value = running[place]
                    more = added[place].view(value.shape).to(value.dtype)
                    if norm.momentum is None:
                        value.copy_(torch.lerp(value, more, (often / count.clamp(min=1)).to(value.dtype)))
                    else:
                        value.copy_(value * ((1 - norm.momentum) ** often).to(value.dtype) + more)

    def _added(self, values: Sequence[Tensor], starts: Sequence[Tensor]) -> list[Tensor]:
        """Return what each value has more than is left of the one it started from, and how often each norm passed."""
        added, passes = list[Tensor](), list[Tensor]()
        for position, norm in enumerate(self.norms):
            pairs = list(zip(_statistics(norm), values[2 * position : 2 * position + 2], strict=True))
            often = (_count(norm) - starts[position]).float().view(1)
            # A class of the user's own may move its statistics and not count.
            moved = torch.stack([(now != start).any() for now, start in pairs]).any()
            often = torch.maximum(often, moved.float().view(1))
            left = torch.zeros_like(often) if norm.momentum is None else (1 - norm.momentum) ** often
            added += [now - start * left.to(now.dtype) for now, start in pairs]
            passes.append(often)
        return [*added, *passes]


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _count(norm: _BatchNorm) -> Tensor:
    assert norm.num_batches_tracked is not None
    return norm.num_batches_tracked


def _writes_only(norm: _BatchNorm) -> bool:
    """Whether a norm's running statistics are not read while it trains: a frozen one, or one of the user's, may."""
    return norm.training and type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
