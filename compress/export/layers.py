"""Where the bytes of an ONNX file are: per layer of the network, and what no layer owns."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import onnx

from compress.export.onnx_file import num_bytes, read_graph
from compress.export.program_file import graph_files


@dataclass(frozen=True, slots=True)
class LayerSize:
    """What one layer costs in a file.

    Attributes:
        name: module path; empty for tensors that belong to no module, such as the shape of a reshape.
        size_bytes: of its tensors: weights, biases, scales and zero points.
        shape: of its largest tensor.
        dtype: of that tensor, as NumPy calls it.
    """

    name: str
    size_bytes: int
    shape: tuple[int, ...]
    dtype: str


def layer_sizes(path: Path) -> list[LayerSize]:
    """Return the size of every layer, in the order of the file.

    The exporter names a tensor ``<module path>.<parameter>`` and the quantizer appends to it, so that a layer has one
    name before and after. What is left of the file's size is the graph itself.

    Args:
        path: an ONNX file, or the file of a program.
    """
    tensors: dict[str, list[onnx.TensorProto]] = defaultdict(list)
    for tensor in (tensor for file in graph_files(path) for tensor in read_graph(file).graph.initializer):
        tensors[tensor.name.rpartition(".")[0]].append(tensor)
    return [_layer(name, owned) for name, owned in tensors.items()]


def _layer(name: str, tensors: list[onnx.TensorProto]) -> LayerSize:
    largest = max(tensors, key=num_bytes)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(largest.data_type)
    return LayerSize(name, sum(map(num_bytes, tensors)), tuple(largest.dims), dtype.name)
