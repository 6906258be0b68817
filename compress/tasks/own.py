"""Tasks of the user's own: a function that returns one in Python, and in a recipe the file and its name."""

import json
from collections.abc import Callable
from inspect import isfunction
from typing import Annotated, Any, get_args

import numpy as np
import torch
from pydantic import Discriminator, PlainSerializer, Tag
from pydantic.json_schema import SkipJsonSchema

from compress.config.user_code import USER_ERRORS, OwnFunction, line_of, origin
from compress.data.samples import Data
from compress.errors import DataError, InputError
from compress.tasks.signature import Tensor
from compress.tasks.task import Problem, Task

TaskMaker = Callable[[Data], Task]
TRIED = 2  # samples


class OwnTask(OwnFunction):
    """A task in the user's own Python file, which must be named on the command line (``--code``).

    The function takes the samples in their roles and returns a `Task`, which is tried before anything trains.

    Attributes:
        file: the Python file.
        function: its name there.
    """


# In a file that was not run, or the function itself; keys hold the name and the content of the file.
AnyTask = Annotated[
    Annotated[OwnTask, Tag("own")]
    | SkipJsonSchema[Annotated[TaskMaker, PlainSerializer(lambda make: str(origin(make))), Tag("callable")]],
    Discriminator(lambda value: "callable" if isfunction(value) else "own"),
]


def make_task(make: TaskMaker | OwnTask, data: Data) -> Task:
    """Return the task that a user's function makes for the data.

    Raises:
        InputError: when its file is still to be run.
        DataError: when it fails, or returns something else than a task whose parts fit each other and the data.
    """
    if isinstance(make, OwnTask):
        got = f"{make.function} of {make.file.name}"
        raise InputError("the task is in a file that was not run", expected="Recipe.resolve(code=...)", got=got)
    defined = origin(make)
    where = f"{defined.name} of {defined.file.name}"
    try:
        task = make(data)
        for expected, got in _faults(task, data):
            raise DataError(f"{where} gives no task that fits", expected=expected, got=got, where="data.task")
    except USER_ERRORS as error:
        if isinstance(error, DataError):
            raise
        got = f"{type(error).__name__}: {error}"
        raise DataError(f"{where} fails", got=got, where=line_of(error, defined.file)) from error
    return task


def _faults(task: Any, data: Data) -> list[tuple[str, object]]:
    """Return what was expected of a task and what it gave, tried on the first samples and on made-up outputs."""
    if not isinstance(task, Task):
        return [("a Task", type(task).__name__)]
    json.dumps([task.preprocessing, task.digest])  # both are read after hours, and refuse what is no JSON
    first = data.select.take(np.arange(TRIED))
    batch = task.batch(first, torch.arange(TRIED))
    given, units = task.signature, int(task.units(first).sum())
    outputs = np.random.default_rng(0).standard_normal((units, len(task.classes))).astype(np.float32)
    faults: list[tuple[str, object]] = []
    if task.problem not in get_args(Problem):
        faults.append((f"a problem: one of {', '.join(get_args(Problem))}", task.problem))
    if len(given.inputs) != len(batch.inputs) or not all(map(_fits, given.inputs, batch.inputs)):
        told = ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in given.inputs)
        faults.append((f"batches as the signature says: {told}", [_describe(tensor) for tensor in batch.inputs]))
    if batch.labels is not None and len(batch.labels) != units:
        faults.append((f"a label for each of {units} units", len(batch.labels)))
    tallies = task.tallies(outputs, first)
    if task.measure not in tallies:
        faults.append((f"{task.measure} among the tallies", ", ".join(tallies)))
    faults += [
        (f"a finite {name} of {TRIED} samples", f"{tally.value} of {tally.num_samples}")
        for name, tally in tallies.items()
        if tally.num_samples != TRIED or not np.isfinite(tally.value)
    ]
    return faults


def _fits(declared: Tensor, given: torch.Tensor) -> bool:
    """Whether a batch's tensor is what the signature says; axes with a name may have any size."""
    sizes = zip(declared.shape, given.shape, strict=False)
    alike = all(isinstance(size, str) or size == got for size, got in sizes)
    return len(declared.shape) == given.dim() and alike and str(given.dtype).removeprefix("torch.") == declared.dtype


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
