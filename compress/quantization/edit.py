"""Edits of an ONNX graph: collect new nodes and constants, then put them in, sorted, without what nobody reads."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compress.export.order import in_order


class Editor:
    """Collects edits of `graph`; nothing but inputs of nodes changes before `finish`.

    Attributes:
        graph: what is edited.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self._nodes = list(graph.node)
        self._made: set[str] = set()
        self._constants = {tensor.name: tensor for tensor in graph.initializer}

    def constant(self, name: str, array: np.ndarray) -> str:
        """Adds a constant unless one of that name and content is there; returns its name.

        Where the name stands for another content, as where two uses of one weight differ, it gets ``#1``, ``#2`` ...
        """
        tensor, number = numpy_helper.from_array(array, name), 0
        while tensor.name in self._constants and not _is_same(self._constants[tensor.name], tensor):
            number += 1
            tensor.name = f"{name}#{number}"
        self._constants.setdefault(tensor.name, tensor)
        return tensor.name

    def own_constant(self, name: str, array: np.ndarray) -> str:
        """Adds a constant for one reader, numbered where the name is taken; returns its name."""
        number, unique = 0, name
        while unique in self._constants:
            number += 1
            unique = f"{name}#{number}"
        return self.constant(unique, array)

    def add(
        self,
        op_type: str,
        inputs: list[str],
        outputs: list[str],
        *,
        attributes: Mapping[str, int] | None = None,
        domain: str = "",
    ) -> str:
        """Adds a node called after its first output, unless this editor made it before; returns that output."""
        if outputs[0] not in self._made:
            self._made.add(outputs[0])
            node = helper.make_node(op_type, inputs, outputs, name=outputs[0], domain=domain)
            node.attribute.extend(helper.make_attribute(key, value) for key, value in (attributes or {}).items())
            self._nodes.append(node)
        return outputs[0]

    def remove(self, node: onnx.NodeProto) -> None:
        """Takes out a node whose outputs another one makes."""
        self._nodes = [other for other in self._nodes if other is not node]

    def finish(self) -> None:
        """Applies the edits."""
        outputs = {value.name for value in self.graph.output}
        known = {*self._constants, *(value.name for value in self.graph.input)}
        nodes = in_order(self._nodes, known)
        used = {name for node in nodes for name in node.input} | outputs
        constants = [tensor for name, tensor in self._constants.items() if name in used]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        del self.graph.initializer[:]
        self.graph.initializer.extend(constants)


def _is_same(left: onnx.TensorProto, right: onnx.TensorProto) -> bool:
    return (left.data_type, left.dims, left.raw_data) == (right.data_type, right.dims, right.raw_data)
