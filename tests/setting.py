"""A stage's work and host as one flat value, for tests: `replace` changes any of it, `*setting` hands it on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compress.data import Data
from compress.loss import GuidedLoss
from compress.progress import Reporter
from compress.stage import Execution, Host, Member, Recorder, Unrecorded, Work
from compress.store.artifact import Artifact
from compress.store.store import Store
from compress.tasks import Task


@dataclass(frozen=True)
class Setting:
    """Fields of `Work` and `Host`; the teachers as the first one and pairs of (artifact, weight)."""

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
    ensemble: Sequence[tuple[Artifact, float]] = ()
    teacher_task: Task | None = None

    def __iter__(self) -> Iterator:
        yield self.work
        yield self.host

    def reading(self, source: Artifact) -> "Setting":
        """The same with samples read as a stored model reads them; teachers go on reading as before."""
        return replace(self, task=self.task.reading(source.path), teacher_task=self.teacher_task or self.task)

    @property
    def work(self) -> Work:
        task = self.teacher_task or self.task
        first = [] if self.teacher is None else [Member(self.teacher, task)]
        others = [Member(artifact, task, weight) for artifact, weight in self.ensemble]
        return Work(task=self.task, data=self.data, loss=self.loss, seed=self.seed, teachers=(*first, *others))

    @property
    def host(self) -> Host:
        return Host(
            store=self.store,
            execution=self.execution,
            code=self.code,
            recorder=self.recorder,
            reporter=self.reporter,
            interrupted=self.interrupted,
            checkpoint_every_s=self.checkpoint_every_s,
        )
