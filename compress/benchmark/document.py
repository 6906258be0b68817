"""The result of a benchmark: rows, every measurement with its rounds, environment. JSON is its dump."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from pydantic import ConfigDict

from compress.benchmark.compare import Comparison
from compress.benchmark.environment import Environment
from compress.measures.intervals import Estimate
from compress.store.document import STRICT

SCHEMA = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeAccuracy:
    """What a file scores in the very runtime that was timed; shares from 0 to 1.

    Against the teacher in the same runtime are change, McNemar's p-value, agreement and divergence; None for the
    teacher itself, and where the task has none.
    """

    samples: int = 0
    accuracy: Estimate | None = None
    """None where it failed."""
    doubt: str = ""
    """Why the numbers say little; empty when nothing does."""
    change: Estimate | None = None
    mcnemar_p: float | None = None
    teacher_agreement: float | None = None
    teacher_kl_nats: float | None = None
    failure: str = ""
    """Why the runtime did not answer."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Accuracies are shares from 0 to 1, latencies milliseconds per call."""

    name: str
    size_bytes: int
    num_params: int | None
    accuracy: Estimate | None
    accuracy_change: Estimate | None
    """Against the reference on the same samples; None for the reference itself."""
    mcnemar_p: float | None
    agreement: Estimate | None
    latency_ms: dict[str, float]
    """Median per call, by profile."""
    speedup: dict[str, Estimate]
    """Over the reference, by profile; absent where times rank nothing (`Comparison.ranked`)."""
    measurable: dict[str, bool]
    """Whether that speedup stands out of the noise, by profile."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why there is no measurement, by profile."""
    macs: int | None = None
    compute_ms: dict[str, float] = field(default_factory=dict)
    """Median with inputs and outputs on the device, by profile; absent where there is no device."""
    runtime_accuracy: dict[str, RuntimeAccuracy] = field(default_factory=dict)
    """By profile."""
    verdict: dict[str, str] = field(default_factory=dict)
    """Faster, slower, no measurable difference or not ranked, against the reference, by profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """Several files measured against each other.

    Attributes:
        schema: version of this form.
        title: what was compared.
        reference: name of the row that changes and speedups refer to.
        environment: where and when.
        profiles: names, the primary one first.
        rows: one a file.
        comparisons: one a profile.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    schema: int = SCHEMA
    title: str
    reference: str
    environment: Environment
    profiles: tuple[str, ...]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def primary(self) -> str:
        """Name of the profile that verdicts are about; empty where nothing was timed."""
        return self.profiles[0] if self.profiles else ""

    @property
    def shipped(self) -> Row:
        """The last row: in a pipeline, the file that ships."""
        return self.rows[-1]

    @property
    def by_profile(self) -> dict[str, Comparison]:
        """The comparisons by name of their profile."""
        return dict(zip(self.profiles, self.comparisons, strict=True))

    def rename(self, names: Mapping[str, str], *, order: Sequence[str]) -> Self:
        """Return the same result with other names of rows.

        Args:
            names: from old to new; other rows keep theirs.
            order: of the rows, by their new names.
        """
        rows = {names.get(row.name, row.name): row for row in self.rows}
        return replace(
            self,
            rows=tuple(replace(rows[name], name=name) for name in order),
            comparisons=tuple(comparison.rename(names) for comparison in self.comparisons),
        )

    def row(self, name: str) -> Row:
        """Return the row of a name.

        Raises:
            KeyError: when there is none.
        """
        for found in self.rows:
            if found.name == name:
                return found
        raise KeyError(name)
