"""Measures as sums over samples: accuracy, F1, Matthews, entity F1, correlations, each with what it is computed from.

A measure is a function of a sum of numbers that each sample contributes (its tally). So one matrix product evaluates it
on every resample of a bootstrap, and two models are compared on the same resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """What each sample contributes to a measure.

    Attributes:
        counts: float64 [N, K].
        of: the measure of a sum of contributions: [..., K] to [...]; NaN where it is not defined.
    """

    counts: Numbers
    of: Callable[[Numbers], Numbers]

    @property
    def value(self) -> float:
        """The measure of all samples."""
        return float(self.of(self.counts.sum(axis=0)))

    @property
    def binary(self) -> NDArray[np.bool_] | None:
        """Whether each sample that counts is right, bool, when the measure is the share of right ones; else None."""
        if self.of is not ratio or not np.isin(self.counts, (0, 1)).all():
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
    """Return the mean of the F1 of each class, from three numbers a class."""
    return f1(total.reshape(*total.shape[:-1], -1, 3)).mean(axis=-1)


def matthews(total: Numbers) -> Numbers:
    """Return the correlation coefficient of a confusion matrix [..., C * C], rows the labels; 0 when one is constant.

    Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient", equation 8; for two
    classes it is Matthews' coefficient.
    """
    size = round(total.shape[-1] ** 0.5)
    table = total.reshape(*total.shape[:-1], size, size)
    samples, right = table.sum(axis=(-1, -2)), np.trace(table, axis1=-2, axis2=-1)
    labels, decided = table.sum(axis=-1), table.sum(axis=-2)
    covariance = right * samples - (labels * decided).sum(axis=-1)
    spread = (samples**2 - (labels**2).sum(axis=-1)) * (samples**2 - (decided**2).sum(axis=-1))
    return np.where(spread > 0, covariance / np.sqrt(np.maximum(spread, 1e-300)), 0.0)


def correlation(total: Numbers) -> Numbers:
    """Return Pearson's coefficient from n and the sums of x, y, xx, yy and xy, the mean over outputs; 0 if constant."""
    n, x, y, xx, yy, xy = np.moveaxis(total.reshape(*total.shape[:-1], -1, 6), -1, 0)
    spread = (n * xx - x**2) * (n * yy - y**2)
    return np.where(spread > 1e-12 * n**4, (n * xy - x * y) / np.sqrt(np.maximum(spread, 1e-300)), 0.0).mean(axis=-1)


def shares(right: NDArray[np.floating] | NDArray[np.bool_], counts: NDArray[np.integer] | None = None) -> Tally:
    """Return the share of right units.

    Args:
        right: how many units of each sample are right, [N].
        counts: how many it has, [N]; None means 1.
    """
    total = np.ones(len(right)) if counts is None else counts
    return Tally(np.stack([right, total], axis=1).astype(np.float64), ratio)


def class_f1(decided: NDArray[np.bool_], labels: NDArray[np.bool_]) -> Tally:
    """Return macro-averaged F1 from decisions and labels, one column a class, bool [N, C]."""
    counts = np.stack([decided & labels, decided & ~labels, ~decided & labels], axis=2)
    return Tally(counts.reshape(len(decided), -1).astype(np.float64), macro_f1)


def confusion(decided: NDArray[np.integer], labels: NDArray[np.integer], *, classes: int) -> Tally:
    """Return Matthews' coefficient of decisions and labels, int [N]."""
    counts = np.zeros((len(decided), classes * classes))
    counts[np.arange(len(decided)), labels * classes + decided] = 1
    return Tally(counts, matthews)


def pearson(outputs: NDArray[np.floating], targets: NDArray[np.floating]) -> Tally:
    """Return Pearson's coefficient of outputs and targets, [N, C], the mean over the outputs."""
    # Shifted and scaled, which changes no correlation, so that sums of squares lose no digits.
    sides = (outputs.astype(np.float64), targets.astype(np.float64))
    x, y = ((side - side.mean(axis=0)) / np.maximum(side.std(axis=0), 1e-300) for side in sides)
    counts = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=2)
    return Tally(counts.reshape(len(x), -1).astype(np.float64), correlation)


def spearman(outputs: NDArray[np.floating], targets: NDArray[np.floating]) -> Tally:
    """Return Spearman's coefficient, ties at their mean rank; resamples keep the ranks of all samples."""
    from scipy.stats import rankdata

    return pearson(rankdata(outputs, axis=0), rankdata(targets, axis=0))


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
