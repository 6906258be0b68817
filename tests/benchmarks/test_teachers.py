import importlib.util
from pathlib import Path

from compress.recipe import Recipe
from compress.stage import Execution

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("benchmarks_teachers", ROOT / "benchmarks" / "teachers.py")
teachers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(teachers)


def test_a_stored_teacher_is_found_and_another_one_made(make_context):
    recipe = Recipe.load(ROOT / "compress" / "ready" / "digits.yaml", overrides=["teacher.train.epochs=1"])
    two = make_context(execution=Execution(threads=2, precision="float32"))
    made = teachers.find_or_make_teacher(recipe, *two)
    assert made.facts["steps"] > 0
    assert teachers.find_or_make_teacher(recipe, *make_context()).key == made.key
    assert teachers.find_or_make_teacher(recipe, *make_context(seed=1)).key != made.key
