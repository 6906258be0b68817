"""Parameters and multiply-accumulates (MACs) of a model, exactly, and of its pruned forms without building them.

MACs of attention grow with the square of the number of tokens: all are those of the inputs that a model is measured
with.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

from compress.surgery import layers
from compress.surgery.groups import Group, Kept, inside

# Kernels of the CPU that torch 2.13 does not count: fused attention, and a layer of an LSTM.
FUSED_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FUSED_RECURRENT = torch.ops.aten.mkldnn_rnn_layer
ANGLES = "RotaryEmbedding"  # how transformers' classes end that make a table of angles: a product without heads


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

    Every convolution and linear layer costs its weight's size once per position, a recurrent layer those of all its
    weights once per step, and both their dimensions shrink with the groups that they are part of. The products of an
    attention module in a group shrink with its heads. Other matrix products are taken to cost what they cost unpruned.
    A layer that is gone costs nothing, whatever is kept of it.
    """

    shapes: Mapping[tuple[str, str], tuple[int, ...]]
    """(module path, parameter name) -> shape; a shared parameter appears once."""
    weights: Mapping[tuple[str, str], tuple[int, tuple[int, ...]]]
    """(module path, parameter name) -> (times that weight is applied to one sample, its shape)."""
    products: Mapping[str, int]
    """Path of an attention module in a group -> MACs of one sample in it, outside its linear layers."""
    other_macs: int
    """MACs of one sample outside convolutions, linear layers and those attention modules."""
    sizes: Mapping[tuple[str, layers.Side], int]
    """(path of a module or a bare parameter, side) -> channels before pruning, for sides in a group."""
    dims: Mapping[tuple[str, str], tuple[tuple[str, layers.Side, int], ...]]
    """(module path, parameter name) -> the dimensions that shrink, with the key of their size, for parameters in a
    group."""
    uses: Mapping[str, tuple[tuple[str, layers.Side, Tensor | int], ...]]
    """Group -> (module path, side, indices per channel int64 [width], or one number where all have as many)."""
    widths: Mapping[str, int]
    """Group -> channels before pruning."""
    layer_of: Mapping[str, tuple[str, int]]
    """Module path -> (group of whole layers, channel) of the layer that it is in; absent for all other modules."""

    def cost(self, kept: Kept) -> Cost:
        """The exact cost of the model that keeps these channels."""
        sizes = dict(self.sizes)
        for name, index in kept.items():
            for path, side, per_channel in self.uses[name]:
                if isinstance(per_channel, int):
                    sizes[path, side] -= per_channel * (self.widths[name] - len(index))
                else:
                    sizes[path, side] -= int(per_channel.sum() - per_channel[index].sum())
        remaining = {
            name: set(kept[name].tolist()) for name in {group for group, _ in self.layer_of.values()} & {*kept}
        }

        def there(path: str) -> bool:
            group, channel = self.layer_of.get(path, ("", 0))
            return group not in remaining or channel in remaining[group]

        def elements(path: str, name: str, shape: tuple[int, ...]) -> int:
            count = prod(shape)
            for member, side, dim in self.dims.get((path, name), ()):
                # A grouped weight holds the inputs of one block, so scale instead of replacing the dimension.
                count = count // shape[dim] * (shape[dim] * sizes[member, side] // self.sizes[member, side])
            return count

        parameters = sum(elements(path, name, shape) for (path, name), shape in self.shapes.items() if there(path))
        macs = sum(
            positions * elements(path, name, shape)
            for (path, name), (positions, shape) in self.weights.items()
            if there(path)
        )
        attention = sum(
            count * sizes[path, "out"] // self.sizes[path, "out"]
            for path, count in self.products.items()
            if there(path)
        )
        return Cost(parameters, macs + attention + self.other_macs)


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
    positions, bare = _count(model, inputs)
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                shapes[path, name] = tuple(parameter.shape)
                seen.add(id(parameter))
    weights = {
        (path, name): (count, shape)
        for path, count in positions.items()
        for name, shape in _weight_shapes(model.get_submodule(path)).items()
    }
    sizes: dict[tuple[str, layers.Side], int] = {}
    dims: dict[tuple[str, str], tuple[tuple[str, layers.Side, int], ...]] = {}
    uses: dict[str, tuple[tuple[str, layers.Side, Tensor | int], ...]] = {}
    products: dict[str, int] = {}
    for group in groups:
        used = []
        for member in group.members:
            found = layers.find(model, member.path, member.side)[1]
            assert found is not None
            sizes[member.path, member.side] = found.size
            for name, dim in found.dims:
                owner = member.path.rpartition(".")[0] if found.kind == "Parameter" else member.path
                known = dims.get((owner, name), ())
                dims[owner, name] = tuple({*known, (member.path, member.side, dim)})
            per_channel = torch.bincount(member.channels, minlength=group.width)
            alike = len(per_channel.unique()) == 1
            used.append((member.path, member.side, int(per_channel[0]) if alike else per_channel))
            if found.kind == "Attention":
                products[member.path] = _products(model, member.path, bare)
        uses[group.name] = tuple(used)
    other_macs = bare[""] - sum(products.values())
    widths = {group.name: group.width for group in groups}
    return CostModel(shapes, weights, products, other_macs, sizes, dims, uses, widths, _layers(model, groups))


def _products(model: nn.Module, path: str, bare: Mapping[str, int]) -> int:
    """MACs of an attention module's products that shrink with its heads: all but those of tables of angles made in it.

    With transformers 4 each attention of ModernBERT makes its own; other children's products are by head.
    """
    inside_it = model.get_submodule(path).named_modules(prefix=path)
    tables = [name for name, module in inside_it if type(module).__name__.endswith(ANGLES)]
    return bare.get(path, 0) - sum(bare.get(name, 0) for name in tables)


def _layers(model: nn.Module, groups: Sequence[Group]) -> dict[str, tuple[str, int]]:
    """Module path -> (group of whole layers, channel), for modules in such layers."""
    channels = {
        f"{member.path}.{index}": (group.name, channel)
        for group in groups
        if group.kind == "layers"
        for member in group.members
        for channel, index in zip(member.channels.tolist(), member.indices.tolist(), strict=True)
    }
    return {
        path: found for path, _ in model.named_modules() for layer, found in channels.items() if inside(path, [layer])
    }


def _weight_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The weights that a layer multiplies with; those of a recurrent layer by their names."""
    named = {name: tuple(tensor.shape) for name, tensor in module.named_parameters(recurse=False)}
    if isinstance(module, nn.RNNBase):
        return {name: shape for name, shape in named.items() if name.startswith("weight")}
    weight = module.weight
    assert isinstance(weight, Tensor)
    return {"weight": tuple(weight.shape)}


@torch.no_grad()
def _count(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Counter[str], dict[str, int]]:
    """Positions of every layer with weights; and MACs of each module's call but for such layers, by path ("" is all).

    A layer that another module calls for its owner, as keys are made before attention is asked, is no part of the
    owner's call.
    """
    one = tuple(tensor[:1] for tensor in inputs)  # what is shared by all samples counts once
    positions: Counter[str] = Counter()
    linear: Counter[str] = Counter()  # MACs of layers with weights, by the names of what called them
    uncounted = {FUSED_ATTENTION: _fused_attention_flops, FUSED_RECURRENT: _fused_recurrent_flops}
    counter = FlopCounterMode(display=False, custom_mapping=uncounted)

    def record(path: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            count = _positions(module, arguments, output)
            positions[path] += count
            macs = count * sum(prod(shape) for shape in _weight_shapes(module).values())
            linear.update(dict.fromkeys(counter.mod_tracker.parents, macs))

        return hook

    hooks = [
        module.register_forward_hook(record(path))
        for path, module in model.named_modules()
        if layers.multiplies(module)
    ]
    training = model.training
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval().requires_grad_(False)  # the counter follows gradients, and fails at a view of a parameter without any
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one kernel for a whole layer, which nobody counts
    try:
        with counter:
            model(*one)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        model.train(training)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for hook in hooks:
            hook.remove()
    root = type(model).__name__
    macs = {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2 - linear[name]
        for name, flops in counter.get_flop_counts().items()
        if inside(name, [root])
    }
    return positions, macs | {"": counter.get_total_flops() // 2 - linear["Global"]}


def _positions(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> int:
    """How often a layer applies its weights in a call."""
    if isinstance(module, nn.RNNBase):
        given = arguments[0].data if isinstance(arguments[0], PackedSequence) else arguments[0]
        return given.numel() // given.shape[-1]
    # A transposed convolution applies its weight once per input position, all others once per output position.
    tensor = arguments[0] if isinstance(module, layers.TRANSPOSED) else output
    return tensor.numel() // tensor.shape[layers.channel_dim(module)]


def _fused_attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Two products of [L, d] with [S, d] for each head, two operations a MAC; arguments are shapes [N, H, L, d]."""
    return 2 * query[0] * query[1] * query[2] * key[2] * (query[3] + value[3])


def _fused_recurrent_flops(inputs: Sequence[int], read: Sequence[int], kept: Sequence[int], *_: Any, **__: Any) -> int:
    """Weights [4 H, F] and [4 H, H] once a step, two operations a MAC; arguments are shapes, the first [T, N, F]."""
    return 2 * inputs[0] * inputs[1] * (read[0] * read[1] + kept[0] * kept[1])
