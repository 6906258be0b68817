"""Edits against an independent count, and measures of what was written by hand."""

import itertools
from functools import cache

import numpy as np
import pytest

from compress.measures.edits import edit_distance, judge_written, nearest
from compress.measures.intervals import measure_changes


@cache
def by_definition(one: str, other: str) -> int:
    if not one or not other:
        return len(one) + len(other)
    replaced = by_definition(one[1:], other[1:]) + (one[0] != other[0])
    return min(replaced, by_definition(one[1:], other) + 1, by_definition(one, other[1:]) + 1)


def test_the_distance_is_that_of_the_definition():
    words = ["".join(letters) for size in range(5) for letters in itertools.product("ab", repeat=size)]
    for one, other in itertools.product(words, words):
        assert edit_distance(one, other) == by_definition(one, other)
    assert edit_distance("kitten", "sitting") == 3


def test_of_several_answers_the_one_with_the_lowest_rate_counts():
    assert nearest("abc", ["abcd", "ab"]) == (1, 4)  # one in four is less than one in two
    assert nearest("abc", ["xyz", "abc"]) == (0, 3)


def test_the_measures_are_sums_over_samples():
    found = judge_written(["ab", "abc", ""], [["ab"], ["abd", "axyz"], ["a"]])
    assert found["exact-match"].value == pytest.approx(1 / 3)
    assert found["token-error-rate"].value == pytest.approx(2 / 6)
    assert found["token-accuracy"].value == pytest.approx(4 / 6)
    assert found["length-ratio"].value == pytest.approx(5 / 6)
    assert found["exact-match"].binary is not None


def test_differences_of_two_writers_are_paired():
    right = [["abcd"]] * 40
    worse, better = judge_written(["abcx"] * 40, right), judge_written(["abcx"] * 20 + ["abcd"] * 20, right)
    changes = measure_changes(better, worse, seed=0)
    assert changes["token-accuracy"].value == pytest.approx(0.125)
    assert changes["exact-match"].low > 0
    assert np.isfinite([*changes["token-error-rate"]]).all()
