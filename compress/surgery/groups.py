"""Groups of channels that must be removed together, as plain values: no model and no torch-pruning in here.

A group numbers its channels 0 to width - 1. Each member says where a channel lives in one side of one layer, as a list
of pairs (channel, index), so flattening (one channel, many columns), concatenation (an offset) and sharing (a subset)
all take the same form.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from compress.errors import ModelError
from compress.surgery.layers import Side

Kind = Literal["channels", "heads", "feed_forward", "hidden", "layers"]
"""What a group's channels are. The last four are of transformers; those of "heads" leave head by head, and those of
"layers" are whole layers."""

Kept = Mapping[str, Tensor]
"""Group name -> channels to keep (int64, ascending, unique). Names every group."""


@dataclass(frozen=True, eq=False)
class Member:
    """One side of one layer that carries channels of a group."""

    path: str
    """Module path in the model."""
    side: Side
    """"out" for rows of the weight (and everything of a layer that works channel by channel), "in" for columns."""
    kind: str
    """Layer type, as `layers.Layout.kind` names it."""
    channels: Tensor
    """int64 [n]: the group's channel of each pair."""
    indices: Tensor
    """int64 [n]: the index in the layer's side of each pair; each index at most once."""

    def of(self, channels: Tensor, width: int) -> Tensor:
        """Indices (int64, ascending) of the layer's side that belong to the given channels of a group of that width."""
        chosen = torch.zeros(width, dtype=torch.bool)
        chosen[channels] = True
        return self.indices[chosen[self.channels]].sort().values


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that exist, and are removed, together in all members."""

    name: str
    """Path of the layer that produces the channels (the first in the model's order)."""
    width: int
    """Number of channels."""
    members: tuple[Member, ...]
    """Everything that has to be cut, in the model's order."""
    atoms: Tensor
    """int64 [width]: channels with one number are kept or removed together; all atoms are equally large."""
    blocks: Tensor
    """int64 [width]: every block keeps equally many channels (grouped convolutions); all zero without blocks."""
    kind: Kind = "channels"
    """What the channels are."""

    @cached_property
    def unit(self) -> int:
        """Channels by which the width can change: the size of an atom times the number of blocks."""
        return self.width // len(self.atoms.unique()) * len(self.blocks.unique())

    @cached_property
    def signature(self) -> str:
        """The group's structure without its sizes; groups with one signature are ranked together.

        Isomorphic Pruning (Fang et al., arXiv 2407.04616) compares scores only between isomorphic sub-networks. Two
        groups count as isomorphic here when they have the same multiset of (layer type, side).
        """
        return " ".join(sorted(f"{member.kind}.{member.side}" for member in self.members))

    @cached_property
    def atoms_by_block(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the atoms in each block."""
        return tuple(tuple(self.atoms[self.blocks == block].unique().tolist()) for block in self.blocks.unique())

    def step_scores(self, scores: Tensor) -> Tensor:
        """Scores of the steps in which this group narrows, best first: float64 [width / unit].

        A step takes one atom from every block: the j-th step holds the j-th best atom of each. The score of an atom is
        the mean of its channels, that of a step the mean of its atoms.
        """
        means = self._atom_means(scores)
        ranked = [means[list(block)].sort(descending=True).values for block in self.atoms_by_block]
        return torch.stack(ranked).mean(0)

    def pick(self, scores: Tensor, count: int) -> Tensor:
        """The best `count` channels (a multiple of `unit`) by score: int64 [count], ascending. Ties keep the first."""
        assert count % self.unit == 0
        means = self._atom_means(scores)
        steps = count // self.unit
        keep = torch.zeros(int(self.atoms.max()) + 1, dtype=torch.bool)
        for block in self.atoms_by_block:
            atoms = torch.tensor(block)
            keep[atoms[means[atoms].argsort(descending=True, stable=True)[:steps]]] = True
        return keep[self.atoms].nonzero().flatten()

    def _atom_means(self, scores: Tensor) -> Tensor:
        size = int(self.atoms.max()) + 1
        total = torch.zeros(size, dtype=torch.float64).index_add_(0, self.atoms, scores.double())
        return total / torch.bincount(self.atoms, minlength=size).clamp(min=1)


def inside(path: str, containers: Collection[str]) -> bool:
    """Whether a module path is one of some containers, or in one."""
    return any(path == name or path.startswith(f"{name}.") for name in containers)


def keep_all(groups: Sequence[Group]) -> dict[str, Tensor]:
    """The choice that removes nothing."""
    return {group.name: torch.arange(group.width) for group in groups}


def find_removed(group: Group, kept: Kept) -> Tensor:
    """Channels of the group that `kept` removes: int64, ascending."""
    gone = torch.ones(group.width, dtype=torch.bool)
    gone[kept[group.name]] = False
    return gone.nonzero().flatten()


def check_kept(groups: Sequence[Group], kept: Kept) -> None:
    """Refuse a choice that does not fit the groups.

    Raises:
        ModelError: a group is missing or unknown, indices are out of order or out of range, nothing is left, or an
            atom or the balance of blocks is broken.
    """
    names = {group.name for group in groups}
    if names != set(kept):
        raise ModelError(
            "The choice of channels names other groups than the model has", expected=sorted(names), got=sorted(kept)
        )
    for group in groups:
        index = kept[group.name]
        ascending = bool((index[1:] > index[:-1]).all())
        if not len(index) or not ascending or int(index[0]) < 0 or int(index[-1]) >= group.width:
            expected = f"at least one index, ascending, from 0 to {group.width - 1}"
            raise ModelError("Kept channels are not valid", expected=expected, got=index.tolist(), where=group.name)
        keep = torch.zeros(group.width, dtype=torch.bool)
        keep[index] = True
        atoms_kept, atoms_all = (
            torch.bincount(group.atoms[keep], minlength=int(group.atoms.max()) + 1),
            torch.bincount(group.atoms),
        )
        if not bool(((atoms_kept == 0) | (atoms_kept == atoms_all)).all()):
            raise ModelError("Kept channels split channels that belong together", got=index.tolist(), where=group.name)
        if len(torch.bincount(group.blocks[keep], minlength=int(group.blocks.max()) + 1).unique()) != 1:
            raise ModelError(
                "Kept channels are not spread evenly over the blocks", got=index.tolist(), where=group.name
            )
