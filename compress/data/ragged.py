"""Sequences of different lengths, as lists hold them: padded to one, with an input that says how long each is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.samples import Role
from compress.errors import DataError

UNNAMED = "sequence"
LENGTHS = "lengths"

# An array, or several by name; a list of sequences [T, F] may stand for any.
Given = Any


def pad_sequences(
    roles: Mapping[Role, tuple[Given, Any]], *, where: object
) -> tuple[dict[Role, tuple[Given, Any]], dict[str, int]]:
    """Return roles that hold arrays alone, and how long the lists of sequences among them became, by name.

    Padding is 0, up to the longest sequence of all roles. A list that is a role's only input becomes two inputs,
    ``sequence`` and ``lengths``; one with a name is followed by ``<name>_lengths``.

    Args:
        roles: inputs and labels.
        where: named in messages.

    Raises:
        DataError: when something is neither an array nor sequences of the same features.
    """
    named: dict[Role, Mapping[str, Any]] = {
        role: inputs if isinstance(inputs, Mapping) else {"": inputs} for role, (inputs, _) in roles.items()
    }
    ragged = {str(name) for inputs in named.values() for name, values in inputs.items() if is_ragged(values)}
    steps = {
        name: max(len(sequence) for inputs in named.values() for sequence in inputs.get(name, ())) for name in ragged
    }
    found: dict[Role, tuple[Given, Any]] = {}
    for role, inputs in named.items():
        arrays: dict[str, NDArray[Any]] = {}
        for name, values in inputs.items():
            place = f"{where}, {role} {name}".rstrip()
            if name not in steps:
                arrays[str(name)] = as_array(values, place)
                continue
            arrays[name or UNNAMED] = _pad(values, steps[name], place)
            arrays[f"{name}_{LENGTHS}" if name else LENGTHS] = np.array([len(sequence) for sequence in values])
        found[role] = (arrays[""] if list(arrays) == [""] else arrays, roles[role][1])
    return found, {name or UNNAMED: length for name, length in steps.items()}


def is_ragged(values: Any) -> bool:
    """Whether something is a list of arrays [T, F] that differ in T."""
    if not (isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.dtype == object)):
        return False
    shapes = [np.shape(entry) if hasattr(entry, "__len__") else () for entry in values]
    return len({shape[:1] for shape in shapes}) > 1 and {len(shape) for shape in shapes} == {2}


def _pad(sequences: Any, steps: int, where: str) -> NDArray[np.float32]:
    shapes = {np.shape(sequence)[1:] for sequence in sequences}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise DataError(
            "sequences differ in more than their length",
            expected="[T, F] with one F",
            got=", ".join(f"[T, {', '.join(map(str, shape))}]" for shape in sorted(shapes)),
            where=where,
        )
    found = np.zeros((len(sequences), steps, *shapes.pop()), np.float32)
    for row, sequence in zip(found, sequences, strict=True):
        row[: len(sequence)] = sequence
    return found


def as_array(values: Any, where: str) -> NDArray[Any]:
    """Return an array.

    Raises:
        DataError: for lists whose entries differ, and for tensors that are elsewhere than in memory.
    """
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError("this is no array", got=str(error).splitlines()[0], where=where) from error
