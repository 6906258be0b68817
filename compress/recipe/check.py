"""Everything wrong with a document, as faults with their places."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from compress.recipe.chain import Link, chain_faults
from compress.recipe.faults import Fault, explain
from compress.recipe.plain import keys_of, tag_of
from compress.recipe.schema import keys_at
from compress.recipe.text import Document, Steps, stage_names
from compress.stage import Stage


def explain_all(document: Document, error: ValidationError, *, schema: Mapping[str, Any]) -> list[Fault]:
    """Return what validation refused; the chain, which has no location of its own, is left out."""
    faults: list[Fault] = []
    found = error.errors(include_url=False)
    for details in found:
        place = details["loc"]
        # A list of which nothing is valid is not short for that.
        beside_others = any(len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in found)
        if place and not (details["type"] == "too_short" and beside_others):
            path = document.resolve(details["loc"])
            beside = path[:-1] if details["type"] == "extra_forbidden" else path
            where, dotted = document.place(path), document.spell(path)
            faults.append(explain(details, where=where, path=dotted, keys=keys_at(schema, beside)))
    return faults


def chain(document: Document, *, verbs: Mapping[str, type[Stage]]) -> list[Fault]:
    """Return the faults of the chain in a document, whatever else is wrong with it."""
    values = document.values
    stages = values.get("stages")
    links = [_link(item, verbs) for item in stages] if isinstance(stages, list) else []
    gates = values.get("gates")
    named = [values.get(section) for section in ("ensemble", "baselines")]
    return [
        Fault(document.place(path), document.spell(path), message, None)
        for path, message in chain_faults(
            [link for link in links if link.name],
            baselines={name for section in named if isinstance(section, dict) for name in section},
            judged=isinstance(gates, dict) and any(value is not None for value in gates.values()),
        )
    ]


def _link(item: Any, verbs: Mapping[str, type[Stage]]) -> Link:
    """Return an item under ``stages`` as far as it can be read; ``refused`` tells what is wrong with its fields."""
    verb, name = stage_names(item)
    kind = verbs.get(verb)
    if kind is None:
        return Link(name, None, None)
    try:
        fields = item[verb] if isinstance(item, dict) else None
        return Link(name, kind.model_validate({} if fields is None else fields).takes, kind.produces)
    except ValidationError:
        return Link(name, kind.consumes, kind.produces)


def find_coerced(given: Any, read_as: Any, path: Steps = ()) -> list[tuple[Steps, str, Any]]:
    """Return the scalars that were read as another type than they were written: ``"4"`` for 4, ``yes`` for 1.

    Returns:
        The path of each, what was expected, and what was written.
    """
    if isinstance(given, dict):
        if isinstance(read_as, dict):
            held = read_as
        else:
            tag = tag_of(type(read_as))
            if tag is not None and list(given) == [read_as.__dict__[tag]]:
                key = next(iter(given))
                return find_coerced(given[key], read_as, (*path, key))
            held = keys_of(read_as)
        return [found for key, value in given.items() for found in find_coerced(value, held[key], (*path, key))]
    if isinstance(given, list) and isinstance(read_as, tuple | list):
        pairs = enumerate(zip(given, read_as, strict=True))
        return [found for index, pair in pairs for found in find_coerced(*pair, (*path, index))]
    number = isinstance(read_as, int | float)
    exact = type(given) is type(read_as) or (type(given) is int and type(read_as) is float)
    if not number or exact or given == "all":
        return []
    return [(path, f"a value of type {type(read_as).__name__}", given)]
