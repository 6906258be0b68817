"""Samples as a file gets them: preprocessed, in batches, their outputs back in the samples' order."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.data import Samples
from compress.data.ahead import make_ahead
from compress.export.program import nats_of
from compress.export.program_file import open_model, open_program
from compress.export.session import Session
from compress.tasks import Batch, Task, TransductionTask
from compress.tasks.batch import unit_rows

if TYPE_CHECKING:
    from onnx import ModelProto

BATCH = 256
KEPT_BYTES = 2**30  # of preprocessed images on disk; more are decoded anew for every file
PARITY_SAMPLES = 33


class Feed:
    """A role's preprocessed samples in batches, ready for ONNX Runtime; made once for many files, where they fit."""

    def __init__(self, task: Task, samples: Samples, *, threads: int, batch_size: int = BATCH) -> None:
        self._task, self._samples, self._threads = task, samples, threads
        everything = torch.arange(len(samples))
        positions = [*self._task.parts(samples, everything, size=batch_size)]
        self._positions = positions
        self._kept = None if self._is_large() else [*self._make()]
        taken = torch.cat(positions)
        units = torch.from_numpy(self._task.units(samples))
        self._rows = unit_rows(units[taken], taken.argsort()).numpy()

    def _is_large(self) -> bool:
        """Whether the samples stay on disk because they would not fit."""
        return self._samples.on_disk and 4 * math.prod(self._samples.inputs.shape) > KEPT_BYTES

    def _make(self) -> Iterator[Batch]:
        make = partial(self._task.batch, self._samples)
        return make_ahead(make, self._positions) if self._samples.on_disk else map(make, self._positions)

    def outputs(self, model: "Path | bytes | ModelProto") -> NDArray[np.float32]:
        """Return what a file or a graph gives for every unit, float32 [units, C], in the role's order."""
        if isinstance(model, Path):
            return self.through(open_model(model, threads=self._threads))
        return self.through(Session(model, threads=self._threads))

    def through(self, call: Callable[..., Sequence[NDArray[Any]]]) -> NDArray[np.float32]:
        """Return the first outputs of a function from input arrays to output arrays, as ``outputs`` does."""
        found = [self._task.rows(call(*arrays(batch))[0], batch) for batch in self._kept or self._make()]
        return np.concatenate(found)[self._rows]


def force_targets(path: Path, task: TransductionTask, samples: Samples, *, threads: int) -> NDArray[np.float64]:
    """Return minus the log-probability that a program gives the right text of each sample, float64 [N], in nats.

    Args:
        path: of the program.
        task: as its model reads samples.
        samples: a labelled role; of several right texts the first one counts.
        threads: of ONNX Runtime.
    """
    decoder, found = open_program(path, threads=threads).decoder, np.zeros(len(samples))
    for part in task.parts(samples, torch.arange(len(samples)), size=BATCH):
        batch = task.batch(samples, part)
        assert batch.units is not None
        assert batch.labels is not None
        valid = batch.units.numpy()
        right = np.zeros(valid.shape, np.int64)
        right[valid] = batch.labels.numpy()
        found[part.numpy()] = nats_of(decoder, arrays(batch), right, valid)
    return found


def first_inputs(task: Task, samples: Samples, count: int) -> tuple[NDArray[Any], ...]:
    """Return the preprocessed inputs of a role's first samples, one array [count, ...] per input of the model."""
    return arrays(task.batch(samples, torch.arange(min(count, len(samples)))))


def arrays(batch: Batch) -> tuple[NDArray[Any], ...]:
    """Return a batch's inputs as NumPy arrays."""
    return tuple(value.numpy() for value in batch.inputs)


def parity_inputs(task: Task, samples: Samples) -> list[tuple[NDArray[Any], ...]]:
    """Return the samples that parity is checked on: a batch padded to its longest, and the shortest ones there are."""
    found = [first_inputs(task, samples, PARITY_SAMPLES)]
    if not task.fixed_size:
        shortest = next(iter(task.parts(samples, torch.arange(len(samples)), size=PARITY_SAMPLES)))
        found.append(arrays(task.batch(samples, shortest[:PARITY_SAMPLES])))
    return found
