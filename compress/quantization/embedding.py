"""Writes an embedding in int8: the table's rows as integers, restored after the lookup.

One scale per row, looked up beside the row: ``float(q[id]) * scale[id]``. Rows differ in size (rare words have short
ones), so on MiniLM's table this loses 0.73% (root mean square) where one scale per column loses 1.1% and the one scale
of ONNX Runtime's own quantizer 4.3%; on a learned position table, 1.1%, 1.1% and 17%. The scales take 4 bytes a row,
1% of such a table. DequantizeLinear cannot take scales that are looked up, and Cast and Mul are as fast.
"""

import numpy as np
import onnx

from compress.quantization.edit import Editor
from compress.quantization.formulas import quantize_weight, weight_scale
from compress.quantization.view import GraphView


def write_embedding(editor: Editor, view: GraphView, node: onnx.NodeProto, *, reduce_range: bool) -> None:
    """Replaces a Gather from a float table.

    `reduce_range` is about products in int8. It has no say here, but for a table that a layer multiplies with too: one
    matrix serves both.
    """
    table_name, ids, output = node.input[0], node.input[1], node.output[0]
    table = view.array(table_name)
    shared = len(view.readers(table_name)) > 1
    scale = weight_scale(table, axis=0, reduce_range=reduce_range and shared)
    int8 = editor.constant(f"{table_name}_int8", quantize_weight(table, scale, axis=0))
    scales = editor.constant(f"{table_name}_scale", scale[:, np.newaxis])
    rows = editor.add("Gather", [int8, ids], [f"{output}_int8"])
    scale_of_rows = editor.add("Gather", [scales, ids], [f"{output}/scale"])
    rows = editor.add("Cast", [rows], [f"{output}_float"], attributes={"to": onnx.TensorProto.FLOAT})
    editor.add("Mul", [rows, scale_of_rows], [output])
    editor.remove(node)
