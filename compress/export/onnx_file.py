"""The one way to write, read and check an ONNX file of any size.

Protobuf refuses messages of 2 GiB. A model with fewer bytes of weights than `MAX_INLINE_BYTES` is one file. A larger
one is two: the graph, and beside it ``<name>.data`` with the weights, as ONNX's external data. The graph then holds the
SHA-256 of that file among its metadata, so that the digest of the graph's file proves both. In memory a model always
holds its weights, and is never serialised whole where it may be large.
"""

import contextlib
import hashlib
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, MutableSequence
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar

import onnx
import onnx.checker
from google.protobuf.message import DecodeError, Message

from compress.errors import ArtifactError, ModelError
from compress.export.program_file import graph_files, is_program

MAX_INLINE_BYTES = 2**31 - 2**26  # of weights; 64 MiB are left for the graph
SMALL_BYTES = 1024  # such constants stay in the graph in any case: sizes and axes must be known to infer shapes
ALIGNMENT = 4096  # a page, so that a runtime can map weights into memory
DATA_DIGEST = "compress.data_sha256"

M = TypeVar("M", bound=Message)


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, and what does not fit into its file into ``<name>.data`` beside it; the model stays as it is.

    A file that was there before is replaced, not overwritten: a runtime may have mapped it into its memory.
    """
    data = path.with_name(f"{path.name}.data")
    for earlier in (path, data):
        earlier.unlink(missing_ok=True)
    if fits_one_file(model):
        path.write_bytes(model.SerializeToString())
        return
    graph = copy_without(model.graph, "initializer")
    with data.open("wb") as file:
        graph.initializer.extend(_move(tensor, file, name=data.name) for tensor in model.graph.initializer)
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    written = copy_without(model, "graph")
    written.graph.CopyFrom(graph)
    written.metadata_props.add(key=DATA_DIGEST, value=digest)
    path.write_bytes(written.SerializeToString())


def _move(tensor: onnx.TensorProto, file: BinaryIO, *, name: str) -> onnx.TensorProto:
    """A tensor that says where its bytes are, after appending them to a file; small ones as they are."""
    if num_bytes(tensor) < SMALL_BYTES or not tensor.HasField("raw_data"):
        return tensor
    file.write(bytes(-file.tell() % ALIGNMENT))
    offset = file.tell()
    length = file.write(tensor.raw_data)
    moved = copy_without(tensor, "raw_data")
    moved.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", str(offset)), ("length", str(length))):
        moved.external_data.add(key=key, value=value)
    return moved


def fits_one_file(model: onnx.ModelProto) -> bool:
    """Whether a model can be one protobuf message."""
    return sum(map(num_bytes, model.graph.initializer)) <= MAX_INLINE_BYTES


def num_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's elements, wherever they are; two of 4 bits share one."""
    count = math.prod(tensor.dims)
    if onnx.TensorProto.DataType.Name(tensor.data_type).endswith("INT4"):
        return -(-count // 2)
    return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def read_graph(path: Path) -> onnx.ModelProto:
    """Read a model without the weights that are in files of their own.

    Raises:
        ModelError: when it is no ONNX file.
    """
    try:
        return onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ModelError("not an ONNX file", got=error, where=path) from error


def external_files(path: Path) -> list[Path]:
    """Return the files that hold a model's weights, beside it or in folders there; links, as a cache has them, too.

    Those of a program are its graphs, and what holds their weights.

    Raises:
        ModelError: when it is no ONNX file, or names a file that is not there or lies outside its folder.
        ArtifactError: when it is to be a program and is none.
    """
    if is_program(path):
        return [file for graph in graph_files(path) for file in (graph, *external_files(graph))]
    names: dict[str, None] = {}
    model = read_graph(path)
    for tensor in (*model.graph.initializer, *inner_tensors(model)):
        names |= {entry.value: None for entry in tensor.external_data if entry.key == "location"}
    for name in names:
        inside = not PurePath(name).is_absolute() and ".." not in PurePath(name).parts
        if not (inside and (path.parent / name).is_file()):
            raise ModelError(
                "the model's weights are not there",
                expected="a file beside the model, or in a folder beside it",
                got=name,
                where=path,
                hint="copy it there" if inside else "save the model again, with its external data beside it",
            )
    return [path.parent / name for name in names]


def inner_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors that a model stores beside its graph's initializers: in Constant nodes and in subgraphs."""
    for graph in (model.graph, *model.functions):
        yield from _within(graph.node)


def _within(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from graph.initializer
            yield from _within(graph.node)


def size_bytes(path: Path) -> int:
    """Return the bytes of a model's file and of the files that hold its weights, or of all files of a directory.

    A file that is no model, as a report may have to show, is as large as it is.
    """
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    with contextlib.suppress(ModelError, ArtifactError, FileNotFoundError):
        return sum(file.stat().st_size for file in (path, *external_files(path)))
    return path.stat().st_size


def copy_model(source: Path, target: Path) -> None:
    """Copy a model byte for byte; files that hold its weights keep the names that the graph calls them by."""
    for file in external_files(source):
        copy = target.parent / file.relative_to(source.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    shutil.copyfile(source, target)


@contextlib.contextmanager
def loadable(model: onnx.ModelProto) -> Iterator[bytes | str]:
    """Give a model as ONNX Runtime takes it: its bytes, or where it is large the path of a file that lasts as long."""
    if fits_one_file(model):
        yield model.SerializeToString()
        return
    with tempfile.TemporaryDirectory(prefix="compressor-") as directory:
        path = Path(directory) / "model.onnx"
        write_model(model, path)
        yield str(path)


def check_model(model: onnx.ModelProto) -> None:
    """Check a graph, its types and shapes by ONNX's own rules; its weights are not looked at.

    Raises:
        onnx.checker.ValidationError: when a rule is broken.
        onnx.shape_inference.InferenceError: when types or shapes contradict each other.
    """
    onnx.checker.check_model(without_weights(model), full_check=True)


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a small copy of a model for what reads the graph alone: all but small constants have become inputs."""
    light = copy_without(model, "graph")
    light.graph.CopyFrom(copy_without(model.graph, "initializer"))
    given = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if num_bytes(tensor) < SMALL_BYTES:
            light.graph.initializer.append(tensor)
        elif tensor.name not in given:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def copy_without(message: M, name: str) -> M:
    """Return a copy of a protobuf message without one of its fields, which may be large and is not copied."""
    copy = type(message)()
    for field, value in message.ListFields():
        if field.name == name:
            continue
        if isinstance(value, MutableSequence):
            getattr(copy, field.name).extend(value)
        elif isinstance(value, Message):
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
    return copy
