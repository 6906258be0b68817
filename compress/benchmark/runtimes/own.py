"""A runtime of the user's own: a class in a Python file, whose text is sent to the worker and run there alone."""

import hashlib
import sys
from collections.abc import Callable
from types import ModuleType

from .interface import Load, Loaded, Unusable

MARK = ".py:"  # between file and class, as in `my_runtime.py:Mine`


def is_own(runtime: str) -> bool:
    """Whether a runtime's name is that of a class in the user's file."""
    return MARK in runtime


def split(runtime: str) -> tuple[str, str]:
    """Return the file and the class."""
    file, _, name = runtime.rpartition(":")
    return file, name


def define(runtime: str, text: str) -> Callable[[Load], Loaded]:
    """Run the file and return the class.

    Args:
        runtime: ``my_runtime.py:Mine``.
        text: of the file.

    Raises:
        Unusable: when there is no such class; whatever the file raises.
    """
    file, name = split(runtime)
    module = ModuleType("own_runtime")
    module.__file__ = file
    sys.modules[module.__name__] = module  # where dataclasses look for their module
    exec(compile(text, file, "exec"), vars(module))  # noqa: S102 - the command line named the file
    found = vars(module).get(name)
    if not isinstance(found, type):
        raise Unusable(f"{file} defines no class {name!r}", install=f"define `class {name}` there")
    return found


def content(text: str) -> dict[str, str]:
    """Return what tells one text of the file from another, beside the settings of its models."""
    return {"own_runtime_sha256": hashlib.sha256(text.encode()).hexdigest()} if text else {}
