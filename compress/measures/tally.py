"""Measures as sums over samples: accuracy, F1, Matthews, entity F1, correlations, each with what it is computed from.

A measure is a function of a sum of numbers that each sample contributes (its tally). So one matrix product evaluates it
on every resample of a bootstrap, and two models are compared on the same resamples. Where a measure is of classes, a
sample contributes to the few that it is of or was taken for, so that tallies grow with samples and not with classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """What each sample contributes to a measure.

    Attributes:
        counts: float64 [N, K]; sparse where a sample contributes to few of many numbers.
        of: the measure of a sum of contributions: [..., K] to [...]; NaN where it is not defined.
    """

    counts: "Numbers | csr_array"
    of: Callable[[Numbers], Numbers]

    @property
    def num_samples(self) -> int:
        """How many samples contribute."""
        return self.counts.shape[0]  # pyright: ignore[reportOptionalSubscript] # SciPy's stub of sparse arrays

    @property
    def value(self) -> float:
        """The measure of all samples."""
        return float(self.of(self.counts.sum(axis=0)))

    def total(self, times: Numbers) -> Numbers:
        """Return the sums of contributions, float64 [..., K].

        Args:
            times: how often each sample counts, float64 [..., N].
        """
        # In C order, as a dense product gives it: the order in memory decides the last bits of a sum over classes.
        return np.ascontiguousarray(times @ self.counts)

    @property
    def binary(self) -> NDArray[np.bool_] | None:
        """Whether each sample that counts is right, bool, when the measure is the share of right ones; else None."""
        if self.of is not ratio or not isinstance(self.counts, np.ndarray) or not np.isin(self.counts, (0, 1)).all():
            return None
        return self.counts[self.counts[:, 1] == 1, 0] == 1


def ratio(total: Numbers) -> Numbers:
    """Return the first number over the second."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return total[..., 0] / total[..., 1]


def mean(total: Numbers) -> Numbers:
    """Return the first number over the second, which is no share."""
    return ratio(total)


def f1(total: Numbers) -> Numbers:
    """Return 2 TP / (2 TP + FP + FN) of true positives, false positives and false negatives; 0 without any of them."""
    right, wrong, missed = np.moveaxis(total, -1, 0)
    return 2 * right / np.maximum(2 * right + wrong + missed, 1e-300)


def macro_f1(total: Numbers) -> Numbers:
    """Return the mean of the F1 of each class that is a label or decided at all, from `class_counts` [..., 3 C].

    A resample's mean is over the classes that it holds; without any it is 0. For single classes that is scikit-learn's
    default, and for several labels its ``zero_division=nan``: a class that never occurs tells nothing of a model.
    """
    labels, decided, right = by_class(total)
    occurrences = labels + decided
    found = 2 * right / np.maximum(occurrences, 1)
    return found.sum(axis=-1) / np.maximum((occurrences > 0).sum(axis=-1), 1)


def matthews(total: Numbers) -> Numbers:
    """Return the correlation coefficient of decisions and labels, from `class_counts`; 0 when one is constant.

    Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient", equation 8; for two
    classes it is Matthews' coefficient. Of the confusion matrix it needs the sums of rows and columns and the diagonal.
    """
    labels, decided, right = by_class(total)
    samples = labels.sum(axis=-1)
    covariance = right.sum(axis=-1) * samples - (labels * decided).sum(axis=-1)
    spread = (samples**2 - (labels**2).sum(axis=-1)) * (samples**2 - (decided**2).sum(axis=-1))
    return np.where(spread > 0, covariance / np.sqrt(np.maximum(spread, 1e-300)), 0.0)


def correlation(total: Numbers) -> Numbers:
    """Return Pearson's coefficient from n and the sums of x, y, xx, yy and xy: the mean over targets y that vary.

    An output x that does not vary has none and counts as 0, which the model could help; a target that does not, in the
    data or in a resample, tells nothing of a model. Without any that does, it is 0.
    """
    n, x, y, xx, yy, xy = np.moveaxis(total.reshape(*total.shape[:-1], -1, 6), -1, 0)
    spread_y = n * yy - y**2
    spread = (n * xx - x**2) * spread_y
    found = np.where(spread > 1e-12 * n**4, (n * xy - x * y) / np.sqrt(np.maximum(spread, 1e-300)), 0.0)
    varies = spread_y > 1e-12 * n**2
    return (found * varies).sum(axis=-1) / np.maximum(varies.sum(axis=-1), 1)


def shares(right: NDArray[np.floating] | NDArray[np.bool_], counts: NDArray[np.integer] | None = None) -> Tally:
    """Return the share of right units.

    Args:
        right: how many units of each sample are right, [N].
        counts: how many it has, [N]; None means 1.
    """
    total = np.ones(len(right)) if counts is None else counts
    return Tally(np.stack([right, total], axis=1).astype(np.float64), ratio)


def one_of(classes: NDArray[np.integer], *, count: int) -> "csr_array":
    """Return which class each sample is of, 0 or 1 for each, float64 [N, C] that stores the ones alone.

    Args:
        classes: of each sample, int [N], 0 to C - 1.
        count: how many there are, C.
    """
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(classes)), classes, np.arange(len(classes) + 1)), shape=(len(classes), count))


def any_of(classes: NDArray[np.bool_]) -> "csr_array":
    """Return which classes each sample is of, from bool [N, C]: float64 [N, C] that stores the ones alone."""
    from scipy.sparse import csr_array

    return csr_array(classes, dtype=np.float64)


def class_counts(decided: "csr_array", labels: "csr_array") -> "csr_array":
    """Return for each sample which classes are its labels, which are decided, and which are both, [N, 3 C].

    Args:
        decided: see `one_of` and `any_of`.
        labels: likewise.
    """
    from scipy.sparse import csr_array, hstack

    return csr_array(hstack([labels, decided, labels.multiply(decided)]))


def by_class(total: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Return how often each class is a label, is decided and is both, [..., C] each, from `class_counts`."""
    labels, decided, right = np.moveaxis(total.reshape(*total.shape[:-1], 3, -1), -2, 0)
    return labels, decided, right


def pearson(outputs: NDArray[np.floating], targets: NDArray[np.floating]) -> Tally:
    """Return Pearson's coefficient of outputs and targets, [N, C], the mean over the targets that vary."""
    # Shifted and scaled, which changes no correlation, so that sums of squares lose no digits.
    sides = (outputs.astype(np.float64), targets.astype(np.float64))
    x, y = ((side - side.mean(axis=0)) / np.maximum(side.std(axis=0), 1e-300) for side in sides)
    counts = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=2)
    return Tally(counts.reshape(len(x), -1).astype(np.float64), correlation)


def spearman(outputs: NDArray[np.floating], targets: NDArray[np.floating]) -> Tally:
    """Return Spearman's coefficient, ties at their mean rank; resamples keep the ranks of all samples."""
    from scipy.stats import rankdata

    return pearson(rankdata(outputs, axis=0), rankdata(targets, axis=0))


def determination(total: Numbers) -> Numbers:
    """Return the share of variance explained, from n and the sums of y, yy and squared errors: the mean over targets.

    A target that does not vary, in the data or in a resample, tells nothing of a model. Without any that does, it is 0.
    """
    n, y, yy, errors = np.moveaxis(total.reshape(*total.shape[:-1], -1, 4), -1, 0)
    spread = yy - y**2 / np.maximum(n, 1)
    varies = spread > 1e-12 * n
    found = np.where(varies, 1 - errors / np.where(varies, spread, 1.0), 0.0)
    return found.sum(axis=-1) / np.maximum(varies.sum(axis=-1), 1)


def r2(outputs: NDArray[np.floating], targets: NDArray[np.floating]) -> Tally:
    """Return the coefficient of determination of outputs and targets, [N, C], the mean over the targets that vary.

    1 for outputs that are the targets, 0 for their mean, below 0 for worse than that.
    """
    x, y = outputs.astype(np.float64), targets.astype(np.float64)
    mean, std = y.mean(axis=0), y.std(axis=0)
    std[std == 0] = 1
    # Shifted and scaled, which changes nothing, so that sums of squares lose no digits.
    scaled, errors = (y - mean) / std, ((x - y) / std) ** 2
    counts = np.stack([np.ones_like(y), scaled, scaled**2, errors], axis=2)
    return Tally(counts.reshape(len(y), -1), determination)


def entities(
    decided: Sequence[NDArray[np.integer]], labels: Sequence[NDArray[np.integer]], names: Sequence[str]
) -> Tally:
    """Return the F1 of whole entities: right when type, first and last word are all right (CoNLL 2003).

    Args:
        decided: the tags of each sample's words.
        labels: the right ones.
        names: of the tags: ``O``, ``B-<type>``, ``I-<type>``.
    """
    counts = np.zeros((len(decided), 3))
    for position, pair in enumerate(zip(decided, labels, strict=True)):
        found, right = (spans([str(names[tag]) for tag in tags]) for tags in pair)
        counts[position] = len(found & right), len(found - right), len(right - found)
    return Tally(counts, f1)


def name_entities(names: Sequence[str]) -> bool:
    """Whether tags are ``O``, ``B-<type>`` and ``I-<type>``."""
    return "O" in names and all(name == "O" or name[:2] in ("B-", "I-") for name in names)


def spans(tags: Sequence[str]) -> frozenset[tuple[str, int, int]]:
    """Return the entities of a sentence as (type, first word, word after the last).

    As conlleval and seqeval read it by default, an ``I`` that continues nothing of its type begins an entity.
    """
    found: set[tuple[str, int, int]] = set()
    kind: str | None = None
    start = 0
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind is not None and (prefix != "I" or name != kind):
            found.add((kind, start, position))
            kind = None
        if prefix != "O" and kind is None:
            kind, start = name, position
    return frozenset(found)
