import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compress.errors import ArtifactError, StageError
from compress.export.graph import to_onnx
from compress.export.parity import check_decisions, check_parity, difference
from compress.export.session import Session


@pytest.fixture
def path(net, signature, tmp_path):
    target = tmp_path / "fp32.onnx"
    onnx.save(to_onnx(net, signature, (torch.zeros(2, 1, 8, 8),)), target)
    return target


def test_a_faithful_file_passes(net, path, images):
    report = check_parity(net, path, (images,))
    assert report["max_abs"] < 1e-5
    assert report["argmax_agreement"] == 1.0
    assert report["kl_nats"] < 1e-9
    assert net.training


def _edit(path, name, change):
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            array = change(numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(proto, path)


def test_a_changed_weight_is_found(net, path, images):
    _edit(path, "head.bias", lambda bias: bias + 1e-3)
    with pytest.raises(StageError, match="does not compute what the model computes"):
        check_parity(net, path, (images,))


def test_nan_is_an_error_even_when_both_sides_have_it(net, path, images):
    images[0] = np.nan
    with pytest.raises(StageError, match="not finite"):
        check_parity(net, path, (images,))


def test_too_few_inputs_are_refused(net, path, images):
    with pytest.raises(StageError, match="at least 3"):
        check_parity(net, path, (images[:2],))


def test_a_file_that_decides_alike_everywhere_passes(path, images):
    report = check_decisions(path, (images,), min_agreement=1.0)
    assert report["argmax_agreement"] == 1.0
    assert 0 <= report["max_abs"] < 1e-4


def test_a_file_that_depends_on_its_batch_is_found(tmp_path, images):
    """Logits less the mean over the batch, as a file does whose ranges are those of the batch."""
    path = tmp_path / "batch.onnx"
    path.write_bytes(_minus_batch_mean().SerializeToString())
    flat = images.reshape(len(images), -1)[:, :5].copy()
    report = check_decisions(path, (flat,), min_agreement=0)
    assert report["argmax_agreement"] < 0.98
    with pytest.raises(StageError, match=r"(?s)another batch size.*batch 1, ORT optimisations on"):
        check_decisions(path, (flat,), min_agreement=0.98)


def test_a_file_whose_outputs_are_not_finite_fails_without_any_bound(path, images):
    images[4] = np.nan
    with pytest.raises(StageError, match="not finite"):
        check_decisions(path, (images,), min_agreement=0)


def _minus_batch_mean() -> onnx.ModelProto:
    shape = ["batch", 5]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["logits"]),
        ],
        "minus-mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array([0]), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_the_report_agrees_with_a_closed_form():
    reference = np.log(np.array([[0.5, 0.5], [0.9, 0.1]]))
    output = np.log(np.array([[0.25, 0.75], [0.9, 0.1]])) + 3.0
    report = difference(reference, output)
    assert report["kl_nats"] == pytest.approx(0.5 * (0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)))
    assert report["max_abs"] == pytest.approx(3.0 + np.log(0.75 / 0.5))
    assert report["argmax_agreement"] == 0.5


def test_a_truncated_file_is_named(path):
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="cannot load"):
        Session(path)


def test_a_session_takes_bytes_and_gives_arrays_in_call_order(net, path, images):
    from_bytes, from_path = Session(path.read_bytes()), Session(path, threads=2, optimize=False)
    assert from_bytes.inputs == ("image",)
    assert from_bytes.outputs == ("logits",)
    np.testing.assert_allclose(from_bytes(images)[0], from_path(images)[0], rtol=0, atol=1e-5)
