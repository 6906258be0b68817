"""Find the groups of channels that can be removed together, and prove them before anyone relies on them.

Transformers that are known have a table (`encoders`, `writers`); torch-pruning traces everything else. Nothing that
either says is taken on trust: each layer must be in `layers`, and a trial cut of a copy must equal the masked copy.
Channels for which that does not hold stay, with the reason, and the others are proved without them.

A branch that runs in training mode alone is cut along and proved there, too, dropout off; a layer that never runs keeps
its shape. A tensor that `forward` builds with a fixed number of channels fails the trial.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compress.errors import ModelError, StageError
from compress.surgery import cut, encoders, layers, verify
from compress.surgery.attention import heads
from compress.surgery.failure import tell_failure
from compress.surgery.groups import Group, Kind, Member, inside
from compress.surgery.maps import layer_lists, mapped_groups

if TYPE_CHECKING:
    from compress.surgery.trace import Coupling

DEFAULT_UNITS: tuple[encoders.Unit, ...] = ("heads", "feed_forward", "layers")


@dataclass(frozen=True, slots=True)
class Left:
    """Channels that stay, because removing them is not understood."""

    name: str
    """Path of the first layer that produces them."""
    width: int
    """Number of channels."""
    reason: str
    """What depends on them and cannot lose any, or what the trial found."""
    kind: Kind = "channels"
    """What they are; of a list of layers, the layers."""

    def __str__(self) -> str:
        """Name the layer as part of the model, and say why it stays."""
        return f"model.{self.name} keeps its {self.width} {self.kind}: {self.reason}"


@dataclass(frozen=True)
class Found:
    """What of a model can be cut, and what cannot."""

    groups: tuple[Group, ...]
    """Proved, in the model's order."""
    left: tuple[Left, ...] = ()
    """All others, in the model's order; what is an input or output of the model, or protected, is in neither."""


def find(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    protected: frozenset[str] = frozenset(),
    units: Sequence[encoders.Unit] = DEFAULT_UNITS,
    trial: bool = True,
) -> Found:
    """Find every group of channels that can be removed from the model, in the model's order.

    Channels that are (or are added to) an input or an output of the model are never in a group. The model is left as
    it was found: mode, gradient flags and weights.

    Args:
        model: a module on any device.
        example_inputs: positional arguments for one call, the batch in dimension 0.
        protected: paths of modules, or of containers of modules, whose outputs keep all their channels. Layers of a
            transformer that are in one stay.
        units: what may be cut in a transformer; other models have channels alone.
        trial: whether what the table says of a transformer is proved, too; of other models everything is.

    Raises:
        ModelError: the model does not run, or torch-pruning fails on the whole of it. Or the model is of a family of
            transformers that cannot be cut, or has a parameter that its family has not.
    """
    _check_protected(model, protected)
    mapped = mapped_groups(model, units, protected=protected)
    if mapped is not None:
        if trial:
            exact = copy.deepcopy(model).cpu().double().eval()
            _prove_all(exact, mapped, _trial_inputs(tuple(tensor[:2] for tensor in example_inputs)))
        asked = layer_lists(model, verb="prune").values() if "layers" in units else ()
        stuck = (each for each in asked if len(each.staying) == each.listed)
        return Found(tuple(mapped), tuple(Left(each.path, each.count, each.why, kind="layers") for each in stuck))
    from compress.surgery.tied import merge_tied
    from compress.surgery.trace import couplings  # brings torch-pruning

    inputs = _trial_inputs(example_inputs)
    exact = copy.deepcopy(model).cpu().double().eval()
    shared = {name.rpartition(".")[0]: names for names in layers.find_shared(exact) for name in names}
    counted = heads(exact)
    inner = {member.path for group in counted for member in group.members if member.side == "out"}
    groups = [group for group in counted if not any(inside(name, protected) for name in (group.name, *_outs(group)))]
    left: dict[str, Left] = {}
    found = [
        coupling
        for coupling in merge_tied(couplings(copy.deepcopy(exact), inputs), exact)
        if not coupling.at_edge
        and coupling.root not in inner
        and not any(inside(part.path, protected) for part in coupling.parts if part.side == "out")
    ]
    for coupling in found:
        try:
            groups.append(_group(coupling, exact, shared))
        except ModelError as error:
            left[coupling.root] = Left(coupling.root, coupling.width, _sentence(error))
    order = {path: position for position, (path, _) in enumerate(exact.named_modules())}
    groups.sort(key=lambda group: order.get(group.name, len(order)))
    faults = _find_overlaps(groups)
    sound = [group for group in groups if group.name not in faults]
    faults |= _find_faults(verify.disturbed(exact), sound, inputs)
    between = {coupling.root: f" (between: {', '.join(coupling.operations)})" for coupling in found}
    for group in groups:
        if group.name in faults:
            left[group.name] = Left(group.name, group.width, faults[group.name] + between.get(group.name, ""))
    return Found(
        tuple(group for group in sound if group.name not in faults),
        tuple(sorted(left.values(), key=lambda item: order.get(item.name, len(order)))),
    )


def _outs(group: Group) -> list[str]:
    return [member.path for member in group.members if member.side == "out"]


def _sentence(error: ModelError) -> str:
    where = "" if error.where is None else f"model.{error.where}: "
    return f"{where}{error.message}" + ("" if error.got is None else f" ({error.got})")


def _check_protected(model: nn.Module, protected: frozenset[str]) -> None:
    paths = [path for path, _ in model.named_modules() if path]
    for name in sorted(protected):
        if name not in paths:
            near = get_close_matches(name, paths, n=3)
            raise ModelError("A protected module is not in the model", expected=near or paths[:10], got=name)


def _trial_inputs(example_inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs that no channel can hide behind: at least 2 samples, random float64 where they are real."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for tensor in example_inputs:
        batch = torch.cat([tensor, tensor])[: max(2, len(tensor))].detach().cpu()
        real = batch.is_floating_point()
        result.append(torch.randn(batch.shape, generator=generator, dtype=torch.float64) if real else batch)
    return tuple(result)


def _group(coupling: "Coupling", model: nn.Module, shared: dict[str, tuple[str, ...]]) -> Group:
    """Turn a coupling into a group.

    Raises:
        ModelError: part of it cannot be cut.
    """
    from compress.surgery.tied import covers_tied

    found: dict[tuple[str, layers.Side], layers.Layout] = {}
    parts = [part for part in coupling.parts if not layers.is_indifferent(layers.place(model, part.path)[0])]
    for part in parts:
        module, known = layers.find(model, part.path, part.side)
        if known is None or known.kind in layers.MAPPED:
            got = f"{type(module).__name__}, {part.side} side"
            raise ModelError("a layer depends on these channels and cannot lose any", got=got, where=part.path)
        owner = part.path.rpartition(".")[0] if known.kind == "Parameter" else part.path
        if owner in shared and not covers_tied(coupling, model, shared[owner]):
            got = ", ".join(shared[owner])
            raise ModelError("a layer shares its parameters with another", got=got, where=part.path)
        found[part.path, part.side] = known
    members: list[Member] = []
    atoms = _Sets(coupling.width)
    blocks = torch.zeros(coupling.width, dtype=torch.int64)
    for part in parts:
        layout = found[part.path, part.side]
        if max(part.indices) >= layout.size:
            raise ModelError("torch-pruning cannot map the channels of a layer", where=part.path)
        member = Member(part.path, part.side, layout.kind, torch.tensor(part.channels), torch.tensor(part.indices))
        members.append(member)
        if layout.run > 1:
            atoms.join(member.channels, member.indices // layout.run)
        if layout.blocks > 1:
            blocks = _merge_blocks(blocks, member, layout)
    for link in coupling.links:
        atoms.join(torch.tensor(link), torch.zeros(len(link), dtype=torch.int64))
    order = {path: position for position, (path, _) in enumerate(model.named_modules())}
    members.sort(key=lambda member: (order.get(member.path, len(order)), member.path, member.side))
    labels = atoms.labels()
    if len(torch.stack([blocks, labels]).unique(dim=1)[0]) == len(blocks.unique()) * len(labels.unique()):
        blocks = torch.zeros_like(blocks)  # every atom is in all blocks, so they stay alike whatever leaves
    group = Group(coupling.root, coupling.width, tuple(members), labels, blocks)
    atoms_per_block = torch.bincount(torch.stack([group.blocks, group.atoms]).unique(dim=1)[0])
    straddles = int(atoms_per_block.sum()) != int(group.atoms.max()) + 1
    if straddles or len(atoms_per_block.unique()) != 1 or len(torch.bincount(group.atoms).unique()) != 1:
        raise ModelError("channels that belong together cannot be counted evenly", where=coupling.root)
    return group


class _Sets:
    """Disjoint sets of channels (union-find)."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def _root(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = item = self._parent[self._parent[item]]
        return item

    def join(self, channels: Tensor, labels: Tensor) -> None:
        """Join channels with equal labels."""
        first: dict[int, int] = {}
        for channel, label in zip(channels.tolist(), labels.tolist(), strict=True):
            self._parent[self._root(channel)] = self._root(first.setdefault(label, channel))

    def labels(self) -> Tensor:
        """int64 [size]: the set of every item, numbered by first appearance."""
        numbers: dict[int, int] = {}
        return torch.tensor([numbers.setdefault(self._root(item), len(numbers)) for item in range(len(self._parent))])


def _merge_blocks(blocks: Tensor, member: Member, found: layers.Layout) -> Tensor:
    """Add the block structure of one grouped convolution; the finer of two nested structures holds."""
    if len(member.channels) != len(blocks) or len(member.indices) != found.size:
        raise ModelError("a grouped convolution reads channels of several groups", where=member.path)
    own = torch.empty_like(blocks)
    own[member.channels] = member.indices * found.blocks // found.size
    pairs = torch.stack([blocks, own]).unique(dim=1).shape[1]
    if pairs not in (len(blocks.unique()), len(own.unique())):
        raise ModelError("grouped convolutions divide the same channels differently", where=member.path)
    return own if pairs == len(own.unique()) else blocks


def _find_overlaps(groups: Sequence[Group]) -> dict[str, str]:
    """Groups that claim a channel of a layer that an earlier group has, with the reason."""
    claimed: dict[tuple[str, str, int], str] = {}
    faults: dict[str, str] = {}
    for group in groups:
        for member in group.members:
            for index in member.indices.tolist():
                other = claimed.setdefault((member.path, member.side, index), group.name)
                if other != group.name:
                    faults[group.name] = f"model.{member.path}: channel {index} belongs to model.{other}, too"
    return faults


def _prove_all(model: nn.Module, groups: Sequence[Group], inputs: tuple[Tensor, ...]) -> None:
    """Hold all groups to the trial.

    Raises:
        ModelError: one fails; names it.
    """
    if faults := _find_faults(verify.disturbed(model), groups, inputs):
        raise ModelError(
            "Removing channels does not do what masking them does: an operation or a tensor here is not understood",
            got="; ".join(f"{name}: {fault}" for name, fault in faults.items()),
            hint=f"add {', '.join(faults)} to the protected modules",
        )


def _find_faults(model: nn.Module, groups: Sequence[Group], inputs: tuple[Tensor, ...]) -> dict[str, str]:
    """Cut about half of every group from a copy and compare it with the masked copy; what fails is found by halving.

    Returns:
        The groups that are wrong on their own, or beside those before them, with the reason. All others are right
        together.
    """
    error = _trial_error(model, groups, inputs) if groups else None
    if error is None:
        return {}
    if len(groups) == 1:
        return {groups[0].name: error}
    first, second = groups[: len(groups) // 2], groups[len(groups) // 2 :]
    faults = _find_faults(model, first, inputs) | _find_faults(model, second, inputs)
    sound = [group for group in groups if group.name not in faults]
    if (error := _trial_error(model, sound, inputs) if sound else None) is not None:
        faults |= {group.name: error for group in sound if group in second} or {sound[-1].name: error}
    return faults


def _trial_error(model: nn.Module, groups: Sequence[Group], inputs: tuple[Tensor, ...]) -> str | None:
    generator = torch.Generator().manual_seed(1)
    kept = {}
    for group in groups:
        steps = group.width // group.unit
        kept[group.name] = group.pick(torch.rand(group.width, generator=generator), group.unit * max(1, steps // 2))
    smaller = copy.deepcopy(model)
    cut.apply(smaller, groups, kept)
    mode = ""
    try:
        verify.against_masked(model, smaller, groups, kept, inputs)
        mode = "in training mode, "
        if _has_training_branch(model, inputs):
            verify.against_masked(model, smaller, groups, kept, inputs, training=True)
        elif _trains(model, inputs) and not _trains(smaller, inputs):
            return "the smaller model does not run in training mode"
    except StageError:
        return f"{mode}an operation on them is not understood: without some of them it gives other numbers"
    except Exception as error:  # noqa: BLE001 - a model's own code may raise anything
        return f"{mode}their number is written out at {tell_failure(error)}, or before it"
    return None


def _has_training_branch(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    from compress.surgery.trace import has_training_branch

    return has_training_branch(copy.deepcopy(model), inputs)


def _trains(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a copy of the model runs in training mode."""
    from compress.surgery.trace import runs

    return bool(runs(copy.deepcopy(model), inputs, training=True))
