"""Weights that several layers share: what is coupled to any of them is coupled to all."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import nn

from compress.surgery import layers
from compress.surgery.trace import Coupling, Part


def merge_tied(couplings: Sequence[Coupling], model: nn.Module) -> list[Coupling]:
    """Return couplings that meet in a dimension of a shared parameter as one, in their order.

    Only where all of them number its slices alike; others stay as they are, and are refused by `covers_tied`.
    """
    shared = {name: number for number, names in enumerate(layers.find_shared(model)) for name in names}
    merged: list[Coupling] = []
    slices: list[set[tuple[int, int]]] = []
    for coupling in couplings:
        own = {(shared[name], dim) for part in coupling.parts for name, dim in _tensors(part, model) if name in shared}
        alike = [
            position
            for position, other in enumerate(merged)
            if slices[position] & own and other.width == coupling.width and _straight(other) and _straight(coupling)
        ]
        for position in reversed(alike):
            coupling = _join(merged.pop(position), coupling)
            own |= slices.pop(position)
        merged.append(coupling)
        slices.append(own)
    return merged


def covers_tied(coupling: Coupling, model: nn.Module, names: Sequence[str]) -> bool:
    """Whether a coupling cuts a shared parameter alike under all its names."""
    cut = {pair for part in coupling.parts for pair in _tensors(part, model)}
    dims = [{dim for name, dim in cut if name == own} for own in names]
    return all(found == dims[0] for found in dims) and _straight(coupling)


def _tensors(part: Part, model: nn.Module) -> Iterator[tuple[str, int]]:
    module, found = layers.find(model, part.path, part.side)
    owner = part.path.rpartition(".")[0] if found is not None and found.kind == "Parameter" else part.path
    del module
    yield from ((f"{owner}.{name}" if owner else name, dim) for name, dim in (found.dims if found else ()))


def _straight(coupling: Coupling) -> bool:
    """Whether channel c is index c of every part."""
    return all(part.channels == part.indices for part in coupling.parts)


def _join(first: Coupling, second: Coupling) -> Coupling:
    parts = {(part.path, part.side): part for part in (*first.parts, *second.parts)}
    return replace(
        first,
        parts=tuple(parts.values()),
        links=tuple(sorted({*first.links, *second.links})),
        operations=tuple(sorted({*first.operations, *second.operations})),
        at_edge=first.at_edge or second.at_edge,
    )
