"""The one teacher-guided loss that trains, ranks channels, recovers and ranks layers for quantization."""

import hashlib
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from compress.choice import Values
from compress.loss.logits import softened_kl

Weight = Annotated[float, Field(ge=0, le=1e6)]


@dataclass(frozen=True)
class LossTerms:
    """What one batch costs.

    Attributes:
        per_unit: named terms, each float32 [N] in nats, unweighted.
        weights: the weight of each term.
    """

    per_unit: dict[str, Tensor]
    weights: dict[str, float]

    @property
    def total_per_unit(self) -> Tensor:
        """Weighted sum of the terms, float32 [N]."""
        return torch.stack([self.weights[name] * value for name, value in self.per_unit.items()]).sum(dim=0)

    @property
    def total(self) -> Tensor:
        """Mean of the weighted sum over the units, a float32 scalar."""
        return self.total_per_unit.mean()

    def named(self) -> dict[str, Tensor]:
        """The mean of each unweighted term and of the total, detached scalars."""
        means = {name: value.detach().mean() for name, value in self.per_unit.items()}
        return {"total": self.total.detach(), **means}


class GuidedLoss(Values):
    """hard_weight * cross-entropy with the labels + soft_weight * T^2 KL to the teacher (Hinton et al. 2015).

    A value without state: every stage of a pipeline holds the same one, and logs its fingerprint. A term whose weight
    is 0 is not computed, so labels are not needed when ``hard_weight`` is 0, nor a teacher when ``soft_weight`` is 0.

    Attributes:
        hard_weight: weight of the labels' term, dimensionless.
        soft_weight: weight of the teacher's term; it is not divided by the number of classes.
        temperature: softens both distributions; 4 is the common choice for ten to a hundred classes.
    """

    hard_weight: Weight = 0.1
    soft_weight: Weight = 0.9
    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0

    def model_post_init(self, _context: object) -> None:
        """Refuse a loss without any term."""
        if self.hard_weight == 0 and self.soft_weight == 0:
            raise ValueError("hard_weight and soft_weight are both 0: nothing would be learnt")

    @property
    def needs_teacher(self) -> bool:
        """Whether teacher logits must be given."""
        return self.soft_weight > 0

    @property
    def needs_labels(self) -> bool:
        """Whether the hard loss must be given."""
        return self.hard_weight > 0

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with any field."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def __call__(self, student: Tensor, *, teacher: Tensor | None, hard: Tensor | None) -> LossTerms:
        """Return the terms of one batch.

        Args:
            student: student logits [N, C].
            teacher: teacher logits [N, C]; may be None when ``soft_weight`` is 0.
            hard: the task's hard loss per unit, float32 [N]; may be None when ``hard_weight`` is 0.
        """
        per_unit: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        if self.needs_labels:
            assert hard is not None
            per_unit["hard"], weights["hard"] = hard, self.hard_weight
        if self.needs_teacher:
            assert teacher is not None
            per_unit["soft"] = softened_kl(student, teacher, temperature=self.temperature)
            weights["soft"] = self.soft_weight
        return LossTerms(per_unit=per_unit, weights=weights)
