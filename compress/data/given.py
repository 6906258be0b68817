"""Arrays and labels as users give them, as samples: axes in our order, several inputs by name, labels of any kind."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.columns import widen
from compress.data.named import name_arrays
from compress.data.ragged import Given, as_array, pad_sequences
from compress.data.samples import Role, Samples
from compress.data.source import AnyLayout, Layout, Raw, channels_first, class_numbers
from compress.data.stored import MappedRows, Stored, is_mapped
from compress.data.tags import read_tags
from compress.errors import DataError, listing

SERIES: tuple[Layout, ...] = ("NCL", "NTF")


def read_given(
    roles: Mapping[Role, tuple[Given, Any]],
    *,
    layout: AnyLayout,
    classes: tuple[str, ...],
    where: object,
) -> Raw:
    """Return samples of some roles.

    Args:
        roles: inputs, an array or several by name in the order in which a model takes them, and labels. Sequences of
            different lengths, a list of [T, F], are padded with zeros and get an input with their lengths.
        layout: order of the axes, of all inputs or by name; what is not named is ``NCHW``.
        classes: names of the outputs; labels that are names have them in their order when they are not given.
        where: named in messages.

    Raises:
        DataError: when roles differ in their inputs, or arrays or labels are none that are read.
    """
    roles, padded = pad_sequences(roles, where=where)
    names = _names(roles, where)
    unknown = sorted(set(layout) - set(names)) if isinstance(layout, dict) else []
    if unknown:
        raise DataError(
            "layout names no input",
            expected=f"some of {', '.join(names) or 'none: the inputs are a single array'}",
            got=", ".join(unknown),
            where="data.source.layout",
        )
    order: dict[str, Layout] = {
        name: layout.get(name, "NCHW") if isinstance(layout, dict) else layout for name in names or ("",)
    }
    order |= dict.fromkeys(padded, "NTF")
    found: dict[Role, Samples] = {}
    notes: dict[str, None] = {}
    layouts: dict[str, str] = {}
    roles, classes, tagged = read_tags(roles, order, classes)
    notes |= dict.fromkeys(tagged)
    roles, classes = _number_names(roles, classes, where=where)
    named = {
        role: {name: _series(inputs[name], order[name], named=True) for name in names}
        for role, (inputs, _) in roles.items()
        if isinstance(inputs, Mapping)
    }
    if named:
        widen([*named.values()])
    for role, (inputs, labels) in roles.items():
        if isinstance(inputs, Mapping):
            arrays = named[role]
            values: NDArray[Any] = name_arrays(arrays, where=f"{where}, {role}")
        else:
            values = _series(inputs, order[""], named=False)
            arrays = {"": values}
        layouts |= {name: order[name] for name, array in arrays.items() if array.ndim == 3}
        learnt, note = labels_of(labels)
        found[role] = Samples(values, learnt)
        notes |= {note: None} if note else {}
    notes |= {
        f"{name}: padded to {steps} steps, with an input of their lengths": None for name, steps in padded.items()
    }
    return Raw({role: _on_disk(samples, found) for role, samples in found.items()}, classes, tuple(notes), layouts)


def _number_names(
    roles: Mapping[Role, tuple[Given, Any]], classes: tuple[str, ...], *, where: object
) -> tuple[dict[Role, tuple[Given, Any]], tuple[str, ...]]:
    """Return roles whose labels are numbers where they were names, and the classes: those given, or sorted names.

    Raises:
        DataError: when a name is no class that was given, or some roles have names and others numbers.
    """
    values = {role: as_array(labels, f"{role} labels") for role, (_, labels) in roles.items() if labels is not None}
    named = {role: array.astype(str) for role, array in values.items() if _holds_names(array)}
    if not named:
        return {**roles}, classes
    if numbers := sorted(set(values) - set(named)):
        raise DataError(
            "some roles have names as labels and others have numbers",
            expected="names in all of them, or numbers",
            got=f"names in {', '.join(named)}, numbers in {', '.join(numbers)}",
            where=where,
        )
    found = sorted(set().union(*(array.tolist() for array in named.values())))
    order = classes or tuple(found)
    if unknown := [name for name in found if name not in order]:
        raise DataError("a label is no class", expected=listing(order), got=listing(unknown), where=where)
    number = {name: index for index, name in enumerate(order)}
    told = {role: np.array([number[name] for name in array.tolist()], np.int64) for role, array in named.items()}
    return {role: (inputs, told.get(role, labels)) for role, (inputs, labels) in roles.items()}, order


def _holds_names(values: NDArray[Any]) -> bool:
    texts = values.dtype.kind == "O" and len(values) > 0 and all(isinstance(value, str) for value in values.tolist())
    return values.ndim == 1 and (values.dtype.kind == "U" or texts)


def _on_disk(samples: Samples, roles: Mapping[Role, Samples]) -> Samples:
    """Return samples whose memory-mapped images stay on disk; other mapped arrays are read into memory."""
    inputs = samples.inputs
    if isinstance(inputs, Stored) or not is_mapped(inputs):
        return samples
    classified = all(found.labels is None or found.labels.ndim == 1 for found in roles.values())
    if inputs.ndim == 4 and inputs.dtype in (np.uint8, np.float32) and classified:
        return Samples(MappedRows(inputs, np.arange(len(inputs))), samples.labels)
    return Samples(np.array(inputs), samples.labels)


def _names(roles: Mapping[Role, tuple[Given, Any]], where: object) -> tuple[str, ...]:
    """Return the names of the inputs, which all roles have; none for a single array."""
    named = {role: tuple(inputs) if isinstance(inputs, Mapping) else () for role, (inputs, _) in roles.items()}
    first = next(iter(named.values()), ())
    for role, names in named.items():
        if set(names) != set(first):
            raise DataError(
                "the roles have different inputs",
                expected=", ".join(first) or "a single array",
                got=", ".join(names) or "a single array",
                where=f"{where}, {role}",
            )
    return first


def _series(values: NDArray[np.generic], layout: Layout, *, named: bool) -> NDArray[np.generic]:
    """Return an array whose axes are in our order; numbers of a type that no image has become float32."""
    if not (layout in SERIES and values.ndim == 3):
        values = channels_first(values, layout=layout)
    images = values.ndim == 4 or values.dtype in (np.uint8, np.float32)
    ids = named and values.ndim < 3
    if images or ids or values.ndim < 2 or values.dtype.kind not in "fiu":
        return values
    return values.astype(np.float32)


def labels_of(labels: object | None) -> tuple[NDArray[Any] | None, str]:
    """Return labels as samples hold them, and what a user should know of how they were read.

    Integers [N] are class numbers. Floats [N] or [N, C] are numbers to be given, a regression; whole ones [N] may be
    either. 0 and 1, [N, C], are yes and no for each of several labels; where every row has a single 1 they are one-hot,
    and become class numbers. Tags were read before (`read_tags`).

    Raises:
        DataError: when they are none of these.
    """
    if labels is None:
        return None, ""
    values = as_array(labels, "labels")
    if values.dtype == object and all(isinstance(tags, np.ndarray) for tags in values):
        return values, ""
    if values.dtype.kind == "f" and values.ndim in (1, 2):
        if values.ndim == 1 and not (values % 1).any():
            raise DataError(
                "labels may be class numbers or targets",
                expected="integers for classes, floats [samples, targets] for numbers to be given",
                got=f"whole numbers as {values.dtype} {list(values.shape)}",
                hint="labels.astype(int) for classes, labels.reshape(-1, 1) for a regression",
            )
        numbers = values.reshape(len(values), -1).astype(np.float32)
        return numbers, f"labels are {values.dtype}: a regression, with {numbers.shape[1]} for each sample"
    if values.dtype.kind in "iub" and values.ndim == 2:
        if not np.isin(values, (0, 1)).all():
            raise DataError(
                "labels of several columns are neither yes and no nor targets",
                expected="0 and 1 [samples, labels], or floats [samples, targets]",
                got=f"{values.dtype} from {values.min()} to {values.max()}",
            )
        if values.shape[1] > 1 and (values.sum(axis=1) == 1).all():
            return values.argmax(axis=1).astype(np.int64), "labels are one-hot: read as class numbers"
        return values.astype(np.uint8), ""
    return class_numbers(labels), ""
