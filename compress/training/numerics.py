"""How passes through a model are computed: device, threads, random numbers, the layout of images in memory."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from compress.errors import EnvironmentFault
from compress.loss.taps import evaluating
from compress.stage import Compute
from compress.stage.device import device_of
from compress.tasks import Batch
from compress.tasks.batch import move
from compress.training.teaching import Objective

SPENT = ("out of memory", "can't allocate memory")  # as MPS, XPU and the CPU's allocator say it


@contextmanager
def numerics(host: Compute, *, seed: int) -> Iterator[None]:
    """Fix thread count, seed and what CUDA multiplies in for the block, and restore them after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(host.execution.threads)
    try:
        with _products(host), fork_generators(host.device):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _products(host: Compute) -> Iterator[None]:
    """Fix what CUDA multiplies float32 in: cuDNN rounds it to TF32 unless told. Elsewhere nothing is touched."""
    if host.device.type != "cuda":
        yield
        return
    backends = cast("Any", torch.backends)  # whose modules get their attributes at run time
    products = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [product.fp32_precision for product in products]
    for product in products:
        product.fp32_precision = "tf32" if host.execution.precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision


def fork_generators(device: torch.device) -> AbstractContextManager[None]:
    """Return a block after which the generators of the CPU and of a device are where they were."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device.index or 0], device_type=device.type)


@contextmanager
def placed(host: Compute, *modules: nn.Module, hint: str = "--device cpu has the whole memory") -> Iterator[None]:
    """Have modules on the host's device for the block, and back where they were after it.

    Args:
        host: says which device.
        modules: moved in place; their parameters may be other objects afterwards.
        hint: what to do when the device has too little memory.

    Raises:
        EnvironmentFault: when it has.
    """
    homes = [device_of(module) for module in modules]
    try:
        for module in modules:
            module.to(host.device)
        yield
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        raise EnvironmentFault(
            "the device has too little memory", got=str(error).splitlines()[0], where=host.device, hint=hint
        ) from error
    finally:
        for module, home in zip(modules, homes, strict=True):
            module.to(home)


def lacks_memory(error: RuntimeError) -> bool:
    """Whether it says that a device has too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in SPENT)


@contextmanager
def compiled(host: Compute, module: nn.Module) -> Iterator[None]:
    """Have calls of a module go through torch's compiler for the block, if the host says so.

    Hooks that are there are compiled, later ones are not seen; so whatever was compiled is forgotten after the block.
    """
    if not host.execution.compile:
        yield
        return
    module.compile()
    try:
        yield
    finally:
        module._compiled_call_impl = None  # pyright: ignore[reportPrivateUsage] # what `compile` has set
        torch.compiler.reset()


def place_batch(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device, but for its index and units: they find what is stored and count, on the CPU."""
    if device.type == "cpu":
        return batch
    return replace(
        batch,
        inputs=tuple(move(value, device) for value in batch.inputs),
        labels=None if batch.labels is None else move(batch.labels, device),
        mask=None if batch.mask is None else move(batch.mask, device),
    )


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
