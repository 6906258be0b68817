"""Ranges of activations: the float graph runs in ONNX Runtime, histograms are kept, a finder picks low and high.

Two passes over the same batches, the first for the extremes, the second to count into bins of one width, so memory
holds one batch of activations and one histogram per value, however many samples there are.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import helper

from compress.errors import StageError
from compress.export.session import Session

BINS = 2048  # per sign; what TensorRT's calibrator uses
ENTROPY_STEP = 8  # candidate thresholds tried: every eighth bin edge, 0.4% of the largest value

Batches = Callable[[], Iterable[tuple[np.ndarray, ...]]]
Range = tuple[float, float]


@dataclass(frozen=True)
class Histogram:
    """How often a value was where.

    Attributes:
        low: smallest element seen.
        high: largest element seen.
        counts: elements per bin; 2 * BINS bins of one width from -m to m, where m = max(-low, high), so that zero is
            an edge.
    """

    low: float
    high: float
    counts: np.ndarray

    @property
    def width(self) -> float:
        """Width of a bin."""
        return max(-self.low, self.high) / BINS


Finder = Callable[[Histogram], Range]


def observe(model: onnx.ModelProto, values: Collection[str], batches: Batches) -> dict[str, Histogram]:
    """Histograms of `values` over all batches.

    Args:
        model: float graph.
        values: names of graph inputs or node outputs.
        batches: called twice; yields the same batches both times, one array per graph input.

    Raises:
        StageError: there are no batches, or a value is not finite.
    """
    run = _runner(model, values)
    lows, highs = dict.fromkeys(values, np.inf), dict.fromkeys(values, -np.inf)
    for batch in batches():
        for name, array in run(batch):
            lows[name] = min(lows[name], float(array.min()))
            highs[name] = max(highs[name], float(array.max()))
    bad = [name for name in values if not np.isfinite(highs[name] - lows[name])]
    if bad:
        raise StageError(
            "the calibration data give no finite range", got=bad, hint="check that the calibration role is not empty"
        )
    counts = {name: np.zeros(2 * BINS, np.int64) for name in values}
    for batch in batches():
        for name, array in run(batch):
            limit = max(-lows[name], highs[name]) or 1.0
            counts[name] += np.histogram(array, bins=2 * BINS, range=(-limit, limit))[0]
    return {name: Histogram(lows[name], highs[name], counts[name]) for name in values}


def _runner(
    model: onnx.ModelProto, values: Collection[str]
) -> Callable[[tuple[np.ndarray, ...]], Iterable[tuple[str, np.ndarray]]]:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in (*probe.graph.input, *probe.graph.output)}
    # The type is inferred; an empty one keeps the graph valid.
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in values if name not in known)
    session = Session(probe)

    def run(batch: tuple[np.ndarray, ...]) -> Iterable[tuple[str, np.ndarray]]:
        named = dict(zip(session.inputs, batch, strict=True)) | dict(zip(session.outputs, session(*batch), strict=True))
        return ((name, named[name]) for name in values)

    return run


def minmax(histogram: Histogram) -> Range:
    """Everything that was seen."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, *, percent: float = 99.99) -> Range:
    """On each side, the first bin edge with at least `percent` of all elements on its near side."""
    counts, limit = histogram.counts, histogram.width * BINS
    wanted = counts.sum() * percent / 100
    edges = np.linspace(-limit, limit, 2 * BINS + 1)
    high = edges[1 + np.searchsorted(np.cumsum(counts), wanted)]
    low = edges[2 * BINS - 1 - np.searchsorted(np.cumsum(counts[::-1]), wanted)]
    return max(histogram.low, float(min(low, 0.0))), min(histogram.high, float(max(high, 0.0)))


def entropy(histogram: Histogram) -> Range:
    """The threshold on |x| that loses the least information, as in NVIDIA's calibrators.

    Over thresholds t: KL(P || Q), where P is the histogram of |x| below t with all larger elements in its last bin, and
    Q the same histogram without them, averaged within each of the integer levels over the bins that are not empty. The
    first bin takes the count of the second, as in pytorch-quantization, because zeros quantize exactly. Levels: 255 for
    a value that is never negative, else 127 for each sign.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017; pytorch-quantization, calib/histogram.py.
    """
    counts = (histogram.counts[BINS:] + histogram.counts[:BINS][::-1]).astype(np.float64)
    counts[0] = counts[1]
    levels = 255 if histogram.low >= 0 else 127
    divergences = {end: _divergence(counts, end, levels) for end in range(levels + 1, BINS + 1, ENTROPY_STEP)}
    divergences[BINS] = _divergence(counts, BINS, levels)
    best = min(divergences, key=divergences.__getitem__)
    limit = best * histogram.width
    return max(histogram.low, -limit), min(histogram.high, limit)


def _divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """KL in nats between the clipped histogram and its quantized form; infinite where the latter is zero."""
    kept = counts[:end]
    level = np.arange(end) * levels // end
    filled = kept > 0
    total = np.bincount(level, weights=kept, minlength=levels)
    number = np.bincount(level, weights=filled, minlength=levels)
    quantized = np.where(filled, (total / np.maximum(number, 1))[level], 0.0)
    clipped = kept.copy()
    clipped[-1] += counts[end:].sum()
    if not filled.any() or (clipped[-1] > 0 and quantized[-1] == 0):
        return np.inf
    p, q = clipped / clipped.sum(), quantized / quantized.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


def finder(method: str, *, percent: float = 99.99) -> Finder:
    """The range finder called ``minmax``, ``percentile`` or ``entropy``."""
    return {"minmax": minmax, "percentile": partial(percentile, percent=percent), "entropy": entropy}[method]
