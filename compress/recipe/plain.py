"""Recipe objects to plain YAML values and back to absolute paths."""

from pathlib import Path
from typing import Any, Literal, get_origin

from compress.config import HubOrFolder, Values

TAGS = ("family", "source", "verb")  # a choice is written as the one key of a mapping, not as a field


def tag_of(kind: type[Values]) -> str | None:
    """Return the field that names a class among its alternatives, or None when it has no alternatives."""
    fields = kind.model_fields
    return next((tag for tag in TAGS if tag in fields and get_origin(fields[tag].annotation) is Literal), None)


def plain(value: Any, *, choice: bool = False) -> Any:
    """Return YAML values with every default written out, except empty ones.

    Args:
        value: an object of a recipe.
        choice: whether a stage is one of several here; a teacher's ``train`` is not, and spells no verb.
    """
    if isinstance(value, Values):
        tag, kind = tag_of(type(value)), type(value)
        fields = {
            field.alias or name: plain(value.__dict__[name])
            for name, field in kind.model_fields.items()
            if name != tag and (value.__dict__[name] != field.default or field.default not in (None, ""))
        }
        if not kind.__module__.startswith("compress."):  # no recipe can name it: reading this is refused
            fields["class"] = f"{kind.__module__}.{kind.__qualname__}"
        if tag is None or (tag == "verb" and not choice):
            return fields
        word = value.__dict__[tag]
        return {word: fields} if fields else word
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item, choice=True) for item in value]
    return str(value) if isinstance(value, Path) else value


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    """Return every scalar of plain values with its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return [(path, value)]
    return [leaf for step, item in items for leaf in leaves(item, (*path, step))]


def anchored(value: Any, directory: Path) -> Any:
    """Return the values with every relative path made absolute."""
    if isinstance(value, Values):
        fields = {name: anchored(item, directory) for name, item in value.__dict__.items()}
        for name, field in type(value).model_fields.items():
            if HubOrFolder in field.metadata and isinstance(fields[name], str):
                folder = directory / Path(fields[name]).expanduser()
                fields[name] = str(folder) if folder.is_dir() else fields[name]
        return value.model_copy(update=fields)
    if isinstance(value, dict):
        return {key: anchored(item, directory) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(anchored(item, directory) for item in value)
    return directory / value.expanduser() if isinstance(value, Path) else value
