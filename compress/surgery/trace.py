"""Ask torch-pruning's dependency graph which layers are coupled; the only module that knows torch-pruning.

The graph is traced through autograd (DepGraph, Fang et al., arXiv 2301.12900). What it says is handed on as values
and proved elsewhere: it treats every operation that it does not know as element-wise, and guesses indices behind
reshapes, splits and concatenations. Those are corrected here from the shapes that autograd recorded.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch_pruning import _helpers
from torch_pruning.dependency import index_mapping
from torch_pruning.ops import OPTYPE

from compress.config.user_code import users_lines
from compress.errors import ModelError
from compress.surgery import layers
from compress.surgery.failure import tell_failure
from compress.surgery.standins import stand_in
from compress.surgery.verify import outputs


@dataclass(frozen=True, slots=True)
class Part:
    """One side of one layer that depends on coupled channels."""

    path: str
    side: layers.Side
    channels: tuple[int, ...]
    """The coupling's channel of each pair."""
    indices: tuple[int, ...]
    """The index in the layer's side of each pair."""


@dataclass(frozen=True, slots=True)
class Coupling:
    """Channels that torch-pruning takes to exist together."""

    root: str
    """Path of the first layer, in the model's order, that produces them."""
    width: int
    parts: tuple[Part, ...]
    links: tuple[tuple[int, ...], ...]
    """Channels that pull each other in, as the halves of a gated unit do, or the parts that a split makes equal."""
    operations: tuple[str, ...]
    """Autograd names of the functional operations in between."""
    at_edge: bool
    """Whether the channels are, or are added to, an input or output of the model."""


def couplings(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Coupling]:
    """Every set of coupled channels, each once, in the model's order.

    Where layers run in training mode alone, as auxiliary heads do, they are traced too.

    Args:
        model: a copy that may be run in training mode, on the CPU, and is not used again: it gets stand-ins.
        inputs: positional arguments.

    Raises:
        ModelError: torch-pruning fails on the model, or the model on the inputs.
    """
    edge: list[Any] = []
    training = has_training_branch(model, inputs)
    aliases = stand_in(model, inputs)

    def forward(traced: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # A leaf input has no autograd node, so what is added to it would look free; a clone has one.
        nodes = [tensor.requires_grad_().clone() if tensor.is_floating_point() else tensor for tensor in arguments]
        traced.train(training)
        with _Spelled():
            results = outputs(traced, tuple(nodes))
        edge.extend(tensor.grad_fn for tensor in (*nodes, *results))
        return results

    graph: Any = _Graph()
    leaves = tuple(tensor.detach().clone() for tensor in inputs)
    try:
        with _all_trainable(model), _without_guesses():
            # Fresh containers each time: torch-pruning 1.6.1 shares and mutates its defaults.
            graph.build_dependency(
                model,
                leaves,
                forward_fn=forward,
                unwrapped_parameters=[],
                customized_pruners={},
                ignored_layers=[],
                ignored_params=[],
                verbose=False,
            )
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        got = f"{type(error).__name__}: {error}"
        where = "; ".join([type(model).__name__, *users_lines(error)[-1:]])
        raise ModelError("torch-pruning cannot map this model", got=got, where=where) from error
    finally:
        model.eval()
    _correct_indices(graph)
    return list(_couplings(graph, model, frozenset(node for node in edge if node is not None), aliases))


def has_training_branch(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether layers run in training mode that do not otherwise, as auxiliary heads do; left in eval mode."""
    evaluated = runs(model, inputs)
    return not runs(model, inputs, training=True) <= evaluated


def runs(model: nn.Module, inputs: tuple[Tensor, ...], *, training: bool = False) -> frozenset[nn.Module]:
    """The layers that produce channels and run on these inputs; in training mode none where the model cannot run.

    Raises:
        ModelError: the model cannot run in evaluation mode; says where.
    """
    seen: set[nn.Module] = set()
    hooks = [
        module.register_forward_hook(lambda module, *_: seen.add(module))
        for module in model.modules()
        if isinstance(module, layers.PRODUCERS)
    ]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.train(training)(*inputs)
    except Exception as error:  # noqa: BLE001 - a model's own code may raise anything
        if training:
            return frozenset()
        raise ModelError(
            "the model does not run on the samples",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            where="; ".join([tell_failure(error), *users_lines(error)[-1:]]),
        ) from error
    finally:
        model.eval()
        for hook in hooks:
            hook.remove()
    return frozenset(seen)


class _Spelled(TorchFunctionMode):
    """Spells operations whose indices torch-pruning does not know by those that it does."""

    def __torch_function__(self, func: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None) -> Any:
        spelled = {F.glu: _glu, F.channel_shuffle: _channel_shuffle}.get(func, func)
        return spelled(*args, **(kwargs or {}))


def _glu(input: Tensor, dim: int = -1) -> Tensor:  # noqa: A002
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


def _channel_shuffle(input: Tensor, groups: int) -> Tensor:  # noqa: A002
    return input.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class _Graph(torch_pruning.DependencyGraph):
    """With the sizes of concatenations, which torch-pruning infers from layers nearby and may not find."""

    def _build_dependency(self, module2node: Any) -> None:
        for node in module2node.values():
            if node.type == OPTYPE.CONCAT:
                axis = _saved_dim(node.grad_fn)
                node.module.concat_sizes = [shape[axis] for shape in _read(node)]
        super()._build_dependency(module2node)


@contextmanager
def _all_trainable(model: nn.Module) -> Iterator[None]:
    """Gradients on for every real parameter: tracing follows autograd, and a frozen one would be invisible."""
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        for parameter in flags:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


@contextmanager
def _without_guesses() -> Iterator[None]:
    """Without torch-pruning's guesses behind reshapes, which ours replace, and behind copies of key heads.

    Making or following them may divide by zero.
    """
    guesses = index_mapping.update_reshape_index_mapping, index_mapping.update_expand_index_mapping
    index_mapping.update_reshape_index_mapping = index_mapping.update_expand_index_mapping = lambda *_: None
    try:
        yield
    finally:
        index_mapping.update_reshape_index_mapping, index_mapping.update_expand_index_mapping = guesses


@dataclass(frozen=True, slots=True)
class _Map:
    """Where a channel of one shape lies in another, as a torch-pruning index mapping."""

    move: Callable[[int], Any]
    """Index -> indices."""

    def __call__(self, pairs: list[Any]) -> list[Any]:
        moved = [_helpers._HybridIndex(idx=to, root_idx=pair.root_idx) for pair in pairs for to in self.move(pair.idx)]
        return list(dict.fromkeys(moved))


Maps = tuple[_Map, _Map]
"""Along the direction of the data, and back."""


def _correct_indices(graph: Any) -> None:
    """Give every edge of an operation that moves channels its true indices, from the shapes that autograd recorded."""
    for node in graph.module2node.values():
        met: dict[Any, int] = {}
        for position, source in enumerate(node.inputs):
            nth = met[source] = met.get(source, -1) + 1
            into = [dependency for dependency in source.dependencies if dependency.target is node]
            back = [dependency for dependency in node.dependencies if dependency.target is source]
            if {node.type, source.type} & {OPTYPE.CONCAT, OPTYPE.SPLIT, OPTYPE.RESHAPE, OPTYPE.SLICE} or _moves(node):
                left, entered = _leave(source, node, nth), _enter(node, position)
                into[nth].index_mapping = [left and left[0], entered and entered[0]]
                back[nth].index_mapping = [entered and entered[1], left and left[1]]


def _leave(source: Any, node: Any, nth: int) -> Maps | None:
    """What a split or a slice does to the indices of what reads it."""
    if source.type == OPTYPE.SPLIT and (sizes := _split_sizes(source)) is not None:
        ports = [port for function, port in node.grad_fn.next_functions if function is source.grad_fn]
        if nth < len(ports):
            whole, part = _joined(sum(sizes[: ports[nth]]), sizes[ports[nth]])
            return part, whole
    if source.type == OPTYPE.SLICE and _saved_dim(source.grad_fn) == (axis := _axis(source)):
        size, step = _written(source)[axis], source.grad_fn._saved_step
        start = _signed(source.grad_fn._saved_start) % _read(source)[0][axis]
        forward = _Map(lambda i: [(i - start) // step] if i >= start and not (i - start) % step else [])
        return (_Map(lambda i: [to for to in forward.move(i) if to < size]), _Map(lambda i: [i * step + start]))
    return None


def _enter(node: Any, position: int) -> Maps | None:
    """What a concatenation, a reshape or a shuffle does to the indices of what it reads."""
    read = _read(node)
    if node.type == OPTYPE.CONCAT:
        axis = _saved_dim(node.grad_fn)
        if axis != _axis(node) or len(read) != len(node.inputs):
            return None
        sizes = [shape[axis] for shape in read]
        return _joined(sum(sizes[:position]), sizes[position])
    if node.type == OPTYPE.RESHAPE and read:
        return _reshape(node, read[0], _written(node))
    return _moves(node)


def _moves(node: Any) -> Maps | None:
    """What a shuffle of channels or of pixels does, which torch-pruning takes for element-wise."""
    name = node.grad_fn.name() if hasattr(node.grad_fn, "name") else ""
    if (shuffled := _shuffled(node)) is not None:
        rows, columns = shuffled
        return (
            _Map(lambda i: [i % columns * rows + i // columns]),
            _Map(lambda i: [i % rows * columns + i // rows]),
        )
    if name.startswith("PixelShuffle"):
        area = node.grad_fn._saved_upscale_factor**2
        return _Map(lambda i: [i // area]), _Map(lambda i: range(i * area, (i + 1) * area))
    return None


def _joined(offset: int, size: int) -> Maps:
    """Indices of a part in the whole that it becomes a part of, from an offset on."""
    return _Map(lambda i: [i + offset]), _Map(lambda i: [i - offset] if 0 <= i - offset < size else [])


def _reshape(node: Any, read: tuple[int, ...], written: tuple[int, ...]) -> Maps | None:
    """What a flattening of all but the batch does, or its reverse; other reshapes are taken to keep the channels."""
    whole, flat = (read, written) if len(written) == 2 else (written, read)
    if len(flat) != 2 or len(whole) == 2 or whole[0] != flat[0] or prod(whole[1:]) != flat[1]:
        return None
    only = _only_wide(whole)
    axis = _axis(node, len(whole), before=whole is read) if only is None else only
    before, size, after = prod(whole[1:axis]), whole[axis], prod(whole[axis + 1 :])
    spread = _Map(lambda i: [(b * size + i) * after + a for b in range(before) for a in range(after)])
    gather = _Map(lambda i: [i // after % size])
    return (spread, gather) if whole is read else (gather, spread)


def _shuffled(node: Any) -> tuple[int, int] | None:
    """Rows and columns of the channels that a transposition shuffles: (g, c / g) of [N, g, c / g, ...]."""
    function = node.grad_fn
    if not hasattr(function, "_saved_dim0") or {function._saved_dim0, function._saved_dim1} != {1, 2}:
        return None
    shape = _written(node)  # [N, c / g, g, ...]
    return (shape[2], shape[1]) if len(shape) == 5 else None


def _split_sizes(node: Any) -> list[int] | None:
    """Channels of every part of a split of channels; None where something else is split."""
    axis = _saved_dim(node.grad_fn)
    return [part.shape[axis] for part in node.grad_fn._input_metadata] if axis == _axis(node) else None


def _saved_dim(function: Any) -> int:
    """The dimension that an operation works on, -1 where it has none; autograd keeps a negative one unsigned."""
    dim = getattr(function, "_saved_dim", None)
    if dim is None:
        return -1
    return _signed(dim) % len(function._input_metadata[0].shape)


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _axis(node: Any, ndim: int | None = None, *, before: bool = False) -> int:
    """The dimension that holds channels: the last where the nearest layer takes them there, else 1.

    Args:
        node: of an operation.
        ndim: of what it writes, or reads; None takes what it writes.
        before: whether the layer that wrote the channels decides, instead of the one that reads them.
    """
    ndim, waiting, seen = len(_written(node)) if ndim is None else ndim, [node], set()
    while waiting and ndim > 2:
        current = waiting.pop(0)
        for near in current.inputs if before else current.outputs:
            if near in seen:
                continue
            seen.add(near)
            if not type(near.module).__module__.startswith("torch_pruning") and not isinstance(
                near.module, nn.Parameter
            ):
                return layers.channel_dim(near.module) % ndim
            flattens = len(_written(near)) == 2 and len(_written(current)) == ndim
            if flattens and not before and len(remaining := _remaining(near.grad_fn, ndim)) == 1:
                return remaining[0]
            if flattens and not before and (only := _only_wide(_written(current))) is not None:
                return only
            if not flattens or _written(near)[0] != _written(current)[0]:  # positions joined with the batch are tokens
                waiting.append(near)
    return 1


def _only_wide(shape: tuple[int, ...]) -> int | None:
    """The dimension of a single token's, or a single pixel's, channels: the only one behind the first that is not 1."""
    wide = [dim for dim, size in enumerate(shape) if dim and size > 1]
    return wide[0] if len(wide) == 1 else None


def _remaining(function: Any, ndim: int) -> list[int]:
    """The dimensions behind the first that an operation does not reduce or select from; none where it does neither."""
    saved = getattr(function, "_saved_dim", None)
    if saved is None or not function.name().startswith(("Mean", "Sum", "Max", "Min", "Amax", "Amin", "Select")):
        return []
    gone = {_signed(dim) % ndim for dim in (saved if isinstance(saved, tuple) else (saved,))}
    return [dim for dim in range(1, ndim) if dim not in gone]


def _read(node: Any) -> list[tuple[int, ...]]:
    """Shapes of what an operation reads, as far as gradients flow there."""
    sources = [(function, port) for function, port in node.grad_fn.next_functions if function is not None]
    return [
        tuple(function.variable.shape if hasattr(function, "variable") else function._input_metadata[port].shape)
        for function, port in sources
    ]


def _written(node: Any) -> tuple[int, ...]:
    """Shape of what an operation writes; of its first output where it has several."""
    return tuple(node.grad_fn._input_metadata[0].shape)


def _couplings(
    graph: Any, model: nn.Module, edge: frozenset[Any], aliases: Mapping[nn.Module, str]
) -> Iterator[Coupling]:
    paths = {module: aliases.get(module, path) for path, module in model.named_modules()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen: set[Any] = set()
    for root, path in paths.items():
        roots = isinstance(root, (*layers.PRODUCERS, nn.Embedding))
        if not roots or root in seen or root not in graph.module2node:
            continue
        width = graph.get_out_channels(root)
        parts: list[Part] = []
        links: set[tuple[int, ...]] = set()
        operations = set()
        at_edge = False
        for (node, handler), pairs in _reach(graph, root, width).items():
            # The layer that computes an output reads prunable channels; only what it writes is fixed.
            side = "out" if graph.is_out_channel_pruning_fn(handler) else "in"
            is_edge = node.grad_fn in edge or node.type == graph.ops.OPTYPE.OUTPUT
            at_edge |= is_edge and side == "out"
            named = names.get(id(node.module)) if isinstance(node.module, nn.Parameter) else paths.get(node.module)
            if named is None:
                operations.add(node.grad_fn.name())
                links.update(_tied(node, pairs))
                continue
            if side == "out" and isinstance(node.module, nn.Module):
                seen.add(node.module)
            by_index: dict[int, list[int]] = {}
            for index, channel in sorted(pairs):
                by_index.setdefault(index, []).append(channel)
            links.update(tuple(channels) for channels in by_index.values() if len(channels) > 1)
            first = tuple(channels[0] for channels in by_index.values())
            parts.append(Part(named, side, first, tuple(by_index)))
        described = tuple(sorted(operations))
        yield Coupling(path, width, tuple(parts), tuple(sorted(links)), described, at_edge)


def _tied(node: Any, pairs: set[tuple[int, int]]) -> set[tuple[int, ...]]:
    """Channels that must leave together at an operation: equal parts stay equal, and rows of a shuffle alike."""
    if (shuffled := _shuffled(node)) is not None:
        step, period = shuffled[0], shuffled[1]
    elif node.type == OPTYPE.SPLIT and (sizes := _split_sizes(node)) and len(set(sizes)) == 1:
        step, period = 1, sizes[0]
    else:
        return set()
    tied: dict[int, list[int]] = {}
    for index, channel in sorted(pairs):
        tied.setdefault(index // step % period, []).append(channel)
    return {tuple(dict.fromkeys(channels)) for channels in tied.values() if len(channels) > 1}


def _reach(graph: Any, root: nn.Module, width: int) -> dict[tuple[Any, Any], set[tuple[int, int]]]:
    """Follow the graph from the outputs of one layer: (node, pruning function) -> (index, channel) pairs.

    torch-pruning 1.6.1 has this walk too (`get_pruning_group`), but compares lists of indices whose order varies, so it
    need not end, and it forgets all but the first channel of a shared index, so linked channels look free.
    """
    node, start = graph.module2node[root], graph.get_pruner_of_module(root).prune_out_channels
    pairs = [_helpers._HybridIndex(idx=channel, root_idx=channel) for channel in range(width)]
    reached: dict[tuple[Any, Any], set[Any]] = {(node, start): set(pairs)}
    waiting = [(node, start, pairs)]
    while waiting:
        node, handler, pairs = waiting.pop()
        for dependency in node.dependencies:
            if not dependency.is_triggered_by(handler):
                continue
            mapped = pairs
            for mapping in dependency.index_mapping:
                mapped = mapped if mapping is None else mapping(mapped)
            step = dependency.target, dependency.handler
            known = reached.setdefault(step, set())
            fresh = [pair for pair in dict.fromkeys(mapped) if pair not in known]
            known.update(fresh)
            bound = _find_bound(graph, *step)
            # A wrong index is reported with its layer, but not followed: it could grow without end.
            if inside := [pair for pair in fresh if pair.idx < bound]:
                waiting.append((*step, inside))
    return {step: pairs for step, pairs in reached.items() if pairs}


def _find_bound(graph: Any, node: Any, handler: Any) -> int:
    """A number that no right index of a node reaches: a layer's channels, or all elements that an operation returns."""
    size = (graph.get_out_channels if graph.is_out_channel_pruning_fn(handler) else graph.get_in_channels)(node)
    return size or sum(prod(output.shape) for output in node.grad_fn._input_metadata)
