"""Stage: one step of a pipeline, artifact in, artifact out."""

import importlib.metadata
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from torch import nn

from compress.config import Values
from compress.config.user_code import is_own, origin
from compress.errors import StageError
from compress.loss import GuidedLoss
from compress.models import Model, save_model
from compress.stage.host import Host
from compress.stage.training import ACCUMULATE_VERSION, Training
from compress.stage.work import Work
from compress.store.artifact import Artifact
from compress.store.digest import hash_values
from compress.store.manifest import Kind
from compress.tasks import Signature

Need = Literal["data", "loss", "teacher"]
Quantity = Literal["accuracy", "size", "speed"]


class Stage(Values):
    """One step. Its fields are its whole configuration, in Python and in YAML alike.

    A stage answers for itself whatever a pipeline asks of it; nothing else asks what class it is.

    Class attributes:
        version: raised by hand when the same fields come to mean another result.
        consumes: kinds of artifact it can start from; empty when it starts from nothing.
        produces: the kind it leaves.
        needs: what of the work decides its result besides the source.
        libraries: distributions whose version decides its result.
        cuts: whether it makes the model worse on purpose, so that the training after it recovers and counts with it.
        scales: whether it can be asked for any fraction of the model's cost.
        renumbers: whether its model reads or writes other symbols than its source.

    Attributes:
        verb: the class's name in a recipe.
        name: unique in a pipeline; default: the verb.
    """

    version: ClassVar[int] = 1
    consumes: ClassVar[frozenset[Kind]] = frozenset({"model"})
    produces: ClassVar[Kind] = "model"
    needs: ClassVar[frozenset[Need]] = frozenset({"data"})
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    cuts: ClassVar[bool] = False
    scales: ClassVar[bool] = False
    renumbers: ClassVar[bool] = False

    verb: Any = ""  # each stage narrows it to a literal of its own
    name: str = ""

    @property
    def title(self) -> str:
        """The stage's unique name in its pipeline: ``name``, or its verb."""
        return self.name or self.verb

    @property
    def takes(self) -> frozenset[Kind]:
        """The kinds that it can start from with these fields, among ``consumes``."""
        return self.consumes

    @property
    def training(self) -> Training | None:
        """How it trains the model; None when it does not."""
        return None

    @abstractmethod
    def run(self, source: Artifact, work: Work, host: Host) -> Artifact:
        """Do the step and commit its output; the source is not changed.

        Args:
            source: what it starts from.
            work: what decides the result, with samples read as the source's model reads them.
            host: where it happens.

        Raises:
            StageError: when the step cannot do what its fields ask, or changed nothing.
        """

    def build(self, work: Work, host: Host) -> nn.Module:
        """Return the model of a stage that starts from nothing, before it is stored.

        Raises:
            StageError: for a stage that starts from an artifact.
        """
        del work, host
        raise StageError("the stage builds no model", expected="one that starts from nothing", where=self.title)

    def family(self) -> Model:
        """Return the family of the model that ``build`` returns.

        Raises:
            StageError: for a stage that starts from an artifact.
        """
        raise StageError("the stage builds no model", expected="one that starts from nothing", where=self.title)

    def smoke(self) -> Self:
        """Return the same stage with as few steps as exercise all its code."""
        return self

    def ships(self, *, quantized: bool) -> tuple[str, ...]:  # noqa: ARG002
        """Return the names of the files that it ships, the primary one first; empty when it ships none.

        Args:
            quantized: whether the model is quantized before.
        """
        return ()

    @property
    def leaves_primary_open(self) -> bool:
        """Whether the race chooses which of the files that it ships is the primary one."""
        return False

    def guided_loss(self, loss: GuidedLoss) -> GuidedLoss:
        """Return the loss this stage uses: the pipeline's, unless the stage overrides it."""
        return loss

    def guided_by(self, loss: GuidedLoss) -> bool:
        """Whether its result depends on a teacher, in a pipeline with this loss."""
        return "teacher" in self.needs and self.guided_loss(loss).needs_teacher

    def misfits(self, loss: GuidedLoss) -> list[str]:
        """Return why this stage cannot work with a pipeline's loss, if it cannot; told before anything runs."""
        del loss
        return []

    def misplaced(self, loss: GuidedLoss, *, after: Sequence["Stage"], drawn: bool) -> list[str]:
        """Return why this stage cannot stand where it does, if it cannot; told before anything runs.

        Args:
            loss: the pipeline's.
            after: the stages before it.
            drawn: whether the student begins with drawn weights, and not with its teacher's or published ones.
        """
        del loss, after, drawn
        return []

    def check(self, module: nn.Module, work: Work) -> None:
        """Refuse a model, or data, that this stage could not work on; asked before anything trains.

        Args:
            module: the student as the pipeline's first stage gets it, perhaps untrained; not changed.
            work: reads samples as that student does; there need be no teacher yet.

        Raises:
            CompressError: when it never can.
        """

    def keeps(self, measure: Literal["macs", "parameters"]) -> float | None:
        """Return the largest share of a model's cost that its result has; None where it is not known before a run."""
        del measure
        return None if self.cuts else 1.0

    def foresee(
        self, module: nn.Module, model: Model, work: Work, host: Host, *, after: Sequence["Stage"] = ()
    ) -> tuple[str, ...]:
        """Refuse what only a trial on the model shows, and return what is known of the result: one sentence each.

        Asked after ``check``, before anything trains; ``plan`` tells the sentences.

        Args:
            module: as ``check`` gets it; not changed.
            model: the family that it was built from.
            work: as ``check`` gets it.
            host: where proofs are noted.
            after: the stages between that module and this one.

        Raises:
            CompressError: when the stage never can work on the model.
        """
        del module, model, work, host, after
        return ()

    def gentler(self, path: str) -> str:  # noqa: ARG002
        """Return what to change so that the stage costs less accuracy, in words; empty where nothing can be.

        Args:
            path: of its fields, as ``--set`` spells it.
        """
        return ""

    def cheaper(self, path: str, quantity: Quantity, *, missing: float, facts: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Return what to change so that the stage buys more, in words; empty where it has given all.

        Args:
            path: of its fields, as ``--set`` spells it.
            quantity: what there is too much of: ``size`` or ``speed``.
            missing: the quantity asked over the one there is, below 1.
            facts: of the artifact that it made.
        """
        return ""

    def tell_outputs(self, work: Work, host: Host) -> tuple[str, ...]:  # noqa: ARG002
        """Return what is known of the teachers' outputs that are stored for the stage: one sentence each.

        ``plan`` tells them, also before there are teachers.

        Args:
            work: with the teachers that are stored already; none unless all are.
            host: where they are run.
        """
        return ()

    def inputs(self, source: Artifact | None, work: Work, host: Host) -> dict[str, Any]:
        """Return everything that decides the output, as JSON values; its hash is the output's key.

        The name, paths and the tracking address are left out: they decide nothing. A class of the user's own is known
        by the content of its file.
        """
        inputs: dict[str, Any] = {
            "stage": type(self).__name__,
            "version": self.version,
            "fields": self.model_dump(mode="json", exclude={"name"}),
            "source": None if source is None else source.digest,
            "task": work.task.digest,
            "seed": work.seed,
            "precision": host.execution.precision,
            **host.execution.in_keys,
            "libraries": {name: importlib.metadata.version(name) for name in self.libraries},
        }
        if is_own(type(self)):  # known by the content of its file; its verb is but a name
            inputs["code"] = str(origin(type(self)))
            del inputs["fields"]["verb"]
        if self.training is not None and self.training.optimization.accumulate > 1:
            inputs["accumulate"] = ACCUMULATE_VERSION
        if "data" in self.needs:
            inputs["data"] = work.data.digest
        if "loss" in self.needs:
            inputs["loss"] = self.guided_loss(work.loss).model_dump(mode="json", exclude_none=True)
        if self.guided_by(work.loss):
            first, others = work.teachers[:1], work.teachers[1:]
            inputs["teacher"] = first[0].artifact.digest if first else None
            inputs["ensemble"] = [[member.artifact.digest, member.weight] for member in others]
        return inputs

    def key(self, source: Artifact | None, work: Work, host: Host) -> str:
        """Return the key that finds this stage's output in the store."""
        return hash_values(self.inputs(source, work, host))

    def seed(self, source: Artifact | None, work: Work, host: Host) -> int:
        """Return a seed of this stage's own, in [0, 2^31)."""
        return seed_of(self.inputs(source, work, host))

    def commit(
        self,
        module: nn.Module,
        source: Artifact | None,
        work: Work,
        host: Host,
        *,
        model: Model,
        signature: Signature,
        facts: dict[str, Any],
        files: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Commit a torch model as this stage's output, of the kind that it produces.

        Args:
            module: the model; stored as it is, without its training mode.
            source: what it was made from; files that its model needs to read samples travel along.
            work: as ``run`` got it.
            host: as ``run`` got it.
            model: the family it was built from.
            signature: what the family was built for.
            facts: JSON values worth knowing about the result.
            files: further text files, by name.
        """
        travelling = () if source is None else work.task.travelling(source.path)
        texts = {**(work.task.initial_files() if source is None else {}), **(files or {})}

        def write(directory: Path) -> dict[str, Any]:
            save_model(module, directory, model=model, signature=signature)
            for path in travelling:
                (directory / path.name).write_bytes(path.read_bytes())
            for name, text in texts.items():
                (directory / name).write_text(text, encoding="utf-8")
            return facts

        inputs = self.inputs(source, work, host)
        with host.group.in_turn():
            return host.store.commit(inputs, kind=self.produces, rounding=host.execution.rounding, write=write)


def seed_of(inputs: Mapping[str, Any]) -> int:
    """Return the seed, in [0, 2^31), of what these inputs decide, however it is rounded or accumulated.

    Keys had the number of threads in them once, and seeds are still drawn as from the key of one thread.
    """
    decisive = {name: value for name, value in inputs.items() if name not in ("rounding", "accumulate")}
    return int(hash_values(decisive | {"threads": 1})[:8], 16) % 2**31
