"""Lookups in an ONNX graph: who makes a value, who reads it, what is constant."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper


@dataclass(frozen=True)
class GraphView:
    """An index of `graph` at the time of construction; it does not follow later edits.

    Attributes:
        graph: the indexed graph.
        producer: value to the node that makes it.
        consumers: value to the nodes that read it, in graph order.
        constants: initializers by name.
        outputs: names of the graph outputs.
    """

    graph: onnx.GraphProto
    producer: dict[str, onnx.NodeProto] = field(init=False)
    consumers: dict[str, list[onnx.NodeProto]] = field(init=False)
    constants: dict[str, onnx.TensorProto] = field(init=False)
    outputs: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        consumers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for name in dict.fromkeys(node.input):
                consumers[name].append(node)
        set_field = object.__setattr__  # the way a frozen dataclass fills derived fields
        set_field(self, "producer", {name: node for node in self.graph.node for name in node.output})
        set_field(self, "consumers", dict(consumers))
        set_field(self, "constants", {tensor.name: tensor for tensor in self.graph.initializer})
        set_field(self, "outputs", frozenset(value.name for value in self.graph.output))

    def readers(self, value: str) -> list[onnx.NodeProto]:
        """The nodes that read `value`."""
        return self.consumers.get(value, [])

    def array(self, name: str) -> np.ndarray:
        """The value of a constant."""
        return numpy_helper.to_array(self.constants[name])

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """The inputs of `node` that depend on data."""
        return [name for name in node.input if name and name not in self.constants]


def weight_of(node: onnx.NodeProto) -> str:
    """The input of a layer that is its weight; of an embedding, its table."""
    return node.input[0] if node.op_type == "Gather" else node.input[1]


def attribute(node: onnx.NodeProto, name: str, default: int | float) -> int | float:
    """A number among the attributes of `node`."""
    for entry in node.attribute:
        if entry.name == name:
            return entry.f if entry.type == onnx.AttributeProto.FLOAT else entry.i
    return default
