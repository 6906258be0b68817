import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from compress.benchmark import pair
from compress.benchmark.compare import PRESETS, Preset
from compress.benchmark.matching import match_inputs, rename
from compress.benchmark.measure import Profile
from compress.benchmark.runtimes.worker import batches
from compress.cli.main import app
from compress.errors import ArtifactError, InputError
from compress.export.manifest import Bounds, Content, Manifest

FLOAT, IDS = TensorProto.FLOAT, TensorProto.INT64


def save(path: Path, **inputs: tuple[int, list]) -> Path:
    """A graph that sums up its inputs; whole numbers of the shape ["n", "t"] called ids or tokens look up a table."""
    nodes, parts = [], []
    for name, (kind, _) in inputs.items():
        value = name
        if name in ("input_ids", "tokens"):
            nodes.append(helper.make_node("Gather", ["rows", name], [f"{name}_rows"]))
            value = f"{name}_rows"
        elif kind != FLOAT:
            nodes.append(helper.make_node("Cast", [name], [f"{name}_float"], to=FLOAT))
            value = f"{name}_float"
        nodes.append(helper.make_node("ReduceSum", [value], [f"{name}_sum"], keepdims=0))
        parts.append(f"{name}_sum")
    nodes.append(helper.make_node("Sum", parts, ["y"]))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.ones((9, 2), np.float32), "rows")],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("ours", "theirs", "matched"),
    [
        ({"x": (FLOAT, ["n", 4])}, {"pixels": (FLOAT, [1, 4])}, {"x": "pixels"}),
        # As many of one shape: their order.
        (
            {"left": (FLOAT, ["n", 4]), "right": (FLOAT, ["n", 4])},
            {"a": (FLOAT, ["n", 4]), "b": (FLOAT, ["n", 4])},
            {"left": "a", "right": "b"},
        ),
        # What has one name is one, wherever it stands.
        (
            {"left": (FLOAT, ["n", 4]), "right": (FLOAT, ["n", 4])},
            {"right": (FLOAT, ["n", 4]), "other": (FLOAT, ["n", 4])},
            {"left": "other", "right": "right"},
        ),
        # Another order, told apart by shapes.
        (
            {"image": (FLOAT, ["n", 3, 8, 8]), "row": (FLOAT, ["n", 5])},
            {"table": (FLOAT, ["b", 5]), "photo": (FLOAT, ["b", 3, None, None])},
            {"image": "photo", "row": "table"},
        ),
        # Another order, told apart by what looks up a table.
        (
            {"input_ids": (IDS, ["n", "t"]), "attention_mask": (IDS, ["n", "t"])},
            {"seen": (IDS, ["n", "t"]), "tokens": (IDS, ["n", "t"])},
            {"input_ids": "tokens", "attention_mask": "seen"},
        ),
    ],
)
def test_inputs_are_matched_by_name_else_by_position_shape_and_kind(tmp_path, ours, theirs, matched):
    assert match_inputs(save(tmp_path / "a.onnx", **ours), save(tmp_path / "b.onnx", **theirs)) == matched


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ({"x": (FLOAT, ["n", 5])}, "x fits none; nothing fits x"),
        ({"x": (TensorProto.DOUBLE, ["n", 4])}, "x fits none; nothing fits x"),
        ({"z": (FLOAT, ["n"])}, "x fits none; nothing fits z"),
        ({"x": (FLOAT, ["n", 4]), "more": (FLOAT, ["n", 4])}, "nothing fits more"),
    ],
)
def test_models_with_other_inputs_are_refused(tmp_path, theirs, told):
    ours = save(tmp_path / "ours.onnx", x=(FLOAT, ["batch", 4]))
    with pytest.raises(InputError, match=rf"(?s)expected: x float \[\?, 4\].*got: .*theirs.onnx.*{told}"):
        match_inputs(ours, save(tmp_path / "theirs.onnx", **theirs))


def test_what_may_be_matched_in_two_ways_is_refused_with_all_that_fits(tmp_path):
    ours = save(tmp_path / "a.onnx", one=(FLOAT, ["n", 4]), two=(FLOAT, ["n", 4]), wide=(FLOAT, ["n", 8]))
    theirs = save(tmp_path / "b.onnx", broad=(FLOAT, ["n", 8]), p=(FLOAT, ["n", 4]), q=(FLOAT, ["n", 4]))
    with pytest.raises(InputError, match=r"one fits p and q; two fits p and q; wide fits broad"):
        match_inputs(ours, theirs)


def test_both_get_the_same_batches_though_one_calls_its_mask_otherwise(tmp_path):
    lengths = np.array([2, 5, 3, 1, 4, 5])
    mask = (np.arange(5) < lengths[:, None]).astype(np.int64)
    np.savez(tmp_path / "samples.npz", input_ids=mask * 3, attention_mask=mask)
    names = {"input_ids": "tokens", "attention_mask": "seen"}
    found = {
        name: batches(path, batch_size=1)
        for name, path in rename(tmp_path / "samples.npz", names, directory=tmp_path).items()
    }
    assert {batch["input_ids"].shape[1] for batch in found["A"]} == {1, 2, 3, 4, 5}
    for ours, theirs in zip(found["A"], found["B"], strict=True):
        assert theirs.keys() == {"tokens", "seen"}
        np.testing.assert_array_equal(ours["input_ids"], theirs["tokens"])
        np.testing.assert_array_equal(ours["attention_mask"], theirs["seen"])


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setitem(PRESETS, "standard", Preset(name="short", rounds=2, block_ms=1.0, warm_up_limit_ms=1.0))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle as far as its manifest, and its primary file."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    save(folder / "model.onnx", pixel_values=(FLOAT, ["n", 4]))
    names = ("model.onnx", "labels.json", "preprocessing.json", "reference.npz", "predict.py")
    signature = {"inputs": [{"name": "pixel_values"}]}
    files = {name: Content("0" * 64, 1) for name in names}
    Manifest(1, "model.onnx", {"fp32": Bounds("model.onnx", 0.01, 0.99)}, {}, signature, files).write(folder)
    return folder


def test_a_file_of_ones_own_races_against_a_bundle(tmp_path, bundle, short):
    own = save(tmp_path / "own.onnx", x=(FLOAT, ["n", 4]))
    np.savez(tmp_path / "samples.npz", x=np.ones((6, 4), np.float32))
    result = CliRunner().invoke(app, ["compare", str(own), str(bundle), "--inputs", str(tmp_path / "samples.npz")])
    assert result.exit_code == 0, result.output
    assert "inputs of A = those of B, by position, shape and kind: x = pixel_values" in result.stdout
    assert "B model.onnx" in result.stdout
    result = CliRunner().invoke(app, ["compare", str(bundle), str(own), "--json"])
    assert json.loads(result.stdout)["matched"] == {"pixel_values": "x"}
    with pytest.raises(ArtifactError, match="no bundle"):
        pair.compare_files(own, tmp_path, inputs=None, labels=None, profile=Profile(), preset="standard", seed=0)
