"""Tables, signals, sequences, several arrays by name: one row of outputs a sample, for a class, labels or numbers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.samples import Data, Samples
from compress.errors import DataError
from compress.measures.judge import Judge, absolute_errors, multi_label, regression, single_label
from compress.measures.tally import Tally, r2
from compress.tasks.batch import Batch, View
from compress.tasks.boosted import BoostedTrees
from compress.tasks.image_classification import Normalize
from compress.tasks.inputs import CHANNEL_AXES, UNNAMED, ArrayInput, IdInput, array_input, check_lengths, statistics
from compress.tasks.signature import Signature
from compress.tasks.signature import Tensor as Declared
from compress.tasks.summaries import LinearSummaries, summarise
from compress.tasks.tabular import Encode, TableInput, table_input
from compress.tasks.task import Problem, Task

LENGTHS = "lengths"
OUTPUT = "logits"
LAYOUTS = {1: "NF", 2: "NCL", 3: "NCHW"}  # unless another one is said, by the axes of a sample
Input = ArrayInput | IdInput | TableInput


@dataclass(frozen=True)
class Targets:
    """What outputs are in units of: ``target = output * std + mean``, for each.

    Attributes:
        mean: by target.
        std: likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ArrayTask(Task):
    """How arrays and columns become batches, and how outputs are judged.

    Attributes:
        classes: names of the outputs, in order.
        inputs: what makes the model's inputs, in the order of its arguments.
        problem_kind: what the outputs of a sample are.
        judge: what counts as right.
        targets: of a regression.
    """

    classes: tuple[str, ...]
    inputs: tuple[Input, ...]
    problem_kind: Problem
    judge: Judge = field(default_factory=Judge)
    targets: Targets | None = None

    @classmethod
    def of(
        cls,
        data: Data,
        *,
        encode: Encode,
        normalize: Mapping[str, Normalize] | None,
        judge: Judge,
        given: bool = False,
    ) -> "ArrayTask":
        """Return the task for these data; the kind of labels says what is to be learnt.

        Args:
            data: samples by role.
            encode: how columns and targets become numbers.
            normalize: by the name of the input; those that are not named take the train role's.
            judge: what counts as right.
            given: whether a teacher comes with its weights, whose outputs then are raw numbers unless ``encode`` says
                otherwise.

        Raises:
            DataError: when the inputs are of a shape that nothing says how to read, there are gaps or lengths that are
                refused, or ``normalize`` or ``judge`` does not fit.
        """
        labels = data.select.labels
        if labels is None or labels.dtype == object:
            raise DataError("arrays need labels for each sample", got="none" if labels is None else "lists of labels")
        problem: Problem = "single-label"
        if labels.ndim == 2:
            problem = "multi-label" if labels.dtype == np.uint8 else "regression"
        targets = None
        if problem == "regression":
            standardised = encode.targets == "standardised" or (encode.targets is None and not given)
            learnt = data.train.labels if data.train.labels is not None else labels
            targets = Targets(*statistics(learnt)) if standardised else None
        task = cls(
            classes=data.classes,
            inputs=read_inputs(data, encode=encode, normalize=normalize),
            problem_kind=problem,
            judge=judge,
            targets=targets,
        )
        judge.group_classes(data.classes)
        judge.choose(task._fitting)
        return task

    @property
    def problem(self) -> Problem:
        """What the outputs of a sample are."""
        return self.problem_kind

    @property
    def _fitting(self) -> tuple[str, ...]:
        """Names of the measures that fit, the usual one first."""
        return {
            "single-label": ("accuracy", "macro-f1", "matthews"),
            "multi-label": ("micro-f1", "macro-f1", "accuracy"),
            "regression": ("r2", "pearson", "spearman"),
        }[self.problem]

    @property
    def measure(self) -> str:
        """The measure that gates and choices are about."""
        return self.judge.choose(self._fitting)

    @property
    def signature(self) -> Signature:
        """The inputs by name in the order of the model's arguments; a float32 row of outputs."""
        return Signature(
            inputs=tuple(tensor for part in self.inputs for tensor in part.tensors),
            outputs=(Declared(name=OUTPUT, dtype="float32", shape=("batch", len(self.classes))),),
            classes=self.classes,
        )

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a deployment must do to raw arrays or rows, input by input, and to outputs."""
        arrays = [part.model_dump(mode="json") for part in self.inputs]
        told: dict[str, Any] = {"arrays": arrays, "problem": self.problem}
        return told if self.targets is None else told | {"targets": asdict(self.targets)}

    @property
    def input_formula(self) -> str:
        """What a model gets of a raw sample, and what its outputs stand for."""
        told = [part.formula for part in self.inputs]
        if self.targets is not None:
            pairs = zip(self.classes, self.targets.mean, self.targets.std, strict=True)
            told += [f"{name} = output * {std:g} + {mean:g}" for name, mean, std in pairs]
        return "; ".join(told)

    @property
    def numbers(self) -> dict[str, Normalize]:
        """The normalisation of each input that has numbers, by its name."""
        found: dict[str, Normalize] = {}
        for part in self.inputs:
            if isinstance(part, ArrayInput):
                found[part.name] = Normalize(mean=part.mean, std=part.std)
            elif isinstance(part, TableInput) and part.numbers:
                means, stds = (column.mean for column in part.numbers), (column.std for column in part.numbers)
                found["numbers"] = Normalize(mean=tuple(means), std=tuple(stds))
        return found

    def told_numbers(self) -> str:
        """Return the normalisation as a recipe spells it."""
        told = {name: f"{{mean: {[*own.mean]}, std: {[*own.std]}}}" for name, own in self.numbers.items()}
        if len(told) == 1:
            return next(iter(told.values()))
        return "{" + ", ".join(f"{name}: {own}" for name, own in told.items()) + "}"

    @property
    def state(self) -> str:
        """Everything that decides what a batch holds and how it is judged."""
        return json.dumps([self.classes, self.preprocessing, self.judge.model_dump(mode="json")], sort_keys=True)

    def batch(self, samples: Samples, index: Tensor, *, view: View | None = None) -> Batch:
        """Return the preprocessed samples at these positions."""
        assert view is None
        positions = index.numpy()
        rows = samples.inputs[positions]
        labels = None if samples.labels is None else torch.from_numpy(self._in_units(samples.labels[positions]))
        return Batch(
            inputs=tuple(tensor for part in self.inputs for tensor in part.read(rows)),
            labels=labels,
            index=index,
            view=view,
        )

    def _in_units(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return labels in the units of the outputs."""
        if self.targets is None:
            return labels
        return ((labels - np.array(self.targets.mean)) / np.array(self.targets.std)).astype(np.float32)

    def _in_data_units(self, outputs: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return outputs in the units of the data, float32."""
        if self.targets is None:
            return outputs
        return (outputs * np.array(self.targets.std) + np.array(self.targets.mean)).astype(np.float32)

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the outputs, [B, outputs]."""
        return model(*batch.inputs)

    def labels(self, samples: Samples) -> NDArray[Any]:
        """Return the labels, [N] or [N, outputs], of a regression in the units of the outputs."""
        return self._in_units(super().labels(samples))

    def tallies(self, outputs: NDArray[np.floating], samples: Samples) -> Mapping[str, Tally]:
        """Return every measure that fits; those of a regression are of numbers in the units of the data."""
        labels = super().labels(samples)
        if self.problem == "single-label":
            own = self.judge.own(outputs, labels)
            return single_label(outputs.argmax(axis=1), labels, self.classes, self.judge) | own
        if self.problem == "multi-label":
            return multi_label(outputs > 0, labels) | self.judge.own(outputs, labels)
        told = self._in_data_units(outputs)
        errors = absolute_errors(told, labels, self.classes)
        return {"r2": r2(told, labels)} | regression(told, labels) | errors | self.judge.own(told, labels)

    def simplest(self) -> BoostedTrees | LinearSummaries:
        """Return boosted trees where all inputs are columns, else a linear model on statistics of each channel."""
        columns = all(len(tensor.shape) <= 2 for tensor in self.signature.inputs)
        kind = BoostedTrees if columns else LinearSummaries
        return kind(self.problem, len(self.classes), self.state, self._features, self.labels)

    def _features(self, samples: Samples) -> NDArray[np.float32]:
        """Return all inputs of a role as columns, [N, F]: signals and sequences summed up, images as they are."""
        found: list[NDArray[Any]] = []
        for part in self.inputs:
            tensors = [tensor.numpy() for tensor in part.read(samples.array)]
            if isinstance(part, ArrayInput) and part.layout in ("NCL", "NTF"):
                steps = None if part.lengths is None else samples.array[part.lengths]
                tensors = [summarise(np.moveaxis(tensors[0], CHANNEL_AXES[part.layout], 1), steps)]
            found += [tensor.reshape(len(samples), -1) for tensor in tensors]
        return np.concatenate(found, axis=1).astype(np.float32)

    def noise(self, rows: int, *, seed: int) -> tuple[NDArray[Any], ...]:
        """Return made-up inputs; the first sample has the largest ids."""
        generator = np.random.default_rng(seed)
        return tuple(values for part in self.inputs for values in part.noise(rows, generator))


def read_inputs(data: Data, *, encode: Encode, normalize: Mapping[str, Normalize] | None) -> tuple[Input, ...]:
    """Return what makes a model's inputs, in the order of the arrays; the columns of a table where the first one is."""
    train = data.train.array
    if train.dtype.names is None:
        layout = _layout(train.ndim - 1, data.layouts.get(""), where="the inputs")
        _refuse_unknown(normalize, [UNNAMED[layout]])
        own = (normalize or {}).get(UNNAMED[layout])
        return (array_input(train, field=None, layout=layout, normalize=own, lengths=None),)
    names = train.dtype.names
    columns = [name for name in names if train[name].ndim == 1 and train[name].dtype.kind in "fU"]
    ids = [name for name in names if train[name].dtype.kind == "i"]
    arrays = [name for name in names if name not in (*columns, *ids)]
    tabled = ["numbers"] if any(train[name].dtype.kind == "f" for name in columns) else []
    _refuse_unknown(normalize, [*arrays, *tabled])
    stated = normalize or {}
    layouts = {
        name: _layout(train[name].ndim - 1, data.layouts.get(name, data.layouts.get("")), where=name) for name in arrays
    }
    lengths = {name: field for name in arrays if (field := _lengths(ids, name, layouts[name])) is not None}
    steps = {field: train[name].shape[1] for name, field in lengths.items()}
    for field, most in steps.items():
        check_lengths([*data.roles.items()], field=field, steps=most)
    found: list[Input] = []
    for name in names:
        if name in steps:
            found.append(IdInput(name=name, shape=(), low=1, high=steps[name]))
        elif name in ids:
            found.append(_ids(data, name))
        elif name in arrays:
            own = stated.get(name)
            found.append(array_input(train, field=name, layout=layouts[name], normalize=own, lengths=lengths.get(name)))
        elif name == columns[0]:
            found.append(table_input(data.roles, columns, encode=encode, normalize=stated.get("numbers")))
    _refuse_equal([tensor.name for part in found for tensor in part.tensors])
    return tuple(found)


def _refuse_equal(inputs: list[str]) -> None:
    """Refuse inputs that a model could not tell apart by name."""
    twice = sorted({name for name in inputs if inputs.count(name) > 1 or name == OUTPUT})
    if twice:
        raise DataError(
            "an input has the name of another, or of the output",
            expected="names of their own; columns of a table become `numbers` and `categories`",
            got=", ".join(twice),
            hint="rename the array",
        )


def _layout(axes: int, said: str | None, *, where: str) -> str:
    if said is not None and len(said) - 1 == axes:
        return said
    if axes not in LAYOUTS:
        raise DataError(
            "an input has a number of axes that nothing says how to read",
            expected="1 (columns), 2 (a signal or sequence) or 3 (an image) for each sample",
            got=axes,
            where=where,
            hint="reshape it, or write a task of your own (docs/extending.md)",
        )
    return LAYOUTS[axes]


def _refuse_unknown(normalize: Mapping[str, Normalize] | None, numbered: list[str]) -> None:
    if odd := sorted(set(normalize or {}) - set(numbered)):
        raise DataError(
            "data.normalize names no input of numbers",
            expected=f"some of {', '.join(numbered) or 'none: there are no numbers'}",
            got=", ".join(odd),
            where="data.normalize",
        )


def _lengths(ids: list[str], name: str, layout: str) -> str | None:
    """Return the field of a sequence's lengths: ``<name>_lengths``, or ``lengths``."""
    candidates = (f"{name}_{LENGTHS}", LENGTHS) if layout == "NTF" else ()
    return next((field for field in candidates if field in ids), None)


def _ids(data: Data, name: str) -> IdInput:
    values = [samples.inputs[name] for samples in data.roles.values()]
    low, high = min(int(value.min()) for value in values), max(int(value.max()) for value in values)
    return IdInput(name=name, shape=tuple(map(int, values[0].shape[1:])), low=low, high=high)
