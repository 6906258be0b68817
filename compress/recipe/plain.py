"""Recipe objects to plain YAML values and back to absolute paths."""

from inspect import isfunction
from pathlib import Path
from typing import Any, Literal, get_origin

from compress.config import HubOrFolder, Values
from compress.config.user_code import Own, is_own, origin

TAGS = ("family", "source", "decoding")  # a choice is written as the one key of a mapping, not as a field


def tag_of(kind: type[Values]) -> str | None:
    """Return the field that names a class among its alternatives, or None when it has no alternatives."""
    fields = kind.model_fields
    if "verb" in fields:  # which a stage of the user's own need not narrow
        return "verb"
    return next((tag for tag in TAGS if tag in fields and get_origin(fields[tag].annotation) is Literal), None)


def keys_of(value: Values) -> dict[str, Any]:
    """Return what an object holds by the keys that a recipe spells, those of the user's own names included."""
    fields = {field.alias or name: value.__dict__[name] for name, field in type(value).model_fields.items()}
    return fields | (value.__pydantic_extra__ or {})


def names_code(value: Any) -> bool:
    """Whether anything in a value names a class or function in a file that was not run yet."""
    if isinstance(value, Values):
        return isinstance(value, Own) or any(map(names_code, keys_of(value).values()))
    if isinstance(value, dict):
        return any(map(names_code, value.values()))
    return isinstance(value, tuple) and any(map(names_code, value))


def plain(value: Any, *, choice: bool = False) -> Any:
    """Return YAML values with every default written out, except empty ones.

    Args:
        value: an object of a recipe.
        choice: whether a stage is one of several here; a teacher's ``train`` is not, and spells no verb.
    """
    if isinstance(value, Values):
        tag, kind = tag_of(type(value)), type(value)
        fields = {} if not is_own(kind) else {"file": str(origin(kind).file), "class": origin(kind).name}
        defaults = {field.alias or name: field.default for name, field in kind.model_fields.items()}
        fields |= {
            key: plain(item)
            for key, item in keys_of(value).items()
            if key != tag and not (item in (None, "") and key in defaults and item == defaults[key])
        }
        if tag is None or (tag == "verb" and not choice):
            return fields
        word = value.__dict__[tag]
        return {word: fields} if fields else word
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item, choice=True) for item in value]
    if isfunction(value):
        return {"file": str(origin(value).file), "function": origin(value).name}
    return str(value) if isinstance(value, Path) else value


def leaves(
    value: Any, path: tuple[str | int, ...] = (), *, most: int | None = None
) -> list[tuple[tuple[str | int, ...], Any]]:
    """Return every scalar of plain values with its path; a list or mapping of more entries than `most` is one value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None or (most is not None and len(value) > most):
        return [(path, value)]
    return [leaf for step, item in items for leaf in leaves(item, (*path, step), most=most)]


def anchor(value: Any, directory: Path) -> Any:
    """Return the values with every relative path made absolute."""
    if isinstance(value, Values):
        held = {**value.__dict__, **(value.__pydantic_extra__ or {})}
        fields = {name: anchor(item, directory) for name, item in held.items()}
        for name, field in type(value).model_fields.items():
            if HubOrFolder in field.metadata and isinstance(fields[name], str):
                folder = directory / Path(fields[name]).expanduser()
                fields[name] = str(folder) if folder.is_dir() else fields[name]
        return value.model_copy(update=fields)
    if isinstance(value, dict):
        return {key: anchor(item, directory) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(anchor(item, directory) for item in value)
    return directory / value.expanduser() if isinstance(value, Path) else value
