"""What is wrong with a recipe, in words: where, what, what was expected, what was meant."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

from compress.config.secrets import mask
from compress.errors import nearest

SHOWN = 60  # characters of a refused value
# What YAML calls what pydantic names after Python's types.
WANTED = {
    "tuple_type": "a list", "list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping",
    "model_attributes_type": "a mapping", "bool_type": "true or false", "bool_parsing": "true or false",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a key or item stands.

    Attributes:
        origin: the file, or the override that set it.
        line: counted from 1; 0 for an override.
        column: counted from 1.
    """

    origin: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """As editors and terminals link it."""
        return f"{self.origin}:{self.line}:{self.column}" if self.line else self.origin

    @property
    def order(self) -> tuple[bool, int, int]:
        """A sort key: the order of the file, then the overrides."""
        return self.line == 0, self.line, self.column


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        where: file, line and column, or the override.
        path: dotted, as ``--set`` spells it; empty for the whole recipe.
        message: what is wrong.
        expected: valid names, or what would be valid; None when the message says it.
        got: the refused value; None when the message says it.
        guess: the nearest valid name, or empty.
    """

    where: Place
    path: str
    message: str
    expected: tuple[str, ...] | str | None
    got: str | None = None
    guess: str = ""

    def __str__(self) -> str:
        """One line."""
        subject = f"{self.path}: " if self.path else ""
        parts = [f"{self.where}: {subject}{self.message}"]
        if self.expected is not None:
            words = self.expected if isinstance(self.expected, str) else "one of " + ", ".join(self.expected)
            parts.append(f"expected {words}")
        if self.got is not None:
            parts.append(f"got {self.got}")
        if self.guess:
            parts.append(f"did you mean {self.guess!r}?")
        return "; ".join(parts)


def explain(error: ErrorDetails, *, where: Place, path: str, keys: Collection[str]) -> Fault:
    """Turn a validation error into a fault.

    Args:
        error: of pydantic.
        where: its place.
        path: dotted.
        keys: names that are valid beside the refused key.
    """
    kind, context, given = error["type"], error.get("ctx", {}), error["input"]
    last = str(error["loc"][-1]) if error["loc"] else ""
    if kind == "extra_forbidden":
        return Fault(where, path, "unknown key", tuple(keys) or "no keys", guess=nearest(last, keys))
    if kind == "missing":
        return Fault(where, path, f"the key {last!r} is missing", None)
    if kind in ("union_tag_invalid", "literal_error"):
        choices = [word.strip("'") for word in str(context.get("expected_tags", context.get("expected"))).split(", ")]
        choices = [word for part in choices for word in part.split("' or '")]
        word = context.get("tag", given)
        return Fault(where, path, "unknown choice", tuple(choices), got=_show(word), guess=nearest(word, choices))
    if kind == "value_error":
        return Fault(where, path, error["msg"].removeprefix("Value error, "), None)
    if kind == "too_short":
        return Fault(where, path, "too few entries", f"at least {context['min_length']}", got=_show(given))
    wanted = WANTED.get(kind) or error["msg"].removeprefix("Input should be ").split(", unable to")[0]
    return Fault(where, path, "wrong value", wanted, got=_show(given))


def _show(value: Any) -> str:
    text = mask(repr(value))
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
