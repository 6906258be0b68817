"""A plain module as an ONNX file that was compared with it; what it takes and gives is read off an example."""

import inspect
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_leaves_with_path

from compress.errors import EnvironmentFault, ModelError, StageError
from compress.export.graph import OPSET, to_onnx
from compress.export.metadata import Lineage, Metadata, write_metadata
from compress.export.onnx_file import size_bytes, write_model
from compress.export.parity import check_parity
from compress.loss.taps import evaluating
from compress.models.outputs import USUAL, refuse_compiled
from compress.store.digest import hash_file
from compress.tasks.signature import Signature, Tensor

BATCH_AXIS = {0: "batch"}
MIN_PARITY_ROWS = 3


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: of the file.
        signature: names, dtypes and shapes of inputs and outputs.
        size_bytes: of the file, and of the one beside it that holds the weights above 2 GB.
        sha256: of the file's content.
        max_difference: largest absolute difference from the module's outputs, at several batch sizes (and lengths,
            where they are dynamic), with ONNX Runtime's optimisations off and on.
    """

    path: Path
    signature: Signature
    size_bytes: int
    sha256: str
    max_difference: float


def export(
    module: nn.Module,
    signature: Signature,
    example: tuple[torch.Tensor, ...],
    path: Path,
    *,
    preprocessing: Mapping[str, Any],
    opset: int = OPSET,
) -> Exported:
    """Write a module as an fp32 ONNX file, with metadata of ours, once it computes what the module computes.

    Args:
        module: not changed.
        signature: what it takes and gives.
        example: positional arguments, at least 2 along every dynamic axis.
        path: of the file; its directory is there.
        preprocessing: what turns raw data into inputs, as JSON values.
        opset: the ONNX opset.

    Raises:
        StageError: when it cannot be exported, or the file computes something else.
        EnvironmentFault: when the file cannot be written.
    """
    graph = to_onnx(module, signature, example, opset=opset)
    parity = check_graph(graph, module, [parity_rows(example)])
    metadata = Metadata(
        variant="fp32",
        lineage=Lineage(teacher=None, stages=()),
        labels=signature.classes,
        preprocessing=dict(preprocessing),
        signature=signature,
    )
    write_metadata(graph, metadata)
    try:
        write_model(graph, path)
    except OSError as error:
        raise EnvironmentFault("the file cannot be written", got=error, where=path) from error
    return Exported(path, signature, size_bytes(path), hash_file(path), parity["max_abs"])


def check_graph(
    graph: onnx.ModelProto, module: nn.Module, inputs: Sequence[tuple[NDArray[Any], ...]]
) -> dict[str, float]:
    """Return how far at most a float graph is from its module; see `check_parity`.

    Args:
        graph: not changed.
        module: not changed.
        inputs: samples that both are compared on, at least 3 each time.

    Raises:
        StageError: when the graph computes something else.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "fp32.onnx"
        write_model(graph, path)
        checked = [check_parity(module, path, rows) for rows in inputs]
    return max(checked, key=lambda found: found["max_abs"])


def parity_rows(example: tuple[torch.Tensor, ...]) -> tuple[NDArray[Any], ...]:
    """Return the example as arrays of at least 3 samples, repeated where there are fewer."""
    repeats = -(-MIN_PARITY_ROWS // len(example[0]))
    return tuple(np.concatenate([tensor.detach().cpu().numpy()] * repeats) for tensor in example)


def read_signature(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    *,
    axes: Mapping[int, str] | None = None,
    classes: Sequence[str] = (),
) -> Signature:
    """Return what a module takes and gives, as it shows on an example.

    Inputs are named as the arguments of ``forward``, outputs by the keys or fields that they are returned under; those
    of a tuple are ``output0`` and so on, and a single one is ``logits``. An axis of an output is dynamic when its size
    changes with that of a dynamic axis of the inputs.

    Args:
        module: run in evaluation mode without gradients; not changed.
        example: positional arguments, at least 2 along every dynamic axis.
        axes: dynamic axes of the inputs by number, besides 0, the batch; an input without such an axis has it not.
        classes: names along the last axis of the first output.

    Raises:
        ModelError: when the module is scripted, returns something else than tensors in tuples, lists and dicts, or has
            other classes.
        StageError: when the example is too short along a dynamic axis.
    """
    if isinstance(module, torch.jit.ScriptModule):
        refuse_compiled(module, where="module")
    axes = BATCH_AXIS | dict(axes or {})
    names = _argument_names(module, len(example))
    for name, tensor in zip(names, example, strict=True):
        short = [axis for axis in axes if axis < tensor.dim() and tensor.shape[axis] < 2]
        if short:
            raise StageError(
                "the example is too small",
                expected="at least 2 along " + ", ".join(f"axis {axis} ({axes[axis]})" for axis in short),
                got=list(tensor.shape),
                where=f"input {name!r}",
            )
    inputs = tuple(
        Tensor(name=name, dtype=_dtype(tensor), shape=tuple(axes.get(axis, size) for axis, size in _sizes(tensor)))
        for name, tensor in zip(names, example, strict=True)
    )
    found = _run(module, example)
    dynamic: list[dict[int, str]] = [{} for _ in found]
    for number, axis_name in axes.items():
        shorter = _run(module, tuple(_shorten(tensor, number) for tensor in example))
        for shape, before, after in zip(dynamic, found.values(), shorter.values(), strict=True):
            shape |= {axis: axis_name for axis, size in _sizes(before) if after.shape[axis] != size}
    titles = [USUAL] if len(found) == 1 else [f"output{key}" if key.isdecimal() else key for key in found]
    outputs = tuple(
        Tensor(name=title, dtype=_dtype(tensor), shape=tuple(shape.get(axis, size) for axis, size in _sizes(tensor)))
        for title, tensor, shape in zip(titles, found.values(), dynamic, strict=True)
    )
    if classes and (len(classes) != outputs[0].shape[-1] or len(set(classes)) != len(classes)):
        raise ModelError(
            "the names of the classes do not fit the module's outputs",
            expected=f"{outputs[0].shape[-1]} names, one for each output of {outputs[0].name}, all different",
            got=f"{len(classes)}, {len(set(classes))} of them different",
            where="classes",
        )
    return Signature(inputs=inputs, outputs=outputs, classes=tuple(classes))


def _argument_names(module: nn.Module, count: int) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    named = [parameter.name for parameter in parameters if parameter.kind in kinds][:count]
    return [*named, *(f"input{number}" for number in range(len(named), count))]


def _run(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    """Every tensor that the module returns, by the way to it, in the order in which the exporter writes them."""
    with evaluating(module), torch.no_grad():
        returned = module(*inputs)
    leaves = [(path, leaf) for path, leaf in tree_leaves_with_path(returned) if leaf is not None]
    odd = [type(leaf).__name__ for _, leaf in leaves if not isinstance(leaf, torch.Tensor)]
    if odd or not leaves:
        raise ModelError(
            "the module returns what no file can hold",
            expected="a tensor, or tensors in tuples, lists and dicts",
            got=", ".join(odd) or "nothing",
            where=type(module).__name__,
            hint="wrap the module in one that returns its tensors alone",
        )
    return {".".join(str(part).strip("[].'") for part in path): leaf for path, leaf in leaves}


def _shorten(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the tensor without its last entry along an axis, if it has that axis."""
    return tensor.narrow(axis, 0, tensor.shape[axis] - 1) if axis < tensor.dim() else tensor


def _sizes(tensor: torch.Tensor) -> list[tuple[int, int]]:
    return list(enumerate(tensor.shape))


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
