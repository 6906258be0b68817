"""A linear model on what sums signals and sequences up, channel by channel, or on single steps, as the simplest one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.data.samples import Samples
from compress.tasks.linear import apply_linear, fit_linear
from compress.tasks.simplest import Parameters, Simplest
from compress.tasks.task import Problem

BANDS = 8  # of frequencies
AROUND = 2  # steps before a step, and as many after it
MAX_STEPS = 50_000  # of all sequences together that are fitted on
TINY = 1e-6


@dataclass(frozen=True)
class LinearSummaries(Simplest):
    """A linear model on each channel's mean, deviation, extremes, ends, mean step and energy by frequency.

    Classes and labels by a support vector machine, numbers by ridge regression, on standardised features.

    Attributes:
        problem: what the outputs of a sample are.
        outputs_count: how many there are.
        reading: everything that decides what ``features`` and ``targets`` give.
        features: numbers of samples, [N, F].
        targets: what is right for them, in the units of the outputs.
    """

    title: ClassVar[str] = "a linear model on statistics of each channel"
    max_samples: ClassVar[int] = 10_000

    problem: Problem
    outputs_count: int
    reading: str
    features: Callable[[Samples], NDArray[Any]] = field(compare=False, repr=False)
    targets: Callable[[Samples], NDArray[Any]] = field(compare=False, repr=False)

    @property
    def state(self) -> str:
        """Problem, number of outputs, and how samples are read."""
        return f"{self.problem} {self.outputs_count} {self.reading}"

    def fit(self, samples: Samples) -> Parameters:
        """Return weights and intercepts of features as they are: the standardisation is folded into them."""
        features = self.features(samples)
        mean, spread = features.mean(axis=0), features.std(axis=0)
        spread[spread < TINY] = 1.0
        learnt = fit_linear((features - mean) / spread, self.targets(samples), self.problem, self.outputs_count)
        weights = learnt["weights"] / spread[:, None]
        return {"weights": weights, "intercepts": (learnt["intercepts"] - mean @ weights).astype(np.float32)}

    def outputs(self, parameters: Parameters, samples: Samples) -> NDArray[np.float32]:
        """Return one row a sample."""
        return apply_linear(self.features(samples), parameters)


@dataclass(frozen=True)
class LinearSteps(LinearSummaries):
    """The same on each step of a sequence: its numbers, and those of two steps before and after it.

    Attributes:
        steps: of a sequence, padding among them; of long ones fewer sequences are fitted on.
    """

    title: ClassVar[str] = "a linear model on each step and its neighbours"

    steps: int

    def fit(self, samples: Samples) -> Parameters:
        """Return weights and intercepts, of the first sequences."""
        return super().fit(samples.take(np.arange(min(len(samples), max(1, MAX_STEPS // self.steps)))))


def surround(values: NDArray[Any]) -> NDArray[Any]:
    """Return each step's numbers and its neighbours', [N, T, F] to [N, T, 5 F]; beyond the ends they are 0."""
    padded = np.pad(values, ((0, 0), (AROUND, AROUND), (0, 0)))
    return np.concatenate([padded[:, start : start + values.shape[1]] for start in range(2 * AROUND + 1)], axis=2)


def summarise(values: NDArray[Any], steps: NDArray[np.int64] | None) -> NDArray[np.float32]:
    """Return what sums channels up, float32 [N, 15 C].

    Args:
        values: [N, C, L].
        steps: how many of each sample's L are no padding, [N]; None for all.
    """
    count, _, length = values.shape
    steps = np.full(count, length) if steps is None else steps
    there = (np.arange(length) < steps[:, None])[:, None, :]
    held = np.where(there, values, 0.0)
    mean = held.sum(axis=2) / steps[:, None]
    centred = np.where(there, values - mean[:, :, None], 0.0)
    spread = np.sqrt((centred**2).sum(axis=2) / steps[:, None])
    moved = np.abs(np.diff(values, axis=2) * there[:, :, 1:]).sum(axis=2) / np.maximum(steps - 1, 1)[:, None]
    last = np.take_along_axis(values, (steps - 1)[:, None, None], axis=2)[:, :, 0]
    low, high = np.where(there, values, np.inf).min(axis=2), np.where(there, values, -np.inf).max(axis=2)
    power = np.abs(np.fft.rfft(centred, axis=2)) ** 2
    bands = [np.log(part.sum(axis=2) + TINY) for part in np.array_split(power, BANDS, axis=2)]
    return np.concatenate([mean, spread, low, high, values[:, :, 0], last, moved, *bands], axis=1).astype(np.float32)
