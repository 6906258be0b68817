"""Weights of few bits that need no ranges of activations: MatMulNBits of ONNX Runtime.

A step of writing multiplies one symbol's vector with every weight of the decoder, so it waits for the weights to come
from memory, and fewer bytes are less waiting. Blocks of 32 weights along the inputs share a scale, found by ONNX
Runtime's own rounding; nothing of the activations has to be known beforehand. Embeddings are int8 by row, as
`compress.quantization.embedding` has them.
"""

import numpy as np
import onnx
from onnx import helper
from onnxruntime.capi import _pybind_state

from compress.export.onnx_file import check_model
from compress.quantization.edit import Editor
from compress.quantization.embedding import write_embedding
from compress.quantization.formulas import output_axis
from compress.quantization.placement import find_obstacle, layers
from compress.quantization.view import GraphView

BLOCK = 32  # weights that share a scale
ACCURACY_LEVEL = 4  # activations of each block are rounded to int8, which is what is fast on CPUs
DOMAIN = "com.microsoft"
ROUNDERS = {4: "quantize_matmul_4bits", 8: "quantize_matmul_8bits"}


def has_products(model: onnx.ModelProto) -> bool:
    """Whether a float graph has a Gemm or MatMul whose weights could have few bits."""
    view = GraphView(model.graph)
    return any(_is_product(view, node) for node in layers(view))


def write_weight_only(model: onnx.ModelProto, *, bits: int) -> onnx.ModelProto:
    """Return a copy of a float graph whose Gemm and MatMul layers have weights of 4 or 8 bits."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    view, editor = GraphView(made.graph), Editor(made.graph)
    for node in layers(view):
        if _is_product(view, node):
            _write_layer(editor, view, node, bits=bits)
        elif node.op_type == "Gather" and find_obstacle(view, node) is None:
            write_embedding(editor, view, node, reduce_range=False)
    editor.finish()
    made.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    check_model(made)
    return made


def _is_product(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a layer is a product with a float32 matrix."""
    if node.op_type not in {"Gemm", "MatMul"} or find_obstacle(view, node) is not None:
        return False
    return view.constants[node.input[1]].data_type == onnx.TensorProto.FLOAT


def _write_layer(editor: Editor, view: GraphView, node: onnx.NodeProto, *, bits: int) -> None:
    name, output, weight = node.input[1], node.output[0], view.array(node.input[1])
    weight = np.ascontiguousarray(weight.T if output_axis(node) == 0 else weight)
    packed, scales, zeros = round_blocks(weight, bits=bits)
    label = f"{name}_int{bits}"
    inputs = [
        node.input[0],
        editor.constant(label, packed),
        editor.constant(f"{label}_scale", scales),
        editor.constant(f"{label}_zero", zeros),
    ]
    bias = node.input[2] if len(node.input) > 2 else ""
    size = {"K": weight.shape[0], "N": weight.shape[1]}
    attributes = {**size, "bits": bits, "block_size": BLOCK, "accuracy_level": ACCURACY_LEVEL}
    product = f"{node.name}/product" if bias else output
    editor.add("MatMulNBits", inputs, [product], attributes=attributes, domain=DOMAIN)
    if bias:
        editor.add("Add", [product, bias], [output])
    editor.remove(node)


def round_blocks(weight: np.ndarray, *, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a weight in blocks, as MatMulNBits takes it: integers, scales, zero points.

    Args:
        weight: float32 [K, N].
        bits: 4 or 8.

    Returns:
        uint8 [N, blocks, BLOCK * bits / 8], float32 [N * blocks], uint8 [N * ceil(blocks * bits / 8)].
    """
    rows, columns = weight.shape
    blocks = -(-rows // BLOCK)
    packed = np.zeros((columns, blocks, BLOCK * bits // 8), np.uint8)
    scales = np.zeros(columns * blocks, np.float32)
    zeros = np.zeros(columns * -(-blocks * bits // 8), np.uint8)
    getattr(_pybind_state, ROUNDERS[bits])(packed, weight, scales, zeros, BLOCK, columns, rows, False)
    return packed, scales, zeros
