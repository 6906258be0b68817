"""What a plan or an answer depends on besides the recipe, seen at a glance: no content is read where stamps tell."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compress.benchmark.environment import cpu
from compress.benchmark.runtimes.machine import count_allowed_cores
from compress.config.user_code import folders_of
from compress.config.user_modules import user_modules
from compress.recipe import Recipe
from compress.recipe.plain import leaves
from compress.stage.device import best_device, name_device

Stamp = tuple[str, int, int]


def surroundings(recipe: Recipe, *, code: Sequence[Path]) -> dict[str, Any] | None:
    """Return all that decides a result besides the recipe, the options and our own code, as JSON values.

    Files are told by size and time of change, as ``make`` and ``rsync`` do.

    Args:
        recipe: its strings that name files are what it reads.
        code: the user's Python files that may be run.

    Returns:
        None when it cannot be told without looking: the samples come from a hub or from the user's own code.
    """
    if not recipe.data.source.of_files:
        return None
    named = {Path(text) for _, text in leaves(recipe.model_dump(mode="json")) if isinstance(text, str)} - {Path()}
    scripts = [path for path in (*named, *code) if path.suffix == ".py" and os.path.isfile(path)]
    named |= {script.parent / path for script in scripts for path in named}  # what they are told to read beside them
    named |= {file for path in scripts for file in user_modules(path, folders=folders_of(code)).values()}
    return {
        "files": [stamp for path in sorted({*named, *code}) for stamp in stamps(path)],
        "machine": [count_allowed_cores(), sorted(cpu()[1]), name_device(best_device())],
    }


def stamps(path: Path) -> Iterator[Stamp]:
    """Yield path, size and time of change of a file, or of every file of a folder; nothing for what does not exist."""
    if os.path.isfile(path):  # unlike Path's, it takes a text that can be no path
        found = path.stat()
        yield str(path), found.st_size, found.st_mtime_ns
    folders, seen = [str(path)] if os.path.isdir(path) else [], set[str]()
    while folders:
        folder = folders.pop()
        if os.path.realpath(folder) in seen:  # a link back to where it came from
            continue
        seen.add(os.path.realpath(folder))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    folders.append(entry.path)
                elif entry.is_file():
                    found = entry.stat()
                    yield entry.path, found.st_size, found.st_mtime_ns
