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


def test_a_missing_file_of_weights_is_refused(large, tmp_path):
    large.with_name("large.onnx.data").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="weights are not there"):
        external_files(large)


def external_model(location: str, *, constant: bool = False) -> tuple[onnx.ModelProto, bytes]:
    """A product by 64 x 64 weights in a file of their own, and that file's bytes."""
    weight = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    stored = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    graph = helper.make_graph(nodes, "g", [given], [made], [] if constant else [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), stored


@pytest.mark.parametrize("kind", ["linked", "folder", "constant"])
def test_weights_are_found_as_a_hub_cache_or_a_folder_or_a_constant_keeps_them(kind, tmp_path):
    location = "weights/w.bin" if kind == "folder" else "w.bin"
    model, stored = external_model(location, constant=kind == "constant")
    path, data = tmp_path / "model.onnx", tmp_path / location
    path.write_bytes(model.SerializeToString())
    data.parent.mkdir(exist_ok=True)
    if kind == "linked":
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs/abc").write_bytes(stored)
        data.symlink_to("blobs/abc")
    else:
        data.write_bytes(stored)
    assert external_files(path) == [data]
    assert size_bytes(path) == path.stat().st_size + 64 * 64 * 4
    assert (contents(path).parameters, contents(path).macs) == (64 * 64, 64 * 64)
    (tmp_path / "copy").mkdir()
    copy_model(path, tmp_path / "copy/model.onnx")
    (outputs,) = Session(tmp_path / "copy/model.onnx")(np.eye(64, dtype=np.float32))
    assert np.array_equal(outputs, np.eye(64))


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "none.bin"])
def test_weights_that_lie_outside_or_nowhere_are_refused(location, tmp_path):
    model, stored = external_model(location)
    (tmp_path / "w.bin").write_bytes(stored)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="weights are not there"):
        external_files(tmp_path / "own/model.onnx")
