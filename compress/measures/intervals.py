"""How sure a number is: percentiles, ratios and accuracies with the guarantee their sample count supports.

Pure functions on arrays. Deliberately absent: a test that turns "no measurable difference" into "equal".
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from compress.measures.tally import Tally

CONFIDENCE = 0.95
RATIO_CONFIDENCE = 0.99
RESAMPLES = 10_000
TALLY_RESAMPLES = 2_000  # each costs a pass over the samples
TALLY_BLOCK = 100
MAX_DRAWN = 5_000_000  # samples at a time, 8 bytes each, three times over
PERCENTILE_CONFIDENCE = 0.99  # MLPerf inference rules, early stopping


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its two-sided interval, all in the unit of the value: 99% for ratios of times, else 95%."""

    value: float
    low: float
    high: float

    def __iter__(self) -> Iterator[float]:
        """Value, low and high, in this order."""
        return iter((self.value, self.low, self.high))


def over_latency_budget(num_samples: int, *, quantile: float) -> int:
    """The largest t for which t samples above the true quantile are ruled out with 99% confidence.

    The number of samples above the true quantile is Binomial(n, 1 - quantile); t is the largest count
    with P(X <= t) <= 0.01. Source: MLPerf inference rules, "early stopping", with tolerance 0.

    Returns:
        0 when the samples are too few for any statement.
    """
    tail = 1.0 - quantile
    counts = np.arange(num_samples)
    # log P(X = k + 1) - log P(X = k), summed up in logarithms because P(X = 0) underflows for long runs.
    steps = np.log((num_samples - counts) / (counts + 1.0)) + math.log(tail / quantile)
    log_first = num_samples * math.log(quantile)
    cumulative = np.cumsum(np.exp(log_first + np.concatenate(([0.0], np.cumsum(steps)))))
    return max(0, int(np.searchsorted(cumulative, 1.0 - PERCENTILE_CONFIDENCE, side="right")) - 1)


def percentile_bound(samples: Sequence[float] | NDArray[np.float64], *, quantile: float) -> float | None:
    """An upper bound of the quantile that holds with 99% confidence, or None when the samples are too few.

    Discards the t - 1 largest samples and reports the next (`over_latency_budget`). p50 needs 11 samples,
    p90 64, p95 130, p99 662. Assumes independent samples; slow drift within a run is not covered.
    """
    budget = over_latency_budget(len(samples), quantile=quantile)
    return float(np.sort(np.asarray(samples, dtype=np.float64))[-budget]) if budget else None


def estimate_ratio(log_ratios: Sequence[float] | NDArray[np.float64], *, seed: int, launches: int = 1) -> Estimate:
    """The ratio of the median round, with a 99% interval; of several launches the geometric mean of theirs.

    Not the mean over rounds: on a shared machine a neighbour slows a block now and then, and a few such blocks
    would hide a difference of percents. Where a process places its weights moves its latency by a percent
    or more for as long as it lives, so rounds of one launch share an error: the bootstrap resamples launches as a
    whole. Few of them make a percentile interval too narrow, so its deviations are stretched by t/z * sqrt(n / (n - 1))
    for n launches, as the expanded percentile interval of Hesterberg (2015, The American Statistician 69, section 4.3)
    does by its level; 4 launches are enough for that. With one launch the error that its rounds share stays unseen, and
    the interval is that of a median by its order statistics, exact for any distribution; it needs 8 rounds.

    Args:
        log_ratios: natural logarithm of the ratio of each round, launch after launch. Rounds, not single calls: the
            calls of a block are correlated, so resampling them would make the interval too narrow.
        seed: of the 10,000 resamples of launches.
        launches: how many fresh processes the rounds were split over, evenly.

    Raises:
        ValueError: without at least two rounds in each launch.
    """
    values = np.asarray(log_ratios, dtype=np.float64)
    if len(values) < 2 * launches or len(values) % launches:
        raise ValueError(f"an interval needs at least 2 rounds in each of {launches} launches, got {len(values)}")
    from scipy.special import bdtrik, stdtrit

    tail = (1 - RATIO_CONFIDENCE) / 2
    if launches == 1:
        # The median lies outside the k-th smallest and k-th largest as often as k - 1 tosses of n or fewer are heads.
        ordered, beyond = np.sort(values), max(0, int(bdtrik(tail, len(values), 0.5)))
        return Estimate(*(math.exp(found) for found in (np.median(values), ordered[beyond], ordered[-1 - beyond])))
    units = np.median(values.reshape(launches, -1), axis=1)
    taken = np.random.default_rng(seed).integers(0, launches, size=(RESAMPLES, launches))
    stretch = -stdtrit(launches - 1, tail) / NormalDist().inv_cdf(1 - tail) * math.sqrt(launches / (launches - 1))
    low, high = units.mean() + stretch * (np.quantile(units[taken].mean(axis=1), [tail, 1 - tail]) - units.mean())
    return Estimate(math.exp(units.mean()), math.exp(low), math.exp(high))


def half_width(ratio: Estimate) -> float:
    """Half the width of a ratio's interval, in natural logarithms: 0.01 is one percent."""
    return math.log(ratio.high / ratio.low) / 2


def wilson_interval(num_correct: int, num_samples: int) -> Estimate:
    """An accuracy (0 to 1) with its Wilson score interval (Wilson 1927; no continuity correction).

    Raises:
        ValueError: without samples, or when num_correct is not between 0 and num_samples.
    """
    if num_samples < 1 or not 0 <= num_correct <= num_samples:
        raise ValueError(f"{num_correct} correct of {num_samples} samples is no accuracy")
    z = 1.959963984540054  # the 0.975 quantile of the normal distribution
    share = num_correct / num_samples
    scale = 1 + z * z / num_samples
    centre = (share + z * z / (2 * num_samples)) / scale
    half = z * math.sqrt(share * (1 - share) / num_samples + (z / (2 * num_samples)) ** 2) / scale
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def estimate_change(correct: NDArray[np.bool_], reference: NDArray[np.bool_], *, seed: int) -> Estimate:
    """Accuracy minus the reference's accuracy on the same ordered samples, with a paired bootstrap interval.

    The change per sample is -1, 0 or 1, so the bootstrap draws the three counts from a multinomial: the
    same distribution as resampling the samples one by one, at none of the cost. It cannot draw what no sample showed:
    where none was lost (or gained), the exact bound of a share seen 0 times is added on that side (Clopper and Pearson
    1934), about 3.7 / n. Two models that were never apart on 100 samples can still differ by 4 points.

    Raises:
        ValueError: when the two arrays are empty or differ in length.
    """
    gained, lost = discordant(correct, reference)
    total = len(correct)
    counts = np.random.default_rng(seed).multinomial(
        total, [gained / total, lost / total, (total - gained - lost) / total], size=RESAMPLES
    )
    changes = (counts[:, 0] - counts[:, 1]) / total
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(changes, [tail, 1 - tail])
    unseen = 1 - tail ** (1 / total)
    low, high = low - unseen * (lost == 0), high + unseen * (gained == 0)
    return Estimate((gained - lost) / total, max(-1.0, float(low)), min(1.0, float(high)))


def mcnemar_p(correct: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Exact two-sided McNemar p-value (McNemar 1947): a sign test on the samples where the two disagree."""
    gained, lost = discordant(correct, reference)
    total = gained + lost
    ways, here = 0, 1
    for k in range(min(gained, lost) + 1):
        ways += here
        here = here * (total - k) // (k + 1)  # ways to choose k + 1; computed anew, each would cost as much as all
    return min(1.0, 2 * ways / 2**total)


def agreement(decisions: NDArray[np.int64], reference: NDArray[np.int64]) -> Estimate:
    """The share of samples (0 to 1) decided alike, right or wrong, with its Wilson interval.

    Raises:
        ValueError: when the two arrays are empty or differ in shape.
    """
    if decisions.shape != reference.shape or not decisions.size:
        raise ValueError(f"decisions do not pair: {decisions.shape} against {reference.shape}")
    return wilson_interval(int((decisions == reference).sum()), decisions.size)


def discordant(correct: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[int, int]:
    """How many samples only the first got right, and how many only the reference did.

    Raises:
        ValueError: when the two arrays are empty or differ in shape.
    """
    if correct.shape != reference.shape or not correct.size:
        raise ValueError(f"samples do not pair: {correct.shape} against {reference.shape}")
    return int((correct & ~reference).sum()), int((~correct & reference).sum())


def measure(tallies: Mapping[str, Tally], *, seed: int) -> dict[str, Estimate]:
    """Measures with their intervals: Wilson's for shares of right samples, else a percentile bootstrap over samples.

    Args:
        tallies: measures of the same samples, by name.
        seed: of the resamples.
    """
    drawn = {name: tally for name, tally in tallies.items() if tally.binary is None}
    resampled = dict(zip(drawn, _resample([*drawn.values()], seed=seed), strict=True))
    return {
        name: _interval(tally.value, resampled[name])
        if tally.binary is None
        else wilson_interval(int(tally.binary.sum()), len(tally.binary))
        for name, tally in tallies.items()
    }


def measure_changes(tallies: Mapping[str, Tally], reference: Mapping[str, Tally], *, seed: int) -> dict[str, Estimate]:
    """Measures minus the reference's on the same ordered samples, with paired bootstrap intervals over samples.

    Args:
        tallies: measures of one model, by name.
        reference: the same measures of another.
        seed: of the resamples, which both share.

    Raises:
        ValueError: when the samples do not pair.
    """
    for name, tally in tallies.items():
        ours, theirs = tally.num_samples, reference[name].num_samples
        if ours != theirs:
            raise ValueError(f"samples do not pair: {ours} against {theirs}")
    pairs = {name: (tally.binary, reference[name].binary) for name, tally in tallies.items()}
    shares = {name: (one, other) for name, (one, other) in pairs.items() if one is not None and other is not None}
    drawn = [name for name in tallies if name not in shares]
    resampled = _resample([side[name] for side in (tallies, reference) for name in drawn], seed=seed)
    changes = {
        name: ours - theirs
        for name, ours, theirs in zip(drawn, resampled[: len(drawn)], resampled[len(drawn) :], strict=True)
    }
    return {
        name: estimate_change(*shares[name], seed=seed)
        if name in shares
        else _interval(tally.value - reference[name].value, changes[name])
        for name, tally in tallies.items()
    }


def sign_test(tally: Tally, reference: Tally) -> float | None:
    """The exact McNemar p-value where the measure is a share of right samples, else None."""
    if tally.binary is None or reference.binary is None:
        return None
    return mcnemar_p(tally.binary, reference.binary)


def _resample(tallies: Sequence[Tally], *, seed: int) -> list[NDArray[np.float64]]:
    """The measures of the same resamples of the samples, float64 [TALLY_RESAMPLES] each."""
    if not tallies:
        return []
    generator, samples = np.random.default_rng(seed), tallies[0].num_samples
    found: list[list[NDArray[np.float64]]] = [[] for _ in tallies]
    block = min(TALLY_BLOCK, max(1, MAX_DRAWN // samples))
    for done in range(0, TALLY_RESAMPLES, block):
        times = _times_drawn(generator, min(block, TALLY_RESAMPLES - done), samples=samples)
        for values, tally in zip(found, tallies, strict=True):
            values.append(tally.of(tally.total(times)))
    return [np.concatenate(values) for values in found]


def _times_drawn(generator: np.random.Generator, resamples: int, *, samples: int) -> NDArray[np.float64]:
    """How often each resample draws each sample, [resamples, samples]: one matrix product evaluates them all."""
    picks = generator.integers(0, samples, size=(resamples, samples))
    picks += np.arange(resamples)[:, None] * samples
    times = np.bincount(picks.ravel(), minlength=resamples * samples)
    return times.reshape(resamples, samples).astype(np.float64)


def _interval(value: float, resampled: NDArray[np.float64]) -> Estimate:
    low, high = np.nanquantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))
