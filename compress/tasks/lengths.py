"""Samples of many lengths: orders and parts in which those of one batch are about equally long."""

from collections.abc import Iterator

import torch
from torch import Tensor

BUCKET = 64  # updates whose samples are sorted by length together


def order_by_length(lengths: Tensor, generator: torch.Generator, *, size: int) -> Tensor:
    """Return a random order in which the samples of an update are about equally long, so that little is padded.

    A random order is cut into pieces of ``BUCKET`` updates, each piece is sorted by length, and the updates are
    shuffled. The samples that fill no update come last.

    Args:
        lengths: of the samples, int64 [N].
        generator: draws the order.
        size: samples per update.
    """
    shuffled = torch.randperm(len(lengths), generator=generator)
    whole = len(shuffled) // size * size
    pieces = shuffled[:whole].split(size * BUCKET)
    updates = [update for piece in pieces for update in piece[lengths[piece].argsort(stable=True)].split(size)]
    drawn = torch.randperm(len(updates), generator=generator).tolist()
    return torch.cat([*(updates[number] for number in drawn), shuffled[whole:]])


def parts_by_length(lengths: Tensor, *, size: int, ordinary: int = 32) -> Iterator[Tensor]:
    """Yield positions by length, as many at once as ``size`` samples of an ordinary length have tokens.

    Args:
        lengths: of the samples, int64 [N].
        size: samples of the ordinary length, or shorter ones.
        ordinary: that length.
    """
    order = lengths.argsort(stable=True)
    start = 0
    while start < len(order):
        # Sorted, so the last sample of a part is its longest.
        longest = lengths[order[start:]].clamp(min=ordinary)
        fits = int((longest * torch.arange(1, len(longest) + 1) <= ordinary * size).sum())
        yield order[start : start + max(1, fits)]
        start += max(1, fits)
