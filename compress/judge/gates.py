"""Gates: limits that are judged on the unfavourable bound of each interval; a missed one says what to change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from compress.benchmark.tables import doubts
from compress.judge.contenders import Contender, find_gated, limits_of
from compress.judge.race import Race
from compress.judge.remedy import moves, remedy
from compress.measures.intervals import Estimate
from compress.recipe import Limits, Recipe
from compress.report.document import FileFit, GateResult
from compress.stage import Quantity

QUANTITIES: dict[str, Quantity] = {"max_accuracy_drop": "accuracy", "max_size_mb": "size"}  # speed otherwise
SAME_ROOM = 1.02  # a smaller factor is no difference


def judge_on_select(recipe: Recipe, contenders: Sequence[Contender], race: Race) -> tuple[GateResult, ...]:
    """Judge the gates by the change of accuracy on select: what a choice between pipelines may look at."""
    changes = {row.name: row.accuracy_change for row in race.result.rows if row.accuracy_change is not None}
    return judge_gates(recipe, contenders, race, changes=changes)


def judge_gates(
    recipe: Recipe, contenders: Sequence[Contender], race: Race, *, changes: Mapping[str, Estimate]
) -> tuple[GateResult, ...]:
    """Judge every gate of every file that has some.

    Args:
        recipe: the limits.
        contenders: the teacher first, the shipped file last.
        race: times of all of them.
        changes: accuracy minus the teacher's, of those that have gates, by name.
    """
    teacher, shipped = contenders[0], contenders[-1]
    gates: list[GateResult] = []
    for entry in [*find_gated(recipe, contenders), shipped]:
        limits = limits_of(recipe, entry, shipped)
        found = judge_limits(
            limits,
            change=changes[entry.name],
            size_bytes=entry.scores.facts.size_bytes,
            speedup=race.primary.speedup(entry.name, over=teacher.name),
            latency_ms={name: race.latency_ms(entry.name, profile=name) for name in limits.max_latency_ms},
            primary=race.primary.profile.name,
            variant=None if entry is shipped else entry.variant,
        )
        better = find_better(recipe, contenders, race) if entry is shipped else None
        for gate in found:
            disturbed = tuple(doubts(race.result.by_profile[gate.profile])) if gate.profile else ()
            told = "" if gate.passed else _remedy(gate, entry, recipe, contenders, race, better=better)
            gates.append(replace(gate, disturbed=disturbed, remedy=told))
    return tuple(gates)


def fit_files(recipe: Recipe, contenders: Sequence[Contender], race: Race) -> tuple[FileFit, ...]:
    """Return how each file of the bundle serves the recipe's own gates on select; empty where there is nothing to say.

    A file is as good as its tightest gate: the one whose limit is kept the fewest times. `SAME_ROOM` is no difference,
    and leaves the file best that the bundle was written for.

    Args:
        recipe: the limits.
        contenders: all files, the shipped one last.
        race: times of all of them.
    """
    shipped, limits = contenders[-1], Limits.model_validate(recipe.gates.model_dump(exclude={"variants"}))
    if shipped.artifact.kind != "bundle" or not limits.judged:
        return ()
    bundled = [*(entry for entry in contenders[:-1] if entry.variant is not None), shipped]
    found = [fit for entry in bundled if (fit := _fit(entry, limits, contenders[0], race)) is not None]
    best = len(found) - 1
    for index, fit in enumerate(found[:-1]):
        if (not fit.missed, _room(fit)) > (not found[best].missed, SAME_ROOM * _room(found[best])):
            best = index
    return tuple(replace(fit, best=index == best) for index, fit in enumerate(found))


def _fit(entry: Contender, limits: Limits, teacher: Contender, race: Race) -> FileFit | None:
    """Return how one file serves the limits; None where it was not measured under a profile that they are about."""
    row, by_profile = race.result.row(entry.name), race.result.by_profile
    timed = [race.primary, *(by_profile[name] for name in limits.max_latency_ms)]
    if row.accuracy_change is None or any(entry.name not in comparison.measurements for comparison in timed):
        return None
    gates = judge_limits(
        limits,
        change=row.accuracy_change,
        size_bytes=row.size_bytes,
        speedup=race.primary.speedup(entry.name, over=teacher.name),
        latency_ms={name: race.latency_ms(entry.name, profile=name) for name in limits.max_latency_ms},
        primary=race.primary.profile.name,
    )
    tightest = min(gates, key=lambda gate: gate.room)
    return FileFit(
        name=entry.name,
        variant=entry.variant or entry.artifact.facts["primary"],
        tightest=tightest.name,
        room=tightest.room if math.isfinite(tightest.room) else None,
        missed=tuple(gate.name for gate in gates if not gate.passed),
        best=False,
    )


def _room(fit: FileFit) -> float:
    return math.inf if fit.room is None else fit.room


def find_better(recipe: Recipe, contenders: Sequence[Contender], race: Race) -> FileFit | None:
    """Return the file that serves the gates better on select than the shipped one; None where none does."""
    fits = fit_files(recipe, contenders, race)
    return next((fit for fit in fits[:-1] if fit.best), None)


def judge_limits(
    gates: Limits,
    *,
    change: Estimate,
    size_bytes: int,
    speedup: Estimate,
    latency_ms: Mapping[str, Estimate],
    primary: str,
    variant: str | None = None,
) -> list[GateResult]:
    """Judge each gate that the recipe names; accuracy and times on the unfavourable bound of their interval.

    Args:
        gates: the limits.
        change: accuracy of the shipped file minus the teacher's, as shares.
        size_bytes: of the shipped file.
        speedup: of the shipped file over the teacher under the primary profile.
        latency_ms: of the shipped file, by profile that has a limit.
        primary: name of the primary profile.
        variant: named in front of each gate; None for the primary file.
    """
    prefix = "" if variant is None else f"{variant}: "
    found: list[GateResult] = []
    if gates.max_accuracy_drop is not None:
        limit, drop, judged = gates.max_accuracy_drop, -change.value, -change.low
        found.append(GateResult(f"{prefix}max_accuracy_drop", limit, drop, judged, judged <= limit))
    if gates.max_size_mb is not None:
        limit, size_mb = gates.max_size_mb, size_bytes / 1e6
        found.append(GateResult(f"{prefix}max_size_mb", limit, size_mb, size_mb, size_mb <= limit))
    if gates.min_speedup is not None:
        limit = gates.min_speedup
        found.append(
            GateResult(f"{prefix}min_speedup", limit, speedup.value, speedup.low, speedup.low >= limit, primary)
        )
    for profile, limit in gates.max_latency_ms.items():
        name, took = f"{prefix}max_latency_ms.{profile}", latency_ms[profile]
        found.append(GateResult(name, limit, took.value, took.high, took.high <= limit, profile))
    return found


def _remedy(
    gate: GateResult,
    entry: Contender,
    recipe: Recipe,
    contenders: Sequence[Contender],
    race: Race,
    *,
    better: FileFit | None,
) -> str:
    """Return what a missed gate of a file asks for."""
    float_file = entry.variant is not None and entry.variant.startswith("fp")
    profile = gate.profile or race.primary.profile.name
    stages = [stage for stage in recipe.stages if not (float_file and stage.produces == "quantized")]
    rows = {row.name: row for row in race.result.rows}
    rows |= {"teacher": rows[contenders[0].name], stages[-1].title: rows[entry.name]}
    facts = {found.name: found.artifact.facts for found in contenders}
    return remedy(
        QUANTITIES.get(gate.field, "speed"),
        moves(stages, rows, facts, profile),
        missing=gate.room,
        float_file=float_file,
        measured_passes=gate.estimate >= gate.limit if gate.at_least else gate.estimate <= gate.limit,
        better=better.variant if better is not None and gate.name not in better.missed else "",
        int8_is_slow=race.rival is not None and rows[race.rival].verdict.get(profile) == "slower",
    )
