import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.benchmark.model_file import contents, total_macs
from compress.errors import ModelError
from compress.export import onnx_file
from compress.export.layers import layer_sizes
from compress.export.onnx_file import check_model, copy_model, external_files, read_graph, size_bytes, write_model
from compress.export.session import Session

WIDTH = 40  # a weight of 6,400 bytes


@pytest.fixture
def model():
    values = np.random.default_rng(0).standard_normal((2, WIDTH, WIDTH)).astype(np.float32)
    weights = [numpy_helper.from_array(array, f"layers.{index}.weight") for index, array in enumerate(values)]
    bias = numpy_helper.from_array(np.ones(WIDTH, np.float32), "layers.1.bias")  # small: it stays in the graph
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "layers.0.weight"], ["h"], name="layers.0"),
            helper.make_node("Gemm", ["h", "layers.1.weight", "layers.1.bias"], ["y"], name="layers.1"),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
        [*weights, bias],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def two_files(monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_INLINE_BYTES", 10_000)


@pytest.fixture
def large(two_files, model, tmp_path):
    write_model(model, tmp_path / "large.onnx")
    return tmp_path / "large.onnx"


def test_what_fits_is_one_file_of_the_same_bytes_as_ever(model, tmp_path):
    write_model(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == model.SerializeToString()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_large_model_is_the_same_model_in_two_files(large, model):
    before = model.SerializeToString()
    assert external_files(large) == [large.with_name("large.onnx.data")]
    loaded = onnx.load(large)
    for stored, tensor in zip(loaded.graph.initializer, model.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(stored), numpy_helper.to_array(tensor))
    assert loaded.graph.node == model.graph.node
    onnx.checker.check_model(large, full_check=True)
    assert model.SerializeToString() == before


def test_the_graph_proves_the_weights(large):
    (entry,) = (entry for entry in read_graph(large).metadata_props if entry.key == onnx_file.DATA_DIGEST)
    assert entry.value == hashlib.sha256(large.with_name("large.onnx.data").read_bytes()).hexdigest()


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_of_what_was_there(large, model, monkeypatch):
    data = large.with_name("large.onnx.data")
    before, inode = (large.read_bytes(), data.read_bytes()), data.stat().st_ino
    with data.open("rb") as mapped:  # keeps the old file alive, as a session does
        write_model(model, large)
        assert data.stat().st_ino != inode
        assert mapped.read() == before[1]
    assert (large.read_bytes(), data.read_bytes()) == before
    monkeypatch.setattr(onnx_file, "MAX_INLINE_BYTES", 10**6)
    write_model(model, large)
    assert not data.exists()


def test_both_forms_compute_the_same_from_disk_and_from_memory(large, model):
    x = np.random.default_rng(1).standard_normal((5, WIDTH)).astype(np.float32)
    expected = Session(model.SerializeToString())(x)[0]
    np.testing.assert_array_equal(Session(large)(x)[0], expected)
    np.testing.assert_array_equal(Session(model)(x)[0], expected)


def test_sizes_count_both_files(large, model, tmp_path):
    whole = size_bytes(large)
    assert whole == large.stat().st_size + large.with_name("large.onnx.data").stat().st_size
    assert whole > 4 * (2 * WIDTH * WIDTH + WIDTH)
    (tmp_path / "folder").mkdir()
    copy_model(large, tmp_path / "folder/model.onnx")
    assert size_bytes(tmp_path / "folder") == whole
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert size_bytes(tmp_path / "broken.onnx") == 8


def test_a_copy_takes_its_weights_along_under_their_name(large, tmp_path):
    (tmp_path / "copy").mkdir()
    copy_model(large, tmp_path / "copy/model.onnx")
    assert (tmp_path / "copy/model.onnx").read_bytes() == large.read_bytes()
    assert external_files(tmp_path / "copy/model.onnx") == [tmp_path / "copy/large.onnx.data"]
    np.testing.assert_array_equal(
        *(Session(path)(np.ones((1, WIDTH), np.float32))[0] for path in (large, tmp_path / "copy/model.onnx"))
    )


def test_products_parameters_and_layers_are_counted_without_the_weights(large, model, tmp_path):
    assert total_macs(model) == total_macs(read_graph(large)) == 2 * WIDTH * WIDTH
    inside = contents(large)
    assert inside.parameters == 2 * WIDTH * WIDTH + WIDTH
    assert inside.initializer_bytes == {"float32": 4 * inside.parameters}
    assert [(layer.name, layer.size_bytes) for layer in layer_sizes(large)] == [
        ("layers.0", 4 * WIDTH * WIDTH),
        ("layers.1", 4 * WIDTH * (WIDTH + 1)),
    ]


def test_a_check_finds_a_wrong_shape_without_the_weights(model):
    check_model(model)
    model.graph.node[1].op_type = "Concat"
    with pytest.raises(onnx.checker.ValidationError):
        check_model(model)
    model.graph.node[1].op_type = "Gemm"
    model.graph.initializer[1].dims[0] += 1
    with pytest.raises(onnx.shape_inference.InferenceError):
        check_model(model)


def test_a_missing_or_linked_file_of_weights_is_refused(large, tmp_path):
    data = large.with_name("large.onnx.data")
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="beside the model"):
        external_files(large)
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="beside the model"):
        external_files(large)
