"""The report of a pipeline: dataclasses that judging fills and every view reads. JSON is their dump.

Shares are from 0 to 1. What a run did not come to is None or empty: one that stopped early has no benchmark, a variant
of a sweep no verdict.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from compress.benchmark.document import BenchmarkResult
from compress.benchmark.environment import Environment
from compress.export.layers import LayerSize
from compress.measures.intervals import Estimate
from compress.store.document import STRICT, schema_field
from compress.tasks.contrast import Contrast

SCHEMA = 3
MAX_CLASSES = 20  # whose recalls are listed
Role = Literal["teacher", "ensemble", "student", "baseline", "stage"]


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a file's outputs are from its module's, or from its own at other batch sizes; see ``export.parity``."""

    max_abs: float
    mean_abs: float
    scale: float
    argmax_agreement: float | None = None
    """None, as kl_nats, for outputs with a single entry."""
    kl_nats: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a scored file.

    Attributes:
        role: of the samples: ``select`` or ``test``.
        samples: their number.
        accuracy: the task's measure, whatever that is.
        size_bytes: of the file.
        parameters: of the model.
        macs: multiply-accumulates of one sample; None where they cannot be told.
        parity: of a float file with its torch module, else of the file with itself.
        teacher_agreement: share of decisions that are the teacher's; None for itself, and where nothing is decided.
        teacher_kl_nats: divergence from the teacher; None for itself, and without single classes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    role: str
    samples: int
    accuracy: float
    size_bytes: int
    parameters: int
    macs: int | None
    parity: Parity
    teacher_agreement: float | None = None
    teacher_kl_nats: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One model of the pipeline.

    Attributes:
        name: title of the stage, or ``teacher``, or the baseline's.
        role: why it is there.
        key: of its artifact.
        digest: of its artifact.
        kind: of its artifact.
        reused: whether the store had it.
        made_s: seconds that making and scoring took, whenever that was; None where that is not known.
        loss_fingerprint: of the loss that it was trained with; None where there was none.
        facts: what its stage wants known.
        scores: of its exported file on select.
        layers: where the bytes of that file are.
    """

    name: str
    role: Role
    key: str
    digest: str
    kind: str
    reused: bool
    made_s: float | None
    loss_fingerprint: str | None
    facts: dict[str, Any]
    scores: Facts
    layers: tuple[LayerSize, ...]


@dataclass(frozen=True, slots=True)
class TaskSection:
    """What is decided, and by which measure it is judged."""

    problem: str
    measure: str


@dataclass(frozen=True, slots=True)
class LossSection:
    """The pipeline's loss, every field of it, and its fingerprint."""

    fields: dict[str, Any]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ExecutionSection:
    """How training was run."""

    threads: int
    precision: str
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class DataSection:
    """Digest and samples by role; how many train lost as duplicates, and how many of which role were cut."""

    digest: str
    samples: dict[str, int]
    dropped_duplicates: int
    truncated: dict[str, int]
    notes: tuple[str, ...] = ()
    """Of how the samples were read and chosen; reports written before there were any hold none."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the real run will take, from what a smoke run measured."""

    seconds: dict[str, float]
    """By part of the run."""
    hours: float
    """Together."""
    disk_bytes: int
    unknown: tuple[str, ...]
    """Parts that nothing was measured for."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate.

    Attributes:
        name: the recipe's field, with the profile behind a point for a latency; behind the variant's name and a colon
            for a file that is not the primary one.
        limit: the recipe's value.
        estimate: the measured value.
        judged: the interval bound that was compared with the limit.
        passed: whether the gate holds.
        profile: that it was timed under; empty for what is not timed.
        remedy: of a missed gate, what to change first, and what each stage bought and cost.
        disturbed: what disturbed the measurement that it was judged by; empty for what is not timed.
    """

    name: str
    limit: float
    estimate: float
    judged: float
    passed: bool
    profile: str = ""
    remedy: str = ""
    disturbed: tuple[str, ...] = ()

    @property
    def room(self) -> float:
        """How many times the limit is kept, below 1 where it is missed; infinite where nothing is lost."""
        if self.at_least:
            return self.judged / self.limit
        return self.limit / self.judged if self.judged > 0 else math.inf

    @property
    def field(self) -> str:
        """The recipe's field alone."""
        return self.name.rpartition(": ")[2].partition(".")[0]

    @property
    def at_least(self) -> bool:
        """Whether the limit is a lower one."""
        return self.field == "min_speedup"

    @property
    def gap(self) -> str:
        """What is missing, in words: all of it in the unit that the rest of a report has."""
        relation = "at least" if self.at_least else "at most"
        limit, estimate, judged = map(self._tell, (self.limit, self.estimate, self.judged))
        bound = "" if judged == estimate else f"{judged} at the interval's bound, "
        return f"{self.name}: {relation} {limit} asked, {bound}{estimate} measured"

    def _tell(self, value: float) -> str:
        if self.field == "max_accuracy_drop":
            return f"{100 * value:.4g} points"
        unit = {"max_size_mb": " MB", "min_speedup": "x", "max_latency_ms": " ms"}[self.field]
        return f"{value:.4g}{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFit:
    """How a file of the bundle serves the recipe's own gates on select, whether or not it is the primary one.

    Attributes:
        name: of its row.
        variant: its name in the bundle.
        tightest: the gate with the least room; empty, as ``room``, where no gate limits anything.
        room: how many times that gate's limit is kept, below 1 where it is missed; None where nothing is lost.
        missed: names of the gates that it misses.
        best: whether its tightest gate has more room than that of any other file.
    """

    name: str
    variant: str
    tightest: str
    room: float | None
    missed: tuple[str, ...]
    best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRow:
    """One file on the test role.

    Attributes:
        name: of the row.
        samples: their number.
        accuracy: the task's own measure, which gates are about.
        measures: every measure that fits the task, by name; the first is the task's own.
        change: of accuracy against the teacher on the same samples; None for the teacher.
        changes: of every measure; empty for the teacher.
        mcnemar_p: exact, of both being right equally often; None where the measure is no share of right samples.
        agreement: share of decisions that are the teacher's.
    """

    __test__: ClassVar[bool] = False  # pytest collects what is named so
    name: str
    samples: int
    accuracy: Estimate
    measures: dict[str, Estimate]
    change: Estimate | None = None
    changes: dict[str, Estimate]
    mcnemar_p: float | None = None
    agreement: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Recalls:
    """How much of a class is recognised."""

    name: str
    units: int
    """How many units are of the class."""
    teacher: Estimate | None
    """Share of them that are decided so; None without any."""
    student: Estimate | None

    @property
    def lost(self) -> int:
        """How many more of its units the teacher recognises than the student."""
        if self.teacher is None or self.student is None:
            return 0
        return round(self.units * (self.teacher.value - self.student.value))


@dataclass(frozen=True, slots=True)
class Confusion:
    """A class, what the student takes it for where the teacher does not, and how often."""

    label: str
    decided: str
    count: int


@dataclass(frozen=True, slots=True)
class Example:
    """A sample that only the teacher got right; its picture is a data URI, None where it cannot be shown."""

    sample: int
    """Its position in the role."""
    label: str
    decided: str
    picture: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistakes:
    """How the decisions of two files compare with the labels, in units of the task."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    units: int
    both_right: int
    teacher_alone_right: int
    student_alone_right: int
    neither_right: int
    classes: tuple[Recalls, ...]
    """All of them, in their order."""
    confusions: tuple[Confusion, ...]
    """The most frequent ones, most frequent first."""
    examples: tuple[Example, ...]

    @property
    def listed(self) -> tuple[Recalls, ...]:
        """The classes to show: all that have units, or of more than `MAX_CLASSES` those that lost most, most first."""
        rated = [entry for entry in self.classes if entry.units]
        if len(rated) > MAX_CLASSES:
            # Of classes that lost as many, the smaller one lost more of itself.
            rated = sorted(rated, key=lambda entry: (-entry.lost, entry.units))[:MAX_CLASSES]
        return tuple(rated)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimplestModel:
    """What the simplest model of the task is and takes; see `tasks.simplest`.

    Attributes:
        title: what it is, in words.
        samples: of train that it was fitted on, perhaps not all.
        size_bytes: of its parameters.
        fit_s: seconds that fitting took, on one core.
        sample_ms: milliseconds that one sample takes, from raw text or pixels on, in Python.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    title: str
    samples: int
    size_bytes: int
    fit_s: float
    sample_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the simplest model reaches on a role, and how far others are ahead of it on the same samples.

    Attributes:
        reached: its own measure.
        teacher: the teacher's less its own.
        shipped: the shipped file's, or the last stage's, less its own.
    """

    reached: Estimate
    teacher: Estimate
    shipped: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the shipped file came to on test, which was read once.

    Attributes:
        test: the teacher, the teacher with quantization only, other files with gates of their own, the shipped file.
        rival: name of the teacher-with-quantization row that is faster; None, as what is against it, where the teacher
            has no int8 form.
        speedup_over_rival: of the shipped file.
        over_rival_measurable: whether that stands out of the noise.
        change_from_rival: of accuracy, on the same samples.
        gates: empty when the recipe has none.
        passed: whether every gate holds; None without gates.
        mistakes: of the shipped file against the teacher; None where no single class is decided.
        simplest: how the simplest model stands on test; None where there is none.
    """

    test: tuple[TestRow, ...]
    rival: str | None
    speedup_over_rival: Estimate | None
    over_rival_measurable: bool
    change_from_rival: Estimate | None
    gates: tuple[GateResult, ...]
    passed: bool | None
    mistakes: Mistakes | None
    simplest: Standing | None = None

    @property
    def teacher(self) -> TestRow:
        """The teacher's row."""
        return self.test[0]

    @property
    def shipped(self) -> TestRow:
        """The row of the file that ships."""
        return self.test[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a run found out.

    Attributes:
        schema: version of this form.
        recipe: its name.
        recipe_sha256: of the recipe with every default.
        recipe_yaml: that recipe.
        command: repeats the run from a ``recipe.yaml`` that lies where its recipe was: paths are relative to that.
        task: what is decided.
        loss: that students are trained with.
        execution: threads, precision and device of training.
        data: what was read.
        stages: every model, the teacher first, the shipped one last.
        variants: the shipped bundle's other files, by row name.
        absent: rows for comparison that could not be made, with the reason, by name.
        estimate: of the real run, by a smoke run.
        benchmark: of all files; None when the run stopped before.
        gates_on_select: the gates by the change of accuracy on select.
        verdict: None where test was not read.
        environment: where and when.
        seconds: that the run took.
        simplest: the simplest model of the task; None where there is none, and in smoke runs.
        simplest_on_select: how it stands there.
        files: how each file of the bundle serves the gates on select, where there are gates; the shipped one last.
        texts: what the shipped file, or the last stage, answers otherwise than the teacher on select; None where there
            are no texts, or the recipe says that none are quoted.
        price_per_hour: of the machine, as the recipe states it; None where it does not.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    schema: int = schema_field(SCHEMA, reads=(2,))
    recipe: str
    recipe_sha256: str
    recipe_yaml: str
    command: str
    task: TaskSection
    loss: LossSection
    execution: ExecutionSection
    data: DataSection
    stages: tuple[StageRow, ...]
    variants: dict[str, Facts]
    estimate: Prediction | None
    benchmark: BenchmarkResult | None
    gates_on_select: tuple[GateResult, ...]
    verdict: Verdict | None
    environment: Environment
    seconds: float
    absent: dict[str, str] = field(default_factory=dict)
    simplest: SimplestModel | None = None
    simplest_on_select: Standing | None = None
    files: tuple[FileFit, ...] = ()
    texts: Contrast | None = None
    price_per_hour: float | None = None

    @property
    def chain(self) -> tuple[StageRow, ...]:
        """The teacher and the stages, without what stands beside them."""
        return tuple(stage for stage in self.stages if stage.role in ("teacher", "stage"))

    @property
    def scores(self) -> dict[str, Facts]:
        """The scores on select of every file, by row name."""
        return {stage.name: stage.scores for stage in self.stages} | self.variants
