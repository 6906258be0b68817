"""The input that a table's columns become: numbers standardised, gaps filled, categories one-hot or numbered."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from compress.config import Values
from compress.data.samples import Role, Samples
from compress.errors import DataError, listing
from compress.tasks.image_classification import Normalize
from compress.tasks.inputs import refuse_misfit, statistics
from compress.tasks.signature import Tensor

MAX_ONE_HOT = 10_000  # inputs


class Encode(Values):
    """How the columns of a table become inputs, and targets what a model gives.

    Attributes:
        categories: ``one-hot`` appends to the numbers an input of 0 or 1 for each value that train has, so that the
            model has one input; ``index`` gives it a second one, ``categories``, with the number of each value to look
            up: 1 and up in the order of the sorted values, and 0 for one that train does not have.
        missing: ``refuse`` a missing number, or take train's ``median`` of the column and append an input of 0 or 1
            that says so, for each column that has gaps in train.
        targets: whether a model of numbers gives them ``standardised`` by train's mean and deviation, which the bundle
            undoes, or as they are (``raw``). None standardises for teachers that are trained here, and takes given
            weights to give raw numbers.
    """

    categories: Literal["one-hot", "index"] = "one-hot"
    missing: Literal["refuse", "median"] = "refuse"
    targets: Literal["standardised", "raw"] | None = None


class NumberColumn(Values):
    """A column of numbers.

    Attributes:
        column: its name.
        mean: of train's numbers.
        std: likewise.
        median: what a gap becomes; None refuses it.
        flagged: whether an input says that there was a gap.
    """

    column: str
    mean: float
    std: float
    median: float | None = None
    flagged: bool = False


class CategoryColumn(Values):
    """A column of categories.

    Attributes:
        column: its name.
        values: those of train, sorted.
    """

    column: str
    values: tuple[str, ...]


class TableInput(Values):
    """The columns of a table: ``numbers``, and ``categories`` where they are looked up.

    Attributes:
        kind: tells it from the others.
        numbers: columns of numbers.
        categories: columns of categories.
        encode: ``one-hot`` or ``index``.
    """

    kind: Literal["table"] = "table"
    numbers: tuple[NumberColumn, ...]
    categories: tuple[CategoryColumn, ...]
    encode: Literal["one-hot", "index"]

    @property
    def width(self) -> int:
        """How many floats a row becomes."""
        hot = sum(len(column.values) for column in self.categories) if self.encode == "one-hot" else 0
        return len(self.numbers) + sum(column.flagged for column in self.numbers) + hot

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the model gets."""
        found: list[Tensor] = []
        if self.width:
            found.append(Tensor(name="numbers", dtype="float32", shape=("batch", self.width)))
        if self.categories and self.encode == "index":
            found.append(Tensor(name="categories", dtype="int64", shape=("batch", len(self.categories))))
        return tuple(found)

    def read(self, rows: NDArray[Any]) -> tuple[torch.Tensor, ...]:
        """Return the inputs of raw samples: numbers, flags of gaps, then categories."""
        floats: list[NDArray[Any]] = []
        for column in self.numbers:
            values = rows[column.column]
            filled = values if column.median is None else np.where(np.isnan(values), column.median, values)
            floats.append((filled - column.mean) / column.std)
        floats += [np.isnan(rows[column.column]) for column in self.numbers if column.flagged]
        numbers = [number_values(rows[column.column], column.values) for column in self.categories]
        if self.encode == "one-hot":
            for column, found in zip(self.categories, numbers, strict=True):
                floats += [found == number for number in range(1, len(column.values) + 1)]
        inputs: list[torch.Tensor] = []
        if floats:
            inputs.append(torch.from_numpy(np.stack(floats, axis=1).astype(np.float32)))
        if numbers and self.encode == "index":
            inputs.append(torch.from_numpy(np.stack(numbers, axis=1)))
        return tuple(inputs)

    def noise(self, rows: int, generator: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Return made-up inputs; the first sample has the largest numbers of categories."""
        found: list[NDArray[Any]] = []
        if self.width:
            found.append(generator.standard_normal((rows, self.width)).astype(np.float32))
        if self.categories and self.encode == "index":
            high = np.array([len(column.values) for column in self.categories])
            numbers = generator.integers(0, high + 1, size=(rows, len(high)))
            numbers[0] = high
            found.append(numbers)
        return tuple(found)

    @property
    def formula(self) -> str:
        """What the model gets of a row."""
        parts: list[str] = []
        if self.numbers:
            parts.append(f"(x - mean) / std of {_count(len(self.numbers), 'column')}")
        if flagged := sum(column.flagged for column in self.numbers):
            parts.append(f"{_count(flagged, 'flag')} of gaps")
        sizes = listing([f"{column.column} ({len(column.values)})" for column in self.categories])
        if self.categories and self.encode == "one-hot":
            parts.append(f"one-hot {sizes}")
        told = [f"numbers: {', '.join(parts)}: {self.width} in all"] if self.width else []
        if self.categories and self.encode == "index":
            told.append(f"categories: from 1 for the values of {sizes}, 0 for others")
        return "; ".join(told)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def number_values(cells: NDArray[np.str_], values: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each cell's value, int64 [N]: 1 and up, 0 for one that is not among the sorted values."""
    known = np.array(values, np.str_)
    place = np.minimum(np.searchsorted(known, cells), len(known) - 1)
    return np.where(known[place] == cells, place + 1, 0)


def table_input(
    roles: Mapping[Role, Samples], fields: Sequence[str], *, encode: Encode, normalize: Normalize | None
) -> TableInput:
    """Return how the columns of a table become inputs, by what train holds.

    Args:
        roles: samples by role, train among them.
        fields: names of the columns.
        encode: what is done with categories and gaps.
        normalize: of the columns of numbers, in their order; None takes train's own.

    Raises:
        DataError: for gaps that are refused, columns without any number in train, another number of columns than
            ``normalize`` has, or too many values for one-hot.
    """
    train = roles["train"].inputs
    named = [name for name in fields if train[name].dtype.kind == "f"]
    fitted = None if normalize is None else refuse_misfit(normalize, len(named), name="numbers", part="column")
    numbers: list[NumberColumn] = []
    for place, name in enumerate(named):
        if encode.missing == "refuse":
            _refuse_gaps(roles, name)
        values = train[name]
        present = values[~np.isnan(values)]
        if not len(present):
            raise DataError(
                "a column has no number in train", expected="at least 1", got=0, where=name, hint="leave the column out"
            )
        (mean,), (std,) = statistics(present[:, None])
        if fitted is not None:
            mean, std = fitted.mean[place], fitted.std[place]
        median = float(np.median(present)) if encode.missing == "median" else None
        numbers.append(NumberColumn(column=name, mean=mean, std=std, median=median, flagged=len(present) < len(values)))
    categories = tuple(
        CategoryColumn(column=name, values=tuple(map(str, np.unique(train[name]))))
        for name in fields
        if name not in named
    )
    found = TableInput(numbers=tuple(numbers), categories=categories, encode=encode.categories)
    if found.width > MAX_ONE_HOT:
        widest = max(categories, key=lambda column: len(column.values), default=None)
        raise DataError(
            "the categories have too many values for an input each",
            expected=f"at most {MAX_ONE_HOT:,} inputs",
            got=f"{found.width:,}"
            + (f", of which {len(widest.values):,} are values of {widest.column}" if widest else ""),
            where="data.encode.categories",
            hint="leave out columns that name single rows, or give the model numbers to look up: "
            "data.encode: {categories: index}",
        )
    return found


def _refuse_gaps(roles: Mapping[Role, Samples], name: str) -> None:
    for role, samples in roles.items():
        gaps = np.isnan(samples.array[name])
        if gaps.any():
            row = samples.array[int(gaps.argmax())]
            others = [field for field in row.dtype.names if field != name and not row[field].shape]
            beside = ", ".join(f"{field} {row[field]}" for field in others)
            raise DataError(
                "a number is missing",
                expected="a number in every row",
                got=f"{int(gaps.sum()):,} of {len(gaps):,} rows without one; the first has {beside[:120]}",
                where=f"{role}, column {name}",
                hint="leave the column or the rows out, or say data.encode: {missing: median}: train's median, and an "
                "input that says where it stands for a gap",
            )
