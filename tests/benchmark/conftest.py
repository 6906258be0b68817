import importlib.util
import os
import sysconfig
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def save_mlp(path: Path, *, width: int, layers: int = 2) -> Path:
    """A chain of matrix products whose time grows with width squared."""
    rng = np.random.default_rng(0)
    nodes, weights, previous = [], [], "x"
    for layer in range(layers):
        rows = 16 if layer == 0 else width
        weights.append(numpy_helper.from_array(rng.normal(size=(rows, width)).astype(np.float32) / 16, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [previous, f"w{layer}"], [f"h{layer}"]))
        previous = f"h{layer}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info(previous, TensorProto.FLOAT, ["n", width])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, path)
    return path


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mlp(tmp_path_factory.mktemp("small") / "small.onnx", width=64)


@pytest.fixture(scope="session")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mlp(tmp_path_factory.mktemp("wider") / "wider.onnx", width=128)


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mlp(tmp_path_factory.mktemp("deep") / "deep.onnx", width=64, layers=300)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mlp(tmp_path_factory.mktemp("large") / "large.onnx", width=1024, layers=4)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    np.savez(path, x=np.random.default_rng(1).normal(size=(10, 16)).astype(np.float32))
    return path


def save_graph(
    path: Path, nodes: list[onnx.NodeProto], *, inputs: dict[str, list], output: str, domain: str = ""
) -> Path:
    """A graph of float inputs and one float output of unknown shape."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture(scope="session")
def nan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0 / 0."""
    nodes = [helper.make_node("Sub", ["x", "x"], ["zero"]), helper.make_node("Div", ["zero", "zero"], ["y"])]
    return save_graph(tmp_path_factory.mktemp("nan") / "nan.onnx", nodes, inputs={"x": ["n", 16]}, output="y")


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operator that no runtime has."""
    nodes = [helper.make_node("Wish", ["x"], ["y"], domain="com.example")]
    path = tmp_path_factory.mktemp("foreign") / "foreign.onnx"
    return save_graph(path, nodes, inputs={"x": ["n", 16]}, output="y", domain="com.example")


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph with an operator that WebGPU lacks."""
    nodes = [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("Det", ["twice"], ["y"])]
    path = tmp_path_factory.mktemp("mixed") / "mixed.onnx"
    return save_graph(path, nodes, inputs={"x": ["n", 16, 16]}, output="y")


@pytest.fixture(scope="session")
def external(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Path:
    """The small model with its weights in a file of their own."""
    path = tmp_path_factory.mktemp("external") / "model.onnx"
    onnx.save_model(onnx.load(small), path, save_as_external_data=True, location="model.bin", size_threshold=0)
    return path


@pytest.fixture(scope="session")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that finds the installed packages, but may import onnxruntime and numpy alone, and may not open a
    file of the repository.
    """
    home = tmp_path_factory.mktemp("other") / "elsewhere"
    venv.create(home, with_pip=False, symlinks=True)
    packages = next((home / "lib").glob("python*/site-packages"))
    (packages / "installed.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "sitecustomize.py").write_text(SHUT_OUT.format(repository=str(Path(__file__).parents[2])))
    return home / "bin" / "python"


SHUT_OUT = """
import sys

MAY = {{*sys.stdlib_module_names, "onnxruntime", "numpy", "runtimes"}}

def hook(event, arguments):
    if event == "import" and arguments[0].partition(".")[0] not in MAY:
        raise ModuleNotFoundError(f"the worker imported {{arguments[0]}}", name=arguments[0])
    if event == "open" and str(arguments[0]).startswith("{repository}/") and "site-packages" not in str(arguments[0]):
        raise PermissionError(f"the worker opened {{arguments[0]}}")

sys.addaudithook(hook)
"""


@pytest.fixture
def software_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SwiftShader, the Vulkan driver that Debian's chromium brings, as the GPU of everything started afterwards."""
    driver = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
    if not driver.exists() or importlib.util.find_spec("onnxruntime_ep_webgpu") is None:
        reason = "no software GPU; apt-get install chromium libvulkan1, pip install onnxruntime-ep-webgpu"
        if os.environ.get("COMPRESS_NEEDS_WEBGPU"):
            pytest.fail(reason)
        pytest.skip(reason)
    runtime = tmp_path / "xdg"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("VK_DRIVER_FILES", str(driver))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER", "1")
