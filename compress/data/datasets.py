"""Samples of torch's ``Dataset`` and ``DataLoader`` objects that a user's function returns: read once, into arrays."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.config.user_code import USER_ERRORS, failure
from compress.data.answers import objects
from compress.errors import DataError

LABELS = ("label", "labels", "target", "targets", "y")  # keys of an item under which its label may be
READ_TWICE = 8  # samples, to see whether a data set gives the same ones again


@dataclass(frozen=True)
class Read:
    """What a data set holds.

    Attributes:
        inputs: an array or a list of sequences, or several by name.
        labels: one entry a sample; None where it has none.
        classes: the names that the data set gives them; empty where it gives none.
        notes: what a user should know of how it was read.
    """

    inputs: Any
    labels: NDArray[Any] | None
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def is_dataset(value: object) -> bool:
    """Whether something is one of torch's data sets or loaders."""
    from torch.utils.data import DataLoader, Dataset

    return isinstance(value, Dataset | DataLoader)


def read_dataset(given: Any, *, path: Path, where: str) -> Read:
    """Return all samples of a map-style data set, or of a loader's.

    An item is ``(input, label)``, ``((input, ...), label)``, a mapping with the label under one of `LABELS`, or an
    input alone. Of a loader the data set and, where it reads a subset, its positions count; batches, order and
    ``collate_fn`` do not. What is drawn at random while it is read is drawn from one seed.

    Args:
        given: a `torch.utils.data.Dataset` or `DataLoader`.
        path: the user's file.
        where: named in messages.

    Raises:
        InputError: when it fails, with the user's own line.
        DataError: when it has no length, or items differ in form or shape.
    """
    from torch.utils.data import DataLoader

    notes: list[str] = []
    indices: Sequence[int] | None = None
    if isinstance(given, DataLoader):
        indices = _positions(given, where)
        given = given.dataset
        notes.append(f"{where}: the loader's data set is read; batch size, order and collate_fn are not used")
    count = _count(given, where)
    positions = range(count) if indices is None else indices
    try:
        with _seeded():
            items = [given[index] for index in positions]
        again = [given[index] for index in positions[:READ_TWICE]]
    except USER_ERRORS as error:
        raise failure(error, path) from error
    parts = [_split(item, where) for item in items]
    inputs, labels = _gather([part[0] for part in parts], where), [part[1] for part in parts]
    twice = _gather([_split(item, where)[0] for item in again], where)
    if any(not _equal(value[: len(again)], twice[name]) for name, value in inputs.items()):
        notes.append(
            f"{where}: the data set gives other samples each time, as with random transforms; one reading of each is "
            "kept. Leave them out, and let data.augment vary samples"
        )
    unlabelled = [label is None for label in labels]
    if any(unlabelled) and not all(unlabelled):
        raise DataError("some samples have a label and others none", where=where)
    return Read(
        inputs[""] if list(inputs) == [""] else inputs,
        None if all(unlabelled) else _stack_labels([_plain(label) for label in labels], f"{where}, labels"),
        _classes(given),
        tuple(notes),
    )


def name_inputs(inputs: Any) -> Any:
    """Return a tuple of arrays as inputs by name, ``input0``, ``input1``; everything else as it is."""
    if not isinstance(inputs, tuple):
        return inputs
    return {f"input{number}": _plain(value) for number, value in enumerate(inputs)}


def _positions(loader: Any, where: str) -> Sequence[int] | None:
    """Return the positions that a loader's sampler reads; None for all.

    Raises:
        DataError: for a sampler that repeats samples, or is the user's own.
    """
    from torch.utils.data import RandomSampler, SequentialSampler, SubsetRandomSampler
    from torch.utils.data.dataloader import _InfiniteConstantSampler

    sampler = loader.sampler
    if isinstance(sampler, SubsetRandomSampler):
        return sorted(int(index) for index in sampler.indices)
    if isinstance(sampler, SequentialSampler | RandomSampler | _InfiniteConstantSampler):
        return None
    raise DataError(
        "which samples the loader reads is not known",
        expected="a loader without a sampler of its own, or with a SubsetRandomSampler",
        got=type(sampler).__name__,
        where=where,
        hint="return the data set instead: torch.utils.data.Subset(dataset, indices)",
    )


def _count(given: Any, where: str) -> int:
    from torch.utils.data import IterableDataset

    if isinstance(given, IterableDataset) or not hasattr(given, "__len__"):
        raise DataError(
            "the data set cannot be read sample by sample",
            expected="a map-style data set, with __len__ and __getitem__",
            got=f"{type(given).__name__}, an IterableDataset" if isinstance(given, IterableDataset) else "no __len__",
            where=where,
            hint="return arrays, list(dataset) in a data set of your own, or files that a source reads",
        )
    if not len(given):
        raise DataError("the data set is empty", where=where)
    return len(given)


def _split(item: Any, where: str) -> tuple[dict[str, Any], Any]:
    """Return an item's inputs by name ("" for a single one) and its label, None where it has none."""
    if isinstance(item, Mapping):
        named = [key for key in item if key in LABELS]
        inputs = {str(key): value for key, value in item.items() if key not in LABELS}
        if len(named) > 1 or not inputs:
            raise DataError(
                "an item does not say which entry is its label",
                expected=f"inputs by name, and one of {', '.join(LABELS)}",
                got=", ".join(map(str, item)),
                where=where,
            )
        label = item[named[0]] if named else None
        return (inputs if len(inputs) > 1 else {"": next(iter(inputs.values()))}), label
    if not isinstance(item, tuple | list):
        return {"": item}, None
    if len(item) != 2:
        raise DataError(
            "an item is no pair",
            expected="(input, label), ((input, ...), label) or a mapping",
            got=f"a {type(item).__name__} of {len(item)}",
            where=where,
        )
    inputs, label = item
    if isinstance(inputs, tuple | list):
        inputs = {f"input{number}": value for number, value in enumerate(inputs)}
    return (dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}), label


def _gather(rows: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    names = [*rows[0]]
    if odd := next((row for row in rows if [*row] != names), None):
        raise DataError("samples have different inputs", expected=", ".join(names), got=", ".join(odd), where=where)
    return {name: _stack([_plain(row[name]) for row in rows], f"{where} {name}".rstrip()) for name in names}


def _plain(value: Any) -> Any:
    """Return a tensor as an array, and an image of Pillow as pixels [C, H, W] or [H, W]; everything else as it is."""
    import torch
    from PIL import Image

    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, Image.Image):
        pixels = np.asarray(value)
        return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels
    return value


def _stack(values: Sequence[Any], where: str) -> Any:
    """Return values of one shape as an array, and sequences [T, F] of different lengths as a list."""
    shapes = {np.shape(value) for value in values}
    if len(shapes) == 1:
        return np.stack([np.asarray(value) for value in values])
    if {len(shape) for shape in shapes} == {2} and len({shape[1] for shape in shapes}) == 1:
        return list(values)
    raise DataError(
        "samples differ in shape",
        expected="one shape, or sequences [T, F] with one F",
        got=", ".join(map(str, sorted(shapes)[:4])),
        where=where,
        hint="resize or pad them where the data set reads them",
    )


def _stack_labels(labels: Sequence[Any], where: str) -> NDArray[Any]:
    """Return labels as an array; tags of sequences of different lengths as objects."""
    if {len(np.shape(label)) for label in labels} == {1} and len({len(label) for label in labels}) > 1:
        return objects(np.asarray(label) for label in labels)
    return np.asarray(_stack(labels, where))


def _equal(values: Any, again: Any) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(values, again, strict=True))


def _classes(given: Any) -> tuple[str, ...]:
    """Return the names that torchvision's data sets keep in ``classes``, also behind ``Subset``."""
    names = getattr(given, "classes", None)
    if names is None and hasattr(given, "dataset"):
        return _classes(given.dataset)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


@contextmanager
def _seeded() -> Iterator[None]:
    """Draw from one seed, in torch, NumPy and Python alike; afterwards they go on as before."""
    import torch

    ours, theirs = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(theirs)
