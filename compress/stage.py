"""Stage: one step of a pipeline, artifact in, artifact out. Context: all that it is handed."""

import importlib.metadata
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import nn

from compress.config import Values
from compress.data import Data
from compress.loss import GuidedLoss
from compress.models import Model, save_model
from compress.progress import Reporter
from compress.store.artifact import Artifact, Kind, Store, hash_values
from compress.tasks import Signature, Task
from compress.tasks.tokenizer import FILES as TOKENIZER

Precision = Literal["float32", "bfloat16"]
Need = Literal["data", "loss", "teacher"]


class Recorder(Protocol):
    """Where a stage's curves and files go; the tracker's runs are this."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Record values at a step."""
        ...

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a copy of a file."""
        ...


class Unrecorded:
    """A recorder that forgets; for plans and experiments."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Forget."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Forget."""


@dataclass(frozen=True)
class Execution:
    """What decides numerics besides the recipe; part of every key, fixed for a whole pipeline.

    Attributes:
        threads: torch's intra-op threads.
        precision: of training's forward passes; bfloat16 means autocast.
    """

    threads: int
    precision: Precision


@dataclass(frozen=True)
class Member:
    """A further teacher, whose soft targets are averaged with the first one's.

    Attributes:
        artifact: its model.
        weight: against the first teacher's 1.
    """

    artifact: Artifact
    weight: float


@dataclass(frozen=True)
class Context:
    """What a stage is handed besides its source.

    Attributes:
        task: makes batches, computes the hard loss.
        data: samples by role.
        loss: the pipeline's guided loss.
        teacher: the frozen teacher's artifact; None until there is one.
        store: where artifacts are committed.
        seed: the pipeline's root seed; stages derive their own from their key.
        execution: threads and precision.
        recorder: the stage's tracked run.
        reporter: progress and notices.
        code: the user's Python files that may be run.
        interrupted: says whether to checkpoint and stop.
        checkpoint_every_s: seconds between checkpoints inside training.
        ensemble: further teachers, averaged with the first.
        teacher_task: how the teacher reads samples, where the student reads them otherwise; None where it does not.
    """

    task: Task
    data: Data
    loss: GuidedLoss
    teacher: Artifact | None
    store: Store
    seed: int
    execution: Execution
    recorder: Recorder = field(default_factory=Unrecorded)
    reporter: Reporter = field(default_factory=Reporter)
    code: Sequence[Path] = ()
    interrupted: Callable[[], bool] = lambda: False
    checkpoint_every_s: float = 30.0
    ensemble: Sequence[Member] = ()
    teacher_task: Task | None = None

    def reading(self, source: Artifact | None) -> "Context":
        """Return the same context with samples read as a model reads them: the task is its, not the teacher's."""
        task = self.task if source is None else self.task.reading(source.path)
        return self if task is self.task else replace(self, task=task, teacher_task=self.teacher_task or self.task)

    @property
    def of_teacher(self) -> "Context":
        """The same context with samples read as the teacher reads them."""
        return self if self.teacher_task is None else replace(self, task=self.teacher_task, teacher_task=None)

    def autocast(self) -> torch.autocast:
        """Return the precision of forward passes as a context manager."""
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.execution.precision == "bfloat16")

    def commit_model(
        self,
        stage: "Stage",
        source: Artifact | None,
        module: nn.Module,
        *,
        model: Model,
        signature: Signature,
        facts: dict[str, Any],
        files: Mapping[str, str] | None = None,
        kind: Kind = "model",
    ) -> Artifact:
        """Commit a torch model as the output of a stage.

        Args:
            stage: the stage that made it.
            source: what it was made from.
            module: the model; stored as it is, without its training mode.
            model: the family it was built from.
            signature: what the family was built for.
            facts: JSON values worth knowing about the result.
            files: further text files, by name.
            kind: ``model`` or ``quantized``.
        """
        travelling = {} if source is None else {path.name: path for path in map(source.path.joinpath, TOKENIZER)}

        def write(directory: Path) -> dict[str, Any]:
            save_model(module, directory, model=model, signature=signature)
            for name, path in travelling.items():
                if path.exists():
                    (directory / name).write_bytes(path.read_bytes())
            for name, text in (files or {}).items():
                (directory / name).write_text(text, encoding="utf-8")
            return facts

        return self.store.commit(stage.inputs(source, self), kind=kind, write=write)


class Stage(Values):
    """One step. Its fields are its whole configuration, in Python and in YAML alike.

    Class attributes:
        version: raised by hand when the same fields come to mean another result.
        consumes: kinds of artifact it can start from; empty when it starts from nothing.
        produces: the kind it leaves.
        needs: what of the context decides its result besides the source.
        libraries: distributions whose version decides its result.

    Attributes:
        verb: the class's name in a recipe.
        name: unique in a pipeline; default: the verb.
    """

    version: ClassVar[int] = 1
    consumes: ClassVar[frozenset[Kind]] = frozenset({"model"})
    produces: ClassVar[Kind] = "model"
    needs: ClassVar[frozenset[Need]] = frozenset({"data"})
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

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

    @abstractmethod
    def run(self, source: Artifact, context: Context) -> Artifact:
        """Do the step and commit its output; the source is not changed.

        Raises:
            StageError: when the step cannot do what its fields ask, or changed nothing.
        """

    def smoke(self) -> Self:
        """Return the same stage with as few steps as exercise all its code."""
        return self

    def guided_loss(self, context: Context) -> GuidedLoss:
        """The loss this stage uses: the pipeline's, unless the stage overrides it."""
        return context.loss

    def misfits(self, loss: GuidedLoss) -> list[str]:
        """Return why this stage cannot work with a pipeline's loss, if it cannot; told before anything runs."""
        del loss
        return []

    def check(self, module: nn.Module, context: Context) -> None:
        """Refuse a model, or data, that this stage could not work on; asked before anything trains.

        Args:
            module: the student as the pipeline's first stage gets it, perhaps untrained; not changed.
            context: reads samples as that student does; there need be no teacher yet.

        Raises:
            CompressError: when it never can.
        """

    def inputs(self, source: Artifact | None, context: Context) -> dict[str, Any]:
        """Return everything that decides the output, as JSON values; its hash is the output's key.

        The name, paths and the tracking address are left out: they decide nothing.
        """
        inputs: dict[str, Any] = {
            "stage": type(self).__name__,
            "version": self.version,
            "fields": self.model_dump(mode="json", exclude={"name"}),
            "source": None if source is None else source.digest,
            "task": context.task.digest,
            "seed": context.seed,
            "threads": context.execution.threads,
            "precision": context.execution.precision,
            "libraries": {name: importlib.metadata.version(name) for name in self.libraries},
        }
        if "data" in self.needs:
            inputs["data"] = context.data.digest
        if "loss" in self.needs:
            inputs["loss"] = self.guided_loss(context).model_dump(mode="json", exclude_none=True)
        if "teacher" in self.needs and self.guided_loss(context).needs_teacher:
            inputs["teacher"] = None if context.teacher is None else context.teacher.digest
            inputs["ensemble"] = [[member.artifact.digest, member.weight] for member in context.ensemble]
        return inputs

    def key(self, source: Artifact | None, context: Context) -> str:
        """Return the key that finds this stage's output in the store."""
        return hash_values(self.inputs(source, context))

    def seed(self, source: Artifact | None, context: Context) -> int:
        """Return a seed of this stage's own, in [0, 2^31)."""
        return int(self.key(source, context)[:8], 16) % 2**31
