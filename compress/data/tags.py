"""Tags: a label of its own for each step of a sequence of numbers, as users give them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.answers import objects
from compress.data.ragged import LENGTHS, Given
from compress.data.samples import Role
from compress.errors import DataError, listing


def read_tags(
    roles: Mapping[Role, tuple[Given, Any]], layouts: Mapping[str, str], classes: tuple[str, ...]
) -> tuple[dict[Role, tuple[Given, Any]], tuple[str, ...], tuple[str, ...]]:
    """Return roles with labels that are tags as objects [N], each the int64 tags of its steps; classes; notes.

    Tags are integers or names [N, T] beside a sequence of T steps, or a list of as many as each sequence has steps.
    Bools are none, but yes or no for each of T labels. Tags of padding are left out, and `IGNORED` stays.

    Args:
        roles: inputs, padded, and labels.
        layouts: order of the axes of the inputs, by name; "" names that of a single array.
        classes: names of the tags; tags that are names have them in their order when they are not given.

    Raises:
        DataError: when a name is none of the classes, or tags and steps do not pair.
    """
    found: dict[Role, list[NDArray[Any]] | None] = {
        role: _tags_of(inputs, labels, layouts, role) for role, (inputs, labels) in roles.items()
    }
    tagged: dict[Role, list[NDArray[Any]]] = {role: tags for role, tags in found.items() if tags is not None}
    if not tagged:
        return {**roles}, classes, ()
    number: dict[str, int] = {}
    if any(tags.dtype.kind == "U" for rows in tagged.values() for tags in rows):
        seen = sorted({name for rows in tagged.values() for tags in rows for name in tags.tolist()})
        classes = classes or tuple(seen)
        if unknown := [name for name in seen if name not in classes]:
            raise DataError("a tag is no class", expected=listing(classes), got=listing(unknown), where="labels")
        number = {name: index for index, name in enumerate(classes)}
    told: dict[Role, tuple[Given, Any]] = {**roles}
    for role, rows in tagged.items():
        numbers = [[number[name] for name in tags.tolist()] for tags in rows] if number else rows
        told[role] = (roles[role][0], objects(np.asarray(tags, np.int64) for tags in numbers))
    return told, classes, ("labels are tags: one for each step",)


def _tags_of(inputs: Given, labels: Any, layouts: Mapping[str, str], role: Role) -> list[NDArray[Any]] | None:
    """Return the tags of each sample, or None where labels are something else."""
    arrays = inputs if isinstance(inputs, Mapping) else {"": inputs}
    sequences = {name: values for name, values in arrays.items() if layouts.get(name) == "NTF" and values.ndim == 3}
    if labels is None or not sequences:
        return None
    name, values = next(iter(sequences.items()))
    lengths = next((arrays[key] for key in (f"{name}_{LENGTHS}", LENGTHS) if key in arrays), None)
    if _is_ragged(labels, lengths):
        rows = [np.asarray(tags) for tags in labels]
        wanted = [values.shape[1]] * len(rows) if lengths is None else [*map(int, lengths)]
        odd = [row for row, (tags, steps) in enumerate(zip(rows, wanted, strict=False)) if len(tags) != steps]
        if odd or len(rows) != len(values):
            row = odd[0] if odd else min(len(rows), len(values))
            raise DataError(
                "tags and steps do not pair",
                expected=f"{wanted[row]} tags" if odd else f"tags of {len(values)} sequences",
                got=len(rows[row]) if odd else len(rows),
                where=f"{role}, sample {row}",
            )
        return rows
    tags = np.asarray(labels)
    if tags.dtype.kind == "O" and all(isinstance(tag, str) for tag in tags.flat):
        tags = tags.astype(str)
    if tags.dtype.kind not in "iuU" or tags.shape != values.shape[:2]:
        return None
    ends = np.full(len(tags), tags.shape[1]) if lengths is None else lengths
    return [row[: int(end)] for row, end in zip(tags, ends, strict=True)]


def _is_ragged(labels: Any, lengths: NDArray[Any] | None) -> bool:
    """Whether labels are a list of lists that differ in length, or are as long as padded sequences really are."""
    rows = isinstance(labels, list | tuple) or (isinstance(labels, np.ndarray) and labels.dtype == object)
    if not rows or not all(isinstance(tags, list | tuple | np.ndarray) and np.ndim(tags) == 1 for tags in labels):
        return False
    steps = [len(tags) for tags in labels]
    if len({*steps}) > 1:
        return True
    return lengths is not None and steps == lengths.tolist() and np.asarray(labels[0]).dtype.kind != "b"
