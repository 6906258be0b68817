"""Several arrays of one role as one: NumPy's structured arrays, [N] with named fields.

A field of a shape is an input of its own: float32 or uint8 numbers, or int64 numbers that a model looks up. A field
without a shape is a column of a table where it holds float64 numbers (NaN where one is missing) or text (a category),
and an input of its own where it holds int64. Everything that takes, counts and hashes samples reads them as any other.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from compress.data.samples import Role
from compress.errors import DataError

MAX_CATEGORY = 200  # characters; what is longer is a text


def name_arrays(arrays: Mapping[str, NDArray[np.generic]], *, where: object) -> NDArray[np.void]:
    """Return arrays [N, ...] as one with a field for each: integers as int64, floats as float32, as columns float64.

    Args:
        arrays: by name, in the order in which a model takes them.
        where: named in messages.

    Raises:
        DataError: when they differ in length, or hold something else than numbers and text.
    """
    if len({len(values) for values in arrays.values()}) > 1:
        raise DataError(
            "the inputs of one role differ in length",
            expected="as many samples in each",
            got=", ".join(f"{name}: {len(values)}" for name, values in arrays.items()),
            where=where,
        )
    fields = [(name, _kind(name, values, where), values.shape[1:]) for name, values in arrays.items()]
    found = np.empty(len(next(iter(arrays.values()))), fields)
    for name, values in arrays.items():
        found[name] = values
    return found


def _kind(name: str, values: NDArray[np.generic], where: object) -> np.dtype[np.generic]:
    kind = values.dtype.kind
    if kind == "u" and values.dtype.itemsize == 1 and values.ndim > 2:
        return values.dtype
    if kind in "iub":
        return np.dtype(np.int64)
    if kind == "f":
        return np.dtype(np.float64 if values.ndim == 1 else np.float32)
    if kind == "U" and values.ndim == 1:
        return values.dtype
    raise DataError(
        "an input is neither numbers nor a column of text",
        expected="floats or integers [samples, ...], or strings [samples]",
        got=f"{values.dtype} {list(values.shape)}",
        where=f"{where}, {name}",
    )


def check_fields(role: Role, inputs: NDArray[np.void]) -> None:
    """Refuse numbers that are none; a column of a table may have gaps, which its task fills or refuses.

    Raises:
        DataError: naming the field and the sample.
    """
    for name, field in (inputs.dtype.fields or {}).items():
        kind, values = field[0].base, inputs[name]
        column = not field[0].shape
        if kind == np.float64 and column:
            bad = np.isinf(values)
        elif kind == np.float32 and not column:
            bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        elif kind == np.int64 or (kind == np.uint8 and not column) or (kind.kind == "U" and column):
            continue
        else:
            raise DataError(
                "a named input is of no kind that is read",
                expected="float32, uint8 or int64 [samples, ...]; float64 or text [samples] for a column of a table",
                got=f"{kind} {[len(values), *field[0].shape]}",
                where=f"{role}, {name}",
            )
        if bad.any():
            got = "infinity" if column else "NaN or infinity"
            raise DataError("an input is not finite", got=got, where=f"{role}, {name}, sample {int(bad.argmax())}")
