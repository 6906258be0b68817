"""`execution:` of a recipe: how numbers are computed, unless the command line says otherwise; keys do not know it."""

from dataclasses import replace
from pathlib import Path

import pytest

from compress.errors import RecipeError, UsageError
from compress.pipeline.plan import plan
from compress.pipeline.run import Options
from compress.pipeline.sweep import sweep
from compress.progress import Reporter
from compress.recipe import ExecutionChoice, Recipe

RECIPE = """\
schema: 1
name: computed
data: {source: digits}
teacher: {model: {mlp: {widths: [8]}}, train: {epochs: 1}}
student: {mlp: {widths: [4]}}
stages: [distill: {epochs: 1}, export: {variants: [fp32]}]
gates: {max_size_mb: 1}
"""
EXECUTION = "execution={threads: 3, device: cpu, precision: bfloat16, processes: 2, reduction: fast}"


def recipe(*overrides: str) -> Recipe:
    return Recipe.parse(RECIPE, origin="recipe.yaml", directory=Path(), overrides=overrides)


def test_the_command_line_goes_before_the_recipe_and_that_before_what_is_best(tmp_path):
    options, said = Options(store=tmp_path), recipe(EXECUTION)
    assert options.asked(recipe()).threads is None
    asked = options.asked(said)
    assert (asked.threads, asked.device, asked.precision, asked.reduction) == (3, "cpu", "bfloat16", "fast")
    asked = replace(options, threads=1, device="mps", precision="float32", reduction="exact").asked(said)
    assert (asked.threads, asked.device, asked.precision, asked.reduction) == (1, "mps", "float32", "exact")


def test_it_decides_neither_keys_nor_the_run_directory_and_plan_tells_it(tmp_path):
    options = Options(store=tmp_path, reporter=Reporter(quiet=True), until_stage="teacher")
    plain, computed = recipe(), recipe("execution={threads: 3, precision: float32}")
    told = plan(computed, options)
    assert "3 threads, float32" in told.execution
    first = plan(plain, replace(options, threads=1, precision="float32"))
    assert "1 thread, float32" in first.execution
    assert [row.key for row in first.steps] == [row.key for row in told.steps]
    assert recipe("execution.threads=3").sha256 == plain.sha256
    assert computed.sha256 != plain.sha256  # by the precision, which the keys know too


def test_it_survives_writing_and_is_left_out_where_nothing_is_said():
    said = recipe(EXECUTION)
    assert Recipe.parse(said.to_yaml(), origin="again", directory=Path()) == said
    assert recipe().execution == ExecutionChoice()
    assert "execution" not in recipe().model_dump(mode="json")


@pytest.mark.parametrize("wrong", ["device: '../x'", "precision: half", "processes: 0", "cores: 2"])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(RecipeError, match=r"execution\." + wrong.partition(":")[0]):
        recipe(f"execution={{{wrong}}}")


def test_a_sweep_over_what_decides_no_result_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    options = Options(store=tmp_path / "store")
    with pytest.raises(UsageError, match="one and the same recipe"):
        sweep(tmp_path / "recipe.yaml", ["execution.threads=1,2"], options, goal="smallest")
    assert not options.store.exists()
