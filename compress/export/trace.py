"""The graph of an architecture without its weights: traced once, filled with those of every model that has it.

torch.export traces with tensors that have shapes and no values, so the weights cannot decide a graph: a forward that
branches on one is refused. What their values do decide, folding of constants above all, happens when they are filled
in. A graph that was filled is, byte for byte, the one that a fresh export of the same model gives.
"""

import itertools
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import torch
from torch import nn

from compress.export.names import SCOPES_KEY

if TYPE_CHECKING:
    import onnx_ir  # brings sympy, a sixth of what a plan imports that traces nothing

NEXT_NAME = "compress.next_value_name"
APART = "weight:"  # before the path of a weight that is called as an input or an output is
WEIGHTS = "weights"  # the file that a trace says its weights are in; there is none


@dataclass(frozen=True)
class Trace:
    """What an exporter made of an architecture, before any optimisation.

    Attributes:
        packed: the graph, compressed; parameters and buffers have shapes and types alone.
    """

    packed: bytes

    @classmethod
    def of(cls, program: torch.onnx.ONNXProgram, model: nn.Module) -> "Trace":
        """Return the trace of an exported program, which loses its weights.

        Args:
            program: of the model, not optimised.
            model: whose parameters and buffers are left out.
        """
        import onnx_ir

        graph, own = program.model.graph, tensors(model)
        _set_apart(graph)
        for name, value in graph.initializers.items():
            weight = value.const_value
            if name.removeprefix(APART) in own and weight is not None:
                value.const_value = onnx_ir.ExternalTensor(
                    WEIGHTS, 0, weight.nbytes, weight.dtype, shape=onnx_ir.Shape(weight.shape.numpy()), name=name
                )
        for node in graph.all_nodes():
            for key in node.metadata_props.keys() - {SCOPES_KEY}:  # stack traces, with paths of this machine
                del node.metadata_props[key]
        program.model.metadata_props[NEXT_NAME] = _take_name(graph)
        return cls(zlib.compress(program.model_proto.SerializeToString()))

    def fill(self, model: nn.Module) -> onnx.ModelProto:
        """Return the graph with a model's weights, optimised as the exporter does.

        Args:
            model: of the architecture that was traced; not changed.
        """
        import onnx_ir
        from onnx_ir.tensor_adapters import TorchTensor

        traced = onnx_ir.from_proto(onnx.ModelProto.FromString(zlib.decompress(self.packed)))
        _spend_names(traced.graph, before=traced.metadata_props.pop(NEXT_NAME))
        own = tensors(model)
        for name, value in traced.graph.initializers.items():
            if (path := name.removeprefix(APART)) in own:
                value.const_value = TorchTensor(_plain(own[path]), name=name)
        program = torch.onnx.ONNXProgram(traced, None)
        program.optimize()
        return program.model_proto


def _set_apart(graph: "onnx_ir.Graph") -> None:
    """Give values that are called as a weight or an input another name, in place.

    The exporter calls the value of an operation after it, ``mean``, and a weight of the model by its path, which may be
    ``mean`` as well. Graphs in a file know values by their names alone. What goes in and out has the signature's names,
    so a weight of such a name gives way.
    """
    said = {value.name for value in (*graph.inputs, *graph.outputs)}
    for value in [value for name, value in graph.initializers.items() if name in said]:
        value.name = f"{APART}{value.name}"
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    values = [value for node in graph.all_nodes() for value in node.outputs]
    given = taken | {value.name for value in values}
    for value in values:
        if value.name in taken:
            number = next(number for number in itertools.count(1) if f"{value.name}_{number}" not in given)
            value.name = f"{value.name}_{number}"
            given.add(value.name)


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's parameters and buffers, tied ones and those that are not stored included, by path."""
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as the exporter stores it: on the CPU, contiguous, complex numbers as pairs."""
    tensor = tensor.detach().cpu()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).contiguous()


def _take_name(graph: "onnx_ir.Graph") -> str:
    """Return the name that a graph gives to its next value; it is not given twice."""
    import onnx_ir

    node = onnx_ir.node("Identity", [graph.inputs[0]])
    graph.append(node)
    name = node.outputs[0].name
    graph.remove(node, safe=True)
    assert name is not None
    return name


def _spend_names(graph: "onnx_ir.Graph", *, before: str) -> None:
    """Let a graph that was read count its values from where it was written, so that names come out the same."""
    prefix, _, number = before.rpartition("_")
    given = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    given |= {value.name for node in graph for value in node.outputs}
    for _ in range(sum(f"{prefix}_{earlier}" not in given for earlier in range(int(number)))):
        _take_name(graph)
