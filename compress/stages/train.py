"""Train: a model on labels alone; how a teacher is made when none is given, and what students are compared with."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from compress.loss import GuidedLoss, bind
from compress.loss.logits import Hard, Uniform
from compress.models import load_model, load_structure
from compress.stage import Host, Need, Optimization, Stage, Training, Work
from compress.store.artifact import Artifact
from compress.tasks import View
from compress.training.checks import refuse_untrainable
from compress.training.loader import RoleLoader
from compress.training.loop import fit

LABELS_ALONE = GuidedLoss(hard=Hard())
Smoothing = Annotated[float, Field(ge=0, lt=1, exclude_if=lambda share: share == 0)]  # keys are what they were


class Train(Optimization, Stage):
    """Minimises cross-entropy with the labels: the guided loss with all its weight on the hard term.

    With augmentation every epoch sees a view of its own.

    Attributes:
        label_smoothing: share of the uniform distribution in what is to be learnt (Szegedy et al. 2016, section 7).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"data"})

    verb: Literal["train"] = "train"
    label_smoothing: Smoothing = 0.0

    def run(self, source: Artifact, work: Work, host: Host) -> Artifact:
        """Train a copy of the source and commit it.

        Raises:
            StageError: when the loss is no longer finite.
        """
        structure = load_structure(source.path)
        module = load_model(source.path, code=host.code)
        augmented, seed = work.task.augmented, self.seed(source, work, host)
        result = fit(
            module,
            work.task,
            RoleLoader(
                work.task,
                work.data.train,
                self,
                seed=seed,
                views=lambda epoch, _: View(epoch) if augmented else None,
                group=host.group,
            ),
            host,
            loss=bind(self.guided_loss(work.loss), module, None, (), seed=0),
            teacher=None,
            optimization=self,
            seed=seed,
            checkpoints=host.store.work(self.key(source, work, host)),
            name=self.title,
        )
        return self.commit(
            module,
            source,
            work,
            host,
            model=structure.model,
            signature=structure.signature,
            facts=result.facts,
        )

    def guided_loss(self, loss: GuidedLoss) -> GuidedLoss:  # noqa: ARG002 # whatever the pipeline's loss is
        """The labels alone, smoothed or not."""
        share = self.label_smoothing
        return GuidedLoss(hard=Hard(weight=1 - share), uniform=Uniform(weight=share)) if share else LABELS_ALONE

    def check(self, module: nn.Module, work: Work) -> None:
        """Refuse a model that does not run in training mode."""
        refuse_untrainable(module, work.task, work.data.select, where=self.title)

    @property
    def training(self) -> Training:
        """Itself."""
        return Training(self)
