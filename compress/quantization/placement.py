"""Where int8 begins and ends in a float graph, for ONNX Runtime's CPU kernels.

A *layer* is a node with a constant weight: Conv, Gemm, MatMul with a matrix, or an embedding: Gather from a table. An
embedding only stores int8; it neither reads nor writes an int8 value, and its rules are the same in every mode. A
*companion* is an operation that
ONNX Runtime can run between int8 layers without going back to float. A value that gets a Q/DQ pair is an *int8 value*.
The rules, each because it is what ONNX Runtime fuses:

* A layer reads an int8 value. A convolution must also write one (there is no kernel from int8 to float); a Gemm or
  MatMul writes float unless something in int8 reads it, so heads and layers before a float activation keep full
  precision and save a pair. A Gemm before a Relu or Clip writes one, because ONNX Runtime would join the two in float.
* Relu and Clip from 0 between a layer (or Add) and its Q are absorbed: the pair goes after them, and the zero point
  does the clipping. A Clip from another bound is not: it runs in float between two pairs.
* A companion joins when everything it reads is in int8 anyway. Operations that only move or select values keep the
  range of their input, and the inputs of a Concat share one range, so that no kernel has to rescale. What comes out of
  a Relu keeps its own range beside signed inputs, because a zero point that makes room for them clips nothing.
* A weight is in int8 for all its readers or for none: a float copy beside the integers would make the file larger. Two
  layers that scale one weight along different axes stay in float.
* The two layers of a squeeze-excite gate see one pixel: int8 saves no time there and risks accuracy, so they stay in
  float, as in NNCF. The gate's output is quantized, so that the feature map is multiplied in int8: on a small MobileNet
  that took 11% off the latency.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from compress.benchmark.model_file import macs
from compress.quantization.formulas import output_axis
from compress.quantization.view import GraphView, attribute, weight_of

Mode = Literal["static", "dynamic"]

CLIPPING = frozenset({"Relu", "Clip"})
SAME_RANGE = frozenset({"MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"})
POOLING = frozenset({"GlobalAveragePool", "AveragePool"})
GATES = frozenset({"Sigmoid", "HardSigmoid"})
SLOW_CONVOLUTION = "ONNX Runtime's dynamic int8 convolution is slower than float"
MIN_TABLE_BYTES = 8192  # below that, int8 saves less than 6 kB, and the three nodes more take a few microseconds
GATE_OPERATIONS = (
    GATES
    | CLIPPING
    | SAME_RANGE
    | {"GlobalAveragePool", "Conv", "Gemm", "MatMul", "Add", "Mul", "HardSwish", "Gelu", "Tanh", "LeakyRelu"}
)


@dataclass(frozen=True)
class Placement:
    """What is in int8.

    Attributes:
        layers: layers in int8, by node name, in graph order.
        values: int8 values, in graph order.
        same: groups of int8 values that share one range.
        kept_float: layers left in float, with the reason.
    """

    layers: tuple[str, ...]
    values: tuple[str, ...]
    same: tuple[frozenset[str], ...]
    kept_float: dict[str, str]


def layers(view: GraphView) -> list[onnx.NodeProto]:
    """Every node with a weight of its own, in graph order, whether or not it can be quantized."""
    found = []
    for node in view.graph.node:
        product = node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"} and node.input[1] in view.constants
        if product or _is_embedding(view, node):
            found.append(node)
    return found


def _is_embedding(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a node looks rows up in a table of weights."""
    table = view.constants.get(node.input[0]) if node.op_type == "Gather" and attribute(node, "axis", 0) == 0 else None
    return table is not None and len(table.dims) == 2 and table.data_type == onnx.TensorProto.FLOAT


def find_obstacle(view: GraphView, node: onnx.NodeProto) -> str | None:
    """Why a layer cannot be quantized, or None."""
    if node.op_type == "Gather":
        small = 4 * math.prod(view.constants[node.input[0]].dims) < MIN_TABLE_BYTES
        alone = all(reader.op_type == "Gather" for reader in view.readers(node.input[0]))
        return "the table is too small to save bytes" if small and alone else None
    if node.op_type == "ConvTranspose":
        return "ONNX Runtime has no int8 kernel for ConvTranspose"
    if node.op_type == "MatMul" and len(view.constants[node.input[1]].dims) != 2:
        return "the weight is not a matrix"
    if node.op_type == "Gemm" and (
        attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
    ):
        return "Gemm scales or transposes its input"
    if len(node.input) > 2 and node.input[2] and node.input[2] not in view.constants:
        return "the bias is not constant"
    return None


def _keep_sharers(view: GraphView, kept: Mapping[str, str]) -> dict[str, str]:
    """The layers that stay in float because of what else reads their weight, with the reason.

    Args:
        view: of the float graph.
        kept: layers that stay in float for a reason of their own.
    """
    found: dict[str, str] = {}
    names = {node.name for node in layers(view)}
    for weight in {weight_of(node) for node in layers(view)}:
        readers = view.readers(weight)
        if len(readers) == 1:
            continue
        held = next((node.name for node in readers if node.name in kept or node.name not in names), None)
        if held is not None:
            reason = f"shares its weight with {held}, which is in float"
        elif len({output_axis(node) for node in readers}) > 1:
            reason = f"{' and '.join(node.name for node in readers)} use one weight along different axes"
        else:
            continue
        found |= {node.name: reason for node in readers if node.name in names and node.name not in kept}
    return found


def squeeze_excite(view: GraphView) -> set[str]:
    """Names of the layers between the global average of a feature map and the gate that multiplies the same map."""
    found: set[str] = set()
    for node in view.graph.node:
        inputs = view.activations(node)
        if node.op_type != "Mul" or len(inputs) != 2:
            continue
        for gated, value in (inputs, inputs[::-1]):
            if _is_gate_of(view, value, inputs):
                chain = _back_to_pool(view, view.producer[value], pooled=gated)
                found |= {layer.name for layer in chain if layer.op_type in {"Conv", "Gemm", "MatMul"}}
    return found


def _is_gate_of(view: GraphView, value: str, inputs: Collection[str]) -> bool:
    """Whether `value` comes from a gate that is not computed from what it is multiplied with, as in a SiLU."""
    gate = view.producer.get(value)
    return gate is not None and gate.op_type in GATES and gate.input[0] not in inputs


def _back_to_pool(view: GraphView, gate: onnx.NodeProto, *, pooled: str) -> list[onnx.NodeProto]:
    """The nodes from `gate` back to the global average of value `pooled`; empty when they lead elsewhere."""
    chain: list[onnx.NodeProto] = []
    frontier = [gate.output[0]]
    while frontier:
        value = frontier.pop()
        node = view.producer.get(value)
        if node is None or node.op_type not in GATE_OPERATIONS:
            return []
        if node.op_type == "GlobalAveragePool":
            if node.input[0] != pooled:
                return []
        elif node not in chain:
            chain.append(node)
            frontier += view.activations(node)
    return chain


def place_static(graph: onnx.GraphProto, *, keep_float: Mapping[str, str] | None = None) -> Placement:
    """Decides which layers and values are in int8, with ranges known beforehand.

    Args:
        graph: float, with named nodes.
        keep_float: layers that must stay in float, by name, with the reason.
    """
    view = GraphView(graph)
    kept = {name: "squeeze-excite gate" for name in squeeze_excite(view)} | dict(keep_float or {})
    kept |= {node.name: reason for node in layers(view) if (reason := find_obstacle(view, node))}
    kept |= _keep_sharers(view, kept)
    quantized = [node for node in layers(view) if node.name not in kept]
    values = {node.input[0] for node in quantized if node.op_type != "Gather"}
    values |= {follow_clip(view, node.output[0]) for node in quantized if _must_write_int8(view, node)}
    same = _add_companions(view, values)
    order = [*(value.name for value in graph.input), *(name for node in graph.node for name in node.output)]
    return Placement(
        layers=tuple(node.name for node in quantized),
        values=tuple(name for name in order if name in values),
        same=tuple(same),
        kept_float=kept,
    )


def place_dynamic(graph: onnx.GraphProto, *, keep_float: Mapping[str, str] | None = None) -> Placement:
    """Decides which layers are in int8 with ranges of each batch: matrix products, and embeddings.

    Dynamic convolutions (ConvInteger) exist, but took 4.5 times as long as float ones on a small CNN, one thread of an
    x86 CPU with VNNI, ONNX Runtime 1.32.

    Args:
        graph: float, with named nodes.
        keep_float: layers that must stay in float, by name, with the reason.
    """
    view = GraphView(graph)
    kept = dict(keep_float or {})
    for node in layers(view):
        if reason := find_obstacle(view, node):
            kept[node.name] = reason
        elif node.op_type == "Conv":
            kept[node.name] = SLOW_CONVOLUTION
    kept |= _keep_sharers(view, kept)
    quantized = tuple(node.name for node in layers(view) if node.name not in kept)
    return Placement(layers=quantized, values=(), same=(), kept_float=kept)


def usual_mode(model: onnx.ModelProto, *, min_int8_macs_fraction: float = 0.0) -> Mode:
    """How a float graph is quantized when nobody says: dynamic for attention, static for convolutions.

    Attention is a product of two activations. On encoders static int8 was no faster than dynamic (docs/encoders.md),
    and it needs calibration and clips outliers; on convolutions dynamic int8 is slower than float, so they would stay
    in float. A graph with both goes by where its multiply-accumulates with a weight are.

    Args:
        model: float.
        min_int8_macs_fraction: the share that has to be in int8, 0 to 1; below a half, a half.
    """
    view = GraphView(model.graph)
    if not any(node.op_type == "MatMul" and len(view.activations(node)) == 2 for node in model.graph.node):
        return "static"
    if not any(node.op_type == "Conv" for node in layers(view)):
        return "dynamic"
    counts = macs(model)
    weighted = {node.name: counts.get(node.name, 0) for node in layers(view)}
    convolutions = sum(weighted[node.name] for node in layers(view) if node.op_type == "Conv")
    is_enough = convolutions <= (1 - max(0.5, min_int8_macs_fraction)) * sum(weighted.values())
    return "dynamic" if is_enough else "static"


def follow_clip(view: GraphView, value: str) -> str:
    """`value`, or what is left of it after the Relu, or the Clip from 0, that alone reads it."""
    readers = view.readers(value)
    if len(readers) == 1 and value not in view.outputs and _clips_at_zero(view, readers[0]):
        return readers[0].output[0]
    return value


def _must_write_int8(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a layer has an int8 kernel only if its output is int8 too."""
    readers = view.readers(node.output[0])
    is_joined = node.op_type == "Gemm" and len(readers) == 1 and readers[0].op_type in CLIPPING
    return node.op_type == "Conv" or is_joined


def _clips_at_zero(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether the zero point of a uint8 value can do what a node does at its lower end."""
    if node.op_type == "Relu":
        return True
    lower = node.input[1] if node.op_type == "Clip" and len(node.input) > 1 else ""
    return lower in view.constants and not view.array(lower).any()


def _starts_at_zero(view: GraphView, value: str) -> bool:
    """Whether a value comes from a Relu, or a Clip from 0, through operations that keep its range."""
    node = view.producer.get(value)
    if node is None:
        return False
    if node.op_type in SAME_RANGE or node.op_type == "Concat":
        return all(_starts_at_zero(view, name) for name in view.activations(node))
    return _clips_at_zero(view, node)


def _add_companions(view: GraphView, values: set[str]) -> list[frozenset[str]]:
    """Extends `values` in place over the companions; returns the groups that share a range.

    A Gemm or MatMul whose output only a companion reads stays out: float to float is cheaper than two pairs.
    """
    group: dict[str, set[str]] = {}

    def share(names: Collection[str]) -> None:
        merged = set().union(*(group.get(name, {name}) for name in names))
        for name in merged:
            group[name] = merged

    for node in view.graph.node:
        inputs = view.activations(node)
        if node.op_type == "Mul" and any(name in values for name in inputs):
            values.update(name for name in inputs if _is_gate_of(view, name, inputs))
        if not inputs or not all(name in values for name in inputs):
            continue
        output = node.output[0]
        if node.op_type in SAME_RANGE and len(inputs) == 1:
            values.add(output)
            share((inputs[0], output))
        elif node.op_type == "Concat":
            values.add(output)
            signed = [name for name in inputs if not _starts_at_zero(view, name)]
            share((*(signed or inputs), output))
        elif node.op_type in POOLING:
            values.add(output)
        elif node.op_type in {"Add", "Mul"} and len(inputs) == 2:
            values.add(follow_clip(view, output))
    return list({id(names): frozenset(names) for names in group.values()}.values())
