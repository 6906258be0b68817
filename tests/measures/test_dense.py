"""Sparse tallies against formulas on whole resamples, and what they take of memory with many classes."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from compress.measures import intervals
from compress.measures.intervals import TALLY_BLOCK, TALLY_RESAMPLES, measure, measure_changes
from compress.measures.judge import Judge, multi_label, regression, single_label
from compress.measures.tally import Tally, entities, spans

CLASSES = ("a", "b", "c", "d")
TAGS = ("O", "B-X", "I-X", "B-Y")
SAMPLES = 150
Formula = Callable[[np.ndarray, np.ndarray], float]
Case = tuple[list[dict[str, Tally]], np.ndarray, list[np.ndarray], dict[str, Formula]]  # tallies, labels, two sides


def macro_f1(decided: np.ndarray, right: np.ndarray) -> float:
    """From one column a class, bool [N, C]; over the classes that occur."""
    found, wrong, missed = (decided & right).sum(0), (decided & ~right).sum(0), (~decided & right).sum(0)
    there = found + wrong + missed > 0
    return float((2 * found / (2 * found + wrong + missed + ~there))[there].mean())


def micro_f1(decided: np.ndarray, right: np.ndarray) -> float:
    found, wrong, missed = (decided & right).sum(), (decided & ~right).sum(), (~decided & right).sum()
    return float(2 * found / (2 * found + wrong + missed))


def one_hot(numbers: np.ndarray) -> np.ndarray:
    return numbers[:, None] == np.arange(len(CLASSES))


def covariance_of_classes(decided: np.ndarray, right: np.ndarray) -> float:
    """Gorodkin's definition of the K-category coefficient, by centred one-hot columns."""
    x, y = (one_hot(side) - one_hot(side).mean(0) for side in (decided, right))
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def correlation(outputs: np.ndarray, targets: np.ndarray) -> float:
    columns = zip(outputs.T.astype(float), targets.T.astype(float), strict=True)
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in columns]))


def entity_f1(decided: np.ndarray, right: np.ndarray) -> float:
    """Over the entities of all sentences, each with the number of its sentence; arrays of spans [N]."""
    found, wanted = (sum(map(len, side)) for side in (decided, right))
    return 2 * sum(len(one & other) for one, other in zip(decided, right, strict=True)) / (found + wanted)


def bootstrapped(formula: Formula, right: np.ndarray, *sides: np.ndarray, seed: int) -> list[float]:
    """Return the interval of a measure, or of the first side's minus the second's, resample by resample."""
    generator, values = np.random.default_rng(seed), []
    for _ in range(TALLY_RESAMPLES // TALLY_BLOCK):
        for rows in generator.integers(0, len(right), (TALLY_BLOCK, len(right))):
            ours, *theirs = (formula(side[rows], right[rows]) for side in sides)
            values.append(ours - sum(theirs))
    return np.quantile(values, [0.025, 0.975]).tolist()


def altered(generator: np.random.Generator, labels: np.ndarray, classes: int) -> np.ndarray:
    """Two decisions of each label, right more often than not, [2, N, ...]."""
    shape = (2, *labels.shape)
    return np.where(generator.random(shape) < 0.7, labels, generator.integers(classes, size=shape))


def single(**judge: Any) -> Case:
    generator = np.random.default_rng(1)
    labels = generator.choice(4, SAMPLES, p=[0.2, 0.2, 0.25, 0.35])
    sides = [*altered(generator, labels, 4)]
    formulas: dict[str, Formula] = {
        "macro-f1": lambda ours, right: macro_f1(one_hot(ours), one_hot(right)),
        "matthews": covariance_of_classes,
    }
    return [single_label(side, labels, CLASSES, Judge(**judge)) for side in sides], labels, sides, formulas


def several() -> Case:
    generator = np.random.default_rng(2)
    labels = (generator.random((SAMPLES, 3)) < (0.5, 0.3, 0.2)).astype(np.uint8)
    sides = [*altered(generator, labels, 2).astype(bool)]
    formulas: dict[str, Formula] = {
        "accuracy": lambda ours, right: float((ours == right).mean()),
        "micro-f1": micro_f1,
        "macro-f1": macro_f1,
    }
    return [multi_label(side, labels) for side in sides], labels.astype(bool), sides, formulas


def numbers() -> Case:
    generator = np.random.default_rng(3)
    targets = generator.standard_normal((SAMPLES, 2)).astype(np.float32)
    sides = [(targets + generator.standard_normal(targets.shape)).astype(np.float32) for _ in range(2)]
    formulas: dict[str, Formula] = {
        "pearson": correlation,
        "mean squared error": lambda ours, right: float(((ours.astype(float) - right) ** 2).mean()),
    }
    return [regression(side, targets) for side in sides], targets, sides, formulas


def rare() -> Case:
    """Half of the resamples lack a class, and one is never there."""
    generator = np.random.default_rng(5)
    labels = generator.integers(2, size=SAMPLES)
    sides = [*altered(generator, labels, 2)]
    labels[0] = sides[0][0] = 2
    formulas: dict[str, Formula] = {"macro-f1": lambda ours, right: macro_f1(one_hot(ours), one_hot(right))}
    return [single_label(side, labels, CLASSES, Judge()) for side in sides], labels, sides, formulas


def ranks() -> Case:
    """Resamples keep the ranks of all samples."""
    tallies, targets, sides, _ = numbers()
    ranked = [rankdata(side, axis=0) for side in sides]
    return tallies, rankdata(targets, axis=0), ranked, {"spearman": correlation}


def tagged() -> Case:
    generator = np.random.default_rng(4)
    tags = generator.integers(len(TAGS), size=(SAMPLES, 6))
    sides = [*altered(generator, tags, len(TAGS))]

    def found(rows: np.ndarray) -> np.ndarray:
        return np.array([spans([TAGS[tag] for tag in row]) for row in rows], dtype=object)

    tallies = [{"entity-f1": entities([*side], [*tags], TAGS)} for side in sides]
    return tallies, found(tags), [found(side) for side in sides], {"entity-f1": entity_f1}


@pytest.mark.parametrize("kind", [single, rare, several, numbers, ranks, tagged])
def test_values_and_intervals_are_those_of_the_formulas_on_each_resample(kind):
    (tallies, other), right, (ours, theirs), formulas = kind()
    alone = measure(tallies, seed=7)
    change = measure_changes(tallies, other, seed=8)
    for name, formula in formulas.items():
        expected = [formula(ours, right), *bootstrapped(formula, right, ours, seed=7)]
        assert [alone[name].value, alone[name].low, alone[name].high] == pytest.approx(expected, abs=1e-12), name
        expected = [
            formula(ours, right) - formula(theirs, right),
            *bootstrapped(formula, right, ours, theirs, seed=8),
        ]
        assert [change[name].value, change[name].low, change[name].high] == pytest.approx(expected, abs=1e-12), name


def test_merged_classes_change_no_other_measure():
    plain, merged = measure(single()[0][0], seed=0), measure(single(merge={"ham": ("a", "c")})[0][0], seed=0)
    assert all(merged[name] == plain[name] for name in plain if name != "accuracy")
    assert merged["accuracy of all classes"] == plain["accuracy"]


def test_many_samples_are_drawn_in_smaller_blocks_and_the_same(monkeypatch):
    tallies, other = single()[0]
    whole = measure(tallies, seed=0), measure_changes(tallies, other, seed=0)
    monkeypatch.setattr(intervals, "MAX_DRAWN", 7 * SAMPLES)
    assert (measure(tallies, seed=0), measure_changes(tallies, other, seed=0)) == whole
    monkeypatch.setattr(intervals, "MAX_DRAWN", SAMPLES - 1)
    assert measure(tallies, seed=0) == whole[0]


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_thousand_classes_take_memory_for_samples_and_not_for_classes():
    """As one-hot matrices, decisions and labels take 5 MB each, and their confusions 40 GB."""
    generator = np.random.default_rng(0)
    labels = generator.integers(1000, size=5000)
    sides, names = altered(generator, labels, 1000), tuple(map(str, range(1000)))

    def tallies() -> list[dict[str, Tally]]:
        found = [single_label(side, labels, names, Judge()) for side in sides]
        assert all(np.isfinite(tally.value) for side in found for tally in side.values())
        return found

    tallies()  # imports
    assert peak_bytes(tallies) < 3e6
    assert peak_bytes(lambda: measure_changes(*tallies(), seed=0)) < 40e6


def test_several_of_a_thousand_labels_take_memory_for_those_that_are_there():
    """Three numbers a label would take 24 times what the labels do."""
    generator = np.random.default_rng(0)
    labels = (generator.random((1000, 1000)) < 0.003).astype(np.uint8)
    decided = (labels ^ (generator.random(labels.shape) < 0.001)).astype(bool)

    def values() -> list[float]:
        return [tally.value for tally in multi_label(decided, labels).values()]

    values()  # imports
    assert peak_bytes(values) < 4 * labels.nbytes
