"""What a recipe alone never gets, such as a command that runs; the command line allows each thing by name."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compress.config import Values
from compress.config.permission import Ask
from compress.config.secrets import address
from compress.errors import RecipeError
from compress.recipe.plain import keys_of


def check_allowed(recipe: Values, *, allow: Sequence[str], store: Path) -> None:
    """Refuse a recipe that asks for more than was allowed.

    Args:
        recipe: what would be run.
        allow: words that the command line allows: a launcher, an interpreter, an address without user and password.
        store: where a file may be made without asking.

    Raises:
        RecipeError: naming everything that was not allowed, and the options that allow it.
    """
    allowed = {address(word) for word in allow}
    inside = store.expanduser().resolve()
    refused = [
        (place, ask)
        for place, ask in find_asks(recipe)
        if ask.word not in allowed and not (ask.file and ask.file.resolve().is_relative_to(inside))
    ]
    if refused:
        told = "; ".join(f"{place}.{ask.field} {ask.does}: {ask.word}" for place, ask in refused)
        words = dict.fromkeys(shlex.quote(ask.word) for _, ask in refused)
        raise RecipeError(
            "the recipe asks for what a recipe alone never gets",
            expected="each of it allowed on the command line",
            got=told,
            hint="where you trust it, add " + " ".join(f"--allow {word}" for word in words),
        )


def find_asks(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Ask]]:
    """Yield everything that a value and the values in it ask for, with the dotted path of the one that asks."""
    if isinstance(value, Values):
        yield from ((".".join(path), ask) for ask in value.asks())
        value = keys_of(value)
    if isinstance(value, tuple):
        value = {str(index): item for index, item in enumerate(value)}
    if isinstance(value, dict):
        for key, item in value.items():
            yield from find_asks(item, (*path, str(key)))
