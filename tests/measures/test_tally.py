"""Measures against scikit-learn, SciPy and cases by hand; their intervals against a plain loop."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from compress.errors import DataError
from compress.measures.intervals import Estimate, measure, measure_changes, sign_test, wilson_interval
from compress.measures.judge import Judge, multi_label, regression, single_label
from compress.measures.tally import entities, pearson, r2, spans, spearman

CLASSES = ("a", "b", "c", "d")


def drawn(seed: int, count: int = 300, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and decisions that are right more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, count, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    return np.where(rng.random(count) < 0.6, labels, rng.integers(classes, size=count)), labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_measures_of_single_classes_are_scikit_learns(seed, classes):
    decided, labels = drawn(seed, classes=classes)
    found = {name: tally.value for name, tally in single_label(decided, labels, CLASSES[:classes], Judge()).items()}
    numbers = list(range(classes))
    expected = {
        "accuracy": metrics.accuracy_score(labels, decided),
        "macro-f1": metrics.f1_score(labels, decided, average="macro", labels=numbers, zero_division=0),
        "matthews": metrics.matthews_corrcoef(labels, decided),
    }
    recalls = metrics.recall_score(labels, decided, average=None, labels=numbers)
    expected |= {f"recall of {name}": value for name, value in zip(CLASSES, recalls, strict=False)}
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("constant", [0, 2])
def test_a_constant_decision_has_no_correlation_and_classes_without_samples_no_recall(constant):
    labels = np.array([0, 1, 1, 0, 3])
    decided = np.full(5, constant)
    found = single_label(decided, labels, CLASSES, Judge())
    assert found["matthews"].value == metrics.matthews_corrcoef(labels, decided) == 0
    assert found["macro-f1"].value == pytest.approx(metrics.f1_score(labels, decided, average="macro", zero_division=0))
    assert {name for name in found if name.startswith("recall")} == {"recall of a", "recall of b", "recall of d"}
    assert all(np.isfinite([value.value, value.low, value.high]).all() for value in measure(found, seed=0).values())


EDGES = {
    "a class that does not occur": ([0, 1, 1, 0, 3], [0, 1, 0, 0, 3]),
    "a perfect model without one": ([0, 1, 1, 3], [0, 1, 1, 3]),
    "a class that is only decided": ([0, 1, 1, 0], [0, 2, 1, 0]),
    "one class only": ([1, 1, 1], [1, 1, 1]),
    "one class only, never decided": ([1, 1, 1], [2, 2, 2]),
    "all wrong": ([0, 1, 2, 0], [1, 2, 0, 2]),
    "all wrong of two classes": ([0, 1, 0, 1], [1, 0, 1, 0]),
    "one sample": ([3], [3]),
}


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize(("labels", "decided"), EDGES.values(), ids=EDGES)
def test_measures_of_single_classes_are_scikit_learns_at_the_edges(labels, decided):
    found = single_label(np.array(decided), np.array(labels), CLASSES, Judge())
    expected = {
        "accuracy": metrics.accuracy_score(labels, decided),
        "macro-f1": metrics.f1_score(labels, decided, average="macro", zero_division=0),
        "matthews": metrics.matthews_corrcoef(labels, decided),
    }
    there = sorted(set(labels))
    recalls = metrics.recall_score(labels, decided, average=None, labels=there)
    expected |= {f"recall of {CLASSES[number]}": value for number, value in zip(there, recalls, strict=True)}
    assert {name: tally.value for name, tally in found.items()} == pytest.approx(expected, abs=1e-12)
    for estimate in [*measure(found, seed=0).values(), *measure_changes(found, found, seed=0).values()]:
        assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()
        assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12


LABEL_EDGES = {
    "a label that does not occur": ([[1, 0, 0], [0, 1, 0], [1, 1, 0]], [[1, 0, 0], [0, 1, 0], [1, 0, 0]]),
    "a perfect model without one": ([[1, 0, 0], [0, 1, 0], [1, 1, 0]], [[1, 0, 0], [0, 1, 0], [1, 1, 0]]),
    "a label that is only decided": ([[1, 0], [0, 0]], [[1, 0], [0, 1]]),
    "all wrong": ([[1, 0], [0, 1]], [[0, 1], [1, 0]]),
    "always and never": ([[1, 0], [1, 0]], [[1, 0], [1, 0]]),
}


@pytest.mark.parametrize(("labels", "decided"), LABEL_EDGES.values(), ids=LABEL_EDGES)
def test_measures_of_several_labels_are_scikit_learns_at_the_edges(labels, decided):
    found = multi_label(np.array(decided, bool), np.array(labels, np.uint8))
    expected = {
        "accuracy": (np.array(labels) == decided).mean(),
        "micro-f1": metrics.f1_score(labels, decided, average="micro", zero_division=0),
        "macro-f1": metrics.f1_score(labels, decided, average="macro", zero_division=np.nan),
    }
    assert {name: tally.value for name, tally in found.items()} == pytest.approx(expected, abs=1e-12)
    for estimate in measure(found, seed=0).values():
        assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()


def test_without_any_positive_label_f1_is_nothing():
    nothing = np.zeros((5, 2), bool)
    found = measure(multi_label(nothing, nothing.astype(np.uint8)), seed=0)
    assert [found[name] for name in ("micro-f1", "macro-f1")] == [Estimate(0, 0, 0)] * 2
    assert found["accuracy"].value == 1


def test_merged_classes_count_as_one_for_accuracy_alone():
    judge = Judge(merge={"ham": ("a", "c")})
    decided, labels = drawn(1)
    plain, merged = (single_label(decided, labels, CLASSES, judge) for judge in (Judge(), judge))
    group = np.array([0, 1, 0, 3])
    assert merged["accuracy"].value == metrics.accuracy_score(group[labels], group[decided])
    assert merged["accuracy"].value > plain["accuracy"].value
    assert merged["accuracy of all classes"].value == plain["accuracy"].value
    assert merged["macro-f1"].value == plain["macro-f1"].value
    with pytest.raises(DataError, match=r"(?s)merge does not fit.*a, b, c, d.*z, not among them"):
        Judge(merge={"ham": ("a", "z")}).group_classes(CLASSES)
    with pytest.raises(DataError, match=r"(?s)at most once.*b, in two groups"):
        Judge(merge={"ham": ("a", "b"), "eggs": ("b",)}).group_classes(CLASSES)


@pytest.mark.parametrize("seed", range(3))
def test_measures_of_several_labels_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random((200, 3)) < (0.5, 0.2, 0.05)).astype(np.uint8)
    decided = (labels ^ (rng.random((200, 3)) < 0.2)).astype(bool)
    found = {name: tally.value for name, tally in multi_label(decided, labels).items()}
    expected = {
        "accuracy": (decided == labels).mean(),
        "micro-f1": metrics.f1_score(labels, decided, average="micro"),
        "macro-f1": metrics.f1_score(labels, decided, average="macro", zero_division=0),
    }
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_measures_of_numbers_are_scipys(outputs):
    rng = np.random.default_rng(outputs)
    targets = rng.integers(0, 6, (100, outputs)).astype(np.float32)  # ties
    guesses = (targets + rng.standard_normal((100, outputs))).astype(np.float32).round(1)
    found = {name: tally.value for name, tally in regression(guesses, targets).items()}
    columns = [(guesses[:, column].astype(float), targets[:, column].astype(float)) for column in range(outputs)]
    expected = {
        "pearson": np.mean([stats.pearsonr(*pair)[0] for pair in columns]),
        "spearman": np.mean([stats.spearmanr(*pair)[0] for pair in columns]),
        "mean squared error": metrics.mean_squared_error(targets, guesses),
    }
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("measure", [pearson, spearman])
def test_a_correlation_bears_constants_and_numbers_far_from_zero(measure):
    targets = np.random.default_rng(0).standard_normal((50, 1)).astype(np.float32)
    assert measure(np.full((50, 1), 0.1, np.float32), targets).value == 0
    far = targets.astype(np.float64) * 1e-3 + 1e6
    assert measure(far, targets).value == pytest.approx(1, abs=1e-6)
    assert measure(-targets, targets).value == pytest.approx(-1)


@pytest.mark.parametrize(("measure", "scipys"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr)])
def test_a_target_that_does_not_vary_tells_nothing_and_an_output_that_does_not_counts_as_0(measure, scipys):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, (60, 3)).astype(np.float32)
    targets[:, 1] = 0.1
    outputs = (targets + rng.standard_normal((60, 3))).astype(np.float32)
    mean = np.mean([scipys(outputs[:, column].astype(float), targets[:, column])[0] for column in (0, 2)])
    assert measure(outputs, targets).value == pytest.approx(mean, rel=1e-6)
    assert measure(targets, targets).value == pytest.approx(1)
    assert measure(np.full((60, 3), 0.1, np.float32), targets).value == 0
    assert measure(outputs, targets * 0).value == 0
    outputs[:, 0] = 7
    only = scipys(outputs[:, 2].astype(float), targets[:, 2])[0]
    assert measure(outputs, targets).value == pytest.approx(only / 2, rel=1e-6)


def test_a_resample_in_which_a_target_does_not_vary_is_judged_by_the_others():
    targets = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    targets[:, 0] = 0
    targets[0, 0] = 1  # a third of the resamples lack it
    found = measure(regression(targets, targets), seed=0)
    for name in ("pearson", "spearman"):
        assert (found[name].low, found[name].high) == pytest.approx((1, 1))


def test_exact_numbers_are_no_share_of_right_samples():
    """Squared errors of 0 and 1 look like wrong and right, and are not."""
    targets = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    found = regression(targets + np.array([[0], [1], [0], [0]], np.float32), targets)["mean squared error"]
    assert found.value == 0.25
    assert found.binary is None


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", set()),
        ("B-X I-X O", {("X", 0, 2)}),
        ("B-X B-X", {("X", 0, 1), ("X", 1, 2)}),
        ("B-X I-Y", {("X", 0, 1), ("Y", 1, 2)}),
        ("O I-X I-X", {("X", 1, 3)}),
        ("I-X B-X I-X", {("X", 0, 1), ("X", 1, 3)}),
        ("B-X O I-X", {("X", 0, 1), ("X", 2, 3)}),
        ("B-a-b I-a-b", {("a-b", 0, 2)}),
        ("B- I-", {("", 0, 2)}),
    ],
)
def test_spans_are_read_as_conlleval_and_seqeval_do(tags, expected):
    assert spans(tags.split()) == expected


def test_the_f1_of_entities_asks_for_type_and_both_ends():
    names = ("O", "B-X", "I-X", "B-Y")
    labels = [np.array([1, 2, 0, 3]), np.array([0, 0]), np.array([1, 0])]
    decided = [np.array([1, 0, 0, 3]), np.array([0, 1]), np.array([1, 0])]
    # Right: Y and the last X. Cut short: one too many and one missed. Made up: one too many.
    tally = entities(decided, labels, names)
    assert tally.counts.tolist() == [[1, 1, 1], [0, 1, 0], [1, 0, 0]]
    assert tally.value == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))
    assert entities(labels, labels, names).value == 1


def test_without_any_entity_or_any_right_one_f1_is_nothing():
    names = ("O", "B-X", "I-X")
    nothing, something = np.zeros(2, int), np.array([1, 2])
    assert entities([nothing], [nothing], names).value == 0
    assert entities([nothing], [something], names).value == 0
    assert entities([something], [nothing], names).value == 0
    assert entities([np.array([1, 0])], [something], names).value == 0  # cut short
    empty = np.zeros(0, int)
    assert entities([empty, something], [empty, something], names).counts.tolist() == [[0, 0, 0], [1, 0, 0]]


def test_an_unfitting_measure_is_refused():
    with pytest.raises(DataError, match=r"(?s)does not fit.*accuracy, macro-f1.*pearson"):
        Judge(measure="pearson").choose(("accuracy", "macro-f1"))


def test_shares_have_wilsons_interval_and_recalls_that_of_their_class():
    decided, labels = drawn(0)
    found = measure(single_label(decided, labels, CLASSES, Judge()), seed=0)
    assert found["accuracy"] == wilson_interval(int((decided == labels).sum()), len(labels))
    here = labels == 2
    assert found["recall of c"] == wilson_interval(int((decided[here] == 2).sum()), int(here.sum()))


def test_a_perfect_recall_of_a_few_samples_is_not_certain():
    labels = np.array([0] * 50 + [1] * 5)
    assert measure(single_label(labels, labels, ("a", "b"), Judge()), seed=0)["recall of b"].low < 0.6


def test_equal_models_differ_by_nothing_and_a_pairing_narrows():
    decided, labels = drawn(2)
    tallies = single_label(decided, labels, CLASSES, Judge())
    for name, change in measure_changes(tallies, tallies, seed=0).items():
        right = tallies[name].binary
        never = 0 if right is None else 1 - 0.025 ** (1 / len(right))  # that so many samples would not have shown
        assert (change.value, change.low, change.high) == pytest.approx((0, -never, never))
    assert sign_test(tallies["accuracy"], tallies["accuracy"]) == 1
    assert sign_test(tallies["macro-f1"], tallies["macro-f1"]) is None
    with pytest.raises(ValueError, match="do not pair"):
        measure_changes(tallies, single_label(decided[:9], labels[:9], CLASSES, Judge()), seed=0)


def test_a_class_that_hardly_any_resample_draws_gives_an_interval_without_a_warning():
    labels = np.array([0] * 60 + [1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(single_label(labels, labels, ("a", "b"), Judge()), seed=0)
    assert all(np.isfinite([value.low, value.high]).all() for value in found.values())


def test_a_refusal_names_a_few_of_many_classes():
    names = tuple(f"class {number}" for number in range(1000))
    with pytest.raises(DataError) as caught:
        Judge(merge={"all": ("class 3", "other")}).group_classes(names)
    assert "class 19 and 980 others at most once" in str(caught.value)
    assert "class 20" not in str(caught.value)


def test_r2_is_scikit_learns_and_leaves_out_targets_that_do_not_vary():
    generator = np.random.default_rng(0)
    targets = generator.normal([1e6, 0], [1, 10], (50, 2))
    outputs = targets + generator.normal(0, 0.5, (50, 2))
    assert r2(outputs, targets).value == pytest.approx(metrics.r2_score(targets, outputs), abs=1e-6)
    assert r2(np.broadcast_to(targets.mean(axis=0), targets.shape), targets).value == pytest.approx(0, abs=1e-6)
    assert r2(outputs, np.full((50, 2), 3.0)).value == 0
    constant = np.stack([targets[:, 1], np.ones(50)], axis=1)
    assert r2(np.stack([outputs[:, 1], np.zeros(50)], axis=1), constant).value == pytest.approx(
        metrics.r2_score(targets[:, 1], outputs[:, 1])
    )
