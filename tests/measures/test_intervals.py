import math

import numpy as np
import pytest
from scipy import stats

from compress.measures import intervals

SMALLEST_COUNT = {0.50: 11, 0.90: 64, 0.95: 130, 0.99: 662}  # from the MLPerf formula


@pytest.mark.parametrize(("quantile", "count"), SMALLEST_COUNT.items())
def test_a_percentile_needs_the_sample_count_of_the_mlperf_table(quantile: float, count: int):
    assert intervals.percentile_bound(np.arange(count - 1.0), quantile=quantile) is None
    assert intervals.percentile_bound(np.arange(float(count)), quantile=quantile) == count - 1


@pytest.mark.parametrize("quantile", SMALLEST_COUNT)
@pytest.mark.parametrize("count", [1, 10, 64, 700, 6636, 50_000])
def test_the_over_latency_budget_is_the_binomial_quantile_of_scipy(quantile: float, count: int):
    allowed = np.flatnonzero(stats.binom.cdf(np.arange(count + 1), count, 1 - quantile) <= 0.01)
    expected = int(allowed[-1]) if len(allowed) else 0
    assert intervals.over_latency_budget(count, quantile=quantile) == expected


def test_the_percentile_bound_covers_the_true_quantile_as_often_as_it_promises():
    draws = np.random.default_rng(0).exponential(size=(2000, 700))
    true_p90 = -math.log(0.1)
    covered = np.mean([intervals.percentile_bound(row, quantile=0.9) >= true_p90 for row in draws])
    assert covered >= 0.985


@pytest.mark.parametrize("rounds", [8, 15, 40, 41])
def test_the_interval_of_one_launch_is_scipys_of_a_median(rounds: int):
    logs = np.random.default_rng(1).normal(math.log(3), 0.05, size=rounds)
    ours = intervals.estimate_ratio(logs, seed=0)
    theirs = stats.quantile_test(logs, p=0.5).confidence_interval(0.99)
    assert ours.value == pytest.approx(float(np.exp(np.median(logs))))
    assert (ours.low, ours.high) == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)))


def test_the_interval_of_one_launch_covers_as_often_as_it_promises():
    draws = np.random.default_rng(0).exponential(size=(4000, 15)) - math.log(2)  # skewed; the median is 0
    found = [intervals.estimate_ratio(row, seed=0) for row in draws]
    assert np.mean([estimate.low <= 1 <= estimate.high for estimate in found]) >= 0.988


def test_fewer_rounds_than_an_interval_needs_give_their_range():
    assert intervals.estimate_ratio(np.log([2.0, 1.0, 4.0]), seed=0) == pytest.approx(intervals.Estimate(2.0, 1.0, 4.0))


def test_the_interval_over_launches_is_near_students_of_their_medians():
    logs = np.random.default_rng(2).normal(math.log(3), 0.05, size=(8, 5))
    medians = np.median(logs, axis=1)
    ours = intervals.estimate_ratio(logs.ravel(), seed=0, launches=8)
    low, high = stats.t.interval(0.99, 7, medians.mean(), stats.sem(medians))
    assert ours.value == pytest.approx(math.exp(medians.mean()))
    assert (math.log(ours.low), math.log(ours.high)) == pytest.approx((low, high), rel=0.02)


@pytest.mark.parametrize("launches", [4, 8])
def test_the_interval_over_launches_covers_what_rounds_alone_miss(launches: int):
    rng = np.random.default_rng(0)
    covered = {1: 0, launches: 0}
    for _ in range(300):  # equal models: a launch shifts its rounds by 1%, a round by 0.2%
        logs = (rng.normal(0, 0.01, (launches, 1)) + rng.normal(0, 0.002, (launches, 20))).ravel()
        for split in covered:
            found = intervals.estimate_ratio(logs, seed=0, launches=split)
            covered[split] += found.low <= 1 <= found.high
    assert covered[launches] >= 290  # 99% of 300, less three standard deviations
    assert covered[1] < 250


def test_bursts_that_slow_a_few_blocks_do_not_hide_a_difference_of_percents():
    rng = np.random.default_rng(0)
    found = []
    for seed in range(50):  # a slowdown of 3%; every fifth block of either model takes half as long again
        bursts = math.log(1.5) * (rng.random((2, 160)) < 0.2)
        logs = rng.normal(-math.log(1.03), 0.01, 160) + bursts[0] - bursts[1]
        found.append(intervals.estimate_ratio(logs, seed=seed, launches=8))
    assert sum(estimate.high < 1 for estimate in found) >= 49
    assert sum(estimate.low <= 1 / 1.03 <= estimate.high for estimate in found) >= 47


def test_half_the_width_of_an_interval_is_in_logarithms():
    assert intervals.half_width(intervals.Estimate(1.0, 1 / 1.02, 1.02)) == pytest.approx(math.log(1.02))


def test_the_ratio_interval_repeats_with_its_seed_and_needs_two_rounds():
    logs = [0.1, 0.2, 0.3]
    assert intervals.estimate_ratio(logs, seed=5) == intervals.estimate_ratio(logs, seed=5)
    with pytest.raises(ValueError, match="2 rounds"):
        intervals.estimate_ratio([0.1], seed=0)


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (93, 100), (9350, 10_000), (1, 1)])
def test_the_wilson_interval_is_scipys(correct: int, total: int):
    ours = intervals.wilson_interval(correct, total)
    theirs = stats.binomtest(correct, total).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_paired_change_agrees_with_resampling_one_by_one():
    rng = np.random.default_rng(2)
    reference = rng.random(1500) < 0.95
    correct = np.where(rng.random(1500) < 0.03, ~reference, reference)
    ours = intervals.estimate_change(correct, reference, seed=0)
    difference = correct.astype(float) - reference.astype(float)
    theirs = stats.bootstrap((difference,), np.mean, method="percentile", n_resamples=10_000, random_state=1)
    assert ours.value == pytest.approx(difference.mean())
    interval = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=1.01 / 1500)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (12, 0), (0, 12), (12, 12)])
def test_a_change_that_no_sample_showed_is_not_ruled_out(gained: int, lost: int):
    total = 400
    correct = np.array([True] * gained + [False] * lost + [True] * (total - gained - lost))
    reference = np.array([False] * gained + [True] * lost + [True] * (total - gained - lost))
    ours = intervals.estimate_change(correct, reference, seed=0)
    difference = correct.astype(float) - reference.astype(float)
    theirs = np.quantile(np.random.default_rng(1).choice(difference, (10_000, total)).mean(axis=1), [0.025, 0.975])
    never = stats.binomtest(0, total).proportion_ci(0.95, method="exact").high
    assert ours.low == pytest.approx(theirs[0] - (never if lost == 0 else 0), abs=1.01 / total)
    assert ours.high == pytest.approx(theirs[1] + (never if gained == 0 else 0), abs=1.01 / total)
    assert ours.low < ours.value < ours.high


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 9), (9, 3), (5, 5), (0, 12), (6000, 6200)])
def test_mcnemar_is_scipys_exact_sign_test(gained: int, lost: int):
    correct = np.array([True] * gained + [False] * lost + [True] * 20)
    reference = np.array([False] * gained + [True] * lost + [True] * 20)
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert intervals.mcnemar_p(correct, reference) == pytest.approx(expected)


def test_agreement_counts_equal_decisions_and_refuses_unpaired_ones():
    assert intervals.agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 0])).value == 0.75
    with pytest.raises(ValueError, match="do not pair"):
        intervals.agreement(np.array([1, 2]), np.array([1]))
