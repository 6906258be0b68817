"""JSON files of dataclasses: written field by field, and read strictly or not at all.

A document is a dataclass whose first field, ``schema``, defaults to the version of its form. A file of another version
is told apart from a damaged one, and neither is guessed at: every field of the file must be one of the dataclass, with
a value of its type. Earlier versions whose files are read, too, are named by `schema_field`: what they lack has
defaults.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from compress.errors import ArtifactError

READS = "reads"  # in the metadata of a schema's field


def schema_field(version: int, *, reads: tuple[int, ...]) -> int:
    """Return the field of a document's version, as `dataclasses.field` does.

    Args:
        version: that is written. It is raised whenever a field is added, so that what reads an earlier form alone says
            that it has to be updated, not that the file is damaged.
        reads: earlier ones whose files are read as they are.
    """
    return field(default=version, metadata={READS: reads})


STRICT = ConfigDict(extra="forbid", strict=True)
"""What a document's class sets as ``__pydantic_config__``; the dataclasses in its fields inherit it."""
MOST_FAULTS = 3  # that a message names

Document = TypeVar("Document")


class OtherSchemaError(ArtifactError):
    """A document of an earlier or a later version than this one reads."""


def to_json(document: Any) -> str:
    """Return a dataclass as indented JSON, every field by its name."""
    return json.dumps(asdict(document), indent=1) + "\n"


def from_json(kind: type[Document], text: str, *, where: Path) -> Document:
    """Return the dataclass that a JSON text holds.

    Args:
        kind: of the document.
        text: as `to_json` writes it.
        where: the file, for messages.

    Raises:
        OtherSchemaError: when its schema is another one.
        ArtifactError: when it is no JSON, or a field is missing, unknown or of another type.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ArtifactError("not a JSON document", got=error, where=where) from error
    _check_schema(kind, values, where=where)
    try:
        return _adapter(kind).validate_json(text)
    except ValidationError as error:
        raise _refusal(kind, error, where=where) from error


def load(kind: type[Document], path: Path) -> Document:
    """Return the document in a file; see `from_json`.

    Raises:
        ArtifactError: also when the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError("a document cannot be read", got=error, where=path) from error
    return from_json(kind, text, where=path)


def parse(kind: type[Document], values: Mapping[str, Any], *, where: Path) -> Document:
    """Return the dataclass that JSON values hold, such as the facts of an artifact; they have no schema.

    Raises:
        ArtifactError: when a field is missing or of another type.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        raise _refusal(kind, error, where=where) from error


@cache
def _adapter(kind: type[Document]) -> TypeAdapter[Document]:
    return TypeAdapter(kind)


def _check_schema(kind: type[Any], values: Any, *, where: Path) -> None:
    (schema,) = (entry for entry in fields(kind) if entry.name == "schema")
    assert isinstance(schema.default, int)
    expected = schema.default
    found = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(found, int):
        raise ArtifactError("the document names no schema", expected=f"schema {expected}", got=found, where=where)
    if found not in (expected, *schema.metadata.get(READS, ())):
        raise OtherSchemaError(
            "the document is of another version",
            expected=f"schema {expected}",
            got=f"schema {found}",
            where=where,
            hint="update compress" if found > expected else "make it again: older versions are not read",
        )


def _refusal(kind: type[Any], error: ValidationError, *, where: Path) -> ArtifactError:
    """Turn pydantic's faults into one message of ours that names the fields."""
    faults = [f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg']}" for fault in error.errors()]
    more = f" (and {len(faults) - MOST_FAULTS} more)" if len(faults) > MOST_FAULTS else ""
    return ArtifactError(
        f"not a {kind.__name__} as this version writes it", got="; ".join(faults[:MOST_FAULTS]) + more, where=where
    )
