"""The fp16 variant: weights and arithmetic in half precision, inputs and outputs in float32. For GPUs only.

ONNX Runtime's CPU kernels for fp16 are few, so on a CPU it casts back and forth and runs slower than fp32.
"""

import warnings

import onnx
from onnx import shape_inference
from onnxruntime.transformers.float16 import convert_float_to_float16

from compress.errors import StageError
from compress.export.onnx_file import check_model, without_weights
from compress.export.order import in_order


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns an fp16 copy of a float32 graph; its file is about half as large.

    Raises:
        StageError: nothing became fp16.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # The converter would ask for types with the weights, which above 2 GB cannot be done.
    typed = shape_inference.infer_shapes(without_weights(model)).graph.value_info
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(typed)
    with warnings.catch_warnings():
        # The converter warns of every weight below the smallest normal fp16; they become zero, which parity judges.
        warnings.simplefilter("ignore")
        half = convert_float_to_float16(copy, keep_io_types=True, disable_shape_infer=True)
    if not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in half.graph.initializer):
        raise StageError("no weight became fp16", expected="float32 weights")
    known = [value.name for value in (*half.graph.input, *half.graph.initializer)]
    nodes = in_order(list(half.graph.node), known)  # the converter appends its casts at the end
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    check_model(half)
    return half
