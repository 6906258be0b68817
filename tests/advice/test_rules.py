"""What advice says to type: every rule names lines of the recipe, and each of them is one that a recipe takes."""

import shlex
from pathlib import Path

import pytest

from compress.advice.measures import Measure
from compress.advice.rules import RULES, judge
from compress.measures.intervals import Estimate
from compress.recipe import Recipe

RECIPE = """
schema: 1
name: digits
data: {source: digits, normalize: identity}
teacher:
  model: {resnet: {width: 16, blocks: [1, 1]}}
  train: {epochs: 3}
student: {cnn: {widths: [16, 32], strides: [1, 2]}}
loss: {hard: {}, kl: {temperature: 4}}
stages:
  - distill: {epochs: 6}
  - export
"""
TYPED = [(name, setting) for name, rule in RULES.items() for setting in rule.settings]


def test_every_rule_says_what_to_type():
    assert [name for name, rule in RULES.items() if not rule.settings] == []


@pytest.mark.parametrize(("name", "setting"), TYPED)
def test_what_is_to_be_typed_is_a_line_of_a_recipe_and_changes_it(name, setting):
    plain = Recipe.parse(RECIPE, origin="recipe.yaml", directory=Path())
    changed = Recipe.parse(RECIPE, origin="recipe.yaml", directory=Path(), overrides=[setting])
    assert changed != plain, name


def test_a_warning_is_followed_by_what_to_type():
    (finding,) = judge([Measure("non-target-mass", Estimate(0.001, 0.0005, 0.002))]).warnings
    assert str(finding).endswith("raise it; such as --set loss.kl.temperature=8")
    (finding,) = judge([Measure("capacity", Estimate(0.001, 0.001, 0.001))]).warnings
    words = shlex.split(str(finding))
    assert words[words.index("--set") + 1] == RULES["capacity"].settings[0]
