"""Arms compared seed by seed: paired differences, their t interval and test, corrected for how many are compared."""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
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


def answers(
    questions: Sequence[tuple[str, str, str]],
    values: Mapping[tuple[str, int], float],
    samples: Mapping[str, NDArray[np.float64]],
    *,
    larger_is_better: bool,
) -> list[str]:
    """Return a row of Markdown for each question: the difference over seeds, over samples, p after Holm, the answer.

    Args:
        questions: what is asked, the arm and its rival.
        values: the measure in points, by arm and seed.
        samples: the same for each sample [N], mean over seeds, by arm.
        larger_is_better: whether a positive difference is a gain.
    """
    gains = {question: differences(values, ours, rival) for question, ours, rival in questions}
    adjusted = holm({question: p_value(found) for question, found in gains.items()})
    rows = []
    for question, ours, rival in questions:
        over_seeds = interval(gains[question])
        _, low, high = interval((samples[ours] - samples[rival]).tolist())
        p, gained = adjusted[question], (over_seeds[0] > 0) == larger_is_better
        answer = "cannot tell" if p >= 0.05 else "yes" if gained else "no, it is worse"
        rows.append(
            f"| {question} ({ours} - {rival}) | {show(over_seeds)} | [{low:+.2f}, {high:+.2f}] | {show_p(p)} "
            f"| {answer} |"
        )
    return rows


def show_p(p: float) -> str:
    """Return a p-value with three digits after the point."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def show(estimate: tuple[float, float, float]) -> str:
    """Return a difference with its interval, two digits after the point, signed."""
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*estimate)
