"""Sources of the user's own: objects of their classes in Python, and in a recipe the file, the class and its fields."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from compress.config import Values
from compress.config.user_code import OwnClass, is_own
from compress.data.source import Raw, Source
from compress.errors import InputError


class OwnSource(OwnClass, Source):
    """A source in the user's own Python file, which must be named on the command line (``--code``).

    Attributes:
        file: the Python file.
        class_name: a subclass of `Source`; the further keys are its fields.
    """

    model_config = ConfigDict(extra="allow")

    bases: ClassVar[tuple[type[Values], ...]] = (Source,)

    def load(self, *, code: Sequence[Path]) -> Raw:  # noqa: ARG002
        """Refuse: the class is to be found first.

        Raises:
            InputError: always.
        """
        got = f"{self.class_name} of {self.file.name}"
        raise InputError("the source is in a file that was not run", expected="Recipe.resolve(code=...)", got=got)


def form(value: Any) -> str:
    """Return which alternative a value is: ``object`` of the user's class, ``own`` in a file, or one of ``ours``."""
    if isinstance(value, Source) and is_own(type(value)):
        return "object"
    # `{file: {path: ...}}` is the source of ours that is called so.
    named = isinstance(value, dict) and ("class" in value or isinstance(value.get("file"), str))
    return "own" if named or isinstance(value, OwnSource) else "ours"
