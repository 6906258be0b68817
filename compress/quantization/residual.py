"""Keeps a LayerNormalization apart from the residual addition before it, for ONNX Runtime's CPU kernels.

When ONNX Runtime loads a graph it fuses Add and LayerNormalization into SkipLayerNormalization, whose CPU kernel works
element by element (ONNX Runtime 1.32: 100 us for 64 x 384 where LayerNormalization takes 12 and Add 5). In int8 the
products are so fast that this is up to a quarter of a small encoder's latency (docs/encoders.md; repeat it with
benchmarks/encoder_graphs.py, and drop this file when the fused kernel wins). A Sum of two computes what Add
computes, in the same time, and is in no fusion.
"""

import onnx

from compress.quantization.view import GraphView


def keep_residuals_apart(graph: onnx.GraphProto) -> None:
    """Turns every Add that a LayerNormalization reads into a Sum, in place."""
    view = GraphView(graph)
    for node in graph.node:
        added = view.producer.get(node.input[0]) if node.op_type == "LayerNormalization" else None
        if added is not None and added.op_type == "Add":
            added.op_type = "Sum"
