"""What tells recipes of one name apart, in a few words: ``digits kept_macs_fraction=0.3``."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

MOST_TOLD = 3
MOST_CHARACTERS = 24  # of a value
UNTOLD = ("schema", "name", "tracking")  # they decide nothing about a student


def differences(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each recipe the settings in which it is unlike the others of its name; empty where it has none.

    A part that not all of them have, such as a stage or a term of the loss, is told by its name, and ``no recover``
    where it is missing.

    Args:
        recipes: every scalar by its dotted path, as ``Recipe.parameters`` gives them.
    """
    families: dict[Any, list[int]] = defaultdict(list)
    for index, recipe in enumerate(recipes):
        families[recipe.get("name")].append(index)
    told = [""] * len(recipes)
    for members in families.values():
        for index, text in zip(members, _tell([recipes[index] for index in members]), strict=True):
            told[index] = text
    return told


def _tell(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    paths = {path: None for recipe in recipes for path in recipe if path.partition(".")[0] not in UNTOLD}
    common = [path for path in paths if all(path in recipe for recipe in recipes)]
    varied = [path for path in common if len({str(recipe[path]) for recipe in recipes}) > 1]
    missing = list(dict.fromkeys(_part(path, recipes) for path in paths if path not in common))
    fields = [path.rpartition(".")[2] for path in varied]
    names = {
        path: field if fields.count(field) == 1 else path.removeprefix("stages.")
        for path, field in zip(varied, fields, strict=True)
    }
    return [
        _join(
            [f"{names[path]}={_shorten(recipe[path])}" for path in varied]
            + [("" if _has(recipe, part) else "no ") + part.removeprefix("stages.") for part in missing]
        )
        for recipe in recipes
    ]


def _part(path: str, recipes: Sequence[Mapping[str, Any]]) -> str:
    """Return the largest part of a recipe that a path is in and that not all recipes have; else the path itself."""
    steps = path.split(".")
    prefixes = [".".join(steps[: length + 1]) for length in range(len(steps))]
    return next((part for part in prefixes if not all(_has(recipe, part) for recipe in recipes)), path)


def _has(recipe: Mapping[str, Any], part: str) -> bool:
    return any(path == part or path.startswith(f"{part}.") for path in recipe)


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


def _join(words: Sequence[str]) -> str:
    more = f" and {len(words) - MOST_TOLD} more" if len(words) > MOST_TOLD else ""
    return " ".join(words[:MOST_TOLD]) + more
