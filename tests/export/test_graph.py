import subprocess
import sys

import onnx
import pytest
import torch
from torch import nn

from compress.errors import ModelError, StageError
from compress.export.graph import to_onnx
from compress.tasks.signature import Signature, Tensor

EXAMPLE = (torch.zeros(2, 1, 8, 8),)


def test_values_nodes_and_weights_are_named_by_module_path(net, signature):
    graph = to_onnx(net, signature, EXAMPLE).graph
    named = {node.name: (node.op_type, *node.output) for node in graph.node}
    assert named["stem.0"] == ("Conv", "stem.1")
    assert named["conv"] == ("Conv", "norm")
    assert named["act"] == ("HardSwish", "act")
    assert named["act#1"] == ("HardSwish", "act#1")
    assert named["squeeze.1"] == ("Conv", "squeeze.1")
    assert named["head"] == ("Gemm", "logits")
    assert {"conv.weight", "conv.bias", "stem.0.weight", "head.weight"} <= {tensor.name for tensor in graph.initializer}


def test_names_do_not_depend_on_the_weights(net, signature):
    first = to_onnx(net, signature, EXAMPLE).graph
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    second = to_onnx(net, signature, EXAMPLE).graph
    assert [(node.name, list(node.output)) for node in first.node] == [
        (node.name, list(node.output)) for node in second.node
    ]


def test_a_linear_on_sequences_gets_its_parameter_path_back():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(4, 6)

        def forward(self, x):
            return self.query(x)

    signature = Signature(
        inputs=(Tensor(name="x", dtype="float32", shape=("batch", "length", 4)),),
        outputs=(Tensor(name="y", dtype="float32", shape=("batch", "length", 6)),),
    )
    graph = to_onnx(Sequence(), signature, (torch.zeros(2, 3, 4),)).graph
    assert {tensor.name for tensor in graph.initializer} == {"query.weight", "query.bias"}


def test_spatial_means_become_pools(net, signature):
    operations = [node.op_type for node in to_onnx(net, signature, EXAMPLE).graph.node]
    assert operations.count("GlobalAveragePool") == 2
    assert "ReduceMean" not in operations


def test_the_same_weights_give_the_same_bytes_in_any_memory_format_and_mode(net, signature):
    first = to_onnx(net.train(), signature, EXAMPLE).SerializeToString()
    assert net.training
    second = to_onnx(net.eval().to(memory_format=torch.channels_last), signature, EXAMPLE).SerializeToString()
    assert not net.training
    assert first == second


def test_the_module_is_left_as_it_was(net, signature):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.stem.eval()
    to_onnx(net, signature, EXAMPLE)
    assert net.training
    assert not net.stem[1].training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_file_says_nothing_about_the_code_it_came_from(net, signature):
    proto = to_onnx(net, signature, EXAMPLE)
    text = proto.SerializeToString()
    for trace in (b"stack_trace", b".py", b"pkg.", b"class_hierarchy"):
        assert trace not in text
    assert not proto.metadata_props


def test_the_requested_opset_is_delivered(net, signature):
    proto = to_onnx(net, signature, EXAMPLE, opset=20)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 20)]


def test_the_batch_axis_is_dynamic(net, signature):
    value = to_onnx(net, signature, EXAMPLE).graph.input[0]
    assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_batch_of_one_is_refused(net, signature):
    with pytest.raises(StageError, match="at least 2 along every named axis"):
        to_onnx(net, signature, (torch.zeros(1, 1, 8, 8),))


def test_a_model_that_branches_on_values_is_refused_with_the_cause():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    signature = Signature(
        inputs=(Tensor(name="x", dtype="float32", shape=("batch", 4)),),
        outputs=(Tensor(name="y", dtype="float32", shape=("batch", 4)),),
    )
    with pytest.raises(ModelError, match=r"(?s)cannot be exported.*where: +Branching; .*test_graph.py:\d+"):
        to_onnx(Branching(), signature, (torch.zeros(2, 4),))


def test_a_batch_that_became_a_number_is_told_with_the_line_to_change():
    class Last(nn.Module):
        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return x[torch.arange(len(lengths)), lengths - 1]

    signature = Signature(
        inputs=(
            Tensor(name="x", dtype="float32", shape=("batch", 5, 4)),
            Tensor(name="lengths", dtype="int64", shape=("batch",)),
        ),
        outputs=(Tensor(name="y", dtype="float32", shape=("batch", 4)),),
    )
    with pytest.raises(ModelError, match=r"(?s)does not fit the signature.*test_graph.py:\d+.*x\.shape\[0\]"):
        to_onnx(Last(), signature, (torch.zeros(2, 5, 4), torch.tensor([1, 5])))


def test_a_wrong_output_shape_is_refused(net, signature):
    wrong = signature.model_copy(update={"outputs": (Tensor(name="logits", dtype="float32", shape=("batch", 6)),)})
    with pytest.raises(ModelError, match="does not fit the signature"):
        to_onnx(net, wrong, EXAMPLE)


def test_exporting_is_quiet(tmp_path):
    script = (
        "import torch\nfrom compress.export.graph import to_onnx\n"
        "from compress.tasks.signature import Signature, Tensor\n"
        "x = Tensor(name='x', dtype='float32', shape=('batch', 4))\n"
        "y = Tensor(name='y', dtype='float32', shape=('batch', 3))\n"
        "to_onnx(torch.nn.Linear(4, 3), Signature(inputs=(x,), outputs=(y,)), (torch.zeros(2, 4),))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr == ""


def test_the_graph_passes_the_checker_after_a_round_trip(net, signature, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(to_onnx(net, signature, EXAMPLE), path)
    onnx.checker.check_model(str(path), full_check=True)
