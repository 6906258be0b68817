"""A torch module as an ONNX graph: float, dynamic batch, reproducible bytes, no trace of the machine it was made on."""

import contextlib
import copy
import inspect
import logging
import warnings
from collections.abc import Iterator

import onnx
import onnx.numpy_helper
import torch
from torch import nn

from compress.config.user_code import users_lines
from compress.config.user_modules import is_users
from compress.errors import ModelError, StageError
from compress.export.names import name_by_module
from compress.export.onnx_file import check_model
from compress.export.trace import Trace
from compress.models.fold import folded
from compress.tasks.signature import Signature

OPSET = 20
_CHATTY_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


def to_onnx(
    model: nn.Module, signature: Signature, example: tuple[torch.Tensor, ...], *, opset: int = OPSET
) -> onnx.ModelProto:
    """Exports `model` in inference mode; the module itself is left as it is.

    Values, nodes and weights are named by module path (see `compress.export.names`). The same weights give the same
    bytes. Means over the spatial axes become GlobalAveragePool, which ONNX Runtime can run in int8.

    Args:
        model: called with the tensors of `example`, returns a tensor or a tuple of tensors.
        signature: names and shapes; an axis with a name is dynamic, and axes that share a name share their size.
        example: one tensor per input; every dynamic axis has at least 2 elements, or the exporter would freeze it.
        opset: the ONNX opset; the exporter may not deliver another one.

    Returns:
        The checked graph, weights inline.

    Raises:
        ModelError: the module cannot be exported with these shapes, with the line of the user's code that it is about.
        StageError: likewise where no line is the user's; or not in this opset.
    """
    return fill(trace(model, signature, example, opset=opset), model, signature, opset=opset)


def trace(model: nn.Module, signature: Signature, example: tuple[torch.Tensor, ...], *, opset: int = OPSET) -> Trace:
    """Return what `to_onnx` needs to know of an architecture; shapes and types of the example count, not its values.

    Raises:
        ModelError: the module cannot be exported with these shapes, with the line of the user's code that it is about.
        StageError: likewise where no line is the user's.
    """
    from compress.export.attention import TRANSLATIONS  # brings onnxscript, which nothing else needs

    dynamic_shapes = _dynamic_shapes(signature, example)
    # A copy, because tracing needs inference mode, one device, and contiguous weights: from channels_last ones the
    # exporter makes a dozen as_strided nodes of a single average pool.
    exported = copy.deepcopy(folded(model)).cpu().eval()
    for parameter in exported.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)  # contiguous() keeps odd strides
    with _quiet():
        try:
            program = torch.onnx.export(
                exported,
                tuple(tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for tensor in example),
                dynamo=True,
                opset_version=opset,
                input_names=[tensor.name for tensor in signature.inputs],
                output_names=[tensor.name for tensor in signature.outputs],
                dynamic_shapes=tuple(inspect.signature(exported.forward).bind(*dynamic_shapes).arguments.values()),
                custom_translation_table=TRANSLATIONS,
                verbose=False,
                optimize=False,
            )
        except Exception as error:
            causes = _causes(error)
            lines = [line for cause in causes for line in users_lines(cause)[-1:]]
            if not lines and not isinstance(error, torch.onnx.errors.OnnxExporterError | RuntimeError):
                raise
            # What the user's code does is the user's to change; a model of a library that cannot be exported is a fate.
            raise (ModelError if lines else StageError)(
                "the model cannot be exported to ONNX",
                got=f"{type(causes[0]).__name__}: {str(causes[0]).strip()[:600]}",
                where="; ".join([type(model).__name__, *lines[:1]]),
                hint="check that forward() does not branch on values or on the size of a dynamic axis",
            ) from error
    if program is None:
        raise StageError("the exporter returned nothing", where=type(model).__name__)
    return Trace.of(program, exported)


def fill(traced: Trace, model: nn.Module, signature: Signature, *, opset: int = OPSET) -> onnx.ModelProto:
    """Return the checked graph of a model whose architecture was traced, as `to_onnx` does.

    Raises:
        ModelError: the graph does not fit the signature, where the user's code says what is computed.
        StageError: likewise of other models; or it is not in this opset.
    """
    with _quiet():
        proto = traced.fill(folded(model))
    _check_opset(proto, opset)
    _check_outputs(proto, signature, model)
    name_by_module(proto)
    pool_spatial_means(proto)
    strip_metadata(proto)
    check_model(proto)
    return proto


def _dynamic_shapes(signature: Signature, example: tuple[torch.Tensor, ...]) -> tuple[dict[int, torch.export.Dim], ...]:
    if len(example) != len(signature.inputs):
        raise StageError(
            "the example does not fit the signature", expected=f"{len(signature.inputs)} inputs", got=len(example)
        )
    dims: dict[str, torch.export.Dim] = {}
    shapes = []
    for declared, tensor in zip(signature.inputs, example, strict=True):
        fits = len(declared.shape) == tensor.ndim and all(
            size >= 2 if isinstance(axis, str) else size == axis
            for axis, size in zip(declared.shape, tensor.shape, strict=False)
        )
        if not fits:
            raise StageError(
                "the example does not fit the signature",
                expected=f"shape {declared.shape}, at least 2 along every named axis",
                got=tuple(tensor.shape),
                where=f"input {declared.name!r}",
            )
        names = {index: axis for index, axis in enumerate(declared.shape) if isinstance(axis, str)}
        shapes.append({index: dims.setdefault(axis, torch.export.Dim(axis)) for index, axis in names.items()})
    return tuple(shapes)


def _causes(error: BaseException) -> list[BaseException]:
    """An error after what it comes from; the exporter wraps that in pages of advice about its own internals."""
    return [error] if error.__cause__ is None else [*_causes(error.__cause__), error]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in _CHATTY_LOGGERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _CHATTY_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _check_opset(proto: onnx.ModelProto, opset: int) -> None:
    produced = {entry.domain: entry.version for entry in proto.opset_import}
    if produced.get("") != opset or set(produced) != {""}:
        raise StageError(
            "the exporter produced another opset", expected={"": opset}, got=produced, hint="set `opset` to that one"
        )


def _check_outputs(proto: onnx.ModelProto, signature: Signature, model: nn.Module) -> None:
    for declared, value in zip(signature.outputs, proto.graph.output, strict=True):
        dims = value.type.tensor_type.shape.dim
        fits = len(dims) == len(declared.shape) and all(
            dim.dim_param == axis if isinstance(axis, str) else dim.dim_value == axis
            for axis, dim in zip(declared.shape, dims, strict=True)
        )
        if not fits:
            line = _line_of_forward(model)
            raise (ModelError if line else StageError)(
                "the exported output does not fit the signature",
                expected=declared.shape,
                got=tuple(dim.dim_param or dim.dim_value for dim in dims),
                where="; ".join([f"output {declared.name!r}", *line]),
                hint="a number where the batch is expected comes from len(x) in forward(); write x.shape[0]"
                if declared.shape[0] == "batch" and dims[0].dim_param != "batch"
                else None,
            )


def _line_of_forward(model: nn.Module) -> list[str]:
    """The line of the user's code that calls len(), else that of a forward of the user's; none where there is none."""
    begun: list[str] = []
    for kind in dict.fromkeys(type(module) for module in model.modules()):
        forward = inspect.unwrap(kind.forward)
        code = getattr(forward, "__code__", None)
        if code is None or not is_users(code.co_filename):
            continue
        begun.append(f"{code.co_filename}:{code.co_firstlineno}")
        for number, line in enumerate(inspect.getsourcelines(forward)[0], code.co_firstlineno):
            if "len(" in line:
                return [f"{code.co_filename}:{number}"]
    return begun[:1]


def pool_spatial_means(proto: onnx.ModelProto) -> None:
    """Turns ReduceMean over both spatial axes of a rank 4 value, axes kept, into GlobalAveragePool, in place.

    ONNX Runtime has an int8 kernel for the pool and none for ReduceMean of opset 18 and later. A mean that drops the
    axes is followed by a Flatten, which costs nothing.
    """
    graph = proto.graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
    }
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        axes = constants.get(node.input[1]) if node.op_type == "ReduceMean" and len(node.input) > 1 else None
        if axes is None or ranks.get(node.input[0]) != 4:
            nodes.append(node)
            continue
        if {int(axis) % 4 for axis in onnx.numpy_helper.to_array(axes)} != {2, 3}:
            nodes.append(node)
            continue
        keepdims = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
        output = node.output[0]
        pooled = output if keepdims else f"{output}/GlobalAveragePool"
        nodes.append(onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name))
        if not keepdims:
            nodes.append(onnx.helper.make_node("Flatten", [pooled], [output], name=f"{node.name}/Flatten", axis=1))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for index in reversed(range(len(graph.initializer))):  # one by one: what stays, which may be large, is not copied
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def strip_metadata(proto: onnx.ModelProto) -> None:
    """Removes what the exporter noted about the code (stack traces, file names, class names), in place."""
    graph = proto.graph
    for item in (proto, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    initializers = {tensor.name for tensor in graph.initializer}
    values = [value for value in graph.value_info if value.name not in initializers]
    del graph.value_info[:]
    graph.value_info.extend(values)
