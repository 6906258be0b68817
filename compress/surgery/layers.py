"""Where a layer keeps its channels: which tensors, which dimension, which attributes.

This table is the only place that knows layer types; finding, scoring, costing, cutting and checking all read it.
A layer that is not in it cannot lose channels, and a model in which it would have to is refused by name.

A normalisation over channels (LayerNorm, a GroupNorm of one group) has statistics that change with every channel: its
masked copy normalises the channels that are kept. A bare parameter, which scales or shifts channels, is named by its
own path. Some kinds (`MAPPED`) lose channels only where a map of a transformer family says so (`encoders`): tokens;
whole attention modules, which hold no tensor but count heads; and lists of layers, whose "channels" are the layers
themselves.

A recurrent layer has as many hidden units in all its layers and directions; unit h of each leaves together.

Lacks on purpose: recurrent layers with a projection, and `nn.MultiheadAttention`, in whose place surgery puts attention
that has a linear layer for what this one keeps as a bare parameter (`models.attention`).
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from compress.loss.attention import NAMES
from compress.models.attention import Attention, counted
from compress.models.structure import CONV1D_SIZES, HEAD_COUNTS, HEAD_WIDTHS, is_conv1d

Side = Literal["out", "in"]

# The classes whose sizes `models.structure` stores: a pruned model of any other could not be loaded again.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
RUNNING_NORMS = (*BATCH_NORMS, *INSTANCE_NORMS)
PRODUCERS = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
_KINDS = (*PRODUCERS, *RUNNING_NORMS, nn.GroupNorm, nn.PReLU)
MAPPED = ("Parameters", "Attention", "ModuleList")
GATES: dict[type, int] = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}
FUSED = ("Wqkv", "c_attn")  # what ModernBERT and GPT-2 call the layer for queries, keys and values
HEAD_WIDTH = "head_dim"
GROUPED = ("q_proj", "k_proj", "v_proj", "o_proj")  # of Llama and its kin, whose heads are counted by their layers
GROUP_SIZE = "num_key_value_groups"  # queries that share one head of keys and values


@dataclass(frozen=True, slots=True)
class Layout:
    """How one side of one layer stores its channels."""

    kind: str
    """Name of the torch class it is or derives from, with "Depthwise" or "Grouped" before it where that matters."""
    size: int
    """Number of channels on this side."""
    dims: tuple[tuple[str, int], ...]
    """(tensor name, dimension) pairs that carry one slice per channel (per channel of a block, see `blocks`), or all
    channels in order several times, as a recurrent layer does for its gates."""
    attributes: tuple[str, ...]
    """Integer attributes that equal `size`."""
    blocks: int = 1
    """Equal runs of consecutive channels that must stay equally long (grouped convolutions)."""
    run: int = 1
    """Consecutive channels that leave together (one normalisation group of a GroupNorm, one attention head)."""
    counts: tuple[str, ...] = ()
    """Integer attributes that equal `size / run`, or a multiple of it."""


def layout(module: nn.Module, side: Side) -> Layout | None:
    """Describe one side of a layer, or None where the layer (or that side) cannot lose channels.

    Layers that treat each channel alone (normalisation, PReLU, depthwise convolution) have only an "out" side.
    """
    kind = next((known.__name__ for known in _KINDS if isinstance(module, known)), None)
    own = {name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))}
    found: Layout | None = None
    if isinstance(module, CONVOLUTIONS):
        found = _convolution(module, side, kind=str(kind))
    elif isinstance(module, TRANSPOSED) and module.groups == 1:
        found = (
            Layout(str(kind), module.out_channels, (("weight", 1), ("bias", 0)), ("out_channels",))
            if side == "out"
            else Layout(str(kind), module.in_channels, (("weight", 0),), ("in_channels",))
        )
    elif isinstance(module, nn.Linear) or is_conv1d(module):
        found = _linear(module, side)
    elif isinstance(module, nn.RNNBase):
        found = None if module.proj_size else _recurrent(module, side)
    elif side == "in":
        return None
    elif (mapped := _map(module)) is not None:
        return mapped
    elif isinstance(module, RUNNING_NORMS):
        dims = (("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0))
        found = Layout(str(kind), module.num_features, dims, ("num_features",))
    elif isinstance(module, nn.GroupNorm):
        run, dims = module.num_channels // module.num_groups, (("weight", 0), ("bias", 0))
        found = Layout("GroupNorm", module.num_channels, dims, ("num_channels",), run=run, counts=("num_groups",))
        if module.num_groups == 1:  # any channel may leave
            found = replace(found, run=1, counts=())
    elif isinstance(module, nn.PReLU) and module.num_parameters > 1:
        found = Layout("PReLU", module.num_parameters, (("weight", 0),), ("num_parameters",))
    if found is None or (isinstance(module, PRODUCERS) and "weight" not in own):
        return None  # a weight that another tensor computes (weight norm, parametrisations) cannot be sliced here
    return replace(found, dims=tuple((name, dim) for name, dim in found.dims if name in own))


def place(model: nn.Module, path: str) -> tuple[nn.Module, Layout | None]:
    """The module at a path; where a bare parameter is there, the module that owns it, and the parameter's layout."""
    owner, _, name = path.rpartition(".")
    parent = model.get_submodule(owner)
    parameter = dict(parent.named_parameters(recurse=False)).get(name)
    if parameter is None:
        return model.get_submodule(path), None
    dim = max((dim for dim, size in enumerate(parameter.shape) if size > 1), default=0)  # as torch-pruning takes it
    return parent, Layout("Parameter", parameter.shape[dim] if parameter.ndim else 0, ((name, dim),), ())


def find(model: nn.Module, path: str, side: Side) -> tuple[nn.Module, Layout | None]:
    """The module that holds the tensors of one side of what is at a path, and their layout; see `layout`."""
    module, bare = place(model, path)
    return module, layout(module, side) if bare is None else bare


def is_indifferent(module: nn.Module) -> bool:
    """Whether a layer of a kind that has channels treats all of them with one parameter, so that none is its own."""
    return isinstance(module, nn.PReLU) and module.num_parameters == 1


def _map(module: nn.Module) -> Layout | None:
    """Describe what is cut in the last dimension, much of it only by the map of a family."""
    if isinstance(module, Attention):
        counts = tuple(name for name in HEAD_COUNTS if name in vars(module))
        return Layout("Attention", module.output.in_features, (), (), run=module.wiring.head_width, counts=counts)
    if (wiring := counted(module)) is not None:
        size = read_width(module.get_submodule(wiring.output))
        return Layout("Attention", size, (), wiring.widths, run=size // wiring.units, counts=wiring.counts)
    if isinstance(module, nn.ModuleList):
        return Layout("ModuleList", len(module), (), ())
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        own = tuple((name, 0) for name, _ in module.named_parameters(recurse=False))
        return Layout("LayerNorm", module.normalized_shape[0], own, ())
    if isinstance(module, nn.Embedding):
        return Layout("Embedding", module.embedding_dim, (("weight", 1),), ("embedding_dim",))
    own = dict(module.named_parameters(recurse=False))
    if (fused := fused_projection(module)) is not None and not own:
        counts, sizes = (tuple(name for name in names if name in vars(module)) for names in (HEAD_COUNTS, HEAD_WIDTHS))
        width = layout(fused, "out")
        assert width is not None
        return Layout("Attention", width.size // 3, (), sizes, run=vars(module)[HEAD_WIDTH], counts=counts)
    if (queries := grouped_queries(module)) is not None and not own:
        return Layout(
            "Attention", queries.out_features, (), (), run=vars(module)[HEAD_WIDTH] * vars(module)[GROUP_SIZE]
        )
    if (projections := attention_projections(module)) is not None and not own:
        counts = tuple(name for name in HEAD_COUNTS if name in vars(module))
        sizes = tuple(name for name in HEAD_WIDTHS if name in vars(module))
        size = projections[0].out_features
        return Layout("Attention", size, (), sizes, run=size // vars(module)[counts[0]], counts=counts)
    widths = {tensor.shape[-1] for tensor in own.values() if tensor.ndim}
    if isinstance(module, _KINDS) or len(widths) != 1:
        return None
    return Layout("Parameters", widths.pop(), tuple((name, tensor.ndim - 1) for name, tensor in own.items()), ())


def attention_projections(module: nn.Module) -> tuple[nn.Linear, ...] | None:
    """The query, key and value layers of an attention module that counts its heads; None for any other module."""
    children = dict(module.named_children())
    names = next((names for names in NAMES if set(names) <= set(children)), ())
    found = tuple(layer for name in names if isinstance(layer := children[name], nn.Linear))
    return found if len(found) == 3 and any(name in vars(module) for name in HEAD_COUNTS) else None


def fused_projection(module: nn.Module) -> nn.Module | None:
    """The layer that writes all queries, then all keys, then all values, of a module that knows a head's width."""
    children = dict(module.named_children())
    found = next((children[name] for name in FUSED if name in children), None)
    known = isinstance(found, nn.Linear) or (found is not None and is_conv1d(found))
    return found if known and isinstance(vars(module).get(HEAD_WIDTH), int) else None


def grouped_queries(module: nn.Module) -> nn.Linear | None:
    """The layer that writes the queries, of a module of transformers whose layers say how many heads there are."""
    children, said = dict(module.named_children()), vars(module)
    linear = all(isinstance(children.get(name), nn.Linear) for name in GROUPED)
    known = all(isinstance(said.get(name), int) for name in (HEAD_WIDTH, GROUP_SIZE))
    found = children[GROUPED[0]] if linear and known and not any(name in said for name in HEAD_COUNTS) else None
    return found if isinstance(found, nn.Linear) else None


def multiplies(module: nn.Module) -> bool:
    """Whether a layer applies weights of its own by products that are counted."""
    return isinstance(module, (*PRODUCERS, nn.RNNBase)) or is_conv1d(module)


def _linear(module: nn.Module, side: Side) -> Layout:
    if is_conv1d(module):
        inputs, outputs = (vars(module)[name] for name in CONV1D_SIZES)
        written = Layout("Conv1D", outputs, (("weight", 1), ("bias", 0)), ("nf",))
        return written if side == "out" else Layout("Conv1D", inputs, (("weight", 0),), ("nx",))
    assert isinstance(module, nn.Linear)
    if side == "out":
        return Layout("Linear", module.out_features, (("weight", 0), ("bias", 0)), ("out_features",))
    return Layout("Linear", module.in_features, (("weight", 1),), ("in_features",))


def _recurrent(module: nn.RNNBase, side: Side) -> Layout:
    names = [name for name, _ in module.named_parameters(recurse=False)]
    first = tuple((name, 1) for name in names if name.startswith("weight_ih_l0"))
    if side == "in":
        return Layout(type(module).__name__, module.input_size, first, ("input_size",))
    rows = [(name, 0) for name in names]
    columns = [(name, 1) for name in names if name.startswith("weight") and (name, 1) not in first]
    return Layout(type(module).__name__, module.hidden_size, (*rows, *columns), ("hidden_size",))


def _convolution(module: nn.Module, side: Side, *, kind: str) -> Layout | None:
    assert isinstance(module, CONVOLUTIONS)
    if module.groups == 1:
        if side == "out":
            return Layout(kind, module.out_channels, (("weight", 0), ("bias", 0)), ("out_channels",))
        return Layout(kind, module.in_channels, (("weight", 1),), ("in_channels",))
    if module.groups == module.in_channels == module.out_channels:
        sizes = ("out_channels", "in_channels", "groups")
        whole = Layout(f"Depthwise{kind}", module.out_channels, (("weight", 0), ("bias", 0)), sizes)
        return whole if side == "out" else None
    if module.groups == module.out_channels:
        return None  # torch-pruning takes it for depthwise and ties its inputs to its outputs one to one
    if side == "out":
        dims = (("weight", 0), ("bias", 0))
        return Layout(f"Grouped{kind}", module.out_channels, dims, ("out_channels",), blocks=module.groups)
    return Layout(f"Grouped{kind}", module.in_channels, (("weight", 1),), ("in_channels",), blocks=module.groups)


def channel_dim(module: nn.Module) -> int:
    """The dimension of the layer's input and output that holds channels: 1 for what works on maps, else the last."""
    return 1 if isinstance(module, _KINDS) and not isinstance(module, nn.Linear) else -1


def read_width(module: nn.Module) -> int:
    """How many channels a layer reads; 0 for what is not in the table."""
    found = layout(module, "in")
    return 0 if found is None else found.size


def rows(module: nn.Module, side: Side, found: Layout) -> list[Tensor]:
    """The parameters of one side, one row per channel: tensors of shape (channels, anything).

    Views where torch can; running statistics are left out, since they are no parameters. A list of layers has a row of
    everything in it for each, filled up with 0.
    """
    if isinstance(module, nn.ModuleList):
        whole = [torch.cat([tensor.flatten() for tensor in layer.parameters()]) for layer in module]
        return [nn.utils.rnn.pad_sequence(whole, batch_first=True)]
    parameters = dict(module.named_parameters(recurse=False))
    result = []
    for name, dim in found.dims:
        if name not in parameters:
            continue
        tensor = parameters[name]
        if side == "in" and found.blocks > 1:
            result.append(_by_block(tensor, found.blocks).movedim(2, 1).flatten(0, 1).flatten(1))
        else:
            times = tensor.shape[dim] // found.size
            result.append(tensor.unflatten(dim, (times, -1)).movedim(dim + 1, 0).reshape(found.size, -1))
    return result


def _by_block(weight: Tensor, blocks: int) -> Tensor:
    """A grouped convolution's weight as (blocks, outputs per block, inputs per block, *kernel)."""
    return weight.unflatten(0, (blocks, weight.shape[0] // blocks))


def select(module: nn.Module, side: Side, found: Layout, keep: Tensor) -> None:
    """Keep the channels `keep` (int64, ascending) of one side of a layer: tensors and attributes, in place.

    Parameters become new `nn.Parameter` objects with the same `requires_grad` and no gradient.

    Args:
        module: the layer.
        side: which of its sides.
        found: that side's layout before anything was cut (cutting one side can make the layer look like another kind).
        keep: on the layer's device.
    """
    for name, dim in found.dims:
        tensor: Tensor = getattr(module, name)
        source = tensor.detach()
        if side == "in" and found.blocks > 1:
            per_block = found.size // found.blocks
            local = (keep % per_block).view(found.blocks, -1)
            pairs = zip(_by_block(source, found.blocks), local, strict=True)
            smaller = torch.cat([block.index_select(1, index) for block, index in pairs])
        else:
            starts = range(0, source.shape[dim], found.size)
            smaller = source.index_select(dim, torch.cat([keep + start for start in starts]))
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(smaller, requires_grad=tensor.requires_grad))
        else:
            setattr(module, name, smaller)
    for attribute in found.attributes:
        setattr(module, attribute, len(keep))
    for attribute in found.counts:
        setattr(module, attribute, getattr(module, attribute) * len(keep) // found.size)
    if (wiring := counted(module)) is not None:
        vars(module)["wiring"] = replace(wiring, units=len(keep) // found.run)
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = (len(keep),)


def expect_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes that the layer's own attributes imply for its tensors; empty for a layer that is not in the table."""
    shapes: dict[str, tuple[int, ...]] = {}
    if isinstance(module, CONVOLUTIONS):
        shapes["weight"] = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        shapes["bias"] = (module.out_channels,)
    elif isinstance(module, TRANSPOSED):
        shapes["weight"] = (module.in_channels, module.out_channels // module.groups, *module.kernel_size)
        shapes["bias"] = (module.out_channels,)
    elif isinstance(module, nn.Linear):
        shapes["weight"] = (module.out_features, module.in_features)
        shapes["bias"] = (module.out_features,)
    elif is_conv1d(module):
        shapes = {"weight": (vars(module)["nx"], vars(module)["nf"]), "bias": (vars(module)["nf"],)}
    elif isinstance(module, RUNNING_NORMS):
        shapes = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (module.num_features,))
    elif isinstance(module, nn.GroupNorm):
        shapes = dict.fromkeys(("weight", "bias"), (module.num_channels,))
    elif isinstance(module, nn.PReLU):
        shapes["weight"] = (module.num_parameters,)
    elif isinstance(module, nn.LayerNorm):
        shapes = dict.fromkeys(("weight", "bias"), module.normalized_shape)
    elif isinstance(module, nn.Embedding):
        shapes["weight"] = (module.num_embeddings, module.embedding_dim)
    elif isinstance(module, nn.RNNBase) and not module.proj_size:
        shapes = _expect_recurrent(module)
    own = {name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))}
    return {name: shape for name, shape in shapes.items() if name in own}


def _expect_recurrent(module: nn.RNNBase) -> dict[str, tuple[int, ...]]:
    rows = GATES[type(module)] * module.hidden_size
    inner = module.hidden_size * (1 + module.bidirectional)
    read = {"weight_hh": module.hidden_size}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, _ in module.named_parameters(recurse=False):
        kind = name.rpartition("_l")[0]
        first = name.rpartition("_l")[2].partition("_")[0] == "0"
        columns = read.get(kind, module.input_size if first else inner)
        shapes[name] = (rows,) if kind.startswith("bias") else (rows, columns)
    return shapes


def find_shared(model: nn.Module) -> list[tuple[str, ...]]:
    """The names of every parameter that several modules have."""
    names_of: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            names_of.setdefault(id(parameter), []).append(f"{path}.{name}" if path else name)
    return [tuple(names) for names in names_of.values() if len(names) > 1]
