"""Probes against closed forms, scikit-learn and plain loops."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from compress.advice import probes


@pytest.fixture
def random():
    return np.random.default_rng(0)


def labelled(random, *, count=400, classes=5, scale=2.0):
    logits = scale * random.normal(size=(count, classes))
    labels = np.array([random.choice(classes, p=row) for row in probes.softmax(logits)])
    return logits, labels


def test_calibration_error_is_the_weighted_gap_of_each_bin(random):
    sure, correct = random.uniform(0.2, 1, 300), random.uniform(size=300) < 0.7
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (sure >= low) & (sure < low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - sure[inside].mean())
    assert probes.expected_calibration_error(sure, correct) == pytest.approx(expected, abs=1e-12)
    assert probes.expected_calibration_error(np.ones(4), np.array([True, True, True, False])) == 0.25


def test_a_calibrated_model_is_not_blamed_for_the_number_of_samples():
    blamed, values = 0, []
    for seed in range(40):
        logits, labels = labelled(np.random.default_rng(seed), count=300)
        sides = probes.confidence(logits), logits.argmax(axis=1) == labels
        found = probes.debias(probes.expected_calibration_error, sides, seed=0)
        assert 0 <= found.low <= found.value <= found.high
        blamed += found.low > 0.05
        values.append((found.value, probes.expected_calibration_error(*sides)))
    assert blamed <= 2
    assert np.mean(values, axis=0)[0] < 0.75 * np.mean(values, axis=0)[1]


def test_a_miscalibrated_model_is_seen_to_be(random):
    logits, labels = labelled(random, count=2000)
    sides = probes.confidence(4 * logits), logits.argmax(axis=1) == labels
    found = probes.debias(probes.expected_calibration_error, sides, seed=0)
    plain = probes.bootstrap(probes.expected_calibration_error, sides, seed=0)
    assert found.low > 0.1
    assert found.value == pytest.approx(plain.value, abs=0.01)


def test_likelihood_is_scikit_learns(random):
    logits, labels = labelled(random)
    expected = log_loss(labels, probes.softmax(logits, temperature=1.7), labels=range(5))
    assert probes.negative_log_likelihood(logits, labels, temperature=1.7) == pytest.approx(expected)


def test_the_fitted_temperature_undoes_a_scaling_and_is_the_best_of_a_grid(random):
    logits, labels = labelled(random, count=4000)
    fitted = probes.fit_temperature(3 * logits, labels)
    assert fitted.low < 3 < fitted.high
    assert fitted.high - fitted.low < 0.5
    grid = np.linspace(2, 4, 401)
    best = min(grid, key=lambda value: probes.negative_log_likelihood(3 * logits, labels, temperature=value))
    assert fitted.value == pytest.approx(best, abs=0.006)


def test_the_fitted_temperatures_interval_covers_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        logits, labels = labelled(np.random.default_rng(seed), count=300)
        fitted = probes.fit_temperature(2 * logits, labels)
        covered += fitted.low < 2 < fitted.high
    assert 88 <= covered <= 100


def test_a_teacher_of_one_hot_rows_has_a_temperature_without_bounds():
    fitted = probes.fit_temperature(np.array([[1e6, 0.0], [0.0, 1e6]]), np.array([0, 1]))
    assert math.isfinite(fitted.value)
    assert (fitted.low, fitted.high) == (0.02, 50)


def test_mass_and_classes_have_closed_forms():
    logits = np.array([[2.0, 0.0], [0.0, 4.0]])
    assert probes.non_target_mass(logits, temperature=2.0) == pytest.approx([1 / (1 + math.e), 1 / (1 + math.e**2)])
    assert probes.effective_classes(np.zeros((3, 7)), temperature=1.0) == pytest.approx(7)
    assert probes.effective_classes(1e4 * np.eye(4), temperature=1.0) == pytest.approx(1)


def test_the_suggested_temperature_is_the_lowest_that_says_enough():
    def two(gap):
        return np.array([[gap, 0.0]])

    assert probes.suggest_temperature(two(2.0)) == 1.0  # mass 0.119
    assert probes.suggest_temperature(two(6.0)) == 3.0  # 0.047 at 2, 0.119 at 3
    assert probes.suggest_temperature(two(100.0)) == probes.TEMPERATURES[-1]


def test_domains_are_told_apart_when_they_differ_and_not_otherwise(random):
    same = random.normal(size=(600, 20))
    area = probes.domain_auc(same[:300], same[300:], seed=0)
    assert area.low < 0.5 < area.high + 0.05
    assert probes.domain_auc(same[:300], same[300:] + 0.5, seed=0).low > 0.9


def test_the_interval_of_an_area_is_hanley_and_mcneils():
    # Their table II: area 0.893 on 58 normal and 51 abnormal cases has a standard error of 0.032.
    area = probes.area_interval(0.893, 58, 51)
    assert (area.high - 0.893) / 1.96 == pytest.approx(0.032, abs=0.001)


def test_summaries_see_what_blur_and_noise_change(random):
    images = random.integers(0, 256, (5, 1, 28, 28)).astype(np.uint8)
    summaries = probes.image_summaries(images)
    assert summaries.shape == (5, 64 + 4)
    assert summaries[:, 64] == pytest.approx(images.mean(axis=(1, 2, 3)))
    flat = probes.image_summaries(np.full((1, 1, 28, 28), 7, np.uint8))
    assert flat[0, 65:] == pytest.approx([0, 0, 0])


def test_summaries_of_a_table_see_numbers_gaps_and_categories(random):
    ages, jobs = random.normal(40, 5, 400), np.array(["nurse", "cook"] * 200)
    kinds = [("age", np.float64), ("job", "U9"), ("signal", np.float32, (2, 3))]
    rows = np.zeros(400, kinds)
    rows["age"], rows["job"], rows["signal"] = ages, jobs, random.normal(size=(400, 2, 3))
    assert np.isfinite(probes.summaries(rows)).all()
    for name, value in (("age", 60.0), ("age", np.nan), ("job", "pilot"), ("signal", 4.0)):
        changed = rows.copy()
        changed[name] = value
        both = [probes.summaries(side[half]) for side, half in ((rows, slice(0, 200)), (changed, slice(200, 400)))]
        assert probes.domain_auc(*both, seed=0).low > 0.9, name


def test_similarity_is_the_unbiased_estimate_by_its_definition(random):
    ours, theirs = random.normal(size=(9, 3)), random.normal(size=(9, 4))

    def hsic(left, right):
        """Song et al. 2012, equation 5, term by term."""
        n = len(left)
        left, right = left - np.diag(np.diag(left)), right - np.diag(np.diag(right))
        ones = np.ones(n)
        total = np.trace(left @ right)
        total += ones @ left @ ones * (ones @ right @ ones) / ((n - 1) * (n - 2))
        total -= 2 / (n - 2) * ones @ left @ right @ ones
        return total / (n * (n - 3))

    grams = [side @ side.T for side in (ours - ours.mean(0), theirs - theirs.mean(0))]
    expected = hsic(*grams) / math.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))
    assert probes.linear_cka(ours, theirs) == pytest.approx(expected)


def test_similarity_is_one_for_a_rotation_and_none_for_noise_however_wide(random):
    ours = random.normal(size=(100, 300))
    rotation, _ = np.linalg.qr(random.normal(size=(300, 300)))
    assert probes.linear_cka(ours, 3 * ours @ rotation + 1) == pytest.approx(1)
    assert abs(probes.linear_cka(ours, random.normal(size=(100, 300)))) < 0.1
    assert probes.linear_cka(ours, np.zeros((100, 4))) == 0


def test_the_jackknife_of_a_mean_is_its_standard_error(random):
    values = random.normal(size=64)
    interval = probes.jackknife(lambda array: float(array.mean()), values, groups=64)
    # 1.9983 is the 0.975 quantile of Student's t with 63 degrees of freedom.
    assert interval.high - interval.value == pytest.approx(1.9983 * values.std(ddof=1) / 8, rel=1e-4)


def test_the_jackknife_of_eight_groups_covers_as_often_as_it_says():
    covered = 0
    for seed in range(400):
        values = np.random.default_rng(seed).normal(size=64)
        interval = probes.jackknife(lambda array: float(array.mean()), values)
        covered += interval.low < 0 < interval.high
    assert 368 <= covered <= 392  # 95%, give or take three deviations


def test_the_bootstrap_resamples_groups_apart_and_arrays_of_a_group_together(random):
    values = random.normal(size=200)
    together = probes.bootstrap(lambda left, right: float((left - right).mean()), (values, values), seed=0)
    assert (together.low, together.high) == (0, 0)
    apart = probes.bootstrap(lambda left, right: float(left.mean() - right.mean()), (values,), (values,), seed=0)
    assert apart.value == 0
    assert apart.high == pytest.approx(1.96 * math.sqrt(2) * values.std() / math.sqrt(200), rel=0.2)


def test_gradients_are_compared_by_length_and_angle():
    east, north = np.array([2.0, 0.0]), np.array([0.0, 0.5])
    assert probes.norm_ratio(east, north) == 4
    assert probes.cosine(east, north) == 0
    assert probes.cosine(east, -east) == -1
    assert probes.cosine(east, np.zeros(2)) == 0
    assert probes.norm_ratio(east, np.zeros(2)) == math.inf
    assert probes.norm_ratio(np.zeros(2), np.zeros(2)) == 1


def test_each_layer_finds_its_most_similar_one():
    assert probes.best_match({("a", "x"): 0.2, ("a", "y"): 0.7, ("b", "x"): 0.1}) == {"a": "y", "b": "x"}


def test_categories_of_one_letter_are_seen_to_shift():
    before, after = (probes.column_summaries(np.array(cells)) for cells in (["M"] * 4, ["F"] * 4))
    assert before.any()
    assert not np.array_equal(before, after)
