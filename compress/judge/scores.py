"""Scoring: the ONNX form of an artifact, its parity with torch, and its accuracy in ONNX Runtime.

Scores live in directories of their own, keyed by the artifact's digest and the scorer, so a change of the benchmark
never retrains anything.
"""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from compress.benchmark.model_file import macs_of
from compress.data import Role
from compress.errors import StageError
from compress.export.checks import check_against_itself, check_against_module
from compress.export.feed import Feed, force_targets
from compress.export.onnx_file import copy_model, size_bytes
from compress.export.program_file import file_of
from compress.export.stored import deployable_of
from compress.measures.divergence import kl_nats
from compress.models import load_model, load_structure
from compress.quantization.plans import quantized, read_plans
from compress.report.document import Facts
from compress.stage import Host, Work
from compress.store.artifact import Artifact
from compress.store.document import parse
from compress.tasks import Tally, Task, TransductionTask
from compress.tasks.transduction import perplexity

VERSION = 5  # 5: macro-F1 leaves out classes that do not occur, correlations targets that do not vary


@dataclass(frozen=True)
class Scores:
    """How one file did on one role.

    Attributes:
        artifact: the committed scores, with the file that was scored.
        logits: float32 [units, C] of the role's samples, in their order; of a program the symbols, int64 [N, length].
        tally: the task's measure of them, sample by sample.
        measures: every measure that fits the task, by name.
        task: as the file reads and answers; after a vocabulary was pruned, with symbols of its own.
    """

    artifact: Artifact
    logits: NDArray[np.float32]
    tally: Tally
    measures: Mapping[str, Tally]
    task: Task

    @cached_property
    def decisions(self) -> NDArray[Any] | None:
        """What is decided for each unit, in the file's own symbols; None where nothing is."""
        return self.task.decisions(self.logits)

    @property
    def onnx_path(self) -> Path:
        """The file that was scored; of a program the one that names its graphs."""
        return file_of(self.artifact.path, "model")

    @cached_property
    def facts(self) -> Facts:
        """Accuracy, size, parameters, multiply-accumulates, parity, and agreement with the teacher where it is known.

        Raises:
            ArtifactError: when the committed ones are not as this version writes them.
        """
        return parse(Facts, self.artifact.facts, where=self.artifact.path)

    @property
    def accuracy(self) -> float:
        """The task's measure; at most 1, larger is better."""
        return self.tally.value

    @property
    def correct(self) -> NDArray[np.bool_] | None:
        """Whether each sample is right, bool [N]; None when the measure is not the share of right samples."""
        return self.tally.binary


class Nearness(TypedDict, total=False):
    """The share of decisions that are the teacher's, and for single classes the KL divergence from it in nats."""

    teacher_agreement: float
    teacher_kl_nats: float


def score(
    artifact: Artifact, work: Work, host: Host, *, role: Role, teacher: Scores | None, variant: str | None = None
) -> Scores:
    """Return the scores of an artifact's ONNX form on a role, from the store when they are there.

    Args:
        artifact: of kind ``model``, ``quantized`` or ``bundle`` (one of its files, byte for byte).
        work: task and data.
        host: store, execution.
        role: ``select`` for everything that chooses, ``test`` for the verdict.
        teacher: the teacher's scores on the same role, for agreement and KL; None for the teacher itself.
        variant: of a bundle; None for its primary one.

    Raises:
        StageError: when the file does not compute what the torch module computes, decides otherwise at another batch
            size, or its outputs are not finite.
    """
    samples, work = work.data.roles[role], work.reading(artifact)
    task = work.task.deployed
    # What it gives the right texts is told of test alone, for the verdict: it takes about as long as writing does.
    forced = work.task if role == "test" and isinstance(work.task, TransductionTask) else None
    inputs = {
        "scorer": VERSION,
        "artifact": artifact.digest,
        "variant": variant,
        "min_agreement": _min_agreement(artifact),
        "samples": samples.digest,
        "task": work.task.digest,
        "teacher": None if teacher is None else teacher.artifact.digest,
        "libraries": {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime", "onnxscript")},
        **({} if forced is None else {"forced": 1}),
        **host.execution.in_keys,
    }

    def write(directory: Path) -> dict[str, Any]:
        path, facts = write_probe(artifact, work, host, directory, variant=variant)
        logits = Feed(task, samples, threads=host.execution.threads).outputs(path)
        if not np.isfinite(logits).all():
            raise StageError("the exported file's outputs are not finite", got="NaN or infinity", where=artifact.path)
        np.save(directory / "logits.npy", logits)
        if forced is not None:
            np.save(directory / "nats.npy", force_targets(path, forced, samples, threads=host.execution.threads))
        facts |= {"role": role, "samples": len(samples), "size_bytes": size_bytes(path)}
        facts["accuracy"] = task.tally(logits, samples).value
        return facts | ({} if teacher is None else against(teacher.logits, logits, task, reading=teacher.task))

    with host.reporter.bar(f"scoring on {role}"):
        found = host.store.commit(inputs, kind="scores", rounding=host.execution.rounding, write=write)
    logits = np.load(found.path / "logits.npy")
    measures = {**task.tallies(logits, samples)}
    if forced is not None:
        counts = np.stack([np.load(found.path / "nats.npy"), forced.units(samples)], axis=1).astype(np.float64)
        measures["perplexity"] = Tally(counts, perplexity)
    return Scores(artifact=found, logits=logits, tally=measures[task.measure], measures=measures, task=task)


def against(teacher: NDArray[np.float32], logits: NDArray[np.float32], task: Task, *, reading: Task) -> Nearness:
    """Return how near a model's outputs are to the teacher's.

    Args:
        teacher: its outputs [units, C].
        logits: of the model, the same units.
        task: says what is decided.
        reading: the teacher's, which may have other symbols.
    """
    ours, theirs = task.decisions(logits), reading.decisions(teacher)
    near: Nearness = {}
    if ours is not None and theirs is not None:
        near["teacher_agreement"] = float((ours == theirs).mean())
    if task.problem == "single-label":
        near["teacher_kl_nats"] = kl_nats(teacher, logits)
    return near


def write_probe(
    artifact: Artifact, work: Work, host: Host, directory: Path, *, variant: str | None
) -> tuple[Path, dict[str, Any]]:
    """Write the artifact's ONNX form as ``model``; return its path, and its parity, parameters and MACs.

    A float probe is compared with its torch module; a bundle's float file was, when it was written. Other files equal
    no module: their decisions are compared between batch sizes and optimisation levels.
    """
    task, select = work.task, work.data.select
    least = _min_agreement(artifact)
    if artifact.kind == "bundle":
        name = variant or artifact.facts["primary"]
        shipped = file_of(artifact.path, name)
        path = directory / f"model{shipped.suffix}"
        copy_model(shipped, path)
        parity = artifact.facts["parity"] if name == "fp32" else check_against_itself(path, task, select, least)
        return path, {"parameters": artifact.facts["parameters"], "macs": artifact.facts["macs"], "parity": parity}
    module = load_model(artifact.path, code=host.code)
    structure = load_structure(artifact.path)
    example = task.batch(select, torch.arange(2)).inputs
    made = deployable_of(module, structure.model, structure.signature, task, example, host)
    facts: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "macs": macs_of(made),
    }
    if artifact.kind == "quantized":
        path = quantized(made, read_plans(artifact.path)).write(directory, "model")
        return path, facts | {"parity": check_against_itself(path, task, select, least)}
    path = made.write(directory, "model")
    return path, facts | {"parity": check_against_module(path, module, task, select)}


def _min_agreement(artifact: Artifact) -> float:
    """The bound that the quantizing stage was given; a bundle's files come from its output, judged before."""
    return artifact.inputs["fields"].get("min_agreement", 0.0) if artifact.kind == "quantized" else 0.0
