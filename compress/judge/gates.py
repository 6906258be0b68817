"""Gates: limits that are judged on the unfavourable bound of each interval; a missed one says what to change."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compress.judge.contenders import Contender, find_gated, limits_of
from compress.judge.race import Race
from compress.judge.remedy import moves, remedy
from compress.measures.intervals import Estimate
from compress.recipe import Limits, Recipe
from compress.report.document import GateResult
from compress.stage import Quantity

QUANTITIES: dict[str, Quantity] = {"max_accuracy_drop": "accuracy", "max_size_mb": "size"}  # speed otherwise


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
            variant=entry.variant,
        )
        gates += [
            gate if gate.passed else replace(gate, remedy=_remedy(gate, entry, recipe, contenders, race))
            for gate in found
        ]
    return tuple(gates)


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


def _remedy(gate: GateResult, entry: Contender, recipe: Recipe, contenders: Sequence[Contender], race: Race) -> str:
    """Return what a missed gate of a file asks for."""
    float_file = entry.variant is not None and entry.variant.startswith("fp")
    stages = [stage for stage in recipe.stages if not (float_file and stage.produces == "quantized")]
    rows = {row.name: row for row in race.result.rows}
    rows |= {"teacher": rows[contenders[0].name], stages[-1].title: rows[entry.name]}
    facts = {found.name: found.artifact.facts for found in contenders}
    return remedy(
        QUANTITIES.get(gate.field, "speed"),
        moves(stages, rows, facts, gate.profile or race.primary.profile.name),
        missing=gate.judged / gate.limit if gate.at_least else gate.limit / gate.judged,
        float_file=float_file,
        measured_passes=gate.estimate >= gate.limit if gate.at_least else gate.estimate <= gate.limit,
    )
