"""Find the groups of channels that must be removed together, and prove them before anyone relies on them.

Transformers' encoders have a table (`encoders`); torch-pruning traces everything else. Nothing that either says is
taken on trust: each layer must be in `layers`, and a trial cut of a copy must equal the masked copy. What does not is
refused by name.

Limits: only what runs in eval mode with the example inputs is seen; a branch used in training alone, or a layer that
never runs, keeps its shape. A tensor that `forward` builds with a fixed number of channels fails the trial.
"""

import copy
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compress.errors import ModelError, StageError
from compress.surgery import cut, encoders, layers, verify
from compress.surgery.groups import Group, Member, inside

if TYPE_CHECKING:
    from compress.surgery.trace import Coupling

DEFAULT_UNITS: tuple[encoders.Unit, ...] = ("heads", "feed_forward", "layers")


def find_groups(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    protected: frozenset[str] = frozenset(),
    units: Sequence[encoders.Unit] = DEFAULT_UNITS,
) -> tuple[Group, ...]:
    """Find every group of channels that can be removed from the model, in the model's order.

    Channels that are (or are added to) an input or an output of the model are never in a group. The model is left as
    it was found: mode, gradient flags and weights.

    Args:
        model: a module on any device.
        example_inputs: positional arguments for one call, the batch in dimension 0.
        protected: paths of modules, or of containers of modules, whose outputs keep all their channels. Layers of a
            transformer that are in one stay.
        units: what may be cut in a transformer; other models have channels alone.

    Raises:
        ModelError: a parameter, layer or operation depends on prunable channels and cannot be cut; names it. Add the
            layer that produces the channels to `protected` to prune the rest of the model. Or the model is of a family
            of transformers that cannot be cut, or has a parameter that its family has not.
    """
    _check_protected(model, protected)
    encoder = encoders.encoder(model)
    trial = copy.deepcopy(model).cpu().double().eval()
    if encoder is not None:
        mapped = encoders.groups(encoder, units, protected=protected)
        _prove(trial, mapped, _trial_inputs(tuple(tensor[:2] for tensor in example_inputs)), {})
        return tuple(mapped)
    from compress.surgery.trace import couplings  # brings torch-pruning

    inputs = _trial_inputs(example_inputs)
    shared = _find_shared_parameters(trial)
    groups: list[Group] = []
    operations: dict[str, tuple[str, ...]] = {}
    for coupling in couplings(trial, inputs):
        produced = [part.path for part in coupling.parts if part.side == "out"]
        if coupling.at_edge or any(inside(path, protected) for path in produced):
            continue
        groups.append(_group(coupling, trial, shared))
        operations[coupling.root] = coupling.operations
    _check_disjoint(groups)
    _prove(trial, groups, inputs, operations)
    return tuple(groups)


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


def _find_shared_parameters(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Module path -> names of parameters that it shares with another module."""
    names_of: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            names_of.setdefault(id(parameter), []).append(f"{path}.{name}")
    tied = [tuple(names) for names in names_of.values() if len(names) > 1]
    return {name.rpartition(".")[0]: names for names in tied for name in names}


def _group(coupling: "Coupling", model: nn.Module, shared: dict[str, tuple[str, ...]]) -> Group:
    """Turn a coupling into a group.

    Raises:
        ModelError: part of it cannot be cut.
    """
    hint = f"add {coupling.root} to the protected modules to keep its {coupling.width} channels"
    if coupling.parameters:
        where = ", ".join(coupling.parameters)
        raise ModelError("A bare parameter depends on prunable channels", where=where, hint=hint)
    found = {
        (part.path, part.side): layers.layout(model.get_submodule(part.path), part.side) for part in coupling.parts
    }
    for (path, side), known in found.items():
        if known is None or known.kind in layers.MAPPED:
            got = f"{type(model.get_submodule(path)).__name__} ({side} side)"
            message = "A layer depends on prunable channels and cannot lose any"
            raise ModelError(message, got=got, where=path, hint=hint)
        if path in shared:
            got = ", ".join(shared[path])
            raise ModelError("A layer shares its parameters with another", got=got, where=path, hint=hint)
    members: list[Member] = []
    atoms = _Sets(coupling.width)
    blocks = torch.zeros(coupling.width, dtype=torch.int64)
    for part in coupling.parts:
        layout = found[part.path, part.side]
        assert layout is not None
        if max(part.indices) >= layout.size:
            raise ModelError("torch-pruning cannot map the channels of a layer", where=part.path, hint=hint)
        member = Member(part.path, part.side, layout.kind, torch.tensor(part.channels), torch.tensor(part.indices))
        members.append(member)
        if layout.run > 1:
            atoms.join(member.channels, member.indices // layout.run)
        if layout.blocks > 1:
            blocks = _merge_blocks(blocks, member, layout, hint=hint)
    for link in coupling.links:
        atoms.join(torch.tensor(link), torch.zeros(len(link), dtype=torch.int64))
    order = {path: position for position, (path, _) in enumerate(model.named_modules())}
    members.sort(key=lambda member: (order[member.path], member.side))
    group = Group(coupling.root, coupling.width, tuple(members), atoms.labels(), blocks)
    atoms_per_block = torch.bincount(torch.stack([group.blocks, group.atoms]).unique(dim=1)[0])
    straddles = int(atoms_per_block.sum()) != int(group.atoms.max()) + 1
    if straddles or len(atoms_per_block.unique()) != 1 or len(torch.bincount(group.atoms).unique()) != 1:
        raise ModelError("Channels that belong together cannot be counted evenly", where=coupling.root, hint=hint)
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


def _merge_blocks(blocks: Tensor, member: Member, found: layers.Layout, *, hint: str) -> Tensor:
    """Add the block structure of one grouped convolution; the finer of two nested structures holds."""
    if len(member.channels) != len(blocks) or len(member.indices) != found.size:
        raise ModelError("A grouped convolution reads channels of several groups", where=member.path, hint=hint)
    own = torch.empty_like(blocks)
    own[member.channels] = member.indices * found.blocks // found.size
    pairs = torch.stack([blocks, own]).unique(dim=1).shape[1]
    if pairs not in (len(blocks.unique()), len(own.unique())):
        raise ModelError("Grouped convolutions divide the same channels differently", where=member.path, hint=hint)
    return own if pairs == len(own.unique()) else blocks


def _check_disjoint(groups: Sequence[Group]) -> None:
    claimed: dict[tuple[str, str, int], str] = {}
    for group in groups:
        for member in group.members:
            for index in member.indices.tolist():
                other = claimed.setdefault((member.path, member.side, index), group.name)
                if other != group.name:
                    got = f"channel {index} belongs to {other} and to {group.name}"
                    raise ModelError("torch-pruning cannot map the channels of a layer", got=got, where=member.path)


def _prove(
    model: nn.Module, groups: Sequence[Group], inputs: tuple[Tensor, ...], operations: dict[str, tuple[str, ...]]
) -> None:
    """Cut about half of every group from a copy and compare it with the masked copy, with noise on all weights.

    The noise keeps a zero or constant weight from hiding a wrong index.

    Raises:
        ModelError: they differ; names the groups that are wrong on their own.
    """
    noisy = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in noisy.parameters():
            if parameter.is_floating_point():
                spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(noise, alpha=0.1 * (spread or 1.0))
    if not (error := _trial_error(noisy, groups, inputs, generator)):
        return
    errors = {group.name: fault for group in groups if (fault := _trial_error(noisy, [group], inputs, generator))}
    lines = [
        f"{name}: {fault}; operations in between: {', '.join(operations.get(name, ())) or 'none'}"
        for name, fault in (errors or {"all groups together": error}).items()
    ]
    raise ModelError(
        "Removing channels does not do what masking them does: an operation or a tensor here is not understood",
        got="; ".join(lines),
        hint=f"add {', '.join(errors) or 'some of these modules'} to the protected modules",
    )


def _trial_error(
    model: nn.Module, groups: Sequence[Group], inputs: tuple[Tensor, ...], generator: torch.Generator
) -> str | None:
    kept = {}
    for group in groups:
        steps = group.width // group.unit
        kept[group.name] = group.pick(torch.rand(group.width, generator=generator), group.unit * max(1, steps // 2))
    smaller = copy.deepcopy(model)
    cut.apply(smaller, groups, kept)
    try:
        verify.against_masked(model, smaller, groups, kept, inputs)
    except StageError as error:
        return error.message
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return None
