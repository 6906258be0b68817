"""The conformance suite of distillation losses: run it on ours, or on yours.

Seven well-known codebases implement the same loss seven ways, some wrong by a factor of the number of classes. Each
property here catches one of those faults on a small random example:

* zero-at-equality: the loss of a student that says what the teacher says is 0 (to 1e-5).
* duplication: a batch repeated has the same loss; catches sums over the batch.
* micro-batching: the loss of a batch is the mean of its parts', weighted by their sizes; what accumulation relies on.
* bfloat16: bfloat16 inputs give what the same numbers give in float32; catches losses computed in half precision.
* impossible-classes: appending classes of logit minus infinity changes nothing; catches every mean over classes.
* shift: adding a constant to a row of the student's logits changes nothing.
* high-temperature: the gradient tends to (centred student - centred teacher) / (N C) (Hinton et al. 2015, equation 4);
  fails by T squared when that factor is missing.
* uniform-teacher: at temperature 1 the loss is -log C - mean log p (closed form).
* padding: appending invalid tokens with any content changes nothing.
* student-scale: multiplying the student's features changes nothing.

::

    from compress.testing import logit_properties

    held = logit_properties(lambda student, targets: my_loss(student, targets.teacher()))
    assert held["impossible-classes"], "divides by the number of classes"
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.loss.features import Compared, FeatureTerm, Form, Pair
from compress.loss.logits import LogitTerm
from compress.loss.taps import Tap
from compress.loss.term import Property, Targets, Term

LogitLoss = Callable[[Tensor, Targets], Tensor]
FeatureLoss = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | None], Tensor]
PROPERTIES: tuple[Property, ...] = get_args(Property)

UNITS, CLASSES, TOKENS, WIDTH, LAYERS = 12, 7, 5, 8, 3
SIDES = (4, 4)
HIGH_TEMPERATURE = 1000.0


def term_properties(term: Term) -> dict[Property, bool]:
    """Return which properties a term of the guided loss really has, among those that apply to its kind.

    Args:
        term: one of ours or of yours, a `LogitTerm` or a `FeatureTerm`; ``declared`` says which it should have.
    """
    if isinstance(term, LogitTerm):
        at = (
            (lambda value: term.model_copy(update={"temperature": value}).value)
            if "temperature" in vars(term)
            else None
        )
        held = logit_properties(term.value, at=at)
        return held if term.reads_teacher else {name: held[name] for name in held if name != "uniform-teacher"}
    assert isinstance(term, FeatureTerm)
    pairs = _pairs(term)

    def loss(students: Sequence[Tensor], teachers: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        compared = [Compared(pair, ours, theirs) for pair, ours, theirs in zip(pairs, students, teachers, strict=True)]
        return term.value(compared, mask=mask)

    return feature_properties(loss, form=term.form, tensors=len(pairs), layers=term.every_pair)


def logit_properties(loss: LogitLoss, *, at: Callable[[float], LogitLoss] | None = None) -> dict[Property, bool]:
    """Return which properties a loss on logits has.

    Args:
        loss: takes student logits [N, C] and `Targets` (teacher logits, labels, hard loss per unit); returns [N] or a
            scalar.
        at: returns the loss at a temperature; None for a loss without one, to which the last two do not apply.
    """
    student, teacher, labels = _logits()
    whole = _mean(loss, student, teacher, labels)
    impossible = torch.full((UNITS, 3), -math.inf)
    wide = torch.cat([student, impossible], dim=1), torch.cat([teacher, impossible], dim=1)
    shifts = torch.linspace(-3, 3, UNITS).unsqueeze(1)
    parts = [
        _mean(loss, student[rows], teacher[rows], labels[rows]) * len(rows) for rows in torch.arange(UNITS).split(5)
    ]
    ours, theirs = student.bfloat16(), teacher.bfloat16()
    held: dict[Property, bool] = {
        "zero-at-equality": _near(_mean(loss, teacher, teacher, labels), 0.0),
        "duplication": _near(_mean(loss, student.repeat(2, 1), teacher.repeat(2, 1), labels.repeat(2)), whole),
        "micro-batching": _near(sum(parts) / UNITS, whole),
        "bfloat16": _near(_mean(loss, ours, theirs, labels), _mean(loss, ours.float(), theirs.float(), labels), 1e-7),
        "impossible-classes": _near(_mean(loss, *wide, labels), whole),
        "shift": _near(_mean(loss, student + shifts, teacher, labels), whole),
    }
    if at is not None:
        held["high-temperature"] = _high_temperature(at(HIGH_TEMPERATURE), student, teacher, labels)
        closed = -math.log(CLASSES) - float(student.log_softmax(dim=1).mean())
        held["uniform-teacher"] = _near(_mean(at(1.0), student, torch.zeros_like(student), labels), closed)
    return held


def feature_properties(
    loss: FeatureLoss, *, form: Form = "tokens", tensors: int = 1, layers: bool = False
) -> dict[Property, bool]:
    """Return which properties a loss on features has.

    Args:
        loss: takes the student's tensors, the teacher's, and a mask bool [N, L] (None when all tokens are valid);
            returns [N] or a scalar.
        form: tensors are [N, L, D], or maps [N, C, H, W], which have no padding.
        tensors: how many pairs it compares.
        layers: whether the pairs are all pairs of some layers of each, so that equality means equal layers.
    """
    generator = torch.Generator().manual_seed(1)
    shape = (UNITS, TOKENS, WIDTH) if form == "tokens" else (UNITS, WIDTH, *SIDES)
    students, teachers = (
        [torch.randn(shape, generator=generator) for _ in range(tensors)] for _ in ("student", "teacher")
    )
    equal = _every_pair(teachers[:LAYERS], teachers[:LAYERS]) if layers else (teachers, teachers)
    if layers:
        students, teachers = _every_pair(students[:LAYERS], teachers[:LAYERS])

    def value(ours: Sequence[Tensor], theirs: Sequence[Tensor], mask: Tensor | None = None) -> float:
        return float(loss(ours, theirs, mask).mean())

    def each(change: Callable[[Tensor], Tensor]) -> float:
        return value([change(side) for side in students], [change(side) for side in teachers])

    whole = value(students, teachers)
    parts = [each(lambda side, rows=rows: side[rows]) * len(rows) for rows in torch.arange(UNITS).split(5)]
    held: dict[Property, bool] = {
        "zero-at-equality": _near(value(*equal), 0.0),
        "duplication": _near(each(lambda side: torch.cat([side, side])), whole),
        "micro-batching": _near(sum(parts) / UNITS, whole),
        "bfloat16": _near(each(torch.Tensor.bfloat16), each(lambda side: side.bfloat16().float()), 1e-7),
        "student-scale": _near(value([3 * side for side in students], teachers), whole),
    }
    if form == "tokens":
        mask = torch.ones(UNITS, TOKENS + 2, dtype=torch.bool)
        mask[:, TOKENS:] = False
        ours, theirs = (
            [torch.cat([side, 9 * torch.randn(UNITS, 2, WIDTH, generator=generator)], dim=1) for side in sides]
            for sides in (students, teachers)
        )
        held["padding"] = _near(value(ours, theirs, mask), value(students, teachers, mask[:, :TOKENS]))
    return held


def _pairs(term: FeatureTerm) -> list[Pair]:
    """Return pairs that the suite's tensors could come from."""
    shape = (2, TOKENS, WIDTH) if term.form == "tokens" else (2, WIDTH, *SIDES)
    pair = Pair(Tap("student"), Tap("teacher"), (shape, shape), (2, 2))
    if term.every_pair:
        return [
            replace(pair, student=Tap(f"student{ours}"), teacher=Tap(f"teacher{theirs}"))
            for theirs in range(LAYERS)
            for ours in range(LAYERS)
        ]
    return [pair] * term.taps_per_pair


def _every_pair(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return [left for _ in theirs for left in ours], [right for right in theirs for _ in ours]


def _logits() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, UNITS, CLASSES, generator=generator)
    return student, teacher, torch.randint(CLASSES, (UNITS,), generator=generator)


def _evaluate(loss: LogitLoss, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    hard = F.cross_entropy(student.float(), labels, reduction="none")
    return loss(student, Targets(teachers=(teacher,), labels=labels, hard=hard)).mean()


def _mean(loss: LogitLoss, student: Tensor, teacher: Tensor, labels: Tensor) -> float:
    return float(_evaluate(loss, student, teacher, labels))


def _high_temperature(loss: LogitLoss, student: Tensor, teacher: Tensor, labels: Tensor) -> bool:
    student = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_evaluate(loss, student, teacher, labels), student)
    centred = [side - side.mean(dim=1, keepdim=True) for side in (student.detach(), teacher)]
    limit = (centred[0] - centred[1]) / (UNITS * CLASSES)
    return bool((gradient - limit).abs().max() <= 0.02 * limit.abs().max())


def _near(value: float, expected: float, tolerance: float = 1e-5) -> bool:
    return math.isfinite(value) and abs(value - expected) <= tolerance * max(1.0, abs(expected))
