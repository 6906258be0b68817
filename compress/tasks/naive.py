"""Whether a teacher is better than answers that need no model: one label for all, and its own answers shuffled."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from compress.data.samples import Samples
from compress.errors import ModelError
from compress.measures.intervals import Estimate, measure_changes
from compress.tasks.task import Problem, Task

SEED = 0  # of the shuffle and the resamples; apart from the recipe's, so that a teacher is judged alike for all seeds
CONSTANT: dict[Problem, str] = {
    "single-label": "the most frequent class for all",
    "multi-label": "the most frequent labels for all",
    "regression": "the mean for all",
}
SHUFFLED = "its own answers shuffled"
CAUSES = (
    "inputs other than in its training (the line `input:`, data.normalize), classes in another order than the data's, "
    "outputs that went through softmax already, the wrong checkpoint, or a training that failed"
)


def lead_over_naive(outputs: NDArray[np.floating], task: Task, samples: Samples) -> dict[str, Estimate]:
    """Return a model's measure less that of each naive answer, with paired intervals; what has no measure is left out.

    The constant answer is the best one for the samples themselves: the majority class, the majority for each label, the
    mean. Shuffled answers show what the measure makes of chance, which for F1 can be more than a constant answer gets.

    Args:
        outputs: of the model, [units, outputs].
        task: judges them.
        samples: a labelled role.
    """
    order = np.random.default_rng(SEED).permutation(len(outputs))
    naive = {SHUFFLED: outputs[order]}
    if task.problem in CONSTANT:
        naive = {CONSTANT[task.problem]: _constant(outputs, task, samples)} | naive
    ours, leads = task.tally(outputs, samples), {}
    for name, answers in naive.items():
        theirs = task.tally(answers, samples)
        if math.isfinite(theirs.value):
            leads[name] = measure_changes({"": ours}, {"": theirs}, seed=SEED)[""]
    return leads


def _constant(outputs: NDArray[np.floating], task: Task, samples: Samples) -> NDArray[np.floating]:
    labels = task.labels(samples)
    if task.problem == "regression":
        row = labels.mean(axis=0)
    elif task.problem == "multi-label":
        row = np.where(labels.mean(axis=0) > 0.5, 1.0, -1.0)
    else:
        row = np.eye(outputs.shape[1])[np.bincount(labels).argmax()]
    return np.broadcast_to(row, outputs.shape).astype(np.float32)


def refuse_naive(outputs: NDArray[np.floating], task: Task, samples: Samples, *, name: str) -> None:
    """Refuse a teacher that is not measurably better than an answer that needs no model.

    Args:
        outputs: of the teacher, [units, outputs].
        task: as the teacher reads samples.
        samples: the select role.
        name: of the teacher's row.

    Raises:
        ModelError: naming the answer, the interval and the usual causes.
    """
    leads = lead_over_naive(outputs, task, samples)
    rival = nearest(leads)
    if rival is None or leads[rival].low > 0:
        return
    value, low, high = (100 * number for number in leads[rival])
    raise ModelError(
        "the teacher is not better than an answer that needs no model, and nothing is to be learnt from it",
        expected=f"{task.measure} on select above that of {rival}, by more than the draw of samples explains",
        got=f"{100 * task.tally(outputs, samples).value:.2f}%, which is {value:+.2f} points [{low:+.2f}, {high:+.2f}]",
        where=name,
        hint=f"look for {CAUSES}; where most samples are of one class, judge by another measure (data.judge.measure); "
        "--force-teacher (Options.force_teacher) goes on with it all the same",
    )


def nearest(leads: Mapping[str, Estimate]) -> str | None:
    """Return the naive answer that a model is least surely ahead of; None without any."""
    return min(leads, key=lambda rival: leads[rival].low, default=None)
