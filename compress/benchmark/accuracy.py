"""Accuracy of a file in the very runtime that is timed: its outputs come from the worker that was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.benchmark.measure import Profile
from compress.benchmark.process import Worker
from compress.benchmark.runtimes.worker import take, take_lengths
from compress.measures.divergence import kl_nats
from compress.measures.intervals import Estimate, agreement, estimate_change, mcnemar_p, wilson_interval

FEW_SAMPLES = 400  # an accuracy of 90% is then known to 3 points


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often a classifier is right, and what it shares with the reference."""

    samples: int
    accuracy: Estimate
    """Share (0 to 1), with Wilson's interval."""
    change: Estimate | None
    """Against the reference on the same samples, by a paired bootstrap; None for the reference itself."""
    mcnemar_p: float | None
    """Exact; of the two being right equally often."""
    agreement: Estimate | None
    """Share of samples for which both decide the same."""
    kl_nats: float | None
    """Mean divergence of the softmax outputs from the reference's; 0 when they are the same."""
    doubt: str
    """Why the numbers say little; empty when nothing does."""


def outputs(model: Path, inputs: Path, *, profile: Profile, code: Sequence[Path] = ()) -> NDArray[np.floating]:
    """A model's first output for every sample, in a fresh worker of the profile.

    Args:
        model: an ONNX file, or an artifact directory for torch.
        inputs: .npz as `runtimes.worker.batches` takes it.
        profile: runtime, batch size, threads and place.
        code: the user's Python files that may be run as a runtime.

    Returns:
        [samples, ...], every sample once.

    Raises:
        WorkerError: when the model does not run there, or an output is not finite.
    """
    with np.load(inputs, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    lengths = take_lengths(arrays)
    count = len(next(iter(arrays.values())))
    found = []
    with Worker(profile.place) as worker:
        worker.load(
            runtime=profile.runtime, model=model, inputs=inputs, batch_size=profile.batch_size,
            threads=profile.threads, code=code,
        )  # fmt: skip
        for start in range(0, count, profile.batch_size):
            rows = np.arange(start, start + profile.batch_size) % count  # the last batch is filled from the start
            found.append(worker.outputs(take(arrays, rows, lengths))[0])
    return np.concatenate(found)[:count]


def accuracies(
    logits: Mapping[str, NDArray[np.floating]], labels: NDArray[np.integer], *, reference: str, seed: int
) -> dict[str, Accuracy]:
    """Judge classifiers on the same ordered samples.

    Args:
        logits: by model, [samples, classes] each.
        labels: int [samples].
        reference: the model that changes, agreement and divergence refer to.
        seed: of the bootstrap.

    Raises:
        ValueError: when the samples do not pair.
    """
    theirs = logits[reference]
    decided = {name: found.argmax(axis=-1) for name, found in logits.items()}
    right = {name: found == labels for name, found in decided.items()}
    judged: dict[str, Accuracy] = {}
    for name, found in logits.items():
        other = name != reference
        judged[name] = Accuracy(
            samples=len(labels),
            accuracy=wilson_interval(int(right[name].sum()), len(labels)),
            change=estimate_change(right[name], right[reference], seed=seed) if other else None,
            mcnemar_p=mcnemar_p(right[name], right[reference]) if other else None,
            agreement=agreement(decided[name], decided[reference]) if other else None,
            kl_nats=max(0.0, kl_nats(theirs, found)) if other else None,
            doubt=""
            if len(labels) >= FEW_SAMPLES
            else f"{len(labels)} samples are few: differences of points can hide",
        )
    return judged


def doubt(samples: int) -> str:
    """Why an accuracy of so many samples says little; empty when they are enough."""
    return "" if samples >= FEW_SAMPLES else f"{samples} samples are few: differences of points can hide"
