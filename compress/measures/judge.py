"""What counts as right: the measure that gates and choices are about, and classes that count as one."""

from collections import Counter
from collections.abc import Mapping
from inspect import isfunction
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from compress.config import Values
from compress.errors import DataError, InputError, listing
from compress.measures.own import AnyMeasure, MeasureName, OwnMeasure, take
from compress.measures.tally import (
    Tally,
    any_of,
    class_counts,
    f1,
    macro_f1,
    matthews,
    mean,
    one_of,
    pearson,
    shares,
    spearman,
)

MAX_RECALLS = 20  # of single classes, reported beside the measures


class Judge(Values):
    """How outputs are judged.

    Attributes:
        measure: what gates and choices are about; None takes accuracy; Pearson's correlation for regression on texts,
            R2 for regression on arrays; the F1 of several labels of arrays; the F1 of entities for tags that begin with
            B and I; and exact matches for texts that are written. One of the user's own is a function in Python, and
            ``{file: my_measure.py, function: top5}`` in a recipe; see `OwnMeasure`.
        merge: classes that count as one for accuracy, by the name they share: ``{ham: [easy-ham, hard-ham]}``. The
            decision is that for the class with the largest output; other measures keep all classes.
    """

    measure: AnyMeasure | None = None
    merge: dict[str, tuple[str, ...]] = {}

    def model_post_init(self, _context: object) -> None:
        """Refuse a function under the name of one of our measures."""
        if isfunction(self.measure) and self.measure.__name__ in get_args(MeasureName):
            raise ValueError(f"{self.measure.__name__!r} is one of our measures; give the function another name")

    def choose(self, fitting: Mapping[str, Tally] | tuple[str, ...]) -> str:
        """Return the measure's name, the first fitting one unless one is named; a function goes by its own.

        Raises:
            DataError: when the named one does not fit the labels.
            InputError: when the file of a function is still to be run.
        """
        if isinstance(self.measure, OwnMeasure):
            got = f"{self.measure.function} of {self.measure.file.name}"
            raise InputError("the measure is in a file that was not run", expected="Recipe.resolve(code=...)", got=got)
        if isfunction(self.measure):
            return self.measure.__name__
        names = tuple(fitting)
        measure = self.measure if isinstance(self.measure, str) else names[0]
        if measure not in names:
            raise DataError(
                "the measure does not fit the labels",
                expected=f"one of {', '.join(names)}",
                got=measure,
                where="data.judge.measure",
            )
        return measure

    def own(self, outputs: NDArray[np.floating], labels: NDArray[Any]) -> dict[str, Tally]:
        """Return the user's own measure by its name, if there is one.

        Args:
            outputs: float [N, C].
            labels: [N] or [N, C].

        Raises:
            DataError: see `take`.
        """
        return {self.measure.__name__: take(self.measure, outputs, labels)} if isfunction(self.measure) else {}

    def group_classes(self, classes: tuple[str, ...]) -> NDArray[np.int64]:
        """Return for each class the number of the group it counts as, int64 [C].

        Raises:
            DataError: when a class is not there, or in two groups.
        """
        group, numbers = np.arange(len(classes)), {name: number for number, name in enumerate(classes)}
        members = [name for names in self.merge.values() for name in names]
        unknown = [name for name in members if name not in numbers]
        twice = [name for name, count in Counter(members).items() if count > 1]
        if unknown or twice:
            raise DataError(
                "data.judge.merge does not fit the classes",
                expected=f"each of {listing(classes)} at most once",
                got=f"{listing(unknown)}, not among them" if unknown else f"{listing(twice)}, in two groups",
                where="data.judge.merge",
            )
        for names in self.merge.values():
            positions = [numbers[name] for name in names]
            group[positions] = min(positions)
        return group


def single_label(
    decided: NDArray[np.integer], labels: NDArray[np.integer], classes: tuple[str, ...], judge: Judge
) -> dict[str, Tally]:
    """Return the measures of decisions for one class each, int [N]."""
    group, count = judge.group_classes(classes), len(classes)
    tallies = {"accuracy": shares(group[decided] == group[labels])}
    if judge.merge:
        tallies["accuracy of all classes"] = shares(decided == labels)
    counts = class_counts(one_of(decided, count=count), one_of(labels, count=count))
    tallies |= {"macro-f1": Tally(counts, macro_f1), "matthews": Tally(counts, matthews)}
    if count <= MAX_RECALLS:
        for number, name in enumerate(classes):
            here = labels == number
            if here.any():
                tallies[f"recall of {name}"] = shares(here & (decided == number), here.astype(np.int64))
    return tallies


def multi_label(decided: NDArray[np.bool_], labels: NDArray[Any]) -> dict[str, Tally]:
    """Return the measures of independent labels, bool [N, C]."""
    right = labels.astype(bool)
    counts = np.stack([(decided & right).sum(1), (decided & ~right).sum(1), (~decided & right).sum(1)], axis=1)
    return {
        "accuracy": shares((decided == right).sum(axis=1), np.full(len(right), right.shape[1])),
        "micro-f1": Tally(counts.astype(np.float64), f1),
        "macro-f1": Tally(class_counts(any_of(decided), any_of(right)), macro_f1),
    }


def regression(outputs: NDArray[np.floating], targets: NDArray[np.floating]) -> dict[str, Tally]:
    """Return the measures of numbers, [N, C]."""
    squares = ((outputs.astype(np.float64) - targets) ** 2).mean(axis=1)
    return {
        "pearson": pearson(outputs, targets),
        "spearman": spearman(outputs, targets),
        "mean squared error": Tally(np.stack([squares, np.ones(len(squares))], axis=1), mean),
    }


def absolute_errors(
    outputs: NDArray[np.floating], targets: NDArray[np.floating], names: tuple[str, ...]
) -> dict[str, Tally]:
    """Return the mean absolute error of each number, [N, C], up to as many as there are recalls."""
    errors, ones = np.abs(outputs.astype(np.float64) - targets), np.ones(len(targets))
    return {
        f"mean absolute error of {name}": Tally(np.stack([errors[:, number], ones], axis=1), mean)
        for number, name in enumerate(names[:MAX_RECALLS])
    }
