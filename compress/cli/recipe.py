"""Commands about recipes: print one whole, their schema, and a ready one to start from."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.options import Overrides, RecipePath, read_recipe
from compress.errors import UsageError


def validate(recipe: RecipePath, overrides: Overrides = []) -> None:
    """Check a recipe; print it with every default written out."""
    typer.echo(read_recipe(recipe, overrides).to_yaml(), nl=False)


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from compress.recipe import Recipe

    typer.echo(json.dumps(Recipe.json_schema(), indent=1))


def init(
    name: Annotated[
        str, typer.Argument(help="text, image-folder, table, sequence or onnx for data of your own; digits to try.")
    ],
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where to; default: ./NAME.")] = None,
) -> None:
    """Write a recipe to start from; what to edit is marked in it."""
    from importlib.resources import files

    folder = files("compress").joinpath("ready")
    ready = {entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    if name not in ready:
        raise UsageError("there is no such ready recipe", expected=f"one of {', '.join(sorted(ready))}", got=name)
    parent = directory or Path(name)
    target, model = parent / "recipe.yaml", parent / "my_model.py"
    texts = {target: folder.joinpath(f"{name}.yaml")}
    words = ["compressor", "run", str(target), "--smoke"]
    if (code := folder.joinpath(f"{name}.py.txt")).is_file():
        texts[model] = code
        words += ["--code", str(model)]
    for path in texts:
        if path.exists():
            raise UsageError("there is a recipe already", where=path, hint="name another directory, or remove it")
    parent.mkdir(parents=True, exist_ok=True)
    edits = []
    for path, entry in texts.items():
        text = entry.read_text(encoding="utf-8")
        path.write_text(text, encoding="utf-8")
        edits += [f"edit: {path}:{number}" for number, line in enumerate(text.split("\n"), 1) if "# <--" in line]
    typer.echo("\n".join([*map(str, texts), *edits, f"next: {shlex.join(words)}"]))
