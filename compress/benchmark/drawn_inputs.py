"""Inputs drawn from a model's signature, for files that come without samples.

Times can depend on the values: drawn inputs compare two files fairly, and say less about either than real samples do.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.benchmark.model_file import LENGTH
from compress.benchmark.runtimes.worker import MASK
from compress.errors import InputError
from compress.export.onnx_file import read_graph

SAMPLES = 64
LOOKUPS = ("Gather", "GatherBlockQuantized")

Array = NDArray[np.generic]


def draw(path: Path, *, seed: int) -> dict[str, Array]:
    """Samples for every input of a model.

    Floats are normal; numbers that look up rows of a table are uniform over its rows, and other whole numbers are 0 or
    1; an ``attention_mask`` has ones up to a uniform length. Axes with one name have one length, 64.

    Args:
        path: an ONNX file.
        seed: of the draws.

    Returns:
        Arrays [64, ...] by input; [n, ...] where the signature fixes the batch size n.

    Raises:
        ModelError: when it is no ONNX file.
        InputError: when the signature leaves an input's number of axes open, or has inputs without a batch axis.
    """
    graph = read_graph(path).graph
    generator = np.random.default_rng(seed)
    weights = {tensor.name for tensor in graph.initializer}
    rows = table_rows(graph)
    found: dict[str, Array] = {}
    for given in graph.input:
        if given.name in weights:
            continue
        shape = _shape(given, path)
        kind = onnx.helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
        if given.name == MASK and len(shape) == 2:
            lengths = generator.integers(1, shape[1] + 1, size=(shape[0], 1))
            values = np.arange(shape[1]) < lengths
        elif np.issubdtype(kind, np.floating):
            values = generator.normal(size=shape)
        else:
            values = generator.integers(0, rows.get(given.name, 2), size=shape)
        found[given.name] = values.astype(kind)
    return found


def table_rows(graph: onnx.GraphProto) -> dict[str, int]:
    """How many rows the table has that an input looks up, by input; the smallest of several."""
    sizes = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    origin = {}  # of what was only cast or dequantized
    for node in graph.node:
        if node.op_type in ("Cast", "DequantizeLinear", "Identity"):
            origin[node.output[0]] = origin.get(node.input[0], node.input[0])
    found: dict[str, int] = {}
    for node in graph.node:
        axis = next((attribute.i for attribute in node.attribute if attribute.name in ("axis", "gather_axis")), 0)
        if node.op_type in LOOKUPS and axis == 0:
            table, numbers = (origin.get(name, name) for name in node.input[:2])
            if table in sizes:
                found[numbers] = min(sizes[table], found.get(numbers, sizes[table]))
    return found


def _shape(given: onnx.ValueInfoProto, path: Path) -> tuple[int, ...]:
    axes = given.type.tensor_type.shape.dim
    if not len(axes):
        raise InputError(
            f"nothing says which shape {given.name} has", where=path, hint="give samples with --inputs FILE.npz"
        )
    return axes[0].dim_value or SAMPLES, *(axis.dim_value or LENGTH for axis in axes[1:])
