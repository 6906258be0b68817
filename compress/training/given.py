"""A user's own module and batches, as training reads them: no task, no roles."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.errors import DataError, ModelError
from compress.models.outputs import USUAL, in_words, tensors_of
from compress.tasks import Batch
from compress.tasks.task import Problem, hard_loss

CALIBRATION_BATCH = 64  # samples; one batch of activations is held at a time
FORMS = "inputs, (inputs, labels), or a mapping of named inputs, perhaps with labels; of several inputs a tuple"


@dataclass(frozen=True)
class Given:
    """One batch as it was given.

    Attributes:
        batch: its tensors.
        names: of the inputs, where they are named; then the module gets them by name.
    """

    batch: Batch
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plain:
    """How a plain module reads a batch, and how wrong its outputs are: what a task is to a pipeline.

    Attributes:
        problem: what the outputs of a sample are: one distribution, independent probabilities, or numbers.
        names: of the inputs; empty where they have none.
    """

    problem: Problem
    names: tuple[str, ...] = ()

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the outputs of a batch, [N, outputs]: of several tensors of such a shape the one called ``logits``.

        In training mode, where modules return the outputs of auxiliary heads too, it is the first of all of one shape.

        Raises:
            ModelError: when there is none, or it is not clear which one it is.
        """
        named = dict(zip(self.names, batch.inputs, strict=True)) if self.names else {}
        found = tensors_of(model(**named) if named else model(*batch.inputs))
        fitting = {name: value for name, value in found.items() if value.dim() == 2 and len(value) == batch.num_units}
        alike = len({value.shape for value in fitting.values()}) == 1
        if USUAL in fitting:
            return fitting[USUAL]
        if len(fitting) == 1 or (alike and model.training):
            return next(iter(fitting.values()))
        raise ModelError(
            "which of the module's outputs are its logits is not clear"
            if fitting
            else "the module gives no outputs [samples, outputs]",
            expected=f"a tensor [{batch.num_units}, outputs], alone of that form or called {USUAL}",
            got=in_words(found),
            where=type(model).__name__,
            hint=f"wrap the module in one that returns its logits alone, or a dict of them: {{{USUAL!r}: ...}}",
        )

    def hard_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each sample against its label, float32 [N]; see `Task.hard_loss`.

        Raises:
            DataError: when there are no labels, or they do not fit the outputs.
        """
        if batch.labels is None:
            raise DataError("the hard loss needs labels", got="batches without labels")
        return hard_loss(outputs, fitting_labels(batch.labels, outputs, problem=self.problem), problem=self.problem)


def fitting_labels(labels: Tensor, outputs: Tensor, *, problem: Problem) -> Tensor:
    """Return labels as the hard loss reads them: int64 [N] class numbers, or [N, outputs].

    Raises:
        DataError: when their shape or type does not fit, or a class number is out of range.
    """
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if problem != "single-label":
        if labels.shape == outputs.shape:
            return labels
        expected = f"{list(outputs.shape)}, a number for each output"
    elif labels.dim() == 1 and len(labels) == len(outputs) and whole:
        low, high = int(labels.min()), int(labels.max())
        if low >= 0 and high < outputs.shape[1]:
            return labels.long()
        raise DataError(
            "a label is no class of the model", expected=f"0 to {outputs.shape[1] - 1}", got=f"{low} to {high}"
        )
    else:
        expected = f"whole numbers [{len(outputs)}], a class for each sample"
    raise DataError(
        "the labels do not fit the outputs",
        expected=expected,
        got=f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}",
        where=f"problem {problem!r}",
        hint="say what the outputs are: problem='single-label', 'multi-label' or 'regression'",
    )


def problem_of(labels: Tensor | None, asked: Problem | None) -> Problem:
    """Return what is asked, else what labels show: whole numbers [N] are classes, yes or no [N, outputs] are labels.

    Raises:
        DataError: when they do not show it.
    """
    if asked is not None or labels is None:
        return asked or "single-label"
    if labels.dim() == 1 and not labels.is_floating_point():
        return "single-label"
    if labels.dim() == 2 and labels.dtype == torch.bool:
        return "multi-label"
    raise DataError(
        "these labels may mean several things",
        expected="class numbers [N], or booleans [N, labels]",
        got=f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}",
        hint="say which: problem='multi-label' (probabilities of each label) or problem='regression' (numbers)",
    )


def read_batch(given: Any) -> Given:
    """Return a user's batch.

    Args:
        given: inputs, a pair (inputs, labels) or a mapping of named inputs with ``labels`` or without; inputs are a
            tensor, or a tuple of them, the samples in dimension 0; NumPy arrays are taken too. An ``attention_mask``
            among named inputs also says which tokens terms on features compare.

    Raises:
        DataError: when it is none of these, or sizes or devices differ.
    """
    names: tuple[str, ...] = ()
    mask = None
    if isinstance(given, Mapping):
        named = {str(name): value for name, value in given.items() if name != "labels"}
        names, values, labels = tuple(named), tuple(named.values()), given.get("labels")
        mask = None if "attention_mask" not in named else torch.as_tensor(named["attention_mask"]).bool()
    elif isinstance(given, (Tensor, np.ndarray)):
        values, labels = (given,), None
    elif isinstance(given, (tuple, list)) and 1 <= len(given) <= 2:
        inputs, labels = given[0], given[1] if len(given) == 2 else None
        values = (inputs,) if isinstance(inputs, (Tensor, np.ndarray)) else tuple(inputs)
    else:
        count = f" of {len(given)}" if isinstance(given, (tuple, list)) else ""
        raise DataError("a batch is not understood", expected=FORMS, got=f"{type(given).__name__}{count}")
    tensors = tuple(_tensor(value) for value in values)
    labels = None if labels is None else _tensor(labels)
    together = tensors if labels is None else (*tensors, labels)
    sizes, devices = ({len(tensor) for tensor in together}, {str(tensor.device) for tensor in together})
    if not tensors or len(sizes) > 1 or len(devices) > 1:
        raise DataError(
            "the tensors of a batch do not belong together",
            expected="at least one input; inputs and labels of as many samples, on one device",
            got=", ".join(f"{list(tensor.shape)} on {tensor.device}" for tensor in together) or "none",
        )
    index = torch.arange(len(tensors[0]))
    return Given(Batch(inputs=tensors, labels=labels, index=index, view=None, mask=mask), names)


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, (Tensor, np.ndarray)) or value.ndim == 0:
        raise DataError("a batch holds something else than tensors", expected=FORMS, got=type(value).__name__)
    return torch.as_tensor(value)


def read_calibration(given: Any, example: tuple[Tensor, ...]) -> list[tuple[NDArray[Any], ...]]:
    """Return calibration samples in batches, one array for each input.

    Raises:
        DataError: when there are none, or they are other inputs than the example's.
    """
    if isinstance(given, (Tensor, np.ndarray, tuple)):
        whole = given if isinstance(given, tuple) else (given,)
        batch = read_batch((whole,)).batch.inputs
        parts = [tensor.split(CALIBRATION_BATCH) for tensor in batch]
        found = [*zip(*parts, strict=True)]
    else:
        found = [read_batch(one).batch.inputs for one in given]
    expected = [(value.dtype, value.dim()) for value in example]
    for batch in found:
        if [(value.dtype, value.dim()) for value in batch] != expected:
            raise DataError(
                "the calibration samples are other inputs than the example's",
                expected=", ".join(f"{value.dtype} {list(value.shape)}" for value in example),
                got=", ".join(f"{value.dtype} {list(value.shape)}" for value in batch),
                where="calibration",
            )
    if not found:
        raise DataError("there are no calibration samples", where="calibration")
    return [tuple(value.detach().cpu().numpy() for value in batch) for batch in found]


class GivenLoader:
    """Any iterable of batches as a `Loader`: lists, generators, torch's DataLoader.

    Its first pass begins at once, because a batch is looked at before training: what can be iterated only once serves
    one epoch. Batches that do not make up a whole update at the end of an epoch are left out.

    Attributes:
        first: the first batch.
        steps_per_epoch: updates in an epoch.
    """

    def __init__(self, batches: Iterable[Any], *, accumulate: int = 1, steps_per_epoch: int | None = None) -> None:
        self._batches, self._accumulate = batches, accumulate
        self.steps_per_epoch = steps_per_epoch or _length(batches) // accumulate
        self._begun: Iterator[Any] | None = iter(batches)
        self._looked_at = next(self._begun, None)
        if self._looked_at is None or not self.steps_per_epoch:
            raise DataError(
                "the loader has too few batches",
                expected=f"at least {accumulate}, one update",
                got="none" if self._looked_at is None else _length(batches),
                where="loader",
            )
        self.first = read_batch(self._looked_at)

    @property
    def example(self) -> Batch:
        """The first batch."""
        return self.first.batch

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Sequence[Batch]]:
        """Yield the batches of each update of an epoch; see `Loader`.

        Raises:
            DataError: when the loader ends too early, or its batches change their form.
        """
        stream = iter(self._batches) if self._begun is None else chain([self._looked_at], self._begun)
        self._begun = self._looked_at = None
        for step in range(self.steps_per_epoch):
            batches = [self._read(given) for given in islice(stream, self._accumulate)]
            if len(batches) < self._accumulate:
                raise DataError(
                    "the loader ended too early",
                    expected=f"{self.steps_per_epoch} updates of {self._accumulate} batches in every epoch",
                    got=f"{step} in epoch {number}",
                    where="loader",
                    hint="a generator is used up after one pass: give a list or a DataLoader",
                )
            if step >= skip:
                yield batches

    def _read(self, given: Any) -> Batch:
        found = read_batch(given)
        if found.names != self.first.names:
            raise DataError(
                "the batches of a loader have other inputs than its first one",
                expected=", ".join(self.first.names) or "inputs without names",
                got=", ".join(found.names) or "inputs without names",
                where="loader",
            )
        return found.batch


def _length(batches: Iterable[Any]) -> int:
    try:
        return len(batches)  # pyright: ignore[reportArgumentType] # what has no length says so
    except TypeError:
        raise DataError(
            "the loader does not say how many batches it has, which the learning rate follows",
            got=type(batches).__name__,
            where="loader",
            hint="give steps_per_epoch, or a list or a DataLoader of something with a length",
        ) from None
