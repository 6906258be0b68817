"""The pipeline as a value: everything that walks a recipe walks the same nodes."""

from dataclasses import replace

import pytest

from compress.benchmark.compare import PRESETS, QUICK
from compress.pipeline.check import find_teachers
from compress.pipeline.nodes import nodes
from compress.pipeline.plan import plan
from compress.pipeline.run import Options, host_of, prepare, run, work_of
from compress.pipeline.run_directory import Asked, decide_execution
from compress.pipeline.sweep import sweep
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.store.store import Store

RECIPE = """
schema: 1
name: nodes
data: {source: digits}
teacher: {model: {mlp: {widths: [32]}}, train: {epochs: 1, batch_size: 64}}
student: {mlp: {widths: [16]}}
ensemble:
  second: {teacher: {model: {mlp: {widths: [8]}}, train: {epochs: 1, batch_size: 64}}, weight: 0.5}
baselines:
  alone: {model: {mlp: {widths: [16]}}, train: {epochs: 1, batch_size: 64}}
stages:
  - distill: {epochs: 1, batch_size: 64}
  - quantize: {max_accuracy_drop: null, min_agreement: 0.5}
  - export
benchmark: {preset: quick, profiles: [{threads: 1}]}
gates: {max_accuracy_drop: 1.0}
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", replace(QUICK, rounds=8, block_ms=1.0, warm_up_limit_ms=10.0))
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return file


def test_every_step_is_a_node_with_its_role_and_its_source(path):
    found = nodes(Recipe.load(path))
    told = [(node.name, node.role, node.is_row, node.source and node.source.name) for node in found]
    assert told == [
        ("student", "student", False, None),
        ("teacher", "teacher", False, None),
        ("teacher", "teacher", True, "teacher"),
        ("second", "ensemble", False, None),
        ("second", "ensemble", True, "second"),
        ("teacher-static", "baseline", True, "teacher"),
        ("teacher-dynamic", "baseline", True, "teacher"),
        ("alone", "baseline", False, None),
        ("alone", "baseline", True, "alone"),
        ("distill", "stage", True, "student"),
        ("quantize", "stage", True, "distill"),
        ("export", "stage", True, "quantize"),
    ]
    assert [node.weight for node in found if node.given is not None] == [1.0, 0.5]


def test_until_leaves_out_baselines_and_what_comes_after(path):
    recipe = Recipe.load(path)
    assert [node.name for node in nodes(recipe, until="teacher") if node.is_row] == ["teacher", "second"]
    assert [node.name for node in nodes(recipe, until="distill") if node.is_row] == ["teacher", "second", "distill"]


def test_run_plan_check_smoke_estimate_and_sweep_walk_the_same_nodes(path, tmp_path):
    recipe, options = Recipe.load(path), Options(tmp_path / "store", threads=1, reporter=Reporter(quiet=True))
    rows = [node.name for node in nodes(recipe) if node.is_row]
    assert [(row.name, row.action) for row in plan(recipe, options).steps] == [(name, "run") for name in rows]

    done = run(recipe, options)
    assert [row.name for row in done.report.stages] == rows
    assert [(row.name, row.action) for row in plan(recipe, options).steps] == [(name, "reuse") for name in rows]

    prepared, options, data = prepare(recipe, options)
    store = Store.open(options.store)
    execution = decide_execution(done.run_dir, Asked(threads=1), say=print)
    host = host_of(options, store=store, execution=execution)
    teachers = find_teachers(prepared, work_of(prepared, data), host)
    digests = {row.name: row.digest for row in done.report.stages}
    assert [member.artifact.digest for member in teachers] == [digests["teacher"], digests["second"]]

    smoke = run(recipe, replace(options, smoke=True))
    assert [row.name for row in smoke.report.stages] == rows
    assert smoke.report.estimate is not None
    assert set(rows) <= set(smoke.report.estimate.seconds)

    _, chosen = sweep(path, ["stages.distill.epochs=1"], replace(options, again=True), goal="smallest")
    assert chosen is not None
    assert [row.name for row in chosen.report.stages] == rows
    assert all(row.reused for row in chosen.report.stages)
