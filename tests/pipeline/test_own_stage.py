"""The contract of stages: one that compress has never heard of goes through everything without an edit elsewhere."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from compress.benchmark.compare import PRESETS, QUICK
from compress.pipeline.check import check
from compress.pipeline.plan import plan
from compress.pipeline.run import Options, run
from compress.pipeline.sweep import sweep
from compress.progress import Reporter
from compress.recipe import Recipe

RECIPE = """
schema: 1
name: own
data: {source: digits}
teacher: {model: {mlp: {widths: [64]}}, train: {epochs: 8, batch_size: 64}}
student: {mlp: {widths: [32]}}
stages:
  - add-noise: {file: own_stage.py, class: AddNoise, name: noisy, scale: 0.02}
  - export: {variants: [int8-x86, fp32]}
benchmark: {preset: quick, profiles: [{threads: 1}]}
gates: {max_size_mb: 0.000001, max_accuracy_drop: 0.0}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", replace(QUICK, rounds=8, block_ms=1.0, warm_up_limit_ms=10.0))
    shutil.copyfile(Path(__file__).parents[1] / "stages" / "own_stage.py", tmp_path / "own_stage.py")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_a_stage_of_the_users_own_goes_through_everything(project):
    code = [project / "own_stage.py"]
    options = Options(project / "store", code=code, threads=1, reporter=Reporter(quiet=True))
    recipe = Recipe.load(project / "recipe.yaml")
    assert Recipe.parse(recipe.to_yaml(), origin="again", directory=project) == recipe
    assert [row.name for row in plan(recipe, options).steps][-2:] == ["noisy", "export"]
    assert check(recipe, options).notes  # no teacher yet, and the lesson was found all the same

    smoke = run(recipe, replace(options, smoke=True))
    assert smoke.report.estimate is not None
    assert smoke.report.estimate.seconds["noisy"] > 0

    done = run(recipe, options)
    rows = {row.name: row for row in done.report.stages}
    assert rows["noisy"].kind == "quantized"
    assert rows["noisy"].loss_fingerprint not in (None, done.report.loss.fingerprint)
    assert rows["noisy"].scores.size_bytes < rows["teacher"].scores.size_bytes
    assert done.passed is False
    assert done.report.verdict is not None
    remedies = {gate.name: gate.remedy for gate in done.report.verdict.gates if not gate.passed}
    assert "no noise makes stages.noisy cheaper" in remedies["max_size_mb"]
    assert [row.action for row in plan(recipe, options).steps] == ["reuse"] * len(rows)

    result, _ = sweep(project / "recipe.yaml", ["stages.noisy.scale=0.02,0.03"], options, goal="smallest")
    assert len(result.rows) == 2


def test_its_key_holds_its_fields_and_the_content_of_its_file(project):
    options = Options(project / "store", code=[project / "own_stage.py"], threads=1, reporter=Reporter(quiet=True))
    run(Recipe.load(project / "recipe.yaml"), replace(options, until_stage="noisy"))
    again = plan(Recipe.load(project / "recipe.yaml"), replace(options, until_stage="noisy"))
    assert again.steps[-1].action == "reuse"
    other = Recipe.load(project / "recipe.yaml", overrides=["stages.noisy.scale=0.03"])
    assert plan(other, replace(options, until_stage="noisy")).steps[-1].action == "run"
    with (project / "own_stage.py").open("a") as file:
        file.write("\n# changed\n")
    changed = plan(Recipe.load(project / "recipe.yaml"), replace(options, until_stage="noisy"))
    assert changed.steps[-1].action == "run"
