"""The user's own modules that a Python file imports, and those that they import: found by reading, never by running.

They decide what the file computes as much as the file itself does, so keys hold their content, too.
"""

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

OURS = "compress"
INSTALLED = frozenset({"site-packages", "dist-packages"})  # names of the folders that pip and Debian install into
STANDARD = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


def folders_of(code: Sequence[Path]) -> tuple[Path, ...]:
    """Return the folders that the command line named: all Python files in them may be run, and are found by imports."""
    return tuple(path.resolve() for path in code if path.is_dir())


def content_of(path: Path, *, folders: Sequence[Path] = ()) -> str:
    """Return the SHA-256 of a file, and of a Python file that imports modules of the user's own of those as well.

    Args:
        path: the file.
        folders: where else its imports are looked for, as `user_modules` does.
    """
    own = sha256(path)
    return own if path.suffix != ".py" else with_modules(own, user_modules(path, folders=folders))


def with_modules(own: str, modules: dict[str, Path]) -> str:
    """Return the SHA-256 of a file as it stands where it imports nothing of the user's, else together with that.

    Args:
        own: of the file alone.
        modules: what it imports, by name.
    """
    if not modules:
        return own
    lines = [own, *(f"{name} {sha256(path)}" for name, path in sorted(modules.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def user_modules(path: Path, *, folders: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the files of the user's own modules that a Python file needs, by the modules' names.

    The user's own is what is not installed: no part of the standard library, of this package or of what lies in the
    environment's ``site-packages``, into which an editable installation puts only a link. Imports are read from the
    text, those inside functions too; what is imported by a computed name is not seen.

    Args:
        path: the file, which runs as a script does: modules beside it come first.
        folders: where modules are looked for next, before ``sys.path``.
    """
    importlib.invalidate_caches()
    where = [str(path.parent), *map(str, folders), *sys.path]
    found: dict[str, Path] = {}
    to_read = [("", path)]
    while to_read:
        package, reading = to_read.pop()
        for name in _imports(reading, package):
            for full, spec in _specs(name, where):
                file = Path(spec.origin or "")
                if full not in found and file.is_file() and file.resolve() != path.resolve():
                    found[full] = file
                    to_read.append((full if spec.submodule_search_locations else full.rpartition(".")[0], file))
    return found


def is_users(file: str | Path) -> bool:
    """Whether a file of code is the user's own: neither installed, nor of the standard library, nor ours."""
    path = Path(file).resolve()
    ours = Path(__file__).parents[1]
    return path.is_file() and not (INSTALLED & set(path.parts) or any(map(path.is_relative_to, (*STANDARD, ours))))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _imports(path: Path, package: str) -> Iterator[str]:
    """Yield the names that a file imports, in full; of a name that is imported from a module, that it may be a module.

    Args:
        path: the file; one that is no Python imports nothing, and tells why when it is run.
        package: that it is in; empty for a file that is run by itself.
    """
    try:
        tree = ast.parse(path.read_bytes()) if path.suffix == ".py" else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not (node.level and not package):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*"))


def _specs(name: str, where: Sequence[str]) -> Iterator[tuple[str, ModuleSpec]]:
    """Yield the user's module of this name with its full name, after the packages that it is in; nothing installed."""
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names or parts[0] == OURS:
        return
    spec = PathFinder.find_spec(parts[0], where) or _linked(parts[0])
    for depth in range(1, len(parts) + 1):
        if spec is None or (spec.origin is not None and not is_users(spec.origin)):
            return
        yield ".".join(parts[:depth]), spec
        if depth == len(parts) or spec.submodule_search_locations is None:
            return
        # By its last name alone, since its package was not imported.
        spec = PathFinder.find_spec(parts[depth], [*spec.submodule_search_locations])


def _linked(name: str) -> ModuleSpec | None:
    """Return where an editable installation has a module that no folder of ``sys.path`` holds."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
