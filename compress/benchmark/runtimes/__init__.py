"""Runtimes, and the code that is sent to the process that measures with them.

This package is sent to a worker over its standard input (`process.Worker`), so every module here imports, when it is
imported, the standard library and its siblings by relative imports only. A worker for ONNX Runtime needs onnxruntime
and numpy, and nothing of the rest of the library.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .interface import Load, Loaded, Unusable
from .onnxruntime_sessions import CUDA, TENSORRT, WEBGPU, CpuSession, DeviceSession
from .openvino_models import CpuModel
from .own import define, is_own
from .programs import CpuProgram, is_program
from .torch_modules import CpuModule, CudaModule, check_compiler, check_cpu, check_cuda


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a runtime gets ready."""

    modules: tuple[str, ...]
    """Imported first, so that load_ms and the memory of the load are the model's alone."""
    open: Callable[[Load], Loaded]
    takes_files: bool
    """Whether it runs exported files; else it runs the torch module of an artifact."""
    install: str
    """What to do where its modules are missing."""
    on_device: bool = False
    """Whether it has memory of its own, and compute is timed apart."""
    check: Callable[[], None] | None = None
    """Raises Unusable, or whatever a small module raises; None where a file is run to see."""


_TORCH = ("torch", "compress.models")
_GET_TORCH = "pip install compress-onnx"

RUNTIMES = {
    "ort-cpu": Runtime(
        ("onnxruntime",),
        lambda load: CpuProgram(load) if is_program(load.model) else CpuSession(load),
        takes_files=True,
        install="pip install onnxruntime",
    ),
    "ort-cuda": Runtime(
        ("onnxruntime",), lambda load: DeviceSession(load, CUDA), takes_files=True, install=CUDA.install, on_device=True
    ),
    "ort-tensorrt": Runtime(
        ("onnxruntime",),
        lambda load: DeviceSession(load, TENSORRT),
        takes_files=True,
        install=TENSORRT.install,
        on_device=True,
    ),
    "ort-webgpu": Runtime(
        ("onnxruntime",),
        lambda load: DeviceSession(load, WEBGPU),
        takes_files=True,
        install=WEBGPU.install,
        on_device=True,
    ),
    "torch-cpu": Runtime(
        _TORCH,
        lambda load: CpuModule(load, compiled=False),
        takes_files=False,
        install=_GET_TORCH,
        check=check_cpu,
    ),
    "torch-compile": Runtime(
        _TORCH,
        lambda load: CpuModule(load, compiled=True),
        takes_files=False,
        install=_GET_TORCH,
        check=check_compiler,
    ),
    "torch-cuda": Runtime(_TORCH, CudaModule, takes_files=False, install=_GET_TORCH, on_device=True, check=check_cuda),
    "openvino": Runtime(("openvino",), CpuModel, takes_files=True, install="pip install 'compress-onnx[openvino]'"),
}


def find(name: str, *, text: str = "") -> Runtime:
    """Return how a runtime gets ready; one of the user's own runs exported files, from host memory to host memory.

    Args:
        name: of `RUNTIMES`, or ``my_runtime.py:Mine``.
        text: of the user's file, which is run; without it what the runtime is can be asked, and no model opened.

    Raises:
        KeyError: when there is no such runtime.
        Unusable: when the file has no such class; whatever it raises.
    """
    if not is_own(name):
        return RUNTIMES[name]
    return Runtime((), define(name, text) if text else _unsent, takes_files=True, install=f"see {name}")


def _unsent(load: Load) -> Loaded:
    raise Unusable(f"the text of {load.runtime} was not sent", install="name the file with --code")
