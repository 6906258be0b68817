"""What every term of the guided loss is: frozen values with a weight, a schedule and declared properties."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from compress.config import Values
from compress.errors import InputError
from compress.tasks.task import Problem

Weight = Annotated[float, Field(gt=0, le=1e6)]
Temperature = Annotated[float, Field(gt=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Kind = Literal["per-unit", "coupled"]
ANY_PROBLEM: frozenset[Problem] = frozenset({"single-label", "multi-label", "regression"})
Property = Literal[
    "zero-at-equality",
    "duplication",
    "micro-batching",
    "bfloat16",
    "impossible-classes",
    "shift",
    "high-temperature",
    "uniform-teacher",
    "student-scale",
    "padding",
]


class Schedule(Values):
    """When a term counts, as shares of the training steps; by default always and fully.

    Attributes:
        begin_fraction: before it the term is off.
        end_fraction: after it the term is off.
        warmup_fraction: after the beginning, the weight rises linearly from 0 over this share.
        decay_fraction: before the end, the weight falls linearly to 0 over this share.
    """

    begin_fraction: Share = 0.0
    end_fraction: Share = 1.0
    warmup_fraction: Share = 0.0
    decay_fraction: Share = 0.0

    def model_post_init(self, _context: object) -> None:
        """Refuse a schedule that never lets the term count, and a rise that is cut off by the fall."""
        length = self.end_fraction - self.begin_fraction
        if length <= 0:
            raise ValueError(f"end_fraction {self.end_fraction:g} is not after begin_fraction {self.begin_fraction:g}")
        if self.warmup_fraction + self.decay_fraction > length + 1e-9:
            raise ValueError(
                f"warmup_fraction and decay_fraction together are longer than the term's share of {length:g}"
            )

    def factor(self, progress: float) -> float:
        """Return what the weight is multiplied by, 0 to 1.

        Args:
            progress: share of the steps that are done, 0 to 1; 1 gives the final weight.
        """
        last = progress >= 1.0 and self.end_fraction >= 1.0
        if progress < self.begin_fraction or (progress >= self.end_fraction and not last):
            return 0.0
        rising = (progress - self.begin_fraction) / self.warmup_fraction if self.warmup_fraction else 1.0
        falling = (self.end_fraction - progress) / self.decay_fraction if self.decay_fraction else 1.0
        return max(0.0, min(1.0, rising, falling))


ALWAYS = Schedule()


class Term(Values):
    """One named part of the guided loss.

    Class attributes:
        kind: ``per-unit`` gives one value per unit, float32 [N], whatever else is in the batch; ``coupled`` compares
            units with each other and gives one float32 scalar, so it allows neither accumulation nor per-sample scores.
        unit: of its values.
        properties: what `compress.testing` proves of it in its default form.
        reads_labels: whether labels must be there.
        reads_teacher: whether a teacher must be there.
        problems: what the outputs of a unit may be: one distribution (``single-label``), independent probabilities
            (``multi-label``) or numbers (``regression``).

    Attributes:
        weight: dimensionless.
        schedule: when the term counts.
    """

    kind: ClassVar[Kind] = "per-unit"
    unit: ClassVar[str] = "nats"
    properties: ClassVar[frozenset[Property]] = frozenset()
    reads_labels: ClassVar[bool] = False
    reads_teacher: ClassVar[bool] = True
    problems: ClassVar[frozenset[Problem]] = ANY_PROBLEM

    weight: Weight = 1.0
    schedule: Schedule = ALWAYS

    @property
    def declared(self) -> frozenset[Property]:
        """The properties of the term with these fields; what is not among them is shown to fail."""
        return self.properties

    def check_value(self, value: Tensor, *, name: str, units: int) -> Tensor:
        """Return what the term gave for a batch, if it is what its ``kind`` says.

        Args:
            value: of the term.
            name: of the term in its loss.
            units: how many the batch has.

        Raises:
            InputError: when it is not one number for each unit, or for a coupled term one scalar.
        """
        shape = [] if self.kind == "coupled" else [units]
        if not isinstance(value, Tensor) or not value.is_floating_point() or list(value.shape) != shape:
            raise InputError(
                f"the term {name} is no {self.kind} term",
                expected=f"value() to return float32 {shape}, {'one for each unit' if shape else 'one scalar'}",
                got=f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__,
                where=f"class {type(self).__name__}",
                hint="`kind` says whether a term gives each unit a value (per-unit) or compares them (coupled)",
            )
        return value


@dataclass(frozen=True)
class Targets:
    """What logits are compared with.

    Attributes:
        teachers: logits [N, C] of each teacher; empty without one.
        teacher_weights: of each teacher, summing to 1.
        labels: int64 [N], or None when unlabelled.
        hard: the task's own loss against the labels, float32 [N], or None when unlabelled.
    """

    teachers: tuple[Tensor, ...] = ()
    teacher_weights: tuple[float, ...] = (1.0,)
    labels: Tensor | None = None
    hard: Tensor | None = None

    def teacher(self, *, temperature: float = 1.0, standardise: bool = False) -> Tensor:
        """Return float32 logits [N, C] whose softmax at a temperature is the teachers' averaged soft target.

        The average is arithmetic, over probabilities (Hinton et al. 2015, arXiv 1503.02531, section 1, name both means
        for ensembles). A single teacher's logits are returned as they are.

        Args:
            temperature: at which they will be softened; the average depends on it.
            standardise: z-score each teacher's rows first.
        """
        logits = [teacher.detach().float() for teacher in self.teachers]
        if standardise:
            logits = [zscore(teacher) for teacher in logits]
        if len(logits) == 1:
            return logits[0]
        logs = [torch.log_softmax(teacher / temperature, dim=-1) for teacher in logits]
        return temperature * average_log(logs, self.teacher_weights)


def average_log(logs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the log of the weighted mean of probabilities that are given as logs; one alone is returned as it is."""
    if len(logs) == 1:
        return logs[0]
    return torch.stack([log + math.log(weight) for log, weight in zip(logs, weights, strict=True)]).logsumexp(dim=0)


def zscore(logits_NC: Tensor) -> Tensor:
    """Return each row with mean 0 and deviation 1, float32 [N, C].

    Logit standardisation, Sun et al. 2024 (arXiv 2403.01427), algorithm 1; as in the authors' code the deviation has
    Bessel's correction and 1e-7 is added to it.
    """
    logits = logits_NC.float()
    return (logits - logits.mean(dim=-1, keepdim=True)) / (logits.std(dim=-1, keepdim=True) + 1e-7)
