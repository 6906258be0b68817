import importlib.util
import math
import statistics
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "seeds.py"
spec = importlib.util.spec_from_file_location("benchmarks_seeds", SOURCE)
seeds = importlib.util.module_from_spec(spec)
spec.loader.exec_module(seeds)


def test_only_seeds_that_both_arms_have_are_paired():
    values = {("a", 2): 5.0, ("a", 0): 1.0, ("a", 1): 9.0, ("b", 0): 4.0, ("b", 2): 3.0, ("c", 1): 7.0}
    assert seeds.differences(values, "a", "b") == [-3.0, 2.0]


def test_the_interval_and_p_of_three_values_are_those_of_two_degrees_of_freedom():
    values = [1.0, 2.0, 6.0]
    t = statistics.mean(values) / (statistics.stdev(values) / math.sqrt(3))
    assert seeds.p_value(values) == pytest.approx(1 - t / math.sqrt(2 + t * t))  # in closed form for two degrees
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    half = quantile * statistics.stdev(values) / math.sqrt(3)
    assert seeds.interval(values) == pytest.approx((3.0, 3.0 - half, 3.0 + half))


def test_equal_differences_prove_nothing():
    assert seeds.p_value([0.5, 0.5, 0.5]) == 1.0


def test_holm_multiplies_by_how_many_are_left_and_never_falls():
    found = seeds.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9})
    assert found == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.9})
