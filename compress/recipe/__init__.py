"""Recipes: YAML and Python objects that describe a whole pipeline."""

from compress.recipe.recipe import Recipe
from compress.recipe.sections import (
    Baseline,
    Benchmark,
    Colleague,
    DataConfig,
    ExecutionChoice,
    Gates,
    Limits,
    ProfileChoice,
    Teacher,
    Tracking,
)
from compress.recipe.stages import AnyStage, OwnStage

__all__ = [
    "AnyStage",
    "Baseline",
    "Benchmark",
    "Colleague",
    "DataConfig",
    "ExecutionChoice",
    "Gates",
    "Limits",
    "OwnStage",
    "ProfileChoice",
    "Recipe",
    "Teacher",
    "Tracking",
]
