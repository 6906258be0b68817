"""What a plan or an answer depends on besides the recipe, seen at a glance: no content is read where stamps tell."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.benchmark.runtimes.machine import count_allowed_cores, cpu
from compress.config.user_modules import folders_of, user_modules

if TYPE_CHECKING:
    from compress.recipe import Recipe

Stamp = tuple[str, int, int]


def surroundings(recipe: "Recipe", *, code: Sequence[Path]) -> dict[str, Any] | None:
    """Return all that decides a result besides the recipe, the options and our own code, as JSON values.

    Files are told by size and time of change, as ``make`` and ``rsync`` do.

    Args:
        recipe: its strings that name files are what it reads.
        code: the user's Python files that may be run.

    Returns:
        None when it cannot be told without looking: the samples come from a hub or from the user's own code.
    """
    from compress.stage.device import best_device, name_device

    if not recipe.data.source.is_settled:
        return None
    return {"files": read_by(named_in(recipe), code=code), "machine": [*machine(), name_device(best_device())]}


def named_in(recipe: "Recipe") -> list[str]:
    """Return the strings of a recipe, each of which may name a file."""
    from compress.recipe.plain import leaves

    return sorted({text for _, text in leaves(recipe.model_dump(mode="json")) if isinstance(text, str)})


def read_by(names: Iterable[str], *, code: Sequence[Path]) -> list[Stamp]:
    """Return the stamps of the files that are named, and of all that Python files among them may read beside them.

    Args:
        names: may name files.
        code: the user's Python files that may be run.
    """
    named = {Path(text) for text in names} - {Path()}
    scripts = [path for path in (*named, *code) if path.suffix == ".py" and os.path.isfile(path)]
    named |= {script.parent / path for script in scripts for path in named}  # what they are told to read beside them
    named |= {file for path in scripts for file in user_modules(path, folders=folders_of(code)).values()}
    return [stamp for path in sorted({*named, *code}) for stamp in stamps(path)]


def machine() -> list[Any]:
    """Return what of this machine decides how numbers are computed, but for its accelerators."""
    return [count_allowed_cores(), sorted(cpu()[1])]


def stored(root: Path, *, smoke: bool) -> list[Stamp]:
    """Return the stamps of what a store holds of artifacts and runs.

    Args:
        root: of the store.
        smoke: whether that of its smoke runs is meant.
    """
    home = root / "smoke" if smoke else root
    return [stamp for name in ("artifacts", "runs") for stamp in stamps(home / name)]


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
