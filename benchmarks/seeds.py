"""Arms compared seed by seed: paired differences, their t interval and test, corrected for how many are compared."""

import math
import statistics
from collections.abc import Mapping, Sequence

from scipy import stats


def differences(values: Mapping[tuple[str, int], float], arm: str, rival: str) -> list[float]:
    """Return one arm minus another for every seed that both have, by seed.

    Args:
        values: by arm and seed.
        arm: the minuend.
        rival: the subtrahend.
    """
    seeds = sorted({seed for name, seed in values if name == arm} & {seed for name, seed in values if name == rival})
    return [values[arm, seed] - values[rival, seed] for seed in seeds]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean with its 95% t interval: value, low, high.

    Raises:
        statistics.StatisticsError: with fewer than two values.
    """
    mean = statistics.mean(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def p_value(values: Sequence[float]) -> float:
    """Return the two-sided p-value of a t test of mean 0; 1 when nothing varies, which proves nothing."""
    if statistics.stdev(values) == 0:
        return 1.0
    return float(stats.ttest_1samp(values, 0).pvalue)  # pyright: ignore[reportAttributeAccessIssue] # untyped stubs


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for their number (Holm 1979): step-down, each at least the one before."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for index, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - index) * p))
        adjusted[name] = largest
    return adjusted


def show(estimate: tuple[float, float, float]) -> str:
    """Return a difference with its interval, two digits after the point, signed."""
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*estimate)
