"""A runtime of the user's own, as a recipe names it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_serializer

from compress.config.user_code import Own, read_user_file


class OwnRuntime(Own):
    """A runtime in the user's own Python file, which must be named on the command line (``--code``).

    The file is run in the process that measures, never in this one. The class is made with a `runtimes.Load` and has
    the members of `runtimes.interface.Loaded`.

    Attributes:
        file: the Python file.
        class_name: the class; ``class`` in a recipe. Profiles are called after it.
    """

    class_name: Annotated[str, Field(alias="class", pattern="^[A-Za-z_][A-Za-z0-9_]*$")]

    @property
    def runtime(self) -> str:
        """The name that the harness knows it by."""
        return f"{self.file}:{self.class_name}"

    @model_serializer(mode="plain")
    def _written(self) -> dict[str, Any]:
        """The content of the file instead of its path."""
        return {"class": f"{self.class_name} {self.sha256}"}

    def model_post_init(self, _context: object) -> None:
        """Refuse a file by whose name no Python file is known."""
        if self.file.suffix != ".py":
            raise ValueError(f"expected a Python file, my_runtime.py, got {self.file.name!r}")

    def find(self, *, code: Sequence[Path], where: str) -> Self:  # noqa: ARG002
        """Return itself: the class is found by the process that measures.

        Raises:
            InputError: when the file was not named, or does not exist.
        """
        read_user_file(self.file, code=code)
        return self
