"""A sweep's variants, their names and the choice among them."""

from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from compress.errors import RecipeError, UsageError
from compress.measures.intervals import Estimate
from compress.pipeline.run import Options
from compress.pipeline.sweep import (
    Shipped,
    SweepResult,
    Variant,
    choose,
    combinations,
    labels,
    mark_optimal,
    sweep,
    table,
)
from compress.report.document import Report
from compress.store.document import load


def row(size: int, latency: float, accuracy: float, *, passed: bool = True) -> Variant:
    shipped = Shipped(
        run="run",
        size_bytes=size,
        latency_ms=latency,
        speedup=Estimate(2.0, 1.9, 2.1),
        measurable=True,
        accuracy=Estimate(accuracy, accuracy - 0.01, accuracy + 0.01),
        accuracy_change=None,
        gates=(),
    )
    return Variant(settings=(f"stages.prune.kept_macs_fraction={size / 100}",), shipped=shipped, passed=passed)


FAILED = Variant(settings=("stages.prune.kept_macs_fraction=0.01",), shipped=None, failure="nothing left")


def test_every_combination_is_a_variant_the_last_choice_fastest():
    assert combinations(["a=1,2", "b.c=x,y"]) == [
        ("a=1", "b.c=x"),
        ("a=1", "b.c=y"),
        ("a=2", "b.c=x"),
        ("a=2", "b.c=y"),
    ]
    assert combinations(["a=1"]) == [("a=1",)]


def test_commas_inside_a_value_do_not_part_it():
    found = combinations(['a=[1, 2], [3, 4],{x: 1, y: 2},"p,q"'])
    assert found == [("a=[1, 2]",), ("a=[3, 4]",), ("a={x: 1, y: 2}",), ('a="p,q"',)]


@pytest.mark.parametrize("choices", [[], ["a"], ["=1,2"], ["a=1,,2"], ["a="], ["a=1,1"], ["a=" + ",".join("0" * 300)]])
def test_choices_that_mean_nothing_are_refused(choices):
    with pytest.raises(UsageError):
        combinations(choices)


def test_more_variants_than_anybody_means_are_refused():
    with pytest.raises(UsageError, match="too large"):
        combinations([f"a={','.join(map(str, range(20)))}", f"b={','.join(map(str, range(20)))}"])


def test_names_are_what_tells_them_apart():
    overrides = combinations(["stages.prune.kept_macs_fraction=0.3,0.5", "seed=1"])
    assert labels(overrides) == ["kept_macs_fraction=0.3", "kept_macs_fraction=0.5"]
    overrides = combinations(["stages.distill.epochs=1,2", "stages.recover.epochs=3,4"])
    assert labels(overrides)[0] == "distill.epochs=1, recover.epochs=3"
    assert labels([("seed=1",)]) == ["seed=1"]


def test_the_smallest_or_fastest_that_passes_is_chosen():
    rows = [row(10, 3.0, 0.80, passed=False), row(20, 2.0, 0.90), row(30, 1.0, 0.95), row(40, 4.0, 0.94)]
    assert choose(rows, goal="smallest") == 1
    marked = mark_optimal([*rows, FAILED], goal="smallest")
    assert [found.shipped.optimal for found in marked[:-1]] == [True, True, True, False]
    assert marked[-1] == FAILED
    assert choose(rows, goal="fastest") == 2


def test_of_equals_the_more_accurate_one_is_chosen_and_of_none_none():
    assert choose([row(10, 1.0, 0.90), row(10, 1.0, 0.92)], goal="smallest") == 1
    assert choose([row(10, 1.0, 0.90, passed=False)], goal="smallest") is None
    assert choose([FAILED], goal="smallest") is None


def test_a_recipe_without_gates_is_refused_before_anything_runs(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: x\ndata: {source: digits}\nteacher: {artifact: gone}\nstudent: teacher\nstages: [distill, export]\n"
    )
    with pytest.raises(RecipeError, match="no gates"):
        sweep(path, ["seed=1,2"], Options(store=tmp_path / "store"), goal="smallest")
    with pytest.raises(RecipeError, match="sead"):
        sweep(path, ["sead=1,2"], Options(store=tmp_path / "store"), goal="smallest")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(("goal", "again"), [("smallest", False), ("fastest", True)])
def test_what_was_chosen_by_its_times_is_judged_by_others(goal, again, tmp_path, monkeypatch):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: x\ndata: {source: digits}\nteacher: {artifact: gone}\nstudent: teacher\nstages: [distill, export]\n"
        "gates: {max_accuracy_drop: 0.1}\n"
    )
    calls = []

    def fake(recipe, options, *, raced=None):
        calls.append((options.judged, raced))
        report = load(Report, Path(__file__).parents[1] / "digits_report.json")
        timed = dict.fromkeys(report.benchmark.profiles, 1.0 + recipe.seed)
        shipped = replace(report.benchmark.shipped, size_bytes=10_000 + recipe.seed, latency_ms=timed)
        report = replace(report, benchmark=replace(report.benchmark, rows=(*report.benchmark.rows[:-1], shipped)))
        return SimpleNamespace(report=report, run_dir=tmp_path / "run", race=f"times of {recipe.seed}", passed=True)

    monkeypatch.setattr("compress.pipeline.sweep.run", fake)
    document, _ = sweep(path, ["seed=2,1"], Options(store=tmp_path / "store"), goal=goal)
    assert document.chosen == 1
    assert calls == [(False, None), (False, None), (True, None if again else "times of 1")]


def test_the_table_fits_100_columns_and_names_failures():
    rows = [row(10_000, 1.0, 0.9), row(20_000, 2.0, 0.95, passed=False)]
    rows = mark_optimal([*rows, FAILED], goal="smallest")
    chosen = choose(rows, goal="smallest")
    document = SweepResult(name="digits", recipe="digits", goal="smallest", rows=tuple(rows), chosen=chosen)
    text = StringIO()
    Console(file=text, width=100).print(table(document))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.lstrip().startswith(">*") and "kept_macs_fraction" in line for line in lines)
    assert "nothing left" in text.getvalue()
