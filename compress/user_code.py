"""A user's own Python files: run only when the command line names them, never because a recipe does."""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from compress.errors import InputError


def run_user_file(path: Path, *, code: Sequence[Path]) -> ModuleType:
    """Import a user's Python file that the command line named.

    Raises:
        InputError: when the file was not named, or does not exist.
    """
    path = path.resolve()
    if path not in {allowed.resolve() for allowed in code}:
        raise InputError(
            f"{path.name} is Python code, which a recipe alone never runs",
            expected="the file named on the command line",
            got=", ".join(str(allowed) for allowed in code) or "no --code option",
            hint=f"add --code {path}",
        )
    if not path.is_file():
        raise InputError("the user's Python file does not exist", got=path)
    # The name carries the content, so an edited file is never served from an earlier import.
    name = f"compress_user_{path.stem}_{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def user_function(module: ModuleType, name: str, *, path: Path) -> object:
    """Return a function of a user's module.

    Raises:
        InputError: when the module has no such name; the message lists those it has.
    """
    if name not in vars(module):
        names = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise InputError(f"{path.name} defines no {name!r}", expected=f"one of {names}", got=name, where=path)
    return vars(module)[name]
