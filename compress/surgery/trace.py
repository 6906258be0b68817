"""Ask torch-pruning's dependency graph which layers are coupled; the only module that knows torch-pruning.

The graph is traced through autograd (DepGraph, Fang et al., arXiv 2301.12900). What it says is handed on as values
and proved elsewhere: it treats every operation that it does not know as element-wise, and guesses indices behind
reshapes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning import _helpers
from torch_pruning.dependency import index_mapping

from compress.errors import ModelError
from compress.surgery import layers
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
    """Channels that pull each other in, as the halves of a gated unit do."""
    parameters: tuple[str, ...]
    """Names of bare parameters that depend on the channels."""
    operations: tuple[str, ...]
    """Autograd names of the functional operations in between."""
    at_edge: bool
    """Whether the channels are, or are added to, an input or output of the model."""


def couplings(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Coupling]:
    """Every set of coupled channels, each once, in the model's order.

    Args:
        model: in eval mode, on the CPU; gradient flags are restored.
        inputs: positional arguments.

    Raises:
        ModelError: torch-pruning fails on the model.
    """
    edge: list[Any] = []

    def forward(traced: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # A leaf input has no autograd node, so what is added to it would look free; a clone has one.
        nodes = [tensor.requires_grad_().clone() if tensor.is_floating_point() else tensor for tensor in arguments]
        results = outputs(traced, tuple(nodes))
        edge.extend(tensor.grad_fn for tensor in (*nodes, *results))
        return results

    graph: Any = torch_pruning.DependencyGraph()
    leaves = tuple(tensor.detach().clone() for tensor in inputs)
    with _all_trainable(model):
        try:
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
        except (AttributeError, AssertionError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
            got = f"{type(error).__name__}: {error}"
            raise ModelError("torch-pruning cannot map this model", got=got, where=type(model).__name__) from error
    _correct_concatenations(graph)
    return list(_couplings(graph, model, frozenset(node for node in edge if node is not None)))


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


def _correct_concatenations(graph: Any) -> None:
    """Give every concatenation of channels its true offsets.

    torch-pruning infers them from the sizes of layers nearby, and leaves them out where it fails, as before a
    flattening.
    """
    for node in graph.module2node.values():
        if node.type != graph.ops.OPTYPE.CONCAT or node.grad_fn._saved_dim != 1:
            continue
        traced = [part for part in node.grad_fn.next_functions if part[0] is not None]
        sizes = [source._input_metadata[port].shape[1] for source, port in traced]
        if len(sizes) != len(node.inputs) or sum(sizes) != node.grad_fn._input_metadata[0].shape[1]:
            continue  # a part without gradient is missing: the trial will tell whether that matters
        node.module.concat_sizes = sizes
        for position, source in enumerate(node.inputs):
            start, nth = sum(sizes[:position]), node.inputs[:position].count(source)
            offset = [start, start + sizes[position]]
            into = [dependency for dependency in source.dependencies if dependency.target is node]
            back = [dependency for dependency in node.dependencies if dependency.target is source]
            into[nth].index_mapping[1] = index_mapping._ConcatIndexMapping(offset, reverse=False)
            back[nth].index_mapping[1] = index_mapping._ConcatIndexMapping(offset, reverse=True)


def _couplings(graph: Any, model: nn.Module, edge: frozenset[Any]) -> Iterator[Coupling]:
    paths = {module: path for path, module in model.named_modules()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen: set[nn.Module] = set()
    for root, path in paths.items():
        if not isinstance(root, layers.PRODUCERS) or root in seen or root not in graph.module2node:
            continue
        width = graph.get_out_channels(root)
        parts: list[Part] = []
        links: set[tuple[int, ...]] = set()
        parameters, operations = [], set()
        at_edge = False
        for (node, handler), pairs in _reach(graph, root, width).items():
            # The layer that computes an output reads prunable channels; only what it writes is fixed.
            side = "out" if graph.is_out_channel_pruning_fn(handler) else "in"
            is_edge = node.grad_fn in edge or node.type == graph.ops.OPTYPE.OUTPUT
            at_edge |= is_edge and side == "out"
            if isinstance(node.module, nn.Parameter):
                parameters.append(names[id(node.module)])
            elif node.module in paths:
                if side == "out":
                    seen.add(node.module)
                by_index: dict[int, list[int]] = {}
                for index, channel in sorted(pairs):
                    by_index.setdefault(index, []).append(channel)
                links.update(tuple(channels) for channels in by_index.values() if len(channels) > 1)
                first = tuple(channels[0] for channels in by_index.values())
                parts.append(Part(paths[node.module], side, first, tuple(by_index)))
            else:
                operations.add(node.grad_fn.name())
        described = tuple(sorted(operations))
        yield Coupling(path, width, tuple(parts), tuple(sorted(links)), tuple(parameters), described, at_edge)


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
