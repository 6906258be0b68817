"""The simplest model of a task, fitted once for a store, and how far others are ahead of it."""

import importlib.metadata
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compress.data import Role, Samples
from compress.judge.scores import Scores
from compress.measures.intervals import Estimate, measure, measure_changes
from compress.measures.tally import Tally
from compress.report.document import SimplestModel, Standing
from compress.report.words import describe_simplest
from compress.stage import Host, Work
from compress.store.artifact import Artifact
from compress.store.document import parse
from compress.tasks.simplest import Parameters, Simplest

TIMED = 32  # samples, one at a time
SEED = 0  # of the resamples


@dataclass(frozen=True)
class Fitted:
    """The simplest model of a task, fitted on train.

    Attributes:
        simplest: what it is.
        artifact: its committed parameters.
        work: what it was fitted for.
    """

    simplest: Simplest
    artifact: Artifact
    work: Work

    @cached_property
    def facts(self) -> SimplestModel:
        """What it is and what it takes."""
        return parse(SimplestModel, self.artifact.facts, where=self.artifact.path)

    @cached_property
    def parameters(self) -> Parameters:
        """What was learnt."""
        with np.load(self.artifact.path / "parameters.npz") as stored:
            return dict(stored)

    def tally(self, role: Role) -> Tally:
        """Return the task's measure of it on a role, sample by sample."""
        samples = self.work.data.roles[role]
        return self.work.task.tally(self.simplest.outputs(self.parameters, samples), samples)

    def lead(self, scores: Scores, role: Role) -> Estimate:
        """Return a model's measure less its own on a role, paired."""
        return _lead(scores, self.tally(role))

    def stand(self, teacher: Scores, shipped: Scores, role: Role) -> Standing:
        """Return what it reaches on a role, and how far the teacher and the shipped file are ahead of it."""
        own = self.tally(role)
        reached = measure({"": own}, seed=SEED)[""]
        return Standing(reached=reached, teacher=_lead(teacher, own), shipped=_lead(shipped, own))

    def __str__(self) -> str:
        """What it is and what it takes, in words."""
        return describe_simplest(self.facts, train=len(self.work.data.train))


def fit_simplest(work: Work, host: Host) -> Fitted | None:
    """Return the simplest model of a task, from the store when it is there; None where the task knows none.

    It is fitted on train alone, on as many samples as it takes at most. Without labels in train there is none either.
    """
    simplest, train = work.task.simplest(), work.data.train
    if simplest is None or train.labels is None:
        return None
    few = train if len(train) <= simplest.max_samples else train.take(np.arange(simplest.max_samples))
    inputs = {
        "simplest": simplest.identity,
        "samples": few.digest,
        "libraries": {name: importlib.metadata.version(name) for name in ("scikit-learn", "numpy")},
    }

    def write(directory: Path) -> dict[str, Any]:
        started_s = time.perf_counter()
        parameters = dict(simplest.fit(few))
        fit_s = time.perf_counter() - started_s
        np.savez(directory / "parameters.npz", allow_pickle=False, **parameters)
        return {
            "title": simplest.title,
            "samples": len(few),
            "size_bytes": sum(values.nbytes for values in parameters.values()),
            "fit_s": round(fit_s, 3),
            "sample_ms": _time(simplest, parameters, few),
        }

    with host.reporter.bar("fitting the simplest model"):
        return Fitted(simplest, host.store.commit(inputs, kind="simplest", write=write), work)


def _time(simplest: Simplest, parameters: Parameters, samples: Samples) -> float:
    """Return the median of milliseconds that one sample takes."""
    times_ms = []
    for position in range(min(TIMED, len(samples))):
        one = samples.take(np.array([position]))
        started_s = time.perf_counter()
        simplest.outputs(parameters, one)
        times_ms.append(1e3 * (time.perf_counter() - started_s))
    return round(float(np.median(times_ms)), 3)


def _lead(scores: Scores, own: Tally) -> Estimate:
    return measure_changes({"": scores.tally}, {"": own}, seed=SEED)[""]
