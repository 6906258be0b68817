from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.benchmark.drawn_inputs import draw, table_rows
from compress.errors import InputError, ModelError


def save_encoder(path: Path, *, words: int = 300, mask: int = TensorProto.INT64) -> Path:
    """Two embeddings, one of them behind a cast and in int8, and a mask."""
    table = np.zeros((words, 4), np.float32)
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["word"]),
        helper.make_node("DequantizeLinear", ["types", "scale"], ["types_float"]),
        helper.make_node("Cast", ["token_type_ids"], ["types32"], to=TensorProto.INT32),
        helper.make_node("Gather", ["types_float", "types32"], ["type"]),
        helper.make_node("Add", ["word", "type"], ["sum"]),
        helper.make_node("Cast", ["attention_mask"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["seen", "last"], ["column"]),
        helper.make_node("Mul", ["sum", "column"], ["y"]),
    ]
    kinds = {"input_ids": TensorProto.INT64, "token_type_ids": TensorProto.INT64, "attention_mask": mask}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, kind, ["batch", "length"]) for name, kind in kinds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 4])],
        [
            numpy_helper.from_array(table, "words"),
            numpy_helper.from_array(np.zeros((3, 4), np.int8), "types"),
            numpy_helper.from_array(np.float32(1), "scale"),
            numpy_helper.from_array(np.array([-1]), "last"),
        ],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def save_sum(path: Path, shape: list | None, *, kind: int = TensorProto.FLOAT, name: str = "x") -> Path:
    graph = helper.make_graph(
        [helper.make_node("Add", [name, name], ["y"])],
        "sum",
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_numbers_of_tokens_are_rows_of_the_tables_they_look_up(tmp_path: Path):
    path = save_encoder(tmp_path / "encoder.onnx")
    assert table_rows(onnx.load(path).graph) == {"input_ids": 300, "token_type_ids": 3}
    found = draw(path, seed=0)
    assert {name: (array.shape, array.dtype) for name, array in found.items()} == dict.fromkeys(
        ["input_ids", "token_type_ids", "attention_mask"], ((64, 64), np.int64)
    )
    assert found["input_ids"].min() >= 0
    assert 250 < found["input_ids"].max() < 300
    assert set(np.unique(found["token_type_ids"])) == {0, 1, 2}
    mask = found["attention_mask"]
    assert (np.diff(mask, axis=1) <= 0).all()  # ones, then padding
    assert mask[:, 0].all()
    assert len(set(mask.sum(axis=1))) > 20
    onnxruntime.InferenceSession(path).run(None, found)


def test_draws_repeat_with_their_seed_and_images_are_normal(tmp_path: Path):
    path = save_sum(tmp_path / "image.onnx", ["n", 3, 8, 8])
    image = draw(path, seed=5)["x"]
    assert (image.shape, image.dtype) == ((64, 3, 8, 8), np.float32)
    assert abs(image.mean()) < 0.05
    assert image.std() == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(image, draw(path, seed=5)["x"])
    assert (image != draw(path, seed=6)["x"]).any()


def test_a_fixed_batch_and_half_precision_are_kept(tmp_path: Path):
    found = draw(save_sum(tmp_path / "fixed.onnx", [8, 5], kind=TensorProto.FLOAT16), seed=0)["x"]
    assert (found.shape, found.dtype) == ((8, 5), np.float16)


def test_a_signature_without_axes_asks_for_samples(tmp_path: Path):
    with pytest.raises(InputError, match="--inputs"):
        draw(save_sum(tmp_path / "unknown.onnx", None), seed=0)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match="not an ONNX file"):
        draw(tmp_path / "text.onnx", seed=0)
