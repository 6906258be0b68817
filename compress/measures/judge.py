"""What counts as right: the measure that gates and choices are about, and classes that count as one."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.config import Values
from compress.errors import DataError, listing
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

MeasureName = Literal["accuracy", "macro-f1", "micro-f1", "matthews", "entity-f1", "pearson", "spearman"]
MAX_RECALLS = 20  # of single classes, reported beside the measures


class Judge(Values):
    """How outputs are judged.

    Attributes:
        measure: what gates and choices are about; None takes accuracy, Pearson's correlation for regression, and the F1
            of entities for tags that begin with B and I.
        merge: classes that count as one for accuracy, by the name they share: ``{ham: [easy-ham, hard-ham]}``. The
            decision is that for the class with the largest output; other measures keep all classes.
    """

    measure: MeasureName | None = None
    merge: dict[str, tuple[str, ...]] = {}

    def chosen(self, fitting: Mapping[str, Tally] | tuple[str, ...]) -> str:
        """Return the measure's name, the first fitting one unless one is named.

        Raises:
            DataError: when the named one does not fit the labels.
        """
        names = tuple(fitting)
        if self.measure is not None and self.measure not in names:
            raise DataError(
                "the measure does not fit the labels",
                expected=f"one of {', '.join(names)}",
                got=self.measure,
                where="data.judge.measure",
            )
        return self.measure or names[0]

    def merged(self, classes: tuple[str, ...]) -> NDArray[np.int64]:
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
    group, count = judge.merged(classes), len(classes)
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
