"""Each runtime against ONNX Runtime's CPU provider, where it runs, and what is said where it does not."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from compress.benchmark.model_file import contents, macs, total_macs
from compress.benchmark.process import Place, Worker, WorkerError, last_logged, usable_runtimes
from compress.benchmark.runtimes import RUNTIMES
from compress.benchmark.runtimes.interface import Load, Unusable, Usability, time_calls
from compress.benchmark.runtimes.machine import energy_uj, pin
from compress.benchmark.runtimes.onnxruntime_sessions import (
    CPU,
    CUDA,
    CpuSession,
    Device,
    DeviceSession,
    check_one_wheel,
)
from compress.benchmark.runtimes.torch_modules import check_cpu
from compress.benchmark.runtimes.worker import TINY, Model, batches
from compress.errors import InputError, ModelError
from compress.export.onnx_file import external_files

if TYPE_CHECKING:
    import torch

BATCH = {"x": np.random.default_rng(2).normal(size=(3, 16)).astype(np.float32)}


def request(model: Path, inputs: Path, **changes) -> Load:
    fields = {"runtime": "ort-cpu", "batch_size": 3, "threads": 1, "first_core": None, "seed": 0, "strict": False}
    return Load(model=str(model), inputs=str(inputs), package_root="", code=[], **(fields | changes))


def expected(model: Path) -> np.ndarray:
    """By hand: the product of the weights."""
    found = BATCH["x"]
    for weight in onnx.load(model).graph.initializer:
        found = found @ onnx.numpy_helper.to_array(weight)
    return found


@pytest.mark.parametrize("runtime", ["ort-cpu", "openvino"])
def test_a_runtime_computes_what_the_graph_says(runtime: str, small: Path, samples: Path):
    with Worker() as worker:
        loaded = worker.load(runtime=runtime, model=small, inputs=samples, batch_size=3, first_core=0)
        np.testing.assert_allclose(worker.outputs(BATCH)[0], expected(small), atol=1e-5)
        assert len(loaded.settings["pinned_cpus"]) == 1


def test_the_tiny_model_adds_a_number_to_itself(tmp_path: Path):
    graph = onnx.load_from_string(TINY).graph
    assert [node.op_type for node in graph.node] == ["Add"]
    assert list(graph.node[0].input) == ["x", "x"]


def test_inputs_and_outputs_are_bound_on_a_device_and_the_nodes_are_counted(small: Path, samples: Path):
    session = DeviceSession(request(small, samples), Device(CPU, "cpu", None, (), ""))
    placed = [session.place(BATCH), session.place({"x": BATCH["x"][:1]})]
    assert len(session.time_compute(placed, start=0, block_ms=0)) == 1
    assert len(session.time_compute(placed, start=0, block_ms=0, multiple=6)) == 6
    np.testing.assert_allclose(session.copy_outputs(placed[0])[0], expected(small), atol=1e-5)
    np.testing.assert_allclose(session.run(session.feed(BATCH))[0], expected(small), atol=1e-5)
    assert session.settings["nodes"] == {CPU: 2}
    # The outputs were preallocated: a further run writes to the same memory.
    before = placed[0].get_outputs()[0].data_ptr()
    session.time_compute(placed, start=0, block_ms=0)
    assert placed[0].get_outputs()[0].data_ptr() == before


def test_a_provider_that_is_not_there_is_told_with_what_to_install(small: Path, samples: Path):
    with pytest.raises(Unusable, match=r"no CUDAExecutionProvider; next: pip install onnxruntime-gpu in an"):
        DeviceSession(request(small, samples), CUDA)
    with pytest.raises(Unusable, match="No module named 'nowhere'"):
        DeviceSession(request(small, samples), Device("NowhereProvider", "cpu", "nowhere", (), "pip install it"))


def test_a_plugin_without_a_device_and_an_onnxruntime_without_plugins_are_told(
    small: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "quiet_plugin.py").write_text("def get_library_path():\n    return 'nowhere.so'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda name, path: None)
    plugin = Device("QuietProvider", "cpu", "quiet_plugin", (), "bring a device")
    with pytest.raises(Unusable, match="QuietProvider finds no device; next: bring a device"):
        DeviceSession(request(small, samples), plugin)
    monkeypatch.delattr(onnxruntime, "get_ep_devices")
    with pytest.raises(Unusable, match="takes no plugins; next: bring a device"):
        DeviceSession(request(small, samples), plugin)
    built_in = DeviceSession(request(small, samples), Device(CPU, "cpu", None, (), ""))
    assert built_in.settings["adapter"] == "hardware"


def test_a_provider_that_does_not_start_is_no_silent_fallback(small: Path, samples: Path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: [CPU])
    real = onnxruntime.InferenceSession.__init__
    monkeypatch.setattr(
        onnxruntime.InferenceSession,
        "__init__",
        lambda self, model, options, providers: real(self, model, options, providers=[CPU]),
    )
    with pytest.raises(Unusable, match="CUDAExecutionProvider could not start"):
        DeviceSession(request(small, samples), CUDA)


def test_what_a_provider_lacks_is_read_from_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A worker whose onnxruntime has CUDA's provider, which logs as onnxruntime-gpu 1.31 does, and goes on without."""
    from compress.benchmark import process

    shipped = tmp_path / "runtimes"
    shipped.mkdir()
    for path in process._SHIPPED.glob("*.py"):
        text = path.read_text()
        if path.name == "onnxruntime_sessions.py":
            text = text.replace("    session = onnxruntime.InferenceSession(", LOGS + "(", 1)
            text = text.replace("onnxruntime.get_available_providers()", "['CUDAExecutionProvider']")
        (shipped / path.name).write_text(text)
    monkeypatch.setattr(process, "_SHIPPED", shipped)
    with Worker() as worker:
        first, again = worker.usable("ort-cuda"), worker.usable("ort-cuda")
        assert worker.usable("ort-cpu") == Usability(usable=True)
    assert first == again  # each is told what was written for it alone
    assert not first.usable
    assert first.why == (
        "CUDAExecutionProvider could not start: Failed to load library libonnxruntime_providers_cuda.so with error: "
        "libcublasLt.so.13: cannot open shared object file: No such file or directory; Failed to create "
        "CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*."
    )


LOGS = """
    import os
    place = "2026-11-24 17:02:31.986160639 [{}:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
    lines = [
        chr(27) + "[1;31m" + place.format("E") + "/onnxruntime_src/provider_bridge_ort.cc:2043 onnxruntime::Provider& "
        "onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
        "libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file: No such file "
        "or directory",
        chr(27) + "[m",
        place.format("W") + "Failed to create CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*." + chr(27) + "[m",
    ]
    os.write(2, chr(10).join([*lines, ""]).encode())
    session = (lambda model, options, providers: onnxruntime.InferenceSession(model, options, providers=[CPU]))"""


def test_a_log_is_cut_to_its_last_lines_and_their_ends():
    text = "\n".join(["first", "second", "third", "", "second", "x" * 500 + " libcudnn.so.9: cannot open"])
    *short, cut = last_logged(text)
    assert short == ["second", "third"]
    assert cut.startswith("...xxx")
    assert cut.endswith("x libcudnn.so.9: cannot open")
    assert len(cut) == 403
    assert last_logged("\n \n") == []


def test_torch_is_usable_when_it_has_computed_something(monkeypatch: pytest.MonkeyPatch):
    import torch

    check_cpu()
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *given: torch.zeros(1, 1))
    with pytest.raises(RuntimeError, match=r"1 \+ 2 came to 0\.0 on cpu"):
        check_cpu()


def test_two_wheels_in_one_directory_are_refused(tmp_path: Path):
    for name in ("onnxruntime", "onnxruntime_gpu", "numpy"):
        (tmp_path / f"{name}-1.30.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.30.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n")
    with pytest.raises(Unusable, match="onnxruntime and onnxruntime-gpu are installed together"):
        check_one_wheel([str(tmp_path)])
    (tmp_path / "onnxruntime_gpu-1.30.0.dist-info" / "METADATA").unlink()
    check_one_wheel([str(tmp_path)])


def test_every_runtime_is_usable_or_says_why_and_what_to_install():
    found = usable_runtimes()
    assert set(found) == set(RUNTIMES)
    assert found["ort-cpu"] == Usability(usable=True)
    assert found["torch-cpu"].usable
    for entry in found.values():
        assert entry.usable or (entry.why and entry.install)
    if not found["ort-cuda"].usable:
        assert "CUDAExecutionProvider" in found["ort-cuda"].why
        assert "onnxruntime-gpu" in found["ort-cuda"].install


def test_another_interpreter_says_that_two_wheels_are_installed(other_python: Path, tmp_path: Path):
    packages = next(other_python.parents[1].glob("lib/python*/site-packages"))
    extra = packages / "onnxruntime_gpu-1.30.0.dist-info"
    extra.mkdir()
    try:
        (extra / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\n")
        with Worker(Place(python=str(other_python))) as worker:
            found = worker.usable("ort-cpu")
    finally:
        for path in extra.iterdir():
            path.unlink()
        extra.rmdir()
    assert "installed together" in found.why
    assert "pip uninstall" in found.install


def test_a_runtime_that_ends_its_worker_is_told_and_the_others_are_tried(tmp_path: Path, monkeypatch):
    from compress.benchmark import process

    shipped = tmp_path / "runtimes"
    shipped.mkdir()
    for path in process._SHIPPED.glob("*.py"):
        text = path.read_text()
        if path.name == "openvino_models.py":
            text = text.replace("        import openvino\n", "        import os\n        os.abort()\n")
        if path.name == "__init__.py":
            text = text.replace('_TORCH = ("torch", "compress.models")', '_TORCH = ("nowhere",)')  # it takes seconds
        (shipped / path.name).write_text(text)
    monkeypatch.setattr(process, "_SHIPPED", shipped)
    found = usable_runtimes()
    assert "killed by signal 6" in found["openvino"].why
    assert found["ort-cpu"].usable


LAUNCHER = """#!/bin/sh
cd "$(mktemp -d)" && exec env -i {words}
"""


def launcher(directory: Path, name: str, words: str) -> Path:
    path = directory / name
    path.write_text(LAUNCHER.format(words=words))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("model", ["small", "external"])
def test_a_launcher_measures_where_there_is_nothing(
    model: str, request: pytest.FixtureRequest, samples: Path, other_python: Path, tmp_path: Path
):
    path = request.getfixturevalue(model)
    place = Place(python=str(other_python), launcher=(str(launcher(tmp_path, "empty", '"$@"')),))
    with Worker(place) as worker:
        worker.load(runtime="ort-cpu", model=path, inputs=samples, batch_size=3)
        assert worker.block(block_ms=0).times_ns
        np.testing.assert_allclose(worker.outputs(BATCH)[0], expected(path), atol=1e-5)


def test_ssh_hands_its_words_to_a_shell(small: Path, samples: Path, other_python: Path, tmp_path: Path):
    ssh = launcher(tmp_path, "ssh", 'sh -c "shift; exec $*"')
    ssh.write_text('#!/bin/sh\nshift\ncd "$(mktemp -d)" && exec env -i sh -c "$*"\n')
    place = Place(python=str(other_python), launcher=(str(ssh), "edge-box"))
    assert place.name == "edge-box"
    with Worker(place) as worker:
        worker.load(runtime="ort-cpu", model=small, inputs=samples, batch_size=3)
        np.testing.assert_allclose(worker.outputs(BATCH)[0], expected(small), atol=1e-5)


def test_a_launcher_that_is_not_there_and_a_runtime_that_cannot_be_sent_are_told(small: Path, samples: Path):
    with pytest.raises(WorkerError, match="did not start"):
        Worker(Place(launcher=("/nowhere/ssh",)))
    with Worker(Place(python=sys.executable, launcher=("env",))) as worker, pytest.raises(InputError, match="launcher"):
        worker.load(runtime="torch-cpu", model=small, inputs=samples)


@pytest.mark.parametrize("runtime", ["ort-cpu", "openvino"])
@pytest.mark.parametrize(("model", "words"), [("nan", "not finite"), ("foreign", "Wish")])
def test_a_model_that_cannot_run_or_gives_nan_says_so(
    runtime: str, model: str, words: str, request: pytest.FixtureRequest, samples: Path
):
    with Worker() as worker, pytest.raises(WorkerError, match=words):
        worker.load(runtime=runtime, model=request.getfixturevalue(model), inputs=samples)


def test_external_data_loads_and_must_be_in_the_models_folder(external: Path, samples: Path, tmp_path: Path):
    assert [path.name for path in external_files(external)] == ["model.bin"]
    with Worker() as worker:
        worker.load(runtime="ort-cpu", model=external, inputs=samples)
    alone = tmp_path / "model.onnx"
    alone.write_bytes(external.read_bytes())
    with pytest.raises(ModelError, match="weights are not there"):
        external_files(alone)
    proto = onnx.load(external, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "../model.bin"
    alone.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="weights are not there"):
        external_files(alone)


def test_initializers_are_counted_by_their_type(small: Path, external: Path, tmp_path: Path):
    elements = 16 * 64 + 64 * 64
    for path in (small, external):
        assert contents(path).initializer_bytes == {"float32": 4 * elements}
        assert contents(path).parameters == elements
        assert contents(path).macs == elements
    proto = onnx.load(small)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(10, np.int8), "q"))
    proto.graph.initializer.append(helper.make_tensor("p", onnx.TensorProto.INT4, [5], [1, 2, 3, 4, 5]))
    onnx.save_model(proto, tmp_path / "mixed.onnx")
    assert contents(tmp_path / "mixed.onnx").initializer_bytes == {"float32": 4 * elements, "int8": 10, "int4": 3}


def test_products_of_an_operator_of_unknown_meaning_are_not_counted(foreign: Path):
    assert contents(foreign).macs is None
    with pytest.raises(ModelError, match=r"com\.example\.Wish"):
        macs(onnx.load(foreign))


@pytest.mark.parametrize(
    ("operator", "attributes", "expected"),
    [
        ("Einsum", {"equation": "bij, jk -> bik"}, 5 * 7 * 3),
        ("Einsum", {"equation": "bij,jk->b"}, 5 * 7 * 3),
        ("Einsum", {"equation": "...j,jk->...k"}, None),  # which indices the dots stand for is not worked out
        ("RNN", {"hidden_size": 3}, None),
    ],
)
def test_einsum_is_counted_by_its_indices_and_other_products_are_not_passed_over(operator, attributes, expected):
    weight = onnx.numpy_helper.from_array(np.zeros((7, 3), np.float32), "w")
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 5, 7]), ("y", None))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    assert total_macs(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])) == expected


def test_batches_rotate_and_keep_the_lengths_of_their_samples(tmp_path: Path):
    rows = np.arange(12).reshape(3, 4)
    np.savez(tmp_path / "fixed.npz", x=rows)
    assert [batch["x"][:, 0].tolist() for batch in batches(tmp_path / "fixed.npz", batch_size=2)] == [[0, 4], [8, 0]]
    np.savez(tmp_path / "ragged.npz", x=rows, m=rows, __lengths__=np.array([2, 3, 1]))
    found = batches(tmp_path / "ragged.npz", batch_size=1)
    assert [batch["x"].shape for batch in found] == [(1, 2), (1, 3), (1, 1)]
    assert [batch["m"].tolist() for batch in found] == [[[0, 1]], [[4, 5, 6]], [[8]]]


def test_a_block_runs_every_length_equally_often(tmp_path: Path, samples: Path):
    path = tmp_path / "any.onnx"
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "any",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", "length"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", "length"])],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    np.savez(tmp_path / "ragged.npz", x=np.ones((5, 9), np.float32), __lengths__=np.array([1, 2, 3, 4, 9]))
    model = Model(request(path, tmp_path / "ragged.npz", batch_size=1), place=Path())
    times_ns, _ = model.block(block_ms=1, calls_per_query=1, arrivals_per_s=None, compute=False)
    assert len(times_ns) % 5 == 0


def test_a_multistream_query_is_all_its_calls(small: Path, samples: Path):
    model = Model(request(small, samples, batch_size=1), place=Path())
    times_ns, elapsed_ns = model.block(block_ms=5, calls_per_query=8, arrivals_per_s=None, compute=False)
    assert sum(times_ns) < elapsed_ns
    single, _ = model.block(block_ms=5, calls_per_query=1, arrivals_per_s=None, compute=False)
    assert np.median(times_ns) > 4 * np.median(single)


class Slow:
    """A model whose calls take a given time of a clock that only it and sleep move."""

    def __init__(self, service_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns, self.service_ns = 0, int(service_s * 1e9)
        monkeypatch.setattr("time.perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr("time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    def run(self, feed: object) -> None:
        self.now_ns += self.service_ns


def test_latency_in_the_server_scenario_is_queueing_theorys(small: Path, samples: Path, monkeypatch):
    model = Model(request(small, samples), place=Path())
    service_s, load = 0.01, 0.7
    model._loaded = Slow(service_s, monkeypatch)  # pyright: ignore[reportAttributeAccessIssue]
    latencies = []
    for _ in range(400):  # short blocks: what waits goes on waiting in the next one
        times_ns, elapsed_ns = model.block(
            block_ms=500, calls_per_query=1, arrivals_per_s=load / service_s, compute=False
        )
        latencies += times_ns
        assert elapsed_ns >= 500e6
    # M/D/1: the mean wait is load * service / (2 (1 - load)) (Pollaczek and Khinchine).
    assert np.mean(latencies) / 1e9 == pytest.approx(service_s * (1 + load / (2 * (1 - load))), rel=0.05)


def test_calls_come_in_whole_multiples():
    assert len(time_calls(lambda feed: None, [0, 1, 2], start=1, block_ms=0, multiple=6)) == 6


def test_energy_is_the_sum_of_the_packages_or_unknown(tmp_path: Path):
    assert energy_uj(str(tmp_path)) is None
    for name, value in (("intel-rapl:0", 5), ("intel-rapl:1", 7), ("intel-rapl:0:0", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    assert energy_uj(str(tmp_path)) == 12
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert energy_uj(str(tmp_path)) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_pinning_takes_as_many_cores_as_threads_and_never_too_few():
    before = os.sched_getaffinity(0)
    try:
        assert len(pin(1, first_core=7) or ()) == 1
        assert len(os.sched_getaffinity(0)) == 1
        assert pin(2, first_core=0) is None
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(("flags", "exact"), [("ssse3 avx2", True), ("ssse3 avx512_vnni", False), ("asimd", False)])
def test_int8_is_timed_with_the_products_that_a_bundle_asks_for(
    small: Path, samples: Path, monkeypatch: pytest.MonkeyPatch, flags: str, exact: bool
):
    module = "compress.benchmark.runtimes.onnxruntime_sessions"
    monkeypatch.setattr(f"{module}.cpu", lambda: ("a CPU", flags.split()))
    options = CpuSession(request(small, samples))._session.get_session_options()
    if exact:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="x64quantprecision"):
            options.get_session_config_entry("session.x64quantprecision")


def test_the_cpu_session_reports_its_nodes_and_its_settings_are_json(small: Path, samples: Path):
    session = CpuSession(request(small, samples))
    assert session.settings["nodes"] == {CPU: 2}
    json.dumps(session.settings)
    with pytest.raises(ValueError, match=r"inputs are \['x'\]"):
        session.feed({"y": BATCH["x"]})


def test_threads_that_wait_do_not_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """GNU's OpenMP tells how it understood its environment, when torch's copy of it is loaded in the worker."""
    save_module(tmp_path)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "TRUE")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    with Worker() as worker:
        loaded = worker.load(
            runtime="torch-cpu", model=tmp_path, inputs=tmp_path / "samples.npz", batch_size=4, threads=2
        )
        told = os.pread(worker._errors.fileno(), 2**16, 0).decode()
    assert loaded.settings["spinning"] is False
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in told
    assert "OMP_NUM_THREADS = '2'" in told


@pytest.mark.slow
def test_a_compiled_module_computes_what_the_eager_one_does(tmp_path: Path):
    import torch

    module, rows = save_module(tmp_path)
    with torch.no_grad():
        eager = module(torch.from_numpy(rows)).numpy()
    for runtime in ("torch-cpu", "torch-compile"):
        with Worker(load_limit_s=400) as worker:
            loaded = worker.load(runtime=runtime, model=tmp_path, inputs=tmp_path / "samples.npz", batch_size=4)
            assert loaded.settings["compiled"] == (runtime == "torch-compile")
            np.testing.assert_allclose(worker.outputs({"x": rows})[0], eager, atol=1e-5)


def save_module(directory: Path) -> "tuple[torch.nn.Module, np.ndarray]":
    """A small module with random weights, its artifact, and its samples.npz."""
    import torch

    from compress.models import Mlp, save_model
    from compress.tasks.signature import Signature, Tensor

    signature = Signature(
        inputs=(Tensor(name="x", dtype="float32", shape=("batch", 1, 4, 4)),),
        outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 3)),),
    )
    torch.manual_seed(0)
    family = Mlp(widths=(16,))
    module = family.build(signature, code=()).eval()
    save_model(module, directory, model=family, signature=signature)
    rows = np.random.default_rng(0).normal(size=(4, 1, 4, 4)).astype(np.float32)
    np.savez(directory / "samples.npz", x=rows)
    return module, rows
