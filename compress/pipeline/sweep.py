"""A sweep: one recipe with several values for some of its fields, the best variant chosen on select, test read once.

Every variant is a pipeline like any other, in the store and in MLflow; what variants have in common is found by its
key and made once. Gates say which variants pass; their accuracy is looked at on select, at the unfavourable end of its
interval. Only the variant that is chosen is then taken to its verdict on test. What was chosen for its times is timed
anew for that: the shortest of several times is short by luck too.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.table import Table

from compress.benchmark.fitting import fitted_table
from compress.benchmark.tables import WIDTH
from compress.errors import RecipeError, StageError, UsageError
from compress.judge.race import Race
from compress.measures.intervals import Estimate
from compress.measures.pareto import optimal
from compress.measures.units import format_bytes, format_factor, format_ms, format_share
from compress.pipeline.processes import lead
from compress.pipeline.run import Options, Outcome, discretion_of, help_run, run
from compress.recipe import Recipe
from compress.recipe.permission import check_allowed
from compress.report.document import GateResult
from compress.store.digest import hash_values
from compress.store.disk import write_atomically
from compress.store.document import to_json
from compress.store.store import Store

SCHEMA = 2
MAX_VARIANTS = 256
Goal = Literal["smallest", "fastest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """What a variant came to, on select.

    Attributes:
        run: name of its run directory.
        size_bytes: of the shipped file.
        latency_ms: its median under the primary profile.
        speedup: over the teacher.
        measurable: whether that is more than the noise.
        accuracy: with its interval.
        accuracy_change: against the teacher.
        gates: judged by that change.
        optimal: whether it is in the Pareto set of accuracy and the goal.
    """

    run: str
    size_bytes: int
    latency_ms: float
    speedup: Estimate
    measurable: bool
    accuracy: Estimate
    accuracy_change: Estimate | None
    gates: tuple[GateResult, ...]
    optimal: bool = False

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)

    def cost(self, goal: Goal) -> float:
        """What the goal minimises."""
        return self.size_bytes if goal == "smallest" else self.latency_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One combination of values.

    Attributes:
        settings: the overrides.
        shipped: what it came to; None when a stage failed.
        failure: why.
        passed: whether every gate holds on select.
        verdict_passed: of the chosen one, whether every gate holds on test.
        accuracy_test: of the chosen one.
    """

    settings: tuple[str, ...]
    shipped: Shipped | None
    failure: str = ""
    passed: bool = False
    verdict_passed: bool | None = None
    accuracy_test: Estimate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """All variants, and the position of the chosen one; None when none passes."""

    schema: int = SCHEMA
    name: str
    recipe: str
    goal: Goal
    rows: tuple[Variant, ...]
    chosen: int | None


def combinations(choices: Sequence[str]) -> list[tuple[str, ...]]:
    """Return one tuple of overrides for each combination of values, the last choice varying fastest.

    Args:
        choices: ``dotted.path=value,value,...``; commas inside brackets, braces or quotes belong to a value.

    Raises:
        UsageError: for no choice, one that is not ``path=value``, an empty or repeated value, or too many combinations.
    """
    if not choices:
        raise UsageError(
            "a sweep needs values to try", hint="--set stages.prune.kept_macs_fraction=0.3,0.5,0.7, or several --set"
        )
    axes = [_axis(choice) for choice in choices]
    found = list(itertools.product(*axes))
    if len(found) > MAX_VARIANTS:
        raise UsageError("the sweep is too large", expected=f"at most {MAX_VARIANTS} variants", got=len(found))
    return found


def _axis(choice: str) -> list[str]:
    path, sign, text = choice.partition("=")
    values = [value.strip() for value in _split(text)]
    if not sign or not path or not all(values):
        raise UsageError("a choice has no values", expected="path=value,value,...", got=choice)
    if len(set(values)) != len(values):
        raise UsageError("a value stands twice in a choice", got=choice)
    return [f"{path}={value}" for value in values]


def _split(text: str) -> list[str]:
    """Split at the commas that are in no bracket, brace or quote."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def sweep(path: Path, choices: Sequence[str], options: Options, *, goal: Goal) -> tuple[SweepResult, Outcome | None]:
    """Run every variant without its test role, choose one, and take that one to its verdict.

    Args:
        path: the recipe.
        choices: see ``combinations``.
        options: of each run; ``label``, ``tags`` and ``judged`` are set here.
        goal: what is minimised among the variants that pass: bytes of the shipped file, or its median latency under
            the primary profile.

    Returns:
        The result (also in ``sweeps/`` of the store), and the outcome of the chosen variant; None when no
        variant passes, and then test was not read.

    Raises:
        RecipeError: when a variant is not valid, or the recipe has no gates to choose by; before anything runs.
        UsageError: see ``combinations``; or when two variants differ in nothing that decides results.
        LostProcessError: when another process of the group has ended.
        KeyboardInterrupt: when interrupted; the same call continues.
    """
    with lead(options.group):
        return _sweep(path, choices, options, goal)


def help_sweep(path: Path, choices: Sequence[str], options: Options) -> None:
    """Share what trains in the variants of a sweep that the first process of the group runs, until it has ended.

    Args:
        path: the recipe.
        choices: as the first process has them.
        options: as the first process has them, but for the group.

    Raises:
        CompressError: see `help_run`.
    """
    overrides = combinations(choices)
    while (number := options.group.tell()) is not None:
        help_run(Recipe.load(path, overrides=overrides[number]), options)


def _sweep(path: Path, choices: Sequence[str], options: Options, goal: Goal) -> tuple[SweepResult, Outcome | None]:
    overrides = combinations(choices)
    recipes = [Recipe.load(path, overrides=values) for values in overrides]
    if not all(recipe.gates.judged for recipe in recipes):
        raise RecipeError(
            "a sweep chooses among the variants that pass, and the recipe has no gates",
            where=path,
            hint="set gates.max_accuracy_drop",
        )
    for recipe in recipes:
        check_allowed(recipe, allow=options.allow, store=options.store)
    name = f"{recipes[0].name}-{hash_values([recipe.identity for recipe in recipes])[:10]}"
    if len({hash_values(recipe.identity) for recipe in recipes}) < len(recipes):
        raise UsageError(
            "two variants are one and the same recipe",
            expected="values that decide results",
            got=", ".join(choices),
            hint="of `execution` the precision alone does",
        )
    options = replace(options, tags={**options.tags, "compress.sweep": name})
    discretion = discretion_of(options)
    told = [tuple(map(discretion.override, values)) for values in overrides]
    names = labels(told)
    rows: list[Variant] = []
    races: list[Race | None] = []
    for number, (recipe, values) in enumerate(zip(recipes, told, strict=True), start=1):
        options.reporter.say(f"variant {number} of {len(recipes)}: {' '.join(values)}")
        options.group.tell(number - 1)
        try:
            outcome = run(recipe, replace(options, judged=False, label=f"{names[number - 1]} {recipe.name}"))
        except StageError as error:  # one variant may ask for what cannot be; the others go on
            options.reporter.say(f"variant {number} failed: {error}")
            rows.append(Variant(settings=values, shipped=None, failure=error.message))
            races.append(None)
        else:
            shipped = _describe(outcome)
            rows.append(Variant(settings=values, shipped=shipped, passed=shipped.passed))
            races.append(outcome.race)
    rows, chosen = mark_optimal(rows, goal=goal), choose(rows, goal=goal)
    outcome = None
    if chosen is not None:
        options.reporter.say(f"chosen on select: {' '.join(told[chosen])}; test is read for it")
        tags = {**options.tags, "compress.chosen": goal}
        chosen_options = replace(options, tags=tags, label=f"{names[chosen]}, chosen, {recipes[chosen].name}")
        options.group.tell(chosen)
        outcome = run(recipes[chosen], chosen_options, raced=races[chosen] if goal == "smallest" else None)
        verdict = outcome.report.verdict
        tested = None if verdict is None else verdict.shipped.accuracy
        rows[chosen] = replace(rows[chosen], verdict_passed=outcome.passed, accuracy_test=tested)
    result = SweepResult(name=name, recipe=recipes[0].name, goal=goal, rows=tuple(rows), chosen=chosen)
    folder = Store.open(options.store).root / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.json", to_json(result))
    return result, outcome


def choose(rows: Sequence[Variant], *, goal: Goal) -> int | None:
    """Return the position of the variant that is smallest, or fastest, among those that pass; None without any.

    Ties go to the more accurate one.
    """
    passing = [(found.cost(goal), -found.accuracy.value, index) for index, found in _ran(rows) if rows[index].passed]
    return min(passing)[-1] if passing else None


def mark_optimal(rows: Sequence[Variant], *, goal: Goal) -> list[Variant]:
    """Return the variants, those of the Pareto set of accuracy on select and the goal marked."""
    ran = _ran(rows)
    marks = optimal([(found.cost(goal), -found.accuracy.value) for _, found in ran])
    marked = list(rows)
    for (index, found), mark in zip(ran, marks, strict=True):
        marked[index] = replace(rows[index], shipped=replace(found, optimal=mark))
    return marked


def _ran(rows: Sequence[Variant]) -> list[tuple[int, Shipped]]:
    """Return those that did not fail, with their positions."""
    return [(index, row.shipped) for index, row in enumerate(rows) if row.shipped is not None]


def _describe(outcome: Outcome) -> Shipped:
    benchmark = outcome.report.benchmark
    assert benchmark is not None  # a variant is run to its end
    row, primary = benchmark.shipped, benchmark.primary
    assert row.accuracy is not None  # every file of a pipeline is scored
    return Shipped(
        run=outcome.run_dir.name,
        size_bytes=row.size_bytes,
        latency_ms=row.latency_ms[primary],
        speedup=row.speedup[primary],
        measurable=row.measurable[primary],
        accuracy=row.accuracy,
        accuracy_change=row.accuracy_change,
        gates=outcome.report.gates_on_select,
    )


def labels(overrides: Sequence[Sequence[str]]) -> list[str]:
    """Return what tells variants apart: ``kept_macs_fraction=0.3``.

    A field keeps its stage where two of them have one name.
    """
    common = set.intersection(*map(set, overrides))
    varied = [[value for value in values if value not in common] or list(values) for values in overrides]
    paths = {value.partition("=")[0] for values in varied for value in values}
    fields = [path.rpartition(".")[2] for path in paths]
    return [", ".join(_shorten(value, fields) for value in values) for values in varied]


def _shorten(value: str, fields: Sequence[str]) -> str:
    path, _, text = value.partition("=")
    field = path.rpartition(".")[2]
    return f"{field if fields.count(field) == 1 else path.removeprefix('stages.')}={text}"


def table(result: SweepResult, *, width: int = WIDTH) -> Table:
    """Return the variants as a table: ``>`` the chosen one, ``*`` the Pareto set on select."""
    names = labels([row.settings for row in result.rows])
    rows, styles = [], []
    for index, (name, row) in enumerate(zip(names, result.rows, strict=True)):
        shipped, test = row.shipped, row.accuracy_test
        if shipped is None:
            rows.append([f"   {name}: {row.failure}", *["-"] * 5, "failed"])
            styles.append("red")
            continue
        rows.append(
            [
                f"{'>' if index == result.chosen else ' '}{'*' if shipped.optimal else ' '} {name}",
                format_bytes(shipped.size_bytes),
                format_ms(shipped.latency_ms),
                f"{'' if shipped.measurable else '~'}{format_factor(shipped.speedup.value)}x",
                format_share(shipped.accuracy, sign=""),
                "-" if test is None else f"{100 * test.value:.2f}",
                "pass" if row.passed else "miss",
            ]
        )
        styles.append("bold" if index == result.chosen else "")
    return fitted_table(
        ["   variant", "size", "p50 ms", "speedup", "select %", "test %", "gates"],
        rows,
        width=width,
        dispensable=("speedup", "test %"),
        title=f"{result.recipe}, the {result.goal} that passes",
        caption="> chosen   * Pareto set on select   ~ within the noise",
        styles=styles,
    )
