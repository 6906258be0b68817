"""What an ONNX file holds, read without running it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from onnx import helper, shape_inference

from compress.errors import ModelError
from compress.export.deployable import Deployable
from compress.export.onnx_file import SMALL_BYTES, inner_tensors, num_bytes, read_graph, without_weights
from compress.export.program_file import graph_files

LENGTH = 64  # of an axis after the first that the signature leaves open
# Where a product's two operands are among the inputs of its node.
OPERANDS = {
    "Conv": (0, 1), "ConvInteger": (0, 1), "ConvTranspose": (0, 1), "QLinearConv": (0, 3),
    "Gemm": (0, 1), "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3),
}  # fmt: skip
UNCOUNTED = ("Attention", "DeformConv", "GRU", "LSTM", "RNN")  # they multiply, in ways not counted here
STANDARD = ("", "ai.onnx", "ai.onnx.ml")  # domains whose products are all among those


@dataclass(frozen=True, slots=True)
class Contents:
    """What takes space in a model."""

    parameters: int
    """Elements of initializers and large constants: weights, and for a quantized file scales and zero points too."""
    initializer_bytes: dict[str, int]
    """Bytes by data type, such as float32 or int8, largest first."""
    macs: int | None
    """Multiply-accumulates of one sample, open axes of length 64; None where they cannot be told from the graph."""


def contents(path: Path) -> Contents:
    """Count a model's initializers and its multiply-accumulates, those of a program's graphs together.

    Raises:
        ModelError: when it is no ONNX file.
    """
    sizes: Counter[str] = Counter()
    parameters = 0
    models = [read_graph(file) for file in graph_files(path)]
    for model in models:
        hidden = [tensor for tensor in inner_tensors(model) if num_bytes(tensor) >= SMALL_BYTES]
        products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
        packed = {node.input[1]: 8 // helper.get_node_attr_value(node, "bits") for node in products}  # in a byte
        for tensor in (*model.graph.initializer, *hidden):
            parameters += prod(tensor.dims) * packed.get(tensor.name, 1)
            kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
            sizes["float32" if kind == "float" else kind] += num_bytes(tensor)
    counted = _together(models)
    return Contents(parameters, dict(sizes.most_common()), counted)


def macs_of(model: Deployable) -> int | None:
    """The multiply-accumulates of one sample, as `contents` counts them."""
    return _together([*model.graphs.values()])


def _together(graphs: Sequence[onnx.ModelProto]) -> int | None:
    """Of a graph, or of an encoder that runs once and a decoder that runs for each of 64 symbols with a cache of 64."""
    counts = [total_macs(graph) for graph in graphs]
    known = [count for count in counts if count is not None]
    return known[0] + LENGTH * sum(known[1:]) if len(known) == len(counts) else None


def total_macs(model: onnx.ModelProto) -> int | None:
    """All that `macs` counts; None where it cannot."""
    try:
        return sum(macs(model).values())
    except ModelError:
        return None


def macs(model: onnx.ModelProto, *, length: int = LENGTH) -> dict[str, int]:
    """Multiply-accumulates of one sample by node, for every convolution and matrix product, in float or int8.

    For a file this is the one counter; `surgery.cost` asks torch for those of a module, and both agree.

    Args:
        model: with its weights or without.
        length: of axes after the first that the inputs leave open.

    Raises:
        ModelError: a shape cannot be inferred, or what a node computes is not known here.
    """
    if foreign := [f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in STANDARD]:
        raise ModelError("cannot count the products of this operator", expected="standard ONNX", got=foreign[0])
    if multiplying := [node.op_type for node in model.graph.node if node.op_type in UNCOUNTED]:
        raise ModelError("cannot count the products of this operator", got=multiplying[0])
    shapes = _shapes(model, length)
    counts: dict[str, int] = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type == "Einsum" and len(node.input) > 1:
            counts[node.name or f"Einsum {index}"] = _einsum(node, shapes)
        if node.op_type not in OPERANDS:
            continue
        source, weight = (shapes.get(node.input[at], (0,)) for at in OPERANDS[node.op_type])
        output = shapes.get(node.output[0], (0,))
        if node.op_type.removeprefix("QLinear") in ("Conv", "ConvInteger"):
            count = prod(output) * prod(weight[1:])
        elif node.op_type == "ConvTranspose":
            count = prod(source) * prod(weight[1:])
        else:
            count = prod(output) * (source[0] if _is_transposed(node) else source[-1])
        if not count:
            raise ModelError("a shape cannot be inferred", where=node.name or f"{node.op_type} {index}")
        counts[node.name or f"{node.op_type} {index}"] = count
    return counts


def _shapes(model: onnx.ModelProto, length: int) -> dict[str, tuple[int, ...]]:
    """Every value's shape for one sample; 0 stands for what cannot be told."""
    fixed = without_weights(model)
    sizes: dict[str, int] = {}
    for value in fixed.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                size = 1 if axis == 0 else length
                if dim.dim_param:
                    sizes[dim.dim_param] = size
                dim.dim_value = size
    # The exporter's shapes are kept, because ONNX cannot follow a size through the arithmetic of a mask or a position.
    for value in (*fixed.graph.value_info, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
            elif dim.dim_param:
                _set_size(dim, sizes)
    try:
        graph = shape_inference.infer_shapes(fixed, data_prop=True, strict_mode=True).graph
    except shape_inference.InferenceError as error:
        raise ModelError("shapes cannot be inferred", got=error) from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return shapes


def _set_size(dim: onnx.TensorShapeProto.Dimension, sizes: Mapping[str, int]) -> None:
    """Set a size that the exporter gives as a sum of named ones, ``past + source + 1``; leave any other one open."""
    terms = [term.strip() for term in dim.dim_param.split("+")]
    dim.ClearField("dim_param")
    if all(term.isdecimal() or term in sizes for term in terms):
        dim.dim_value = sum(int(term) if term.isdecimal() else sizes[term] for term in terms)


def _einsum(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Products of two operands: one for every combination of their indices."""
    (equation,) = (entry.s.decode().replace(" ", "") for entry in node.attribute if entry.name == "equation")
    terms = equation.partition("->")[0].split(",")
    found = [shapes.get(name, ()) for name in node.input]
    if len(terms) != 2 or any(len(term) != len(shape) for term, shape in zip(terms, found, strict=True)):
        raise ModelError("cannot count the products of this equation", got=equation, where=node.name)
    sizes = {
        index: size for term, shape in zip(terms, found, strict=True) for index, size in zip(term, shape, strict=True)
    }
    if not all(sizes.values()):
        raise ModelError("a shape cannot be inferred", where=node.name)
    return prod(sizes.values())


def _is_transposed(node: onnx.NodeProto) -> bool:
    return any(entry.name == "transA" and entry.i for entry in node.attribute)
