"""What leaves this machine: texts without secrets and absolute paths, and so without the names of people in them."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from compress.config.secrets import mask

HOME = re.compile(r"/(?:home|Users)/[^/\s]+|/root(?=/)")  # where people's own files are, also on other machines
PEOPLE = ("/home/", "/Users/", "/root/")
ENVIRONMENT = 3  # parts of an interpreter's path: ENV/bin/python, by which a profile is called


@dataclass(frozen=True)
class Discretion:
    """Tells places as somebody elsewhere may read them.

    Attributes:
        directory: of the recipe, absolute; files are told relative to it.
        store: of the run, absolute; what lies in it is told below its name.
    """

    directory: Path
    store: Path

    def tell(self, value: Any) -> Any:
        """Return a value with all texts in it as they may be told; it keeps its form."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple):
            return type(value)(map(self.tell, value))
        if isinstance(value, dict):
            return {self.tell(key): self._of(key, item) for key, item in value.items()}
        if not is_dataclass(value) or isinstance(value, type):
            return value
        return replace(value, **{name: self._of(name, item) for name, item in _items(value)})

    def text(self, text: str) -> str:
        """Return a path as ``place`` tells it, and any other text without secrets and the paths that are known here."""
        path, mark, name = text.partition(".py:")  # a class in a file
        path += mark[:-1]
        if path.startswith("/") and "\n" not in path and (path.startswith(self._known()) or os.path.exists(path)):
            return self.place(Path(path)) + mark[-1:] + name
        for root, word in self._roots().items():
            text = re.sub(re.escape(str(root)) + r"(?![\w-])", word, text)
        return HOME.sub("~", mask(text))

    def place(self, path: Path) -> str:
        """Return a file's path relative to the recipe, or below the store's name; of another person's file the name."""
        path = Path(os.path.normpath(path))
        if path.is_relative_to(self.store):
            return str(self.store.name / path.relative_to(self.store))
        if _home(path) not in (None, _home(self.directory)):
            return path.name
        return os.path.relpath(path, self.directory)

    def override(self, text: str) -> str:
        """Return a ``path=value`` with its value as it may be told."""
        path, sign, value = text.partition("=")
        return f"{path}{sign}{self.text(value)}"

    def words(self, launcher: Sequence[str]) -> list[str]:
        """Return a launcher's words without the user that it logs in as."""
        return [self.text(re.sub(r"^[\w.-]+@", "", word)) for word in launcher]

    def _of(self, name: Any, value: Any) -> Any:
        if name == "launcher" and isinstance(value, list | tuple):
            return type(value)(self.words(value))
        return self.tell(value)

    def _known(self) -> tuple[str, ...]:
        return (*map(str, self._roots()), *PEOPLE)

    def _roots(self) -> dict[Path, str]:
        """What paths begin with here, the longest first, and the word for it."""
        roots = {self.directory: ".", Path.home(): "~", self.store: self.store.name}
        return {root: roots[root] for root in sorted(roots, key=lambda root: -len(str(root))) if len(root.parts) > 1}


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a dataclass; of an interpreter the parts that its profile is called by."""
    for entry in fields(value):
        item = value.__getattribute__(entry.name)
        path = entry.name == "python" and Path(item).is_absolute()
        yield entry.name, str(Path(*Path(item).parts[-ENVIRONMENT:])) if path else item


def _home(path: Path) -> str | None:
    """Return the home directory that a path is in, if any."""
    if path.is_relative_to(Path.home()):
        return str(Path.home())
    found = HOME.match(str(path))
    return found[0] if found else None
