"""All pipelines of a store beside each other: what each shipped, and which of them no other beats."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.table import Table

from compress.errors import ArtifactError, InputError
from compress.measures.pareto import surely_optimal
from compress.measures.units import format_bytes, format_ms, format_share, format_speedup
from compress.store.document import OtherSchemaError, load

if TYPE_CHECKING:
    from compress.measures.intervals import Estimate


@dataclass(frozen=True, slots=True)
class Run:
    """What one pipeline shipped.

    Attributes:
        name: of its run directory.
        settings: in which its recipe is unlike the others of its name; empty where there are none.
        data: digest of its data; only runs on the same data can be compared.
        profile: the primary one, under which it was timed.
        cpu: the model of the machine it was timed on; times of two machines are not compared.
        measure: what accuracy means.
        size_bytes: of the shipped file.
        latency_ms: median per call.
        latency_bounds_ms: its interval, widened by the noise floor of its comparison.
        accuracy: on select, with its interval.
        accuracy_test: on test; None for a variant of a sweep that was not chosen.
        speedup: over its own teacher; None where it is not ranked.
        measurable: whether that is more than the noise.
        passed: whether its gates hold on test; None without a verdict or gates.
        optimal: whether no other run of its group is at least as small, and not surely slower or less accurate.
    """

    name: str
    settings: str
    data: str
    profile: str
    cpu: str
    measure: str
    size_bytes: int
    latency_ms: float
    latency_bounds_ms: tuple[float, float]
    accuracy: "Estimate"
    accuracy_test: "Estimate | None"
    speedup: "Estimate | None"
    measurable: bool
    passed: bool | None
    optimal: bool

    @property
    def group(self) -> tuple[str, str, str]:
        """What runs must share to be compared: data, profile and machine."""
        return self.data, self.profile, self.cpu


def read_runs(store: Path, *, say: Callable[[str], object]) -> list[Run]:
    """Return every finished pipeline of a store, smallest first within the same data, profile and machine.

    Args:
        store: its directory.
        say: told of each report that another version of this package wrote; it is left out.

    Raises:
        InputError: when there is none, or a report cannot be read.
    """
    read = [run for path in sorted((store / "runs").glob("*/report.json")) if (run := _read(path, say)) is not None]
    if not read:
        raise InputError("no finished pipelines to compare", where=store, hint="run a recipe to its end first")
    from compress.recipe.differences import differences  # brings all of the recipe

    settings = differences([recipe for recipe, _ in read])
    found: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for (_, run), told in zip(read, settings, strict=True):
        found[run.group].append(replace(run, settings=told))
    return [run for group in found.values() for run in _mark(group)]


def table(runs: Sequence[Run], *, width: int = 100) -> Table:
    """Return the runs as a table; ``*`` marks those that no other is surely better than."""
    from compress.benchmark.fitting import fitted_table  # brings the benchmark, for which an empty store has no use

    rows, styles = [], []
    for run in runs:
        gates = {True: "passed", False: "MISSED", None: "-"}[run.passed]
        rows.append(
            [
                f"{'*' if run.optimal else ' '} {_entitle(run)}".replace("\n", "\n  "),
                format_bytes(run.size_bytes),
                format_ms(run.latency_ms),
                format_speedup(run.speedup, measurable=run.measurable),
                format_share(run.accuracy, sign=""),
                "-" if run.accuracy_test is None else f"{100 * run.accuracy_test.value:.2f}",
                gates,
            ]
        )
        styles.append("bold" if run.optimal else "")
    made = fitted_table(
        ["  run", "size", "p50 ms", "speedup", "select %", "test %", "gates"],
        rows,
        width=width,
        dispensable=("speedup", "test %", "select %"),
        caption="* no other run on the same data and machine is as small, unless surely slower or less accurate\n"
        "~ a speedup within the noise",
        styles=styles,
    )
    for index, (run, after) in enumerate(itertools.pairwise(runs)):
        made.rows[index].end_section = run.group != after.group
    return made


def plot(runs: Sequence[Run], path: Path) -> None:
    """Draw accuracy on select against latency, one panel for each group of runs, as a PNG."""
    from matplotlib.figure import Figure

    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.group].append(run)
    figure = Figure(figsize=(9, 4.6 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axis, group in zip(panels, groups.values(), strict=True):
        largest = max(run.size_bytes for run in group)
        for run in group:
            value, low, high = (100 * bound for bound in run.accuracy)
            colour = "#0a7a74" if run.optimal else "#9aa3ad"
            axis.errorbar(
                run.latency_ms, value, yerr=[[value - low], [high - value]], color=colour, capsize=3, linewidth=1
            )
            axis.scatter(run.latency_ms, value, s=30 + 500 * run.size_bytes / largest, color=colour, alpha=0.45)
            label = f"{_entitle(run)}\n{format_bytes(run.size_bytes)}"
            axis.annotate(label, (run.latency_ms, value), xytext=(9, 7), textcoords="offset points", fontsize=8)
        front = sorted((run.latency_ms, 100 * run.accuracy.value) for run in group if run.optimal)
        axis.plot(*zip(*front, strict=True), color="#0a7a74", linestyle="--", linewidth=1, drawstyle="steps-post")
        axis.set_xscale("log")
        axis.set_xlabel(f"median latency, ms ({group[0].profile}, {group[0].cpu})")
        axis.set_ylabel(f"{group[0].measure} on select, %")
        axis.margins(x=0.25, y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    figure.suptitle("What each pipeline shipped; the area is the size of the file", fontsize=11)
    figure.savefig(path, dpi=130)


def documents(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the runs as JSON values."""
    return [asdict(run) for run in runs]


def _entitle(run: Run) -> str:
    return f"{run.name}\n{run.settings}" if run.settings else run.name


def _read(path: Path, say: Callable[[str], object]) -> tuple[dict[str, Any], Run] | None:
    """Return a recipe's settings and its run; None when that was not raced, or its report is of another version."""
    try:
        from compress.recipe.recipe import parameters
        from compress.report.document import Report  # brings the harness, and so torch

        report = load(Report, path)
    except OtherSchemaError as error:
        say(f"left out: {error}")
        return None
    except ArtifactError as error:
        raise InputError(
            "a report cannot be read", got=error.message, where=path, hint="run its recipe again, or remove it"
        ) from error
    benchmark, verdict = report.benchmark, report.verdict
    if benchmark is None:
        return None
    shipped, profile = benchmark.shipped, benchmark.primary
    assert shipped.accuracy is not None  # every file of a pipeline is scored
    timed = benchmark.by_profile[profile]
    took, floor = timed.latency_ms(shipped.name), math.exp(timed.floor or 0.0)
    run = Run(
        name=path.parent.name,
        settings="",
        data=report.data.digest,
        profile=profile,
        cpu=report.environment.cpu_model,
        measure=report.task.measure,
        size_bytes=shipped.size_bytes,
        latency_ms=shipped.latency_ms[profile],
        latency_bounds_ms=(took.low / floor, took.high * floor),
        accuracy=shipped.accuracy,
        accuracy_test=None if verdict is None else verdict.shipped.accuracy,
        speedup=shipped.speedup.get(profile),
        measurable=shipped.measurable.get(profile, False),
        passed=None if verdict is None else verdict.passed,
        optimal=False,
    )
    return parameters(yaml.safe_load(report.recipe_yaml)), run


def _mark(runs: Sequence[Run]) -> list[Run]:
    """Return runs by size, marked where no other one rules them out."""
    ordered = sorted(runs, key=lambda run: run.size_bytes)
    bounds = [(run.accuracy.low, run.accuracy.high) for run in ordered]
    marks = surely_optimal(
        [(run.size_bytes, run.latency_bounds_ms, accuracy) for run, accuracy in zip(ordered, bounds, strict=True)]
    )
    return [replace(run, optimal=mark) for run, mark in zip(ordered, marks, strict=True)]
