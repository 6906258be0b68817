"""Models that break while they are measured: their row says how, and the others are measured to the end."""

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.benchmark.compare import Preset, compare
from compress.benchmark.measure import Profile

PRESET = Preset(name="tiny", rounds=4, block_ms=2.0, warm_up_limit_ms=10.0, launches=2)
FAR = 2**62


def save(path: Path, nodes: list[onnx.NodeProto], *, constants: dict[str, int]) -> Path:
    """A graph from whole numbers [n, 1] to whole numbers, with constants of one element."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None)],
        [helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in constants.items()],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def save_loop(path: Path) -> Path:
    """Doubles as often as the input says: a sample of 2**62 takes for ever."""
    body = helper.make_graph(
        [helper.make_node("Add", ["held", "held"], ["next"]), helper.make_node("Identity", ["going"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", TensorProto.INT64, ["n", 1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.INT64, ["n", 1]),
        ],
    )
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["times"]),
        helper.make_node("Loop", ["times", "", "x"], ["y"], body=body),
    ]
    return save(path, nodes, constants={"flat": -1})


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("hang", "no answer to 'block' within"),
        pytest.param(
            "crash",
            "killed by signal 8",
            marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors do not trap"),
        ),
        ("error", "indices"),
    ],
)
def test_a_model_that_breaks_on_a_later_sample_fails_alone(fault: str, told: str, tmp_path: Path):
    good = save(tmp_path / "good.onnx", [helper.make_node("Add", ["x", "x"], ["y"])], constants={})
    if fault == "hang":
        bad, sample = save_loop(tmp_path / "bad.onnx"), FAR
    elif fault == "crash":
        nodes, least = [helper.make_node("Div", ["least", "x"], ["y"])], -(2**63)  # over -1 it overflows: SIGFPE
        bad, sample = save(tmp_path / "bad.onnx", nodes, constants={"least": least}), -1
    else:
        nodes = [helper.make_node("Sub", ["x", "one"], ["at"]), helper.make_node("Gather", ["one", "at"], ["y"])]
        bad = save(tmp_path / "bad.onnx", nodes, constants={"one": 1})
        sample = 7
    values = np.ones((6, 1), np.int64)
    values[4] = sample
    np.savez(tmp_path / "samples.npz", x=values)
    found = compare(
        {"good": good, "bad": bad, "other": good},
        reference="good",
        inputs=tmp_path / "samples.npz",
        profile=Profile(),
        preset=PRESET,
        reply_limit_s=3.0,
    )
    assert set(found.failures) == {"bad"}
    assert told in found.failures["bad"]
    assert found.noise_floor is not None
    for name in ("good", "other"):
        assert len(found.measurements[name].block_median_ms) == PRESET.rounds
    assert found.speedup("other", over="good").value > 0
