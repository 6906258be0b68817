"""The JSON schema of the YAML form, for editors and for the list of valid keys in error messages."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticOmit, core_schema

from compress.config import Values
from compress.recipe.plain import tag_of


class OneKeySchema(GenerateJsonSchema):
    """Writes a tagged union as ``{name: {fields}}`` or, where no field is required, the bare name."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Leave the tag out of the fields and take descriptions from the class's docstring."""
        written = super().model_schema(schema)
        documented = _read_attributes(schema["cls"].__doc__ or "")
        tag = tag_of(schema["cls"]) if issubclass(schema["cls"], Values) else None
        if tag is not None:
            del written["properties"][tag]
        for name, fields in written.get("properties", {}).items():
            if name in documented:
                fields.setdefault("description", documented[name])
        written["description"] = (schema["cls"].__doc__ or "").split("\n\n")[0]
        return written

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """Write the one-key form; a union told apart by a function is a plain alternative."""
        if not isinstance(schema["discriminator"], str):
            alternatives: list[JsonSchemaValue] = []
            for choice in schema["choices"].values():
                with suppress(PydanticOmit):  # what Python alone can give, such as a function
                    written = self.generate_inner(choice)
                    alternatives += written["anyOf"] if written.keys() == {"anyOf"} else [written]
            return {"anyOf": alternatives}
        forms: list[JsonSchemaValue] = []
        bare: list[str] = []
        for tag, choice in schema["choices"].items():
            forms.append({
                "type": "object",
                "properties": {str(tag): {"anyOf": [self.generate_inner(choice), {"type": "null"}]}},
                "required": [str(tag)],
                "additionalProperties": False,
            })  # fmt: skip
            if not _requires(choice):
                bare.append(str(tag))
        return {"anyOf": [*forms, {"enum": bare}] if bare else forms}


def keys_at(schema: Mapping[str, Any], path: Sequence[str | int]) -> list[str]:
    """Return the keys that a schema allows at a path."""
    nodes = list(_expand(schema, schema))
    for step in path:
        found: list[Mapping[str, Any]] = []
        for node in nodes:
            inner = node.get("items") if isinstance(step, int) else node.get("properties", {}).get(step)
            if isinstance(inner, dict):
                found += _expand(inner, schema)
        if not found and isinstance(step, str):  # a name of the user's
            others = [node.get("additionalProperties") for node in nodes]
            found = [one for inner in others if isinstance(inner, dict) for one in _expand(inner, schema)]
        nodes = found
    return sorted({key for node in nodes for key in node.get("properties", {})})


def _expand(node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a schema with its references followed and its alternatives side by side."""
    if "$ref" in node:
        yield from _expand(root["$defs"][node["$ref"].rsplit("/", 1)[1]], root)
        return
    yield node
    for alternative in node.get("anyOf", ()):
        yield from _expand(alternative, root)


def _requires(choice: Any) -> bool:
    """Whether a model, under its validators, has a required field."""
    while choice["type"] != "model-fields":
        choice = choice["schema"]
    return any(field["schema"]["type"] != "default" for field in choice["fields"].values())


def _read_attributes(docstring: str) -> dict[str, str]:
    """Return the entries of a docstring's ``Attributes`` section."""
    _, _, section = docstring.partition("Attributes:\n")
    entries: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if not line.strip():
            break
        key, colon, text = line.strip().partition(": ")
        if colon and key.isidentifier():
            name, entries[key] = key, text
        elif name:
            entries[name] += " " + line.strip()
    return entries
