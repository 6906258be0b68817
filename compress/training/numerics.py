"""How passes through a model are computed: threads, random numbers, the layout of images in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from compress.loss.taps import evaluating
from compress.stage import Compute
from compress.tasks import Batch
from compress.training.teaching import Objective


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


def lay_out_images(batch: Batch, memory_format: torch.memory_format) -> Batch:
    """Return the batch with its images, [B, C, H, W], laid out in memory; values stay as they are."""
    inputs = tuple(value.to(memory_format=memory_format) if value.dim() == 4 else value for value in batch.inputs)
    return replace(batch, inputs=inputs)


def choose_layout(module: nn.Module, task: Objective, batch: Batch) -> torch.memory_format:
    """Return channels last, which convolutions like, where the module takes it, else the plain layout.

    One that flattens maps with ``view`` takes the plain layout alone. It is tried on the batch in evaluation mode.

    Args:
        module: not changed.
        task: runs the module on a batch.
        batch: of any size; small is quick.
    """
    if all(value.dim() != 4 for value in batch.inputs):
        return torch.contiguous_format
    with evaluating(module), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            task.forward(module, lay_out_images(batch, torch.channels_last))
        except RuntimeError:  # what else is wrong with the module, the plain layout will tell
            return torch.contiguous_format
    return torch.channels_last
