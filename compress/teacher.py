"""Teacher outputs, computed once per (teacher, samples, view) and reused by every epoch, stage and run."""

import importlib.metadata
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compress.artifact import hash_values
from compress.data import Samples
from compress.errors import ModelError, StageError
from compress.models import load_model
from compress.stage import Context
from compress.tasks import Batch
from compress.training import predict


@dataclass(frozen=True)
class TeacherOutputs:
    """The teacher's logits on one role.

    Attributes:
        logits: view to float32 [N, C].
    """

    logits: dict[int | None, Tensor]

    def __call__(self, batch: Batch) -> Tensor:
        """Return the logits [B, C] of a batch of this role."""
        return self.logits[batch.view][batch.index]


def teacher_outputs(context: Context, samples: Samples, *, views: tuple[int | None, ...]) -> TeacherOutputs:
    """Return the teacher's logits on a role, from the store where they are there already.

    The teacher runs in evaluation mode without gradients, in the pipeline's precision, in a fixed order and batch
    size. Each view is committed by itself, so an interrupted pass continues.

    Raises:
        StageError: when the context has no teacher.
        ModelError: when the teacher's outputs do not match the task's classes, or are not finite.
    """
    if context.teacher is None:
        raise StageError("the guided loss needs a teacher", hint="name a teacher, or set soft_weight to 0")
    return TeacherOutputs({view: _logits(context, samples, view=view) for view in views})


def _logits(context: Context, samples: Samples, *, view: int | None) -> Tensor:
    assert context.teacher is not None
    inputs = {
        "outputs": "logits",
        "teacher": context.teacher.digest,
        "samples": samples.digest,
        "task": context.task.digest,
        "view": view,
        "threads": context.execution.threads,
        "precision": context.execution.precision,
        "torch": importlib.metadata.version("torch"),
    }
    found = context.store.find(hash_values(inputs))
    if found is None:
        module = load_model(context.teacher.path, code=context.code)
        name = "teacher outputs" if view is None else f"teacher outputs, view {view}"
        logits = predict(module, context, samples, view=view, name=name)
        _check(logits, context)
        found = context.store.commit(
            inputs,
            kind="outputs",
            write=lambda directory: np.save(directory / "logits.npy", logits.numpy()) or {"samples": len(samples)},
        )
    return torch.from_numpy(np.load(found.path / "logits.npy", mmap_mode="c"))


def _check(logits: Tensor, context: Context) -> None:
    classes = len(context.task.classes)
    if logits.dim() != 2 or logits.shape[1] != classes:
        raise ModelError(
            "the teacher's outputs do not match the data",
            expected=f"logits [samples, {classes}]",
            got=list(logits.shape),
            where="teacher",
            hint="give a teacher trained on the same classes",
        )
    if not bool(logits.isfinite().all()):
        raise ModelError("the teacher's outputs are not finite", got="NaN or infinity", where="teacher")
