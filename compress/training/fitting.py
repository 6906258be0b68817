"""How many samples a device can pass at once: the largest power of two, where the asked batch does not fit."""

from collections.abc import Callable
from itertools import islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] # what all of them are

from compress.errors import StageError
from compress.loss import GuidedLoss, LossTerms
from compress.stage import Compute, Optimization
from compress.tasks import Batch
from compress.tasks.batch import split
from compress.training.loader import Loader
from compress.training.numerics import fork_generators, lacks_memory

LOOKED_AT = 16  # updates, for samples of many lengths; the largest batch of them is tried
STATES = {"sgd": 1, "adamw": 2}  # tensors that the update rule keeps of each parameter


def fitting_rows(
    loader: Loader,
    forward: Callable[..., LossTerms],
    trained: nn.Module,
    host: Compute,
    *,
    optimization: Optimization,
    loss: GuidedLoss,
    name: str,
) -> int | None:
    """Return how many samples of a batch fit the device; None when all do, or the host does not ask.

    On the CPU nothing is tried, because its memory is the machine's.

    A part of the batch is passed forwards and backwards twice, at the beginning and at the end of the loss's schedule,
    beside gradients and room for what the update rule keeps. Weights, buffers and generators are as before.

    Args:
        loader: of the training.
        forward: makes the loss terms of a batch; takes ``progress``, 0 to 1.
        trained: everything that is trained, on the device.
        host: says which device; what fits all processes of a group is taken.
        optimization: says what the update rule keeps.
        loss: whose coupled terms compare a batch as a whole.
        name: of the training, for messages.

    Raises:
        StageError: when less than the batch fits, and its parts would be another training: batch norms normalise by the
            samples of a pass, and coupled terms compare them.
        torch.OutOfMemoryError: when not even one sample fits.
    """
    if host.execution.batch_size == "asked":
        return None
    if host.device.type == "cpu":
        host.reporter.say(f"{name}: on the CPU a pass has the asked batch, whatever fits")
        return None
    batches = (batch for update in islice(loader.epoch(0), LOOKED_AT) for batch in update)
    largest = max(batches, key=lambda batch: sum(value.numel() for value in batch.inputs))
    asked = rows = len(largest.index)
    norms = any(isinstance(module, _BatchNorm) and module.training for module in trained.modules())
    least = 2 if norms else 1  # of one sample there is no variance
    while not _fits(split(largest, rows)[0], forward, trained, host, optimization=optimization, least=rows <= least):
        rows = 2 ** ((rows - 1).bit_length() - 1)  # the largest power of two below
    counts = host.group.gather(torch.tensor([rows]).to(host.device))  # devices may differ in what is free
    rows = min(int(count) for count in counts)
    if rows == asked:
        return None
    whole = [*loss.coupled, *(["batch norms, which normalise by the samples of a pass"] if norms else [])]
    if whole:
        samples = asked * optimization.accumulate
        equal = next(part for part in range(rows, 0, -1) if samples % part == 0)
        raise StageError(
            f"a batch of {asked} does not fit the device, and in parts it would be another training",
            expected=f"at most {rows} samples in a pass",
            got=", ".join(whole),
            where=f"{name}, {host.device}",
            hint=f"batch_size: {rows}"
            if loss.coupled
            else f"batch_size: {equal} with accumulate: {samples // equal} is that other training, of updates as large",
        )
    host.reporter.say(f"{name}: {rows} of {asked} samples fit the device at once; an update is the sum of such passes")
    return rows


def _fits(
    part: Batch,
    forward: Callable[..., LossTerms],
    trained: nn.Module,
    host: Compute,
    *,
    optimization: Optimization,
    least: bool,
) -> bool:
    """Whether two passes of a part have enough memory; the smallest part raises what the device says."""
    before = [value.clone() for value in trained.buffers()]
    parameters = [value for value in trained.parameters() if value.requires_grad]
    try:
        with fork_generators(host.device):
            kept = [torch.empty_like(value) for value in parameters for _ in range(STATES[optimization.optimizer])]
            for progress in (0.0, 1.0):
                terms = forward(part, progress=progress)
                terms.objective(units=part.num_units, samples=len(part.index)).backward()
            del kept
    except RuntimeError as error:  # the allocator has given back what it held before it says so
        if least or not lacks_memory(error):
            raise
        return False
    finally:
        for value in parameters:
            value.grad = None
        for value, earlier in zip(trained.buffers(), before, strict=True):
            value.copy_(earlier)
    return True
