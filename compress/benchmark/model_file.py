"""What an ONNX file holds, read without running it."""

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from compress.errors import ModelError


@dataclass(frozen=True, slots=True)
class Contents:
    """What takes space in a model."""

    parameters: int
    """Elements of all initializers: weights, and for a quantized file scales and zero points too."""
    initializer_bytes: dict[str, int]
    """Bytes by data type, such as float32 or int8, largest first."""


def contents(path: Path) -> Contents:
    """Count a model's initializers.

    Raises:
        ModelError: when it is no ONNX file.
    """
    sizes: Counter[str] = Counter()
    parameters = 0
    for tensor in read(path).graph.initializer:
        elements = prod(tensor.dims)
        parameters += elements
        kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        bits = 4 if kind.endswith("int4") else 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        sizes["float32" if kind == "float" else kind] += -(-elements * bits // 8)
    return Contents(parameters, dict(sizes.most_common()))


def external_files(path: Path) -> list[Path]:
    """The files beside a model that hold its weights.

    Raises:
        ModelError: when it is no ONNX file, or names a file that is not beside it.
    """
    names: dict[str, None] = {}
    for tensor in read(path).graph.initializer:
        names |= {entry.value: None for entry in tensor.external_data if entry.key == "location"}
    found = [path.parent / name for name in names]
    for file in found:
        if file.name not in names or not file.is_file() or file.is_symlink():
            raise ModelError("external data must be a plain file beside the model", got=file, where=path)
    return found


def read(path: Path) -> onnx.ModelProto:
    """A model without the weights that are in files of their own.

    Raises:
        ModelError: when it is no ONNX file.
    """
    try:
        return onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ModelError("not an ONNX file", got=error, where=path) from error
