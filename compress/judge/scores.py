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

from compress.benchmark.model_file import total_macs
from compress.data import Role
from compress.errors import StageError
from compress.export.feed import Feed, first_inputs, parity_inputs
from compress.export.onnx_file import copy_model, size_bytes, write_model
from compress.export.parity import check_decisions, check_parity
from compress.export.stored import graph_of
from compress.measures.divergence import kl_nats
from compress.models import load_model, load_structure
from compress.quantization.plan import QuantPlan
from compress.quantization.writer import write_quantized
from compress.report.document import Facts
from compress.stage import Host, Work
from compress.store.artifact import Artifact
from compress.store.document import parse
from compress.tasks import Tally, Task

VERSION = 5  # 5: macro-F1 leaves out classes that do not occur, correlations targets that do not vary
DECISION_SAMPLES = 129  # where decisions are judged: two may differ at 98%


@dataclass(frozen=True)
class Scores:
    """How one file did on one role.

    Attributes:
        artifact: the committed scores; ``model.onnx`` is the file that was scored.
        logits: float32 [units, C] of the role's samples, in their order.
        tally: the task's measure of them, sample by sample.
        measures: every measure that fits the task, by name.
    """

    artifact: Artifact
    logits: NDArray[np.float32]
    tally: Tally
    measures: Mapping[str, Tally]

    @property
    def onnx_path(self) -> Path:
        """The file that was scored."""
        return self.artifact.path / "model.onnx"

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
    inputs = {
        "scorer": VERSION,
        "artifact": artifact.digest,
        "variant": variant,
        "min_agreement": _min_agreement(artifact),
        "samples": samples.digest,
        "task": work.task.digest,
        "teacher": None if teacher is None else teacher.artifact.digest,
        "libraries": {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime", "onnxscript")},
        **host.execution.in_keys,
    }

    def write(directory: Path) -> dict[str, Any]:
        path = directory / "model.onnx"
        facts = write_probe(artifact, work, host, path, variant=variant)
        logits = Feed(work.task, samples, threads=host.execution.threads).outputs(path)
        if not np.isfinite(logits).all():
            raise StageError("the exported file's outputs are not finite", got="NaN or infinity", where=artifact.path)
        np.save(directory / "logits.npy", logits)
        facts |= {"role": role, "samples": len(samples), "size_bytes": size_bytes(path)}
        facts["accuracy"] = work.task.tally(logits, samples).value
        return facts | ({} if teacher is None else against(teacher.logits, logits, work.task))

    with host.reporter.bar(f"scoring on {role}"):
        found = host.store.commit(inputs, kind="scores", rounding=host.execution.rounding, write=write)
    logits = np.load(found.path / "logits.npy")
    measures = work.task.tallies(logits, samples)
    return Scores(artifact=found, logits=logits, tally=measures[work.task.measure], measures=measures)


def against(teacher: NDArray[np.float32], logits: NDArray[np.float32], task: Task) -> Nearness:
    """Return how near a model's outputs are to the teacher's.

    Args:
        teacher: its outputs [units, C].
        logits: of the model, the same units.
        task: says what is decided.
    """
    ours, theirs = task.decisions(logits), task.decisions(teacher)
    near: Nearness = {}
    if ours is not None and theirs is not None:
        near["teacher_agreement"] = float((ours == theirs).mean())
    if task.problem == "single-label":
        near["teacher_kl_nats"] = kl_nats(teacher, logits)
    return near


def write_probe(artifact: Artifact, work: Work, host: Host, path: Path, *, variant: str | None) -> dict[str, Any]:
    """Write the artifact's ONNX form; return its parity, parameters and MACs.

    A float probe is compared with its torch module; a bundle's float file was, when it was written. Other files equal
    no module: their decisions are compared between batch sizes and optimisation levels.
    """
    if artifact.kind == "bundle":
        name = variant or artifact.facts["primary"]
        copy_model(artifact.path / f"{name}.onnx", path)
        parity = artifact.facts["parity"] if name == "fp32" else _decisions(artifact, work, path)
        return {"parameters": artifact.facts["parameters"], "macs": artifact.facts["macs"], "parity": parity}
    module = load_model(artifact.path, code=host.code)
    structure = load_structure(artifact.path)
    example = work.task.batch(work.data.select, torch.arange(2)).inputs
    proto = graph_of(module, structure.model, structure.signature, example, host)
    facts: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "macs": total_macs(proto),
    }
    if artifact.kind == "quantized":
        proto = write_quantized(proto, QuantPlan.model_validate(artifact.read_json("quant_plan.json")))
        write_model(proto, path)
        return facts | {"parity": _decisions(artifact, work, path)}
    write_model(proto, path)
    checked = [check_parity(module, path, inputs) for inputs in parity_inputs(work.task, work.data.select)]
    return facts | {"parity": max(checked, key=lambda found: found["max_abs"])}


def _decisions(artifact: Artifact, work: Work, path: Path) -> dict[str, float]:
    inputs = first_inputs(work.task, work.data.select, DECISION_SAMPLES)
    return check_decisions(path, inputs, min_agreement=_min_agreement(artifact))


def _min_agreement(artifact: Artifact) -> float:
    """The bound that the quantizing stage was given; a bundle's files come from its output, judged before."""
    return artifact.inputs["fields"].get("min_agreement", 0.0) if artifact.kind == "quantized" else 0.0
