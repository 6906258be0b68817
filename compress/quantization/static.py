"""Writes a static quant plan into a float graph as Q/DQ pairs, the form every runtime reads.

For x86: activations uint8 with zero point, weights int8 symmetric per output channel, biases int32. ONNX Runtime turns
the pairs into integer kernels when it loads the file.
"""

import numpy as np
import onnx

from compress.errors import StageError
from compress.export.onnx_file import check_model
from compress.quantization.edit import Editor
from compress.quantization.embedding import write_embedding
from compress.quantization.formulas import activation_scale, output_axis, quantize_weight, weight_scale
from compress.quantization.plan import Activation, QuantPlan, resolve
from compress.quantization.view import GraphView


def write_static(model: onnx.ModelProto, plan: QuantPlan) -> onnx.ModelProto:
    """Returns a copy of the float `model` with the Q/DQ pairs of a static `plan`.

    Raises:
        StageError: the plan is not static, or names places that the graph does not have.
    """
    if plan.mode != "static":
        raise StageError("the plan is not static", expected="static", got=plan.mode)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    view = GraphView(quantized.graph)
    nodes, activations = resolve(plan, view)
    scales = {name: activation_scale(entry.low, entry.high) for name, entry in activations.items()}
    editor = Editor(quantized.graph)
    for node in nodes:
        if node.op_type == "Gather":
            write_embedding(editor, view, node, reduce_range=plan.reduce_range)
            continue
        _write_layer(editor, view, node, input_scale=float(scales[node.input[0]][0]), reduce_range=plan.reduce_range)
    _write_activations(editor, view, activations, scales)
    editor.finish()
    check_model(quantized)
    return quantized


def _write_layer(
    editor: Editor, view: GraphView, node: onnx.NodeProto, *, input_scale: float, reduce_range: bool
) -> None:
    weight_name, axis = node.input[1], output_axis(node)
    bias = view.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    weight = view.array(weight_name)
    scale = weight_scale(weight, axis=axis, reduce_range=reduce_range, bias=bias, input_scale=input_scale)
    int8 = editor.constant(f"{weight_name}_int8", quantize_weight(weight, scale, axis=axis))
    scale_name = editor.constant(f"{weight_name}_scale", scale)
    inputs = [int8, scale_name]
    if node.op_type == "Gemm":  # QGemm is only made from pairs that spell out the zero point
        inputs.append(editor.own_constant(f"zero_int8_{len(scale)}", np.zeros(len(scale), np.int8)))
    restored = f"{weight_name}_dequantized{scale_name.removeprefix(f'{weight_name}_scale')}"
    node.input[1] = editor.add("DequantizeLinear", inputs, [restored], attributes={"axis": axis})
    if bias is not None:
        bias_scale = (np.float32(input_scale) * scale).astype(np.float32)
        name = f"{node.name}.bias"
        int32 = editor.constant(f"{name}_int32", np.round(bias / bias_scale).astype(np.int32))
        inputs = [int32, editor.constant(f"{name}_scale", bias_scale)]
        node.input[2] = editor.add("DequantizeLinear", inputs, [f"{name}_dequantized"], attributes={"axis": 0})


def _write_activations(
    editor: Editor, view: GraphView, activations: dict[str, Activation], scales: dict[str, tuple[np.float32, np.uint8]]
) -> None:
    for name in activations:
        scale, zero = scales[name]
        constants = [editor.constant(f"{name}_scale", np.array(scale)), editor.constant(f"{name}_zero", np.array(zero))]
        readers = view.readers(name)
        quantized = editor.add("QuantizeLinear", [name, *constants], [f"{name}_uint8"])
        restored = editor.add("DequantizeLinear", [quantized, *constants], [f"{name}_dequantized"])
        for node in readers:
            for index, value in enumerate(node.input):
                if value == name:
                    node.input[index] = restored
