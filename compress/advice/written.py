"""What texts that a model wrote say of it, and of what a student will make of it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.advice import probes
from compress.advice.measures import SEED, Measure
from compress.data import Samples
from compress.measures.intervals import measure, measure_changes, wilson_interval
from compress.measures.tally import Tally
from compress.stage import Writing
from compress.tasks import TransductionTask
from compress.tasks.symbols import PAD
from compress.training.label import error_rate

QUARTERS = 4  # of the samples by the length of what is right


def measure_texts(task: TransductionTask, texts: NDArray[Any], samples: Samples, subject: str) -> list[Measure]:
    """Measure how long texts are, how many did not come to their end, and how errors grow with length.

    Args:
        task: as the model reads samples.
        texts: symbols that were written, [N, length], padded.
        samples: a labelled role.
        subject: whose they are.
    """
    tallies = judge_texts(task, texts, samples)
    length_ratio = measure({"length": tallies["length-ratio"]}, seed=SEED)["length"]
    runaway = int(find_runaway(task, texts, samples).sum())
    return [
        Measure("length-ratio", length_ratio, subject),
        Measure("runaway", wilson_interval(runaway, len(texts)), subject, f"{runaway} of {len(texts):,} texts"),
        *_measure_lengths(np.asarray(tallies["token-error-rate"].counts), subject),
    ]


def measure_gap(
    task: TransductionTask, greedy: NDArray[Any], beam: NDArray[Any], samples: Samples, subject: str
) -> Measure:
    """Measure what a beam gains over greedy writing, by the task's measure.

    Args:
        task: as the model reads samples.
        greedy: what it writes without a beam, [N, length].
        beam: what it writes with one.
        samples: a labelled role.
        subject: whose they are.
    """
    ours, theirs = (judge_texts(task, texts, samples)[task.measure] for texts in (beam, greedy))
    told = f"{100 * theirs.value:.1f}% {task.measure} greedy, {100 * ours.value:.1f}% with a beam, {len(samples)} texts"
    return Measure("beam-gap", measure_changes({"": ours}, {"": theirs}, seed=SEED)[""], subject, told)


def measure_choice(
    task: TransductionTask, texts: NDArray[Any], samples: Samples, writing: Writing, subject: str
) -> list[Measure]:
    """Measure how many sources are left where a label drops what the teacher writes wrongly and keeps nothing else.

    Errors are counted in symbols, as the label counts them, and not in the words that models are judged by.

    Args:
        task: as the teacher reads samples.
        texts: what it wrote for samples that were not trained on, [N, length].
        samples: a labelled role.
        writing: what the label asks for.
        subject: the stage.
    """
    if writing.max_error_rate is None or writing.given:
        return []
    assert samples.labels is not None
    lengths, target, kept = (texts != PAD).sum(axis=1), task.vocabularies.target, 0
    fine = (lengths > 0) & ~find_runaway(task, texts, samples)  # no others are ever learnt
    for row in np.flatnonzero(fine):
        right = target.encode_all(list(samples.labels[row]))
        kept += error_rate(texts[row, : lengths[row]].tolist(), right) <= writing.max_error_rate
    return [Measure("correct-only", wilson_interval(kept, len(samples)), subject, "of select, its first text each")]


def find_runaway(task: TransductionTask, texts: NDArray[Any], samples: Samples) -> NDArray[np.bool_]:
    """Return which of the texts, [N, length], did not come to their end, bool [N]."""
    steps = task.vocabularies.steps(task.sources(samples).lengths)
    return (texts != PAD).sum(axis=1) >= steps  # the end takes a step, too


def judge_texts(task: TransductionTask, texts: NDArray[Any], samples: Samples) -> dict[str, Tally]:
    """Return the measures of written texts, [N, length]."""
    return dict(task.judge_written([row[row != PAD].tolist() for row in texts], samples))


def _measure_lengths(counts: NDArray[np.float64], subject: str) -> list[Measure]:
    """Measure the error rate of the quarter with the longest right texts less that of the others.

    Args:
        counts: edits and symbols of what is right, [N, 2].
        subject: whose they are.
    """
    edits, symbols = counts.T
    edges = np.unique(np.quantile(symbols, np.arange(1, QUARTERS) / QUARTERS))
    long = symbols > edges[-1]
    if not long.any():
        return []
    part = np.searchsorted(edges, symbols, side="left")
    bounds = [f"up to {edge:g}" for edge in edges] + [f"above {edges[-1]:g}"]
    rates = [(bound, part == number) for number, bound in enumerate(bounds)]
    table = ", ".join(f"{bound}: {edits[rows].sum() / symbols[rows].sum():.1%}" for bound, rows in rates if rows.any())

    def apart(*sums: NDArray[np.float64]) -> float:
        return float(sums[0].sum() / sums[1].sum() - sums[2].sum() / sums[3].sum())

    sides = [(edits[rows], symbols[rows]) for rows in (long, ~long)]
    value = probes.bootstrap(apart, *sides, seed=SEED)
    return [Measure("long-texts", value, subject, f"error rate by the symbols of what is right: {table}")]
