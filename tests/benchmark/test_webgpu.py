"""The class that CUDA, TensorRT and WebGPU share, run for real on a Vulkan driver that needs no GPU."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest

from compress.benchmark import pair, report
from compress.benchmark.compare import PRESETS, Preset, compare
from compress.benchmark.measure import Profile
from compress.benchmark.process import Worker, WorkerError
from compress.benchmark.runtimes.interface import Usability
from compress.errors import EnvironmentFault
from compress.export.half import to_half
from compress.judge.race import check_runtimes
from compress.recipe import Recipe

pytestmark = pytest.mark.usefixtures("software_gpu")

TINY = Preset(name="tiny", rounds=4, block_ms=2.0, warm_up_limit_ms=10.0, launches=2)
WEBGPU = "WebGpuExecutionProvider"


@pytest.fixture
def matrices(tmp_path: Path) -> Path:
    np.savez(tmp_path / "matrices.npz", x=np.random.default_rng(0).normal(size=(4, 16, 16)).astype(np.float32))
    return tmp_path / "matrices.npz"


def test_it_is_usable_and_labelled():
    with Worker() as worker:
        found = worker.usable("ort-webgpu")
    assert found == Usability(usable=True, why="a software adapter: for tests only")


def test_a_verdict_on_it_is_refused_before_anything_is_trained():
    recipe = Recipe.parse(
        "name: soft\ndata: {source: digits}\nteacher: {artifact: nowhere}\nstudent: teacher\nstages: [distill]\n"
        "benchmark: {profiles: [{runtime: ort-webgpu}]}\n",
        origin="recipe.yaml",
        directory=Path(),
    )
    with pytest.raises(EnvironmentFault, match="rest on ort-webgpu-b1-t1, which is a software adapter"):
        check_runtimes(recipe)


def test_a_comparison_on_it_is_shown_but_never_ranked(wider: Path, small: Path, samples: Path):
    found = compare(
        {"wider": wider, "small": small},
        reference="wider",
        inputs=samples,
        profile=Profile("ort-webgpu", batch_size=2),
        preset=TINY,
    )
    assert not found.failures
    measured = found.measurements["small"]
    assert measured.settings["adapter"] == "software"
    assert measured.settings["nodes"] == {WEBGPU: 2}
    assert measured.compute_ms is not None
    assert measured.e2e_ms == measured.median_ms
    assert min(measured.compute_ms, measured.load_ms, measured.first_run_ms) > 0
    assert found.against_cpu["small"].max_abs < 1e-5
    assert found.against_cpu["small"].agreement == 1
    assert not found.ranked
    assert found.verdict("small", over="wider") == "not ranked"
    assert not found.is_measurable(found.speedup("small", over="wider"))
    document = report.build([report.Entry("wider", wider)], [found], reference="wider", seed=0, title="webgpu")
    json.dumps(asdict(document), allow_nan=False)
    assert document.rows[0].speedup == {}


def test_two_files_on_it_get_no_ratio(wider: Path, small: Path, samples: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(PRESETS, "short", Preset(name="short", rounds=2, block_ms=1.0, warm_up_limit_ms=1.0))
    profile = Profile("ort-webgpu", batch_size=10)
    document = pair.compare_files(wider, small, inputs=samples, labels=None, profile=profile, preset="short", seed=0)
    assert document.speedup is None
    assert pair.text(document).startswith("not ranked: software adapter\nnoise floor ")


def test_nodes_left_to_the_cpu_are_shown_and_refused_in_strict_mode(mixed: Path, matrices: Path):
    with Worker() as worker:
        loaded = worker.load(runtime="ort-webgpu", model=mixed, inputs=matrices)
        assert loaded.settings["nodes"] == {WEBGPU: 1, "CPUExecutionProvider": 1}
    with Worker() as worker, pytest.raises(WorkerError, match="CPU"):
        worker.load(runtime="ort-webgpu", model=mixed, inputs=matrices, strict=True)


def test_an_adapter_without_16_bit_floats_says_so_of_an_fp16_file(small: Path, samples: Path, tmp_path: Path):
    """SwiftShader has no `shader-f16`; the rest of the file's rows must go on (test_compare shows that they do)."""
    half = tmp_path / "half.onnx"
    onnx.save_model(to_half(onnx.load(small)), half)
    with (
        Worker() as worker,
        pytest.raises(WorkerError, match="requires f16 but the device does not support it") as told,
    ):
        worker.load(runtime="ort-webgpu", model=half, inputs=samples, strict=True)
    assert str(half) in str(told.value)


LANE = """
import sys
from pathlib import Path
import coverage

measured = coverage.Coverage(data_file=None, include=["*/onnxruntime_sessions.py"], config_file=False)
measured.start()
import numpy as np
from compress.benchmark.runtimes.interface import Load
from compress.benchmark.runtimes.onnxruntime_sessions import WEBGPU, DeviceSession

load = Load("ort-webgpu", sys.argv[1], "", 2, 1, None, 0, True, "", [])
session = DeviceSession(load, WEBGPU)
batch = session.feed({"x": np.ones((2, 16), np.float32)})
host = session.outputs(session.run(batch))[0]
placed = session.place(batch)
assert len(session.time_compute([placed], start=0, block_ms=0)) == 1
assert np.allclose(host, session.copy_outputs(placed)[0], atol=1e-6)
measured.stop()
source = Path(sys.modules["compress.benchmark.runtimes.onnxruntime_sessions"].__file__)
_, statements, _, missing, _ = measured.analysis2(str(source))
lines = source.read_text().splitlines()
first = next(number for number, line in enumerate(lines, 1) if line.startswith("class DeviceSession"))
last = next(number for number, line in enumerate(lines, 1) if line.startswith("def check_one_wheel"))
inside = [number for number in statements if first <= number < last]
print(1 - len([number for number in missing if first <= number < last]) / len(inside), missing)
"""


def test_it_covers_the_shared_class(small: Path):
    found = subprocess.run([sys.executable, "-c", LANE, str(small)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout.split()[0]) >= 0.95, found.stdout
