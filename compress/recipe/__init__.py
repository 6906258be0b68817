"""Recipes: YAML and Python objects that describe a whole pipeline."""

from compress.recipe.recipe import AnyStage, Recipe
from compress.recipe.sections import Baseline, Benchmark, Colleague, DataConfig, Gates, ProfileChoice, Teacher, Tracking

__all__ = [
    "AnyStage",
    "Baseline",
    "Benchmark",
    "Colleague",
    "DataConfig",
    "Gates",
    "ProfileChoice",
    "Recipe",
    "Teacher",
    "Tracking",
]
