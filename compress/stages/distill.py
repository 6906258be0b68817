"""Distill: trains a student on the guided loss; under another name it is also the recovery after pruning."""

from typing import ClassVar, Literal, Self

import torch

from compress.artifact import Artifact
from compress.loss import GuidedLoss
from compress.models import load_model, load_structure
from compress.stage import Context, Need, Stage
from compress.teacher import teacher_outputs
from compress.training import Optimization, fit


class Distill(Optimization, Stage):
    """Trains a copy of the source on the guided loss against the frozen teacher.

    Teacher and student see the identical view of every sample; the teacher's outputs on it are computed once.

    Attributes:
        loss: overrides the pipeline's loss; the report then shows both fingerprints.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"data", "loss", "teacher"})

    verb: Literal["distill"] = "distill"
    loss: GuidedLoss | None = None

    def run(self, source: Artifact, context: Context) -> Artifact:
        """Train a copy of the source and commit it.

        Raises:
            StageError: when the loss is no longer finite or there is no teacher.
            ModelError: when the teacher's outputs do not match the task.
        """
        loss = self.guided_loss(context)
        structure = load_structure(source.path)
        module = load_model(source.path, code=context.code)
        views = context.task.views
        teacher = teacher_outputs(context, context.data.train, views=views) if loss.needs_teacher else None

        def view(_epoch: int, generator: torch.Generator) -> int | None:
            return views[int(torch.randint(len(views), (1,), generator=generator))]

        result = fit(
            module,
            context,
            loss=loss,
            teacher=teacher,
            optimization=self,
            seed=self.seed(source, context),
            work=context.store.work(self.key(source, context)),
            name=self.title,
            views=view,
        )
        return context.commit_model(
            self,
            source,
            module,
            model=structure.model,
            signature=structure.signature,
            facts={
                "steps": result.steps,
                "images_per_s": result.images_per_s,
                "final_loss": result.final_loss,
                "loss_fingerprint": loss.fingerprint,
            },
        )

    def guided_loss(self, context: Context) -> GuidedLoss:
        """The stage's own loss if it has one, else the pipeline's."""
        return self.loss or context.loss

    def smoke(self) -> Self:
        """One epoch, in updates that a smoke run has samples for."""
        return self.model_copy(
            update={"epochs": 1, "batch_size": min(self.batch_size, 128), "accumulate": min(self.accumulate, 2)}
        )
