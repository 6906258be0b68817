"""The pipeline as a value: every step of a recipe, what role it plays, and what it starts from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from compress.quantization.plan import Mode
from compress.recipe import Recipe, Teacher
from compress.stage import Host, Stage, Work
from compress.stages.create import Adopt, Create
from compress.stages.quantize import Quantize
from compress.store.artifact import Artifact

NodeRole = Literal["teacher", "ensemble", "student", "baseline", "stage"]
TEACHER = "teacher"  # where a run may stop besides its stages
RIVALS: dict[str, Mode] = {"teacher-static": "static", "teacher-dynamic": "dynamic"}


@dataclass(frozen=True, eq=False)
class Node:
    """One step.

    Attributes:
        name: of its row; a fresh model has the name of the row that it becomes.
        role: what it is there for.
        stage: what is done.
        source: the step that it starts from; None when it starts from nothing.
        is_row: whether it is a row of the report; a model that is only the beginning of one is none.
        given: of a teacher's row, its section of the recipe.
        weight: of a teacher's soft targets in their average.
    """

    name: str
    role: NodeRole
    stage: Stage
    source: "Node | None" = None
    is_row: bool = True
    given: Teacher | None = None
    weight: float = 1.0

    @property
    def is_comparison(self) -> bool:
        """Whether nothing else needs it: a run goes on without it."""
        return self.role == "baseline"

    @property
    def is_taught(self) -> bool:
        """Whether it comes after the teachers, and may learn from them."""
        return self.role in ("baseline", "stage")

    def find(self, work: Work, host: Host) -> Artifact | None:
        """Return its stored output, if the store has it and everything it starts from."""
        source = None if self.source is None else self.source.find(work, host)
        if self.source is not None and source is None:
            return None
        here = work.reading(source)
        return host.store.find(self.stage.key(source, here, host))


def nodes(recipe: Recipe, *, until: str | None = None) -> tuple[Node, ...]:
    """Return the steps of a recipe in order: student, teacher, ensemble, baselines, stages.

    Args:
        recipe: what to do.
        until: the last stage wanted, or ``teacher``; then there are no baselines.
    """
    fresh = None
    if recipe.student != "teacher":
        fresh = Node("student", "student", Create(model=recipe.student), is_row=False)
    teacher = tuple(_teacher("teacher", "teacher", recipe.teacher))
    found = [*([] if fresh is None else [fresh]), *teacher]
    for name, colleague in recipe.ensemble.items():
        found += _teacher(name, "ensemble", colleague.teacher, weight=colleague.weight)
    if until is None:
        found += _baselines(recipe, teacher[-1])
    source = fresh or teacher[-1]
    for stage in recipe.stages if until != TEACHER else ():
        source = Node(stage.title, "stage", stage, source)
        found.append(source)
        if stage.title == until:
            break
    return tuple(found)


def begin(steps: tuple[Node, ...], role: NodeRole) -> Node | None:
    """Return where the first model of a role begins; None when there is none."""
    return next(iter(origins(steps, role)), None)


def origins(steps: tuple[Node, ...], role: NodeRole) -> list[Node]:
    """Return where the models of a role begin."""
    return [node for node in steps if node.role == role and node.source is None]


def _teacher(name: str, role: NodeRole, given: Teacher, *, weight: float = 1.0) -> Iterator[Node]:
    if given.artifact is not None:
        origin: Stage = Adopt(artifact=given.artifact)
    else:
        assert given.model is not None
        origin = Create(model=given.model, weights=given.weights)
    if given.train is None:
        yield Node(name, role, origin, given=given, weight=weight)
        return
    created = Node(name, role, origin, is_row=False)
    yield created
    yield Node(name, role, given.train, created, given=given, weight=weight)


def _baselines(recipe: Recipe, teacher: Node) -> Iterator[Node]:
    """Yield the teacher with quantization only, static and dynamic, and the models trained alone."""
    for name, mode in RIVALS.items():
        yield Node(name, "baseline", Quantize.without_limits(mode=mode), teacher)
    for name, baseline in recipe.baselines.items():
        created = Node(name, "baseline", Create(model=baseline.model), is_row=False)
        yield created
        yield Node(name, "baseline", baseline.train, created)
