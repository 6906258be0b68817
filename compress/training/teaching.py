"""What a batch is compared with: what the teachers say of it, and its labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from compress.errors import DataError
from compress.loss import GuidedLoss, Tap, Targets
from compress.loss.taps import capture_taps
from compress.stage import Compute
from compress.tasks import Batch


class Objective(Protocol):
    """What training asks of a task: how a model reads a batch, and how wrong its outputs are."""

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the outputs of a batch's units, [units, outputs]."""
        ...

    def hard_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each unit against its label, float32 [units]."""
        ...


@dataclass(frozen=True)
class Taught:
    """What the teachers say of one batch.

    Attributes:
        logits: of each teacher, [units, C].
        weights: of the teachers, summing to 1.
        features: the first teacher's tapped tensors.
    """

    logits: tuple[Tensor, ...]
    weights: tuple[float, ...] = (1.0,)
    features: Mapping[Tap, Tensor] = field(default_factory=dict)


Teaching = Callable[[Batch], Taught]


def live_teacher(module: nn.Module, task: Objective, host: Compute, taps: Sequence[Tap]) -> Teaching:
    """Return a teacher that is run anew for each batch, without gradients; it has to be in evaluation mode."""

    def teach(batch: Batch) -> Taught:
        with capture_taps(module, taps) as capture, torch.no_grad(), host.autocast():
            logits = task.forward(module, batch)
            return Taught((logits.float(),), features=capture.take())

    return teach


def targets_of(task: Objective, batch: Batch, logits: Tensor, *, loss: GuidedLoss, taught: Taught | None) -> Targets:
    """Return what a batch's student logits [units, C] are compared with.

    Raises:
        DataError: when the loss reads labels and the batch has none.
    """
    if loss.needs_labels and batch.labels is None:
        raise refuse_unlabelled(loss)
    return Targets(
        teachers=() if taught is None else taught.logits,
        teacher_weights=(1.0,) if taught is None else taught.weights,
        labels=batch.labels,
        hard=task.hard_loss(logits, batch) if loss.needs_labels else None,
    )


def refuse_unlabelled(loss: GuidedLoss) -> DataError:
    """Return the refusal of samples without labels by a loss that reads some."""
    return DataError(
        "the loss reads labels, and these samples have none",
        expected="labels, or a loss without " + ", ".join(n for n, term in loss.terms.items() if term.reads_labels),
        hint="leave those terms out, as the preset function-matching does",
    )


def per_sample_loss(
    module: nn.Module, task: Objective, batch: Batch, *, loss: GuidedLoss, teacher: Teaching | None
) -> Tensor:
    """Return the loss of each unit, float32 [units], in full precision with final weights: what importance ranks by.

    Only terms that read logits and give each unit a value of its own count: features change width under surgery.
    """
    logits = task.forward(module, batch)
    targets = targets_of(task, batch, logits, loss=loss, taught=None if teacher is None else teacher(batch))
    return loss.on_logits(logits, targets, per_unit=True).total_per_unit
