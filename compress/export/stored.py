"""A model of a store as an ONNX graph: its architecture is traced once for all stages, runs and commands.

The trace is kept among the store's notes, by everything that decides it. A module whose family and sizes are not
known, such as a plain one of `compress.functional`, is traced each time. What the code of a user's file reads besides
that file cannot be seen, so the trace of a model that it builds is kept for one command alone, by all attributes of the
module too.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from compress.export.decoding import Writing
from compress.export.deployable import ALONE, Deployable
from compress.export.graph import OPSET, fill, trace
from compress.export.program import Part, split
from compress.export.trace import Trace, tensors
from compress.models import Model, describe
from compress.stage import Host
from compress.store.digest import hash_values
from compress.store.notes import Notes
from compress.tasks import Task
from compress.tasks.signature import Signature

MAX_KEPT_BYTES = 2**22  # compressed; a graph has some thousand, constants besides weights may have more


def graph_of(
    module: nn.Module,
    model: Model,
    signature: Signature,
    example: tuple[torch.Tensor, ...],
    host: Host,
    *,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Return a module's float graph, as `to_onnx` does.

    Args:
        module: as the family builds it or `load_model` loads it; not changed.
        model: the family.
        signature: what it takes and gives.
        example: one tensor per input, at least 2 along every dynamic axis.
        host: in whose store traces are kept.
        opset: the ONNX opset.

    Raises:
        StageError: see `to_onnx`.
    """
    name = _name(module, model, signature, example, host, opset=opset)
    kept = _find(name, model, host)
    if kept is not None:
        return fill(Trace(base64.b64decode(kept)), module, signature, opset=opset)
    traced = trace(module, signature, example, opset=opset)
    graph = fill(traced, module, signature, opset=opset)
    if len(traced.packed) <= MAX_KEPT_BYTES:
        packed = base64.b64encode(traced.packed).decode()
        if model.from_user:
            host.traces[hash_values(name)] = packed
        else:
            Notes(host.store.root).keep(name, packed, of=None)
    return graph


def _find(name: Mapping[str, Any], model: Model, host: Host) -> str | None:
    """Return the trace that is kept under a name, in base 64."""
    return host.traces.get(hash_values(name)) if model.from_user else Notes(host.store.root).find(name, of=None)


def deployable_of(
    module: nn.Module,
    model: Model,
    signature: Signature,
    task: Task,
    example: tuple[torch.Tensor, ...],
    host: Host,
    *,
    opset: int = OPSET,
) -> Deployable:
    """Return what ships of a module, in float: its graph, or the program of one that writes.

    Args:
        module: see `graph_of`, as for the other arguments.
        model: the family.
        signature: what it takes and gives.
        task: as the module reads samples; says how long it may write.
        example: one tensor per input of the module, at least 2 along every dynamic axis.
        host: in whose store traces are kept.
        opset: the ONNX opset.

    Raises:
        StageError: see `to_onnx`.
    """
    graphs = {
        name: graph_of(part.module, model, part.signature, part.example, host, opset=opset)
        for name, part in _parts(module, model, signature, example).items()
    }
    if model.writing is None:
        return Deployable(graphs)
    assert task.token_limits is not None, "what writes is limited in length"
    how = Writing(max_length=task.token_limits[1], limit=task.written_limit, first=task.written_first, **model.writing)
    return Deployable(graphs, how)


def _parts(
    module: nn.Module, model: Model, signature: Signature, example: tuple[torch.Tensor, ...]
) -> Mapping[str, Part]:
    """Return what becomes a graph each, by its name."""
    return {ALONE: Part(module, signature, example)} if model.writing is None else split(module)


def prove_export(
    module: nn.Module, model: Model, signature: Signature, example: tuple[torch.Tensor, ...], host: Host
) -> None:
    """Refuse a module that cannot be exported; one whose architecture once was can be.

    Args:
        module: see `graph_of`, as for the other arguments.
        model: the family.
        signature: what it takes and gives.
        example: one tensor per input.
        host: in whose store traces are kept.

    Raises:
        StageError: see `to_onnx`.
    """
    for part in _parts(module, model, signature, example).values():
        name = _name(part.module, model, part.signature, part.example, host, opset=OPSET)
        if _find(name, model, host) is None:
            graph_of(part.module, model, part.signature, part.example, host)


def _name(
    module: nn.Module, model: Model, signature: Signature, example: tuple[torch.Tensor, ...], host: Host, *, opset: int
) -> dict[str, Any]:
    """Everything that decides a trace but for our source and the libraries, as JSON values."""
    of_user = {"code": model.identity(code=host.code), "seen": _see(module)} if model.from_user else {}
    return of_user | {
        "trace": describe(module, model=model, signature=signature),
        "types": {path: str(value.dtype) for path, value in tensors(module).items()},
        "example": [[list(tensor.shape), str(tensor.dtype)] for tensor in example],
        "opset": opset,
    }


def _see(module: nn.Module) -> dict[str, Any]:
    """Return class and attributes of every part of a module, which its forward may branch on, by path.

    An object that is written with its address, as most are, is another one each time.
    """
    own = nn.Module().__dict__.keys()
    return {
        path: [
            f"{type(part).__module__}.{type(part).__qualname__}",
            {name: _show(value) for name, value in vars(part).items() if name not in own},
        ]
        for path, part in module.named_modules()
    }


def _show(value: object) -> str:
    if isinstance(value, np.ndarray) and value.dtype != object:  # which repr shortens
        return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} {[*map(_show, value)]}"
    if isinstance(value, dict):
        return f"dict {[(repr(key), _show(entry)) for key, entry in value.items()]}"
    if isinstance(value, torch.Tensor):  # of no buffer: its values become constants of the graph
        return hashlib.sha256(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        ).hexdigest()
    return repr(value)
