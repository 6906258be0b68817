"""An architecture is traced once for a store; whatever decides a trace makes a new one."""

import sys
from dataclasses import replace

import pytest
import torch

from compress.errors import StageError
from compress.export import stored
from compress.export.graph import to_onnx
from compress.export.stored import graph_of, prove_export
from compress.models import Cnn, UserFile
from compress.store.made_by import made_by
from compress.tasks.signature import Signature, Tensor

EXAMPLE = (torch.zeros(2, 1, 8, 8),)
SIGNATURE = Signature(
    inputs=(Tensor(name="image", dtype="float32", shape=("batch", 1, 8, 8)),),
    outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 10)),),
)
FAMILY = Cnn(widths=(4, 4), strides=(1, 2))


def build(family=FAMILY, *, seed=0, signature=SIGNATURE, code=()):
    torch.manual_seed(seed)
    return family.build(signature, code=code).eval()


@pytest.fixture
def host(make_context):
    return make_context().host


@pytest.fixture
def traced(monkeypatch):
    """What was traced so far."""
    found, trace = [], stored.trace

    def count(module, *arguments, **fields):
        found.append(module)
        return trace(module, *arguments, **fields)

    monkeypatch.setattr(stored, "trace", count)
    return found


def test_other_weights_of_one_architecture_are_filled_into_one_trace(host, traced):
    for seed in (0, 1):
        module = build(seed=seed)
        found = graph_of(module, FAMILY, SIGNATURE, EXAMPLE, host)
        assert found.SerializeToString() == to_onnx(module, SIGNATURE, EXAMPLE).SerializeToString()
    assert len(traced) == 1
    prove_export(module, FAMILY, SIGNATURE, EXAMPLE, host)
    assert len(traced) == 1


def test_another_architecture_signature_example_type_or_opset_is_traced_anew(host, traced):
    def ask(family=FAMILY, *, signature=SIGNATURE, example=EXAMPLE, **fields):
        before = len(traced)
        module = build(family, signature=signature)
        graph_of(module, family, signature, example, host, **fields)
        return len(traced) > before

    shorter = Tensor(name="logits", dtype="float32", shape=("batch", 7))
    renamed = Tensor(name="picture", dtype="float32", shape=("batch", 1, 8, 8))
    assert ask()
    assert not ask()
    assert ask(Cnn(widths=(4, 4), strides=(2, 1)))  # the same weights in the same shapes
    assert ask(signature=replace_fields(SIGNATURE, outputs=(shorter,)))
    assert ask(signature=replace_fields(SIGNATURE, inputs=(renamed,)))
    assert ask(example=(torch.zeros(3, 1, 8, 8),))
    assert ask(opset=18)
    assert not ask()


def replace_fields(signature: Signature, **fields) -> Signature:
    return signature.model_copy(update=fields)


@pytest.mark.parametrize("change", [{"source": "edited"}, {"libraries": {"torch": "0"}}])
def test_another_version_of_ours_or_of_a_library_traces_anew(host, traced, monkeypatch, change):
    module = build()
    prove_export(module, FAMILY, SIGNATURE, EXAMPLE, host)
    monkeypatch.setattr("compress.store.notes.made_by", lambda: made_by() | change)
    prove_export(module, FAMILY, SIGNATURE, EXAMPLE, host)
    assert len(traced) == 2


def test_a_module_of_other_precision_is_traced_anew(host, traced):
    signature = Signature(
        inputs=(Tensor(name="image", dtype="float64", shape=("batch", 1, 8, 8)),),
        outputs=(Tensor(name="logits", dtype="float64", shape=("batch", 10)),),
    )
    for example in (EXAMPLE, (EXAMPLE[0].double(),)):
        module = build().to(example[0].dtype)
        prove_export(module, FAMILY, signature, example, host)
    assert len(traced) == 2


def test_what_cannot_be_exported_is_refused_each_time(host, traced):
    wrong = replace_fields(SIGNATURE, outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 9)),))
    for _ in range(2):
        with pytest.raises(StageError, match="does not fit the signature"):
            prove_export(build(), FAMILY, wrong, EXAMPLE, host)
    assert len(traced) == 2


def test_a_users_model_is_traced_once_a_command_and_anew_where_it_is_seen_to_differ(host, traced, tmp_path):
    (tmp_path / "strides_of_mine.py").write_text("STRIDE = 1")
    path = tmp_path / "my_model.py"
    path.write_text(
        "from pathlib import Path\n"
        "from torch import nn\n"
        "def build():\n"
        "    lines = Path(__file__).with_name('strides_of_mine.py').read_text()\n"
        "    stride = int(lines.split('=')[1])\n"
        "    pool = nn.AdaptiveAvgPool2d(1)\n"
        "    return nn.Sequential(nn.Conv2d(1, 10, 3, stride=stride), pool, nn.Flatten())\n"
    )
    family, sizes = UserFile(path=path), []
    for stride in (1, 2):
        (tmp_path / "strides_of_mine.py").write_text(f"STRIDE = {stride}")
        module = build(family, code=(path,))
        graph = graph_of(module, family, SIGNATURE, EXAMPLE, replace(host, code=(path,))).graph
        (conv,) = [node for node in graph.node if node.op_type == "Conv"]
        sizes.append(next(list(item.ints) for item in conv.attribute if item.name == "strides"))
    assert sizes == [[1, 1], [2, 2]]
    assert len(traced) == 2
    again = build(family, code=(path,))
    filled = graph_of(again, family, SIGNATURE, EXAMPLE, replace(host, code=(path,)))
    assert filled.SerializeToString() == to_onnx(again, SIGNATURE, EXAMPLE).SerializeToString()
    assert len(traced) == 2
    another = replace(host, code=(path,), traces={})
    graph_of(again, family, SIGNATURE, EXAMPLE, another)
    assert len(traced) == 3
    again.offset = torch.zeros(3)
    graph_of(again, family, SIGNATURE, EXAMPLE, another)
    again.offset = torch.ones(3)
    graph_of(again, family, SIGNATURE, EXAMPLE, another)
    assert len(traced) == 5
    assert "strides_of_mine" not in sys.modules
