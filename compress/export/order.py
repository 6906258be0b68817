"""The order of nodes that ONNX asks for: none before what it reads."""

from collections.abc import Collection, Sequence

import onnx


def in_order(nodes: Sequence[onnx.NodeProto], known: Collection[str]) -> list[onnx.NodeProto]:
    """Topological order that is otherwise the given one.

    Args:
        nodes: without a cycle.
        known: graph inputs and constants.
    """
    ordered: list[onnx.NodeProto] = []
    known = {*known, ""}
    while nodes:
        later = []
        for node in nodes:
            if all(name in known for name in node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                later.append(node)
        assert len(later) < len(nodes), "the graph has a cycle or reads a value that nothing makes"
        nodes = later
    return ordered
