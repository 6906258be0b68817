"""Writes a dynamic quant plan: int8 weights, and activations quantized batch by batch with ranges of their own.

Each layer becomes DynamicQuantizeLinear, MatMulInteger, and a multiplication with both scales; ONNX Runtime fuses
them, bias included, into DynamicQuantizeMatMul. A Gemm's weight is transposed once, here; a weight that is a table of
rows for another reader stays as it is, and ONNX Runtime transposes it when it loads the file.
"""

import numpy as np
import onnx

from compress.errors import StageError
from compress.export.onnx_file import check_model
from compress.quantization.edit import Editor
from compress.quantization.embedding import write_embedding
from compress.quantization.formulas import output_axis, quantize_weight, weight_scale
from compress.quantization.plan import QuantPlan, resolve
from compress.quantization.view import GraphView


def write_dynamic(model: onnx.ModelProto, plan: QuantPlan) -> onnx.ModelProto:
    """Returns a copy of the float `model` with the layers of a dynamic `plan` in int8.

    Raises:
        StageError: the plan is not dynamic, or names a layer that the graph lacks or that has no dynamic int8 form.
    """
    if plan.mode != "dynamic":
        raise StageError("the plan is not dynamic", expected="dynamic", got=plan.mode)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    view = GraphView(quantized.graph)
    nodes, _ = resolve(plan, view)
    editor = Editor(quantized.graph)
    for node in nodes:
        if node.op_type == "Gather":
            write_embedding(editor, view, node, reduce_range=plan.reduce_range)
        elif node.op_type in {"Gemm", "MatMul"}:
            _write_layer(editor, view, node, reduce_range=plan.reduce_range)
        else:
            raise StageError("dynamic int8 covers Gemm, MatMul and embeddings", got=node.op_type, where=node.name)
    editor.finish()
    check_model(quantized)
    return quantized


def _write_layer(editor: Editor, view: GraphView, node: onnx.NodeProto, *, reduce_range: bool) -> None:
    weight_name, value, name = node.input[1], node.input[0], node.name
    weight, axis = view.array(weight_name), output_axis(node)
    scale = weight_scale(weight, axis=axis, reduce_range=reduce_range)
    array = quantize_weight(weight, scale, axis=axis)
    is_table = any(reader.op_type == "Gather" for reader in view.readers(weight_name))
    if axis == 0 and not is_table:
        array = np.ascontiguousarray(array.T)
    int8 = editor.constant(f"{weight_name}_int8", array)
    if axis == 0 and is_table:
        int8 = editor.add("Transpose", [int8], [f"{int8}/transposed"])
    scale_name = editor.constant(f"{weight_name}_scale", scale)
    # Of its own: on CPUs without VNNI ONNX Runtime replaces every layer's, and cannot where two share one.
    zero = editor.own_constant(f"zero_int8_{len(scale)}", np.zeros(len(scale), np.int8))
    parts = [f"{value}_uint8", f"{value}_scale", f"{value}_zero"]
    editor.add("DynamicQuantizeLinear", [value], parts)
    product = editor.add("MatMulInteger", [parts[0], int8, parts[2], zero], [f"{name}/int32"])
    product = editor.add("Cast", [product], [f"{name}/float"], attributes={"to": onnx.TensorProto.FLOAT})
    both = editor.add("Mul", [parts[1], scale_name], [f"{name}/scale"])
    bias = node.input[2] if len(node.input) > 2 else ""
    output = node.output[0]
    product = editor.add("Mul", [product, both], [f"{name}/scaled" if bias else output])
    if bias:
        editor.add("Add", [product, bias], [output])
    editor.remove(node)
