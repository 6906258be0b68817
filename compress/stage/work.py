"""Work: everything that decides a stage's result besides its fields and its source."""

from dataclasses import dataclass, replace
from typing import Self

from compress.data import Data
from compress.errors import StageError
from compress.loss import GuidedLoss
from compress.store.artifact import Artifact
from compress.tasks import Task


@dataclass(frozen=True)
class Member:
    """A frozen teacher.

    Attributes:
        artifact: its model.
        task: how it reads samples; a student may read them otherwise.
        weight: of its soft targets in the average, against the first teacher's 1.
    """

    artifact: Artifact
    task: Task
    weight: float = 1.0


@dataclass(frozen=True)
class Work:
    """What decides a result.

    Every model reads samples by a task of its own: the teachers by theirs, the model at hand by this one.

    Attributes:
        task: makes batches as the model at hand reads samples, computes the hard loss, judges.
        data: samples by role.
        loss: the pipeline's guided loss.
        seed: the pipeline's root seed; stages derive their own from their key.
        teachers: the first one's features are read, all logits are averaged; empty before there is one.
    """

    task: Task
    data: Data
    loss: GuidedLoss
    seed: int
    teachers: tuple[Member, ...] = ()

    def reading(self, model: Artifact | None) -> Self:
        """Return the same work with samples read as a stored model reads them; None stands for a fresh model."""
        task = self.task if model is None else self.task.reading(model.path)
        return self if task is self.task else replace(self, task=task)

    @property
    def teacher(self) -> Member:
        """The first teacher.

        Raises:
            StageError: when there is none.
        """
        if not self.teachers:
            raise StageError("the guided loss needs a teacher", hint="name a teacher, or leave out terms that read one")
        return self.teachers[0]
