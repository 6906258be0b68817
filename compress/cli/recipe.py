"""Commands about recipes: print one whole, their schema, and a ready one to start from."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.options import Overrides, RecipePath, read_recipe
from compress.errors import UsageError


def validate(recipe: RecipePath, overrides: Overrides = []) -> None:
    """Check a recipe and print it with every default written out."""
    typer.echo(read_recipe(recipe, overrides).to_yaml(), nl=False)


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from compress.recipe import Recipe

    typer.echo(json.dumps(Recipe.json_schema(), indent=1))


def init(
    name: Annotated[str, typer.Argument(help="One of the ready recipes, such as digits.")],
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where to; default: ./NAME.")] = None,
) -> None:
    """Write a ready recipe."""
    from importlib.resources import files

    ready = {entry.name.removesuffix(".yaml"): entry for entry in files("compress").joinpath("ready").iterdir()}
    if name not in ready:
        raise UsageError("there is no such ready recipe", expected=f"one of {', '.join(sorted(ready))}", got=name)
    target = (directory or Path(name)) / "recipe.yaml"
    if target.exists():
        raise UsageError("there is a recipe already", where=target, hint="name another directory, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(ready[name].read_text(encoding="utf-8"), encoding="utf-8")
    typer.echo(f"{target}\nnext: compressor run {shlex.quote(str(target))} --smoke")
