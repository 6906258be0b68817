"""What a plan says, as values: made by `compress.pipeline.plan`, read back from notes and shown without any library."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from compress.progress import fold

GAP = "  "  # between columns


@dataclass(frozen=True)
class Pairing:
    """One pair of tensors that a term of a stage compares.

    Attributes:
        stage: name of the stage.
        term: name of the term.
        student: tap of the student.
        student_shape: of one sample.
        teacher: tap of the teacher.
        teacher_shape: of one sample.
        projector_parameters: of the trained map between them; 0 without one.
        stored: whether the teacher's side comes from the store; else from a pass of each batch.
        live_overhead: what that pass adds to a step of the student, as a share of it, for the whole stage; 0 when all
            taps are stored.
    """

    stage: str
    term: str
    student: str
    student_shape: tuple[int, ...]
    teacher: str
    teacher_shape: tuple[int, ...]
    projector_parameters: int
    stored: bool
    live_overhead: float

    def __str__(self) -> str:
        """One line."""
        sides = f"{self.student} {list(self.student_shape)} : {self.teacher} {list(self.teacher_shape)}"
        projector = f"projector of {self.projector_parameters:,}" if self.projector_parameters else "no projector"
        source = "stored" if self.stored else f"live, about +{self.live_overhead:.0%} of a step"
        return f"{self.stage:<12}{self.term:<20}{sides}; {projector}; {source}"


@dataclass(frozen=True)
class Row:
    """One step of a plan.

    Attributes:
        name: of the stage or row.
        action: whether its output is in the store; none for a comparison that cannot be made.
        why: what is different from the most similar stored output, why that cannot be known yet, or why there is none;
            of what is reused, how it was rounded, where that is otherwise here.
        key: finds its output; None while what it starts from does not exist.
    """

    name: str
    action: Literal["reuse", "run", "none"]
    why: str
    key: str | None


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        steps: in order.
        pairs: which layers its distillations would compare; empty when their losses read logits alone.
        input_formula: what a model gets of a raw sample x; empty where there is no formula.
        notes: of how the samples were read and chosen.
        foreseen: what the stages know of their results, each in a sentence that begins with the stage's name.
        execution: how numbers would be computed, in words.
    """

    steps: list[Row]
    pairs: list[Pairing]
    input_formula: str
    notes: tuple[str, ...] = ()
    foreseen: tuple[str, ...] = ()
    execution: str = ""

    def lines(self, width: int) -> list[str]:
        """Return it as it is shown: no line is wider than a terminal, and what is folded stays in its column.

        Args:
            width: columns of the terminal.
        """
        names = max((len(row.name) for row in self.steps), default=0)
        actions = max((len(row.action) for row in self.steps), default=0)
        beside = " " * (names + actions + 2 * len(GAP))
        before = [
            *(f"data: {note}" for note in self.notes),
            *([f"input: {self.input_formula}"] if self.input_formula else []),
        ]
        before.append(f"training: {self.execution}")
        rows = (f"{row.name:<{names}}{GAP}{row.action:<{actions}}{GAP}{row.why}".rstrip() for row in self.steps)
        return [
            *(line for text in before for line in fold(text, width)),
            *(line for text in rows for line in fold(text, width, indent=beside)),
            *(line for text in (*map(str, self.pairs), *self.foreseen) for line in fold(text, width)),
        ]

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the plan that became these JSON values."""
        found = _with_tuples(values)
        steps = [Row(**row) for row in found.pop("steps")]
        return cls(steps, [Pairing(**_with_tuples(pair)) for pair in found.pop("pairs")], **found)


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
