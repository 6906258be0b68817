"""How passes through a model are computed: threads, random numbers, the layout of images in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from compress.stage import Compute
from compress.tasks import Batch


@contextmanager
def numerics(host: Compute, *, seed: int) -> Iterator[None]:
    """Fix thread count and seed for the block, and restore both after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(host.execution.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay kernels of images, the tensors of four dimensions, out in memory, in place; values stay as they are."""
    for value in (*module.parameters(), *module.buffers()):
        if value.dim() == 4:
            value.data = value.data.to(memory_format=memory_format)


def channels_last(batch: Batch) -> Batch:
    """Return the batch with its images, [B, C, H, W], laid out as convolutions like them."""
    inputs = tuple(value.to(memory_format=torch.channels_last) if value.dim() == 4 else value for value in batch.inputs)
    return replace(batch, inputs=inputs)
