"""Passes through a model without gradients, in a fixed order and batch size."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from compress.data import Samples
from compress.data.ahead import make_ahead
from compress.loss import Tap
from compress.loss.taps import capture_taps, evaluating
from compress.stage import Compute
from compress.tasks import Batch, Task, View
from compress.tasks.batch import unit_rows
from compress.training.numerics import choose_layout, lay_out_images, numerics, place_batch, placed

BATCH = 512


def predict(module: nn.Module, task: Task, host: Compute, samples: Samples) -> Tensor:
    """Return the logits of every unit of the plain samples, float32 [units, C]; see `forward_all`."""
    return forward_all(module, task, host, samples, index=torch.arange(len(samples)))[0]


def forward_all(
    module: nn.Module,
    task: Task,
    host: Compute,
    samples: Samples,
    *,
    index: Tensor,
    view: View | None = None,
    taps: Sequence[Tap] = (),
    name: str = "",
) -> tuple[Tensor, dict[Tap, Tensor]]:
    """Return logits, float32 [units, C], and tapped tensors [N, ...] on the CPU, in evaluation mode without gradients.

    Batches have a fixed order and size, so that the same call gives the same bits. Tapped tensors have one size.

    Args:
        module: put back into its mode afterwards.
        task: how it reads samples.
        host: execution, progress.
        samples: a role.
        index: int64 [N], which of its samples.
        view: which view of them.
        taps: what to read besides the logits.
        name: shown in progress; empty shows none.

    Raises:
        KeyboardInterrupt: when ``host.interrupted`` says so.
    """
    layout = choose_layout(module, task, task.batch(samples, index[:2], view=view))
    logits: list[Tensor] = []
    features: dict[Tap, list[Tensor]] = {tap: [] for tap in taps}
    order: list[Tensor] = []
    with (
        numerics(host, seed=0),
        placed(host, module),
        evaluating(module),
        torch.no_grad(),
        capture_taps(module, taps) as capture,
        host.reporter.bar(name, len(index)) if name else _silent() as bar,
    ):
        parts = [*task.parts(samples, index, size=BATCH)]
        make = partial(_read, task, samples, index, view)
        for positions, read in zip(
            parts, make_ahead(make, parts) if samples.on_disk else map(make, parts), strict=True
        ):
            if host.interrupted():
                raise KeyboardInterrupt
            batch = place_batch(read, host.device)
            with host.autocast():
                logits.append(task.forward(module, lay_out_images(batch, layout)).float().cpu())
            for tap, value in capture.take().items():
                features[tap].append(value.cpu())
            order.append(positions)
            if bar is not None:
                bar.advance(len(positions))
    found, taken = torch.cat(logits), torch.cat(order)
    if bool((taken.diff() == 1).all()):
        return found, {tap: torch.cat(values) for tap, values in features.items()}
    back, units = taken.argsort(), torch.from_numpy(task.units(samples))[index]
    return found[unit_rows(units[taken], back)], {tap: torch.cat(values)[back] for tap, values in features.items()}


def _read(task: Task, samples: Samples, index: Tensor, view: View | None, positions: Tensor) -> Batch:
    return task.batch(samples, index[positions], view=view)


@contextmanager
def _silent() -> Iterator[None]:
    yield None
