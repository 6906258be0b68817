"""One-of fields: ``{resnet: {width: 32}}`` in YAML and ``ResNet(width=32)`` in Python are the same value."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from compress.config.permission import Ask

MOST_ENTRIES = 100  # of a list or mapping that are told one by one; thousands would bury everything else


class Values(BaseModel):
    """Base of every configuration object: frozen, exact, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def asks(self) -> tuple[Ask, ...]:
        """Return what its own fields ask for that only the command line may allow."""
        return ()


class HubOrFolder:
    """Marks a string that names a folder where there is one (from the recipe's directory), else something on a hub."""


def one_key(tag: str) -> Callable[[Any], Any]:
    """Return a validator that turns ``{name: {fields}}`` (or a bare ``name``) into ``{tag: name, **fields}``.

    Objects, and mappings that carry ``tag`` already, pass unchanged, so that Python values and dumped JSON are
    accepted where YAML is. The tag then selects the class of a pydantic discriminated union, which keeps the location
    of an error equal to its path in the YAML file.

    Raises:
        ValueError: when the mapping has more or fewer than one key.
    """

    def unwrap(value: Any) -> Any:
        if isinstance(value, str):
            return {tag: value}
        if not isinstance(value, dict) or tag in value:
            return value
        if len(value) != 1:
            raise ValueError(f"expected one key naming the {tag}, got {sorted(map(str, value))}")
        name, fields = next(iter(value.items()))
        if fields is None:
            fields = {}
        if not isinstance(fields, dict):
            raise ValueError(f"expected a mapping of fields under {name!r}, got {type(fields).__name__}")
        return {tag: name, **fields}

    return unwrap
