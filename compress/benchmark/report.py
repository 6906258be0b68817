"""From measured files to the result of a benchmark, and that to a file and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from compress.benchmark.compare import Comparison
from compress.benchmark.document import BenchmarkResult, Row, RuntimeAccuracy
from compress.benchmark.environment import describe
from compress.errors import InputError
from compress.export.onnx_file import size_bytes
from compress.measures.intervals import Estimate, agreement, measure, measure_changes, sign_test
from compress.store import document as stored
from compress.tasks import Tally


@dataclass(frozen=True, slots=True)
class Entry:
    """A row to report: one deployable file and how it scored."""

    name: str
    path: Path
    """The file (or directory) whose bytes count."""
    num_params: int | None = None
    tally: Tally | None = None
    """The measure, sample by sample, in one order for all entries."""
    decisions: NDArray[Any] | None = None
    """What is decided for each unit, for the agreement with the reference; None where nothing is."""
    macs: int | None = None
    """Multiply-accumulates of one sample."""
    runtime_accuracy: Mapping[str, RuntimeAccuracy] = field(default_factory=dict)
    """Accuracy in the very runtime that was timed, by profile."""


def build(
    entries: Sequence[Entry], comparisons: Sequence[Comparison], *, reference: str, seed: int, title: str
) -> BenchmarkResult:
    """The result: rows, every measurement with its rounds, and the environment.

    Args:
        entries: the rows in table order; names match the models of the comparisons.
        comparisons: one per profile; the first is the primary profile of the tables.
        reference: the row that changes and speedups refer to.
        seed: of the bootstrap intervals.
        title: what was compared.

    Raises:
        InputError: when the reference is not an entry.
    """
    by_name = {entry.name: entry for entry in entries}
    if reference not in by_name:
        raise InputError("the reference is not among the rows", expected=", ".join(by_name), got=reference)
    rows = [_row(entry, comparisons, reference=by_name[reference], seed=seed) for entry in entries]
    return BenchmarkResult(
        title=title,
        reference=reference,
        environment=describe(seed=seed),
        profiles=tuple(comparison.profile.name for comparison in comparisons),
        rows=tuple(rows),
        comparisons=tuple(comparisons),
    )


def save(result: BenchmarkResult, path: Path) -> None:
    """Write a result."""
    path.write_text(stored.to_json(result), encoding="utf-8")


def load(path: Path) -> BenchmarkResult:
    """Read a result.

    Raises:
        ArtifactError: when it is not one, or of another version.
    """
    return stored.load(BenchmarkResult, path)


def _row(entry: Entry, comparisons: Sequence[Comparison], *, reference: Entry, seed: int) -> Row:
    accuracy = None if entry.tally is None else measure({"": entry.tally}, seed=seed)[""]
    change, p_value, agreed = None, None, None
    if entry is not reference and entry.tally is not None and reference.tally is not None:
        change = measure_changes({"": entry.tally}, {"": reference.tally}, seed=seed)[""]
        p_value = sign_test(entry.tally, reference.tally)
    if entry is not reference and entry.decisions is not None and reference.decisions is not None:
        agreed = agreement(entry.decisions, reference.decisions)
    latency_ms, failures = {}, {}
    speedup: dict[str, Estimate] = {}
    compute_ms: dict[str, float] = {}
    verdict: dict[str, str] = {}
    for comparison in comparisons:
        profile, timed = comparison.profile.name, comparison.measurements
        if entry.name in comparison.failures:
            failures[profile] = comparison.failures[entry.name]
        if entry.name in timed:
            latency_ms[profile] = timed[entry.name].median_ms
            if entry is not reference and reference.name in timed:
                if comparison.ranked:
                    speedup[profile] = comparison.speedup(entry.name, over=reference.name)
                verdict[profile] = comparison.verdict(entry.name, over=reference.name)
            on_device = timed[entry.name].compute_ms
            if on_device is not None:
                compute_ms[profile] = on_device
    return Row(
        name=entry.name,
        size_bytes=size_bytes(entry.path),
        num_params=entry.num_params,
        accuracy=accuracy,
        accuracy_change=change,
        mcnemar_p=p_value,
        agreement=agreed,
        latency_ms=latency_ms,
        speedup=speedup,
        measurable={
            comparison.profile.name: comparison.is_measurable(speedup[comparison.profile.name])
            for comparison in comparisons
            if comparison.profile.name in speedup
        },
        failures=failures,
        macs=entry.macs,
        compute_ms=compute_ms,
        runtime_accuracy=dict(entry.runtime_accuracy),
        verdict=verdict,
    )
