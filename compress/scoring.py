"""Scoring: the ONNX form of an artifact, its parity with torch, and its accuracy in ONNX Runtime.

Scores live in directories of their own, keyed by the artifact's digest and the scorer, so a change of the benchmark
never retrains anything.
"""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.artifact import Artifact
from compress.data import Role, Samples
from compress.errors import StageError
from compress.export.graph import to_onnx
from compress.export.parity import check_decisions, check_parity, difference
from compress.export.session import Session
from compress.models import load_model, load_structure
from compress.quantization.plan import QuantPlan
from compress.quantization.writer import write_quantized
from compress.stage import Context
from compress.surgery.cost import model_cost

VERSION = 3
BATCH = 256
PARITY_SAMPLES = 33
DECISION_SAMPLES = 129  # where decisions are judged: two may differ at 98%


@dataclass(frozen=True)
class Scores:
    """How one file did on one role.

    Attributes:
        artifact: the committed scores; ``model.onnx`` is the file that was scored.
        logits: float32 [N, C] of the role's samples, in their order.
        correct: bool [N].
    """

    artifact: Artifact
    logits: NDArray[np.float32]
    correct: NDArray[np.bool_]

    @property
    def onnx_path(self) -> Path:
        """The file that was scored."""
        return self.artifact.path / "model.onnx"

    @property
    def facts(self) -> dict[str, Any]:
        """Accuracy (0 to 1), size_bytes, parameters, macs, parity, and KL and agreement to the teacher if known.

        ``parity`` is against the torch module for float files, else of the file with itself; see ``export.parity``.
        """
        return self.artifact.facts

    @property
    def accuracy(self) -> float:
        """Share of right decisions, 0 to 1."""
        return float(self.correct.mean())


def inputs_of(context: Context, samples: Samples) -> NDArray[np.float32]:
    """Return a role's preprocessed plain inputs, float32 [N, ...]."""
    parts = [context.task.batch(samples, index).inputs[0].numpy() for index in torch.arange(len(samples)).split(4096)]
    return np.concatenate(parts)


def score(
    artifact: Artifact, context: Context, *, role: Role, teacher: Scores | None, variant: str | None = None
) -> Scores:
    """Return the scores of an artifact's ONNX form on a role, from the store when they are there.

    Args:
        artifact: of kind ``model``, ``quantized`` or ``bundle`` (one of its files, byte for byte).
        context: task, data and store.
        role: ``select`` for everything that chooses, ``test`` for the verdict.
        teacher: the teacher's scores on the same role, for agreement and KL; None for the teacher itself.
        variant: of a bundle; None for its primary one.

    Raises:
        StageError: when the file does not compute what the torch module computes, decides otherwise at another batch
            size, or its outputs are not finite.
    """
    samples = context.data.roles[role]
    inputs = {
        "scorer": VERSION,
        "artifact": artifact.digest,
        "variant": variant,
        "min_agreement": _min_agreement(artifact),
        "samples": samples.digest,
        "task": context.task.digest,
        "teacher": None if teacher is None else teacher.artifact.digest,
        "libraries": {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime", "onnxscript")},
    }

    def write(directory: Path) -> dict[str, Any]:
        path = directory / "model.onnx"
        facts = write_probe(artifact, context, path, variant=variant)
        logits = run_onnx(path, inputs_of(context, samples), threads=context.execution.threads)
        if not np.isfinite(logits).all():
            raise StageError("the exported file's outputs are not finite", got="NaN or infinity", where=artifact.path)
        np.save(directory / "logits.npy", logits)
        facts |= {"role": role, "samples": len(samples), "size_bytes": path.stat().st_size}
        facts["accuracy"] = float(context.task.correct(logits, samples).mean())
        if teacher is not None:
            against = difference(teacher.logits, logits)
            facts |= {"teacher_kl_nats": against["kl_nats"], "teacher_agreement": against["argmax_agreement"]}
        return facts

    found = context.store.commit(inputs, kind="scores", write=write)
    logits = np.load(found.path / "logits.npy")
    return Scores(artifact=found, logits=logits, correct=context.task.correct(logits, samples))


def write_probe(artifact: Artifact, context: Context, path: Path, *, variant: str | None) -> dict[str, Any]:
    """Write the artifact's ONNX form; return its parity, parameters and MACs.

    A float probe is compared with its torch module; a bundle's float file was, when it was written. Other files equal
    no module: their decisions are compared between batch sizes and optimisation levels.
    """
    if artifact.kind == "bundle":
        name = variant or artifact.facts["primary"]
        path.write_bytes((artifact.path / f"{name}.onnx").read_bytes())
        parity = artifact.facts["parity"] if name == "fp32" else _decisions(artifact, context, path)
        return {"parameters": artifact.facts["parameters"], "macs": artifact.facts["macs"], "parity": parity}
    module = load_model(artifact.path, code=context.code)
    signature = load_structure(artifact.path).signature
    example = context.task.batch(context.data.select, torch.arange(2)).inputs
    proto = to_onnx(module, signature, example)
    cost = model_cost(module, example)
    facts: dict[str, Any] = {"parameters": cost.parameters, "macs": cost.macs}
    if artifact.kind == "quantized":
        proto = write_quantized(proto, QuantPlan.model_validate(artifact.read_json("quant_plan.json")))
        path.write_bytes(proto.SerializeToString())
        return facts | {"parity": _decisions(artifact, context, path)}
    path.write_bytes(proto.SerializeToString())
    return facts | {"parity": check_parity(module, path, (_first(context, PARITY_SAMPLES),))}


def _decisions(artifact: Artifact, context: Context, path: Path) -> dict[str, float]:
    inputs = (_first(context, DECISION_SAMPLES),)
    return check_decisions(path, inputs, min_agreement=_min_agreement(artifact))


def _min_agreement(artifact: Artifact) -> float:
    """The bound that the quantizing stage was given; a bundle's files come from its output, judged before."""
    return artifact.inputs["fields"]["min_agreement"] if artifact.kind == "quantized" else 0.0


def _first(context: Context, count: int) -> NDArray[np.float32]:
    return inputs_of(context, context.data.select.take(np.arange(min(count, len(context.data.select)))))


def run_onnx(path: Path, inputs: NDArray[np.float32], *, threads: int) -> NDArray[np.float32]:
    """Return the logits of a file for preprocessed inputs [N, ...], float32 [N, C]."""
    session = Session(path, threads=threads)
    return np.concatenate([session(inputs[start : start + BATCH])[0] for start in range(0, len(inputs), BATCH)])
