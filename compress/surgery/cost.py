"""Parameters and multiply-accumulates (MACs) of a model, exactly, and of its pruned forms without building them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compress.surgery import layers
from compress.surgery.groups import Group, Kept


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model takes."""

    parameters: int
    """Trainable and frozen parameters, each counted once; buffers are not parameters."""
    macs: int
    """Multiply-accumulates of one sample in convolutions and matrix products; element-wise work is left out."""


@dataclass(frozen=True, eq=False)
class CostModel:
    """A model's cost as a function of how many channels each group keeps.

    Every convolution and linear layer costs its weight's size once per position, and both its dimensions shrink with
    the groups that it is part of. Matrix products outside such layers are taken to cost what they cost unpruned.
    """

    shapes: Mapping[tuple[str, str], tuple[int, ...]]
    """(module path, parameter name) -> shape; a shared parameter appears once."""
    weights: Mapping[str, tuple[int, tuple[int, ...]]]
    """Module path -> (times its weight is applied to one sample, the weight's shape)."""
    other_macs: int
    """MACs of one sample outside convolutions and linear layers."""
    sizes: Mapping[tuple[str, layers.Side], int]
    """(module path, side) -> channels before pruning, for sides in a group."""
    dims: Mapping[tuple[str, str], tuple[tuple[layers.Side, int], ...]]
    """(module path, parameter name) -> the dimensions that shrink, for parameters in a group."""
    uses: Mapping[str, tuple[tuple[str, layers.Side, Tensor], ...]]
    """Group -> (module path, side, indices per channel int64 [width])."""

    def cost(self, kept: Kept) -> Cost:
        """The exact cost of the model that keeps these channels."""
        sizes = dict(self.sizes)
        for name, index in kept.items():
            for path, side, per_channel in self.uses[name]:
                sizes[path, side] -= int(per_channel.sum() - per_channel[index].sum())

        def elements(path: str, name: str, shape: tuple[int, ...]) -> int:
            count = prod(shape)
            for side, dim in self.dims.get((path, name), ()):
                # A grouped weight holds the inputs of one block, so scale instead of replacing the dimension.
                count = count // shape[dim] * (shape[dim] * sizes[path, side] // self.sizes[path, side])
            return count

        parameters = sum(elements(path, name, shape) for (path, name), shape in self.shapes.items())
        macs = sum(positions * elements(path, "weight", shape) for path, (positions, shape) in self.weights.items())
        return Cost(parameters, macs + self.other_macs)


def model_cost(model: nn.Module, inputs: tuple[Tensor, ...]) -> Cost:
    """The cost of a model as it is, for one sample of these inputs (batch in dimension 0)."""
    return cost_model(model, (), inputs).cost({})


def cost_model(model: nn.Module, groups: Sequence[Group], inputs: tuple[Tensor, ...]) -> CostModel:
    """Measure a model with one forward pass, so that its pruned forms can be priced.

    Args:
        model: left as it is; run once in eval mode.
        groups: its prunable groups.
        inputs: positional arguments, the batch in dimension 0.
    """
    positions, total = _count(model, inputs)
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                shapes[path, name] = tuple(parameter.shape)
                seen.add(id(parameter))
    weights = {path: (count, _weight_shape(model.get_submodule(path))) for path, count in positions.items()}
    layer_macs = sum(count * prod(shape) for count, shape in weights.values())
    sizes: dict[tuple[str, layers.Side], int] = {}
    dims: dict[tuple[str, str], tuple[tuple[layers.Side, int], ...]] = {}
    uses: dict[str, tuple[tuple[str, layers.Side, Tensor], ...]] = {}
    for group in groups:
        used = []
        for member in group.members:
            found = layers.layout(model.get_submodule(member.path), member.side)
            assert found is not None
            sizes[member.path, member.side] = found.size
            for name, dim in found.dims:
                known = dims.get((member.path, name), ())
                dims[member.path, name] = tuple({*known, (member.side, dim)})
            used.append((member.path, member.side, torch.bincount(member.channels, minlength=group.width)))
        uses[group.name] = tuple(used)
    return CostModel(shapes, weights, total - layer_macs, sizes, dims, uses)


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    assert isinstance(module, layers.PRODUCERS)
    return tuple(module.weight.shape)


@torch.no_grad()
def _count(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Counter[str], int]:
    """Positions of every convolution and linear layer per sample, and all MACs of one sample as torch counts them."""
    batch = len(inputs[0])
    positions: Counter[str] = Counter()

    def record(path: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            # A transposed convolution applies its weight once per input position, all others once per output position.
            tensor = arguments[0] if isinstance(module, layers.TRANSPOSED) else output
            positions[path] += tensor.numel() // tensor.shape[layers.channel_dim(module)] // batch

        return hook

    hooks = [
        module.register_forward_hook(record(path))
        for path, module in model.named_modules()
        if isinstance(module, layers.PRODUCERS)
    ]
    training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            model(*inputs)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return positions, counter.get_total_flops() // 2 // batch
