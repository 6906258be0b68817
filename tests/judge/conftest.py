"""A recipe, a context and a teacher to judge."""

from pathlib import Path

import pytest

from compress.judge.contenders import Contender
from compress.judge.scores import score
from compress.recipe import Recipe

RECIPE = """
name: raced
data: {source: digits}
teacher: {artifact: nowhere}
student: teacher
stages: [distill]
benchmark: {preset: quick, profiles: [{}]}
"""


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.parse(RECIPE, origin="recipe.yaml", directory=Path())


@pytest.fixture
def context(make_context, trained_digits):
    return make_context(teacher=trained_digits)


@pytest.fixture
def teacher(context, trained_digits) -> Contender:
    return Contender("teacher", trained_digits, score(trained_digits, *context, role="select", teacher=None))
