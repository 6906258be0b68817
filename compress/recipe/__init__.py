"""Recipes: YAML and Python objects that describe a whole pipeline."""

from compress.recipe.recipe import AnyStage, Recipe
from compress.recipe.sections import (
    Baseline,
    Benchmark,
    Colleague,
    DataConfig,
    Gates,
    Limits,
    ProfileChoice,
    Teacher,
    Tracking,
)

__all__ = [
    "AnyStage",
    "Baseline",
    "Benchmark",
    "Colleague",
    "DataConfig",
    "Gates",
    "Limits",
    "ProfileChoice",
    "Recipe",
    "Teacher",
    "Tracking",
]
