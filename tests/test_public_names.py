"""``compress`` names everything that a recipe can hold, and nothing that is not there."""

import ast
import importlib
from pathlib import Path
from typing import Any, get_args

import compress
from compress.config import Values
from compress.loss.guided import TERMS
from compress.recipe.recipe import VERBS, Recipe

# What a class of the user's own starts from, and the recipe itself.
BASES = {"FeatureTerm", "GuidedLoss", "LogitTerm", "Recipe", "Stage", "Term"}


def held(annotation: Any) -> set[type[Values]]:
    """Every class of values that a type can hold, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, Values):
        found = {annotation}
        for field in annotation.model_fields.values():
            found |= held(field.annotation)
        extra = annotation.__annotations__.get("__pydantic_extra__")
        return found | (set() if extra is None else held(extra))
    return set().union(*map(held, get_args(annotation)))


def public() -> dict[str, Any]:
    return {name: getattr(compress, name) for name in compress.__all__}


def test_everything_a_recipe_can_hold_is_public_and_nothing_else_is_a_value():
    classes = {thing.__name__ for thing in public().values() if isinstance(thing, type) and issubclass(thing, Values)}
    assert classes == {kind.__name__ for kind in held(Recipe)} | BASES


def test_the_tables_are_part_of_what_a_recipe_can_hold():
    assert {*TERMS.values(), *VERBS.values()} <= held(Recipe)


def test_names_are_sorted_complete_and_each_where_it_is_said_to_be():
    assert compress.__all__ == sorted(set(compress.__all__))
    assert sorted(compress._HOMES) == compress.__all__
    for name, thing in public().items():
        assert thing is getattr(importlib.import_module(compress._HOMES[name]), name)


def test_type_checkers_are_told_the_same_homes():
    tree = ast.parse(Path(compress.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == compress._HOMES
