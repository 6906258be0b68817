"""Bytes by layer add up to the file."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.export.layers import LayerSize, layer_sizes


def test_tensors_count_for_the_module_that_owns_them(tmp_path):
    tensors = [
        numpy_helper.from_array(np.zeros((4, 2, 3, 3), np.int8), "layers.0.conv.weight_int8"),
        numpy_helper.from_array(np.zeros(4, np.float32), "layers.0.conv.weight_scale"),
        helper.make_tensor("head.weight", TensorProto.FLOAT, [3, 4], [0.0] * 12),  # kept as floats, not as raw bytes
        numpy_helper.from_array(np.zeros(2, np.int64), "val_7"),
    ]
    graph = helper.make_graph([], "g", [], [], initializer=tensors)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path)
    assert layer_sizes(path) == [
        LayerSize("layers.0.conv", 4 * 2 * 9 + 16, (4, 2, 3, 3), "int8"),
        LayerSize("head", 48, (3, 4), "float32"),
        LayerSize("", 16, (2,), "int64"),
    ]
