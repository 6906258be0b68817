"""Which input of one model is which of another's: by name, else by position, shape and kind.

Files that come from elsewhere call their inputs otherwise, and are compared on the same samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from compress.benchmark.drawn_inputs import table_rows
from compress.benchmark.runtimes.worker import LENGTHS, MASK, take_lengths
from compress.errors import InputError
from compress.export.onnx_file import read_graph


@dataclass(frozen=True)
class _Input:
    """What a model says of an input.

    Attributes:
        kind: ONNX's number of its data type.
        shape: lengths, 0 where they are open.
        looks_up: whether its numbers are rows of a table of weights.
    """

    kind: int
    shape: tuple[int, ...]
    looks_up: bool

    def __str__(self) -> str:
        lengths = ", ".join(str(length or "?") for length in self.shape)
        looks_up = ", rows of a table" if self.looks_up else ""
        return f"{onnx.TensorProto.DataType.Name(self.kind).lower()} [{lengths}]{looks_up}"

    def takes(self, other: "_Input") -> bool:
        """Whether both can be fed one array."""
        same = self.kind == other.kind and len(self.shape) == len(other.shape)
        return same and all(one == two or 0 in (one, two) for one, two in zip(self.shape, other.shape, strict=True))

    def resembles(self, other: "_Input") -> bool:
        """Whether both may mean the same although they are called otherwise."""
        return self.takes(other) and self.looks_up == other.looks_up


def match_inputs(first: Path, second: Path) -> dict[str, str]:
    """Return what the second model calls each input of the first, in the first's order.

    Inputs of one name are one, where they can be. The others are taken in their order where all of them fit so, else
    each for the only one that it fits.

    Args:
        first: an ONNX file.
        second: another.

    Raises:
        ModelError: when one is no ONNX file.
        InputError: when there is no such order and no only one, with everything that differs.
    """
    ours, theirs = _read(first), _read(second)
    named = {name: name for name in ours if name in theirs and ours[name].takes(theirs[name])}
    left = [name for name in ours if name not in named]
    open_ = [name for name in theirs if name not in named]
    fitting = {name: [other for other in open_ if ours[name].resembles(theirs[other])] for name in left}
    found: dict[str, str] = {}
    if len(left) == len(open_):
        if all(other in fitting[name] for name, other in zip(left, open_, strict=True)):
            found = dict(zip(left, open_, strict=True))
        elif sorted(map(tuple, fitting.values())) == sorted((name,) for name in open_):
            found = {name: only for name, (only,) in fitting.items()}
    if len(found) != len(left) or len(left) != len(open_):
        raise InputError(
            "the two models take different inputs, and are compared on the same ones",
            expected=_in_words(ours),
            got=_in_words(theirs),
            where=second,
            hint=_differences(fitting, open_),
        )
    return {name: (named | found)[name] for name in ours}


def rename(samples: Path, names: Mapping[str, str], *, directory: Path) -> dict[str, Path]:
    """Return the samples of each model, A and B, every one with arrays as it calls its inputs.

    Where only one of them has an input called ``attention_mask``, which tells the lengths of samples, they are written
    down for both, so that both get the same batches.

    Args:
        samples: .npz as `runtimes.worker.batches` takes it, for A.
        names: what B calls each input of A.
        directory: where files are written.
    """
    if all(name == other for name, other in names.items()):
        return {"A": samples, "B": samples}
    with np.load(samples, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    mask = next((name for name, other in names.items() if MASK in (name, other)), None)
    if mask is not None and LENGTHS not in arrays:
        padded = arrays[mask].shape[1]
        if all(array.shape[1] == padded for array in arrays.values() if array.ndim > 1):
            arrays[LENGTHS] = take_lengths({MASK: arrays[mask]})
    found = {"A": directory / "a.npz", "B": directory / "b.npz"}
    np.savez(found["A"], allow_pickle=False, **arrays)
    np.savez(found["B"], allow_pickle=False, **{names.get(name, name): array for name, array in arrays.items()})
    return found


def _read(path: Path) -> dict[str, _Input]:
    graph = read_graph(path).graph
    weights, rows = {tensor.name for tensor in graph.initializer}, table_rows(graph)
    given = {entry.name: entry.type.tensor_type for entry in graph.input if entry.name not in weights}
    return {
        name: _Input(kind.elem_type, tuple(axis.dim_value for axis in kind.shape.dim), name in rows)
        for name, kind in given.items()
    }


def _in_words(inputs: Mapping[str, _Input]) -> str:
    return ", ".join(f"{name} {given}" for name, given in inputs.items())


def _differences(fitting: Mapping[str, list[str]], others: list[str]) -> str:
    """Return for each unmatched input what of the other model it may be, and what is left there."""
    told = [f"{name} fits {' and '.join(found) if found else 'none'}" for name, found in fitting.items()]
    reached = {other for found in fitting.values() for other in found}
    told += [f"nothing fits {other}" for other in others if other not in reached]
    return f"name the inputs alike, or export them in one order: {'; '.join(told)}"
