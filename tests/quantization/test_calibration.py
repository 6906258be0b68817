import numpy as np
import onnx
import pytest
from onnx import helper

from compress.errors import StageError
from compress.quantization.calibration import BINS, Histogram, entropy, finder, minmax, observe, percentile


def relu_graph():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["relu"], name="relu"), helper.make_node("Neg", ["relu"], ["y"], name="neg")],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 100])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 100])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def histogram_of(array):
    limit = float(max(-array.min(), array.max()))
    counts = np.histogram(array, bins=2 * BINS, range=(-limit, limit))[0]
    return Histogram(float(array.min()), float(array.max()), counts)


@pytest.fixture
def samples():
    return np.random.default_rng(0).standard_normal((30, 100)).astype(np.float32) ** 3


def test_inputs_inner_values_and_outputs_are_observed_over_all_batches(samples):
    seen = observe(relu_graph(), ["x", "relu", "y"], lambda: ((samples[i : i + 7],) for i in range(0, 30, 7)))
    for name, array in (("x", samples), ("relu", samples.clip(0)), ("y", -samples.clip(0))):
        assert (seen[name].low, seen[name].high) == (array.min(), array.max())
        np.testing.assert_array_equal(seen[name].counts, histogram_of(array).counts)


def test_no_batches_and_nan_are_refused(samples):
    with pytest.raises(StageError, match="no finite range"):
        observe(relu_graph(), ["relu"], list)
    samples[0, 0] = np.nan
    with pytest.raises(StageError, match="no finite range"):
        observe(relu_graph(), ["x"], lambda: [(samples,)])


def test_an_all_zero_value_has_an_empty_range(samples):
    seen = observe(relu_graph(), ["relu"], lambda: [(-np.abs(samples),)])
    assert minmax(seen["relu"]) == (0.0, 0.0)
    assert percentile(seen["relu"]) == (0.0, 0.0)
    assert entropy(seen["relu"]) == (0.0, 0.0)


@pytest.mark.parametrize("percent", [99.01, 99.91, 100.0])
@pytest.mark.parametrize("sign", [1, -1, 0])
def test_percentile_is_the_quantile_to_within_a_bin(samples, percent, sign):
    array = (samples if sign == 0 else sign * np.abs(samples)).astype(np.float64).ravel()
    histogram = histogram_of(array)
    low, high = percentile(histogram, percent=percent)
    expected = [sign * np.quantile(sign * array, percent / 100, method="inverted_cdf") for sign in (-1, 1)]
    assert low == pytest.approx(min(0, expected[0]), abs=histogram.width)
    assert high == pytest.approx(max(0, expected[1]), abs=histogram.width)


def independent_entropy(array):
    """pytorch-quantization's loop, in float64, on the same bins."""
    limit = max(-array.min(), array.max())
    bins = np.histogram(np.abs(array), bins=BINS, range=(0, limit))[0].astype(np.float64)
    bins[0] = bins[1]
    levels = 255 if array.min() >= 0 else 127
    best = (np.inf, 0)
    for end in [*range(levels + 1, BINS + 1, 8), BINS]:
        quantized = np.zeros(end)
        members = [[] for _ in range(levels)]
        for i in range(end):
            if bins[i] > 0:
                members[i * levels // end].append(i)
        for level in members:
            quantized[level] = bins[level].mean() if level else 0
        reference = bins[:end].copy()
        reference[-1] += bins[end:].sum()
        p, q = reference / reference.sum(), quantized / quantized.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(p > 0, p * np.log(p / q), 0.0)
        best = min(best, (terms.sum(), end))
    return best[1] * limit / BINS


@pytest.mark.parametrize("positive", [True, False])
def test_entropy_against_an_independent_loop(positive):
    array = np.random.default_rng(1).standard_normal(20_000) * np.random.default_rng(2).exponential(size=20_000)
    array = np.abs(array) if positive else array
    low, high = entropy(histogram_of(array))
    threshold = independent_entropy(array)
    assert high == pytest.approx(min(array.max(), threshold), rel=1e-6)
    assert low == pytest.approx(max(array.min(), -threshold), rel=1e-6)
    assert threshold < np.abs(array).max()


def test_finders_are_found_by_name(samples):
    histogram = histogram_of(samples)
    assert finder("minmax")(histogram) == minmax(histogram)
    assert finder("percentile", percent=99.0)(histogram) == percentile(histogram, percent=99.0)
    assert finder("entropy")(histogram) == entropy(histogram)
