"""Train: a model on labels alone; how a teacher is made when none is given, and what students are compared with."""

from typing import ClassVar, Literal

from compress.loss import GuidedLoss, bind
from compress.loss.logits import Hard
from compress.models import load_model, load_structure
from compress.stage import Host, Need, Optimization, Stage, Training, Work
from compress.store.artifact import Artifact
from compress.tasks import View
from compress.training.loader import RoleLoader
from compress.training.loop import fit

LABELS_ALONE = GuidedLoss(hard=Hard())


class Train(Optimization, Stage):
    """Minimises cross-entropy with the labels: the guided loss with all its weight on the hard term.

    With augmentation every epoch sees a view of its own.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"data"})

    verb: Literal["train"] = "train"

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
                work.task, work.data.train, self, seed=seed, views=lambda epoch, _: View(epoch) if augmented else None
            ),
            host,
            loss=bind(LABELS_ALONE, module, None, (), seed=0),
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
            facts={"steps": result.steps, "images_per_s": result.images_per_s, "final_loss": result.final_loss},
        )

    def guided_loss(self, loss: GuidedLoss) -> GuidedLoss:  # noqa: ARG002 # whatever the pipeline's loss is
        """The labels alone."""
        return LABELS_ALONE

    @property
    def training(self) -> Training:
        """Itself."""
        return Training(self)
