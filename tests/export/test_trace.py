"""A filled trace is what the exporter itself makes of the model, byte for byte, whatever the weights."""

import copy

import onnx
import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.export import graph as graphs
from compress.export.attention import TRANSLATIONS
from compress.export.graph import fill, trace
from compress.export.names import name_by_module
from compress.tasks.signature import Signature, Tensor

EXAMPLE = (torch.zeros(2, 1, 8, 8),)


def export_at_once(model: nn.Module, signature: Signature, example, *, opset: int = 20) -> bytes:
    """The exporter's own way, optimised while the weights are there, then named and stripped as ours is."""
    dims = {name: torch.export.Dim(name) for name in ("batch", "length")}
    program = torch.onnx.export(
        copy.deepcopy(model).eval(),
        example,
        dynamo=True,
        opset_version=opset,
        input_names=[tensor.name for tensor in signature.inputs],
        output_names=[tensor.name for tensor in signature.outputs],
        dynamic_shapes=tuple(
            {axis: dims[name] for axis, name in enumerate(tensor.shape) if isinstance(name, str)}
            for tensor in signature.inputs
        ),
        custom_translation_table=TRANSLATIONS,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    name_by_module(proto)
    graphs.pool_spatial_means(proto)
    graphs.strip_metadata(proto)
    return proto.SerializeToString()


def other_weights(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for value in [*other.parameters(), *other.buffers()]:
            if value.is_floating_point():
                value.uniform_(0.1, 0.9)
    return other


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [18, 20])
def test_a_trace_is_filled_with_any_weights_of_its_architecture(net, signature, opset):
    traced = trace(net, signature, EXAMPLE, opset=opset)
    for model in (net, other_weights(net)):
        filled = fill(traced, model, signature, opset=opset).SerializeToString()
        assert filled == export_at_once(model, signature, EXAMPLE, opset=opset)


@pytest.mark.filterwarnings("ignore")
def test_so_is_that_of_a_transformer(make_encoder, tokens, text_signature):
    model = make_encoder("Bert", "eager")
    example = tuple(torch.from_numpy(array) for array in tokens(2, 7))
    traced = trace(model, text_signature, example)
    assert len(traced.packed) < 50_000
    other = other_weights(model)
    assert fill(traced, other, text_signature).SerializeToString() == export_at_once(other, text_signature, example)


def test_filling_changes_neither_model_nor_trace(net, signature):
    traced, before = trace(net, signature, EXAMPLE), copy.deepcopy(net.state_dict())
    first = fill(traced, net, signature).SerializeToString()
    assert fill(traced, net, signature).SerializeToString() == first
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Tied(nn.Module):
    """Two layers with one weight, a buffer that is not stored, a constant, and a complex buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.arange(4.0), persistent=False)
        self.register_buffer("turn", torch.tensor([1 + 2j, 3 - 1j]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = torch.view_as_real(self.turn).flatten()
        return self.second(self.first(x) * self.scale + torch.tensor([1.0, 2.0, 3.0, 4.0])) + turned


def test_tied_weights_constants_and_buffers_of_every_kind_are_filled_in():
    signature = Signature(
        inputs=(Tensor(name="x", dtype="float32", shape=("batch", 4)),),
        outputs=(Tensor(name="y", dtype="float32", shape=("batch", 4)),),
    )
    model, x = Tied(), torch.rand(3, 4)
    traced = trace(model, signature, (torch.zeros(2, 4),))
    other = other_weights(model)
    other.turn *= 2
    filled = fill(traced, other, signature)
    (found,) = onnx.reference.ReferenceEvaluator(filled).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), other(x).detach())


class Namesakes(nn.Module):
    """Buffers and weights that are called as values are: of two operations, what goes in, what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.arange(4.0))
        self.register_buffer("x", torch.full((4,), 2.0))
        self.add, self.y = nn.Parameter(torch.ones(4)), nn.Parameter(torch.full((4,), 3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.x - self.mean) + self.add - x.mean(dim=1, keepdim=True) * self.y


def test_weights_may_be_called_as_values_are():
    signature = Signature(
        inputs=(Tensor(name="x", dtype="float32", shape=("batch", 4)),),
        outputs=(Tensor(name="y", dtype="float32", shape=("batch", 4)),),
    )
    model, x = Namesakes(), torch.rand(3, 4)
    filled = fill(trace(model, signature, (torch.zeros(2, 4),)), model, signature)
    (found,) = onnx.reference.ReferenceEvaluator(filled).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach())


def test_the_values_of_weights_cannot_decide_a_graph(signature):
    """What a trace rests on: the exporter refuses a module that branches on them."""

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 5)

        def forward(self, x):
            flat = x.flatten(1)
            return self.head(flat if self.head.weight.sum() > 0 else -flat)

    with pytest.raises(ModelError, match="cannot be exported"):
        trace(Branching(), signature, EXAMPLE)
