"""ONNX Runtime on the CPU, and on devices with memory of their own: CUDA, TensorRT and WebGPU share one class.

No fallback goes unseen: where each node runs is read from the session, and a strict session refuses the CPU.
"""

import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from .interface import Batch, Load, Unusable, time_calls
from .machine import cpu

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

CPU = "CPUExecutionProvider"
# All of these unpack into one directory, site-packages/onnxruntime, and the last one installed wins.
WHEELS = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-training",
    "onnxruntime-rocm", "onnxruntime-migraphx", "onnxruntime-qnn", "ort-nightly", "ort-nightly-gpu",
)  # fmt: skip
OWN_ENVIRONMENT = "in an environment of its own (ONNX Runtime's wheels exclude one another), named as `python`"


@dataclass(frozen=True, slots=True)
class Device:
    """A provider and where its memory is."""

    provider: str
    memory: str
    """ONNX Runtime's name of the memory that inputs and outputs are bound in."""
    plugin: str | None
    """The Python package that brings the provider; None when it comes with ONNX Runtime's wheel."""
    options: tuple[tuple[str, str], ...]
    install: str
    waits: bool = True
    """Whether a bound run ends when the device is done. WebGPU only queues it, and waits for nothing but a read."""


# The exhaustive search is ONNX Runtime's default; said here because it decides what a first run costs.
CUDA = Device(
    "CUDAExecutionProvider", "cuda", None, (("cudnn_conv_algo_search", "EXHAUSTIVE"),),
    f"pip install onnxruntime-gpu {OWN_ENVIRONMENT}",
)  # fmt: skip
TENSORRT = Device(
    "TensorrtExecutionProvider", "cuda", None, (("trt_fp16_enable", "1"),),
    f"pip install onnxruntime-gpu tensorrt {OWN_ENVIRONMENT}",
)  # fmt: skip
WEBGPU = Device(
    "WebGpuExecutionProvider", "webgpu", "onnxruntime_ep_webgpu", (),
    "pip install 'compress-onnx[webgpu]', on Linux also libvulkan1 and a GPU's Vulkan driver "
    "(for a software adapter see docs/benchmarking.md)",
    waits=False,
)  # fmt: skip


class CpuSession:
    """A session on the CPU.

    Spinning is off: an idle session that spins would slow the rival measured in the same rounds.
    """

    def __init__(self, load: Load) -> None:
        check_one_wheel()
        self._session = open_cpu(load)
        self._names = [node.name for node in self._session.get_outputs()]
        self._inputs = [node.name for node in self._session.get_inputs()]
        self.settings = settings_of(self._session)

    def feed(self, batch: Batch) -> Batch:
        """The batch, its names checked."""
        check_names(batch, self._inputs)
        return batch

    def run(self, feed: Batch) -> list[Any]:
        """Run the session."""
        return self._session.run(self._names, feed)  # pyright: ignore[reportReturnType]

    def outputs(self, result: list[Any]) -> "list[NDArray[Any]]":
        """They are arrays already."""
        return result


class DeviceSession(CpuSession):
    """The same on a device, timed from host to host and, with inputs and outputs bound on the device, alone.

    Args:
        load: what to run.
        device: where.

    Raises:
        Unusable: when the provider, its device or its libraries are missing, or in strict mode nodes would be left to
            the CPU.
    """

    def __init__(self, load: Load, device: Device) -> None:
        check_one_wheel()
        options = _options(load)
        if load.strict and device.provider != CPU:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        plugged = _find_plugin(device)
        self._session = _session(load.model, options, device, plugged)
        self._device = device
        self._names = [node.name for node in self._session.get_outputs()]
        self._inputs = [node.name for node in self._session.get_inputs()]
        self.settings = settings_of(self._session) | {
            "provider_options": dict(device.options),
            "compute_reads_outputs": not device.waits,
            "adapter": "software" if plugged and _is_software(plugged[0]) else "hardware",
        }

    def place(self, batch: Batch) -> "onnxruntime.IOBinding":
        """Inputs on the device, and outputs preallocated there by one run that finds their shapes."""
        import onnxruntime

        memory = self._device.memory
        binding = self._session.io_binding()
        for name, array in batch.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, memory, 0))
        for name in self._names:
            binding.bind_output(name, memory)
        self._compute(binding)
        for name, value in zip(self._names, binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(name, value)
        return binding

    def time_compute(
        self, feeds: "Sequence[onnxruntime.IOBinding]", *, start: int, block_ms: float, multiple: int = 1
    ) -> list[int]:
        """Time bound runs, each until the device is done; where nothing else waits for it, outputs are read too."""
        return time_calls(self._compute, feeds, start=start, block_ms=block_ms, multiple=multiple)

    def copy_outputs(self, binding: "onnxruntime.IOBinding") -> "list[NDArray[Any]]":
        """What the last bound run left on the device."""
        return binding.copy_outputs_to_cpu()

    def _compute(self, binding: "onnxruntime.IOBinding") -> None:
        self._session.run_with_iobinding(binding)
        if self._device.waits:
            binding.synchronize_outputs()
        else:
            binding.copy_outputs_to_cpu()


def check_one_wheel(path: Sequence[str] | None = None) -> None:
    """Refuse an environment in which two wheels have overwritten each other's files.

    Args:
        path: directories to search instead of sys.path.

    Raises:
        Unusable: when more than one is installed.
    """
    found = metadata.distributions() if path is None else metadata.distributions(path=[*path])
    names = {_name(entry).lower().replace("_", "-") for entry in found}
    installed = [name for name in WHEELS if name in names]
    if len(installed) > 1:
        raise Unusable(
            f"{' and '.join(installed)} are installed together and overwrite each other's files",
            install=f"pip uninstall {' '.join(installed)}, then install one of them",
        )


def _name(entry: metadata.Distribution) -> str:
    """Return a distribution's name; nothing for what is left of one that was not removed whole."""
    try:
        return entry.metadata["Name"] or ""
    except FileNotFoundError:  # from the finder of importlib_metadata, where that is imported
        return ""


def _options(load: Load) -> "onnxruntime.SessionOptions":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = load.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3  # errors
    return options


def open_cpu(load: Load) -> "onnxruntime.InferenceSession":
    """A session as a bundle's predict.py opens it: with exact int8 products where the CPU's would saturate."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail  # pyright: ignore[reportAttributeAccessIssue]

    _, flags = cpu()
    if "ssse3" in flags and not any("vnni" in flag for flag in flags):
        options = _options(load)
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            return onnxruntime.InferenceSession(load.model, options, providers=[CPU])
        except Fail:  # ONNX Runtime 1.32 cannot where two layers share one int8 weight
            pass
    return onnxruntime.InferenceSession(load.model, _options(load), providers=[CPU])


def _session(
    model: str, options: "onnxruntime.SessionOptions", device: Device, plugged: "list[onnxruntime.OrtEpDevice]"
) -> "onnxruntime.InferenceSession":
    """A session on a plugin's first device, or on a provider that came with the wheel; never on the CPU instead."""
    import onnxruntime

    if plugged:
        options.add_provider_for_devices(plugged[:1], dict(device.options))
        return onnxruntime.InferenceSession(model, options)
    if device.provider not in onnxruntime.get_available_providers():
        raise Unusable(f"this onnxruntime has no {device.provider}", install=device.install)
    session = onnxruntime.InferenceSession(model, options, providers=[(device.provider, dict(device.options))])
    if device.provider not in session.get_providers():
        # ONNX Runtime logs why, to standard error, and goes on with the CPU.
        install = "install the libraries and the driver that it asks for, where the system's loader finds them"
        raise Unusable(f"{device.provider} could not start", install=install, logged=True)
    return session


def settings_of(session: "onnxruntime.InferenceSession") -> dict[str, Any]:
    """Versions, and where a session's nodes run."""
    import onnxruntime

    nodes: Counter[str] | None = None
    if hasattr(session, "get_provider_graph_assignment_info"):  # since 1.24; another interpreter may have an older one
        assigned = session.get_provider_graph_assignment_info()
        nodes = Counter()
        for part in assigned:
            nodes[part.ep_name] += len(part.get_nodes())
    return {
        "onnxruntime": onnxruntime.__version__,
        "providers": session.get_providers(),
        "nodes": None if nodes is None else dict(nodes),
        "spinning": False,
    }


def _find_plugin(device: Device) -> "list[onnxruntime.OrtEpDevice]":
    """The devices of a provider that is a plugin, which is registered at its first use; none for a built-in one."""
    import onnxruntime

    if not hasattr(onnxruntime, "get_ep_devices"):  # before 1.23 there are no plugins
        if device.plugin is not None:
            raise Unusable(f"onnxruntime {onnxruntime.__version__} takes no plugins", install=device.install)
        return []
    found = [entry for entry in onnxruntime.get_ep_devices() if entry.ep_name == device.provider]
    if found or device.plugin is None:
        return found
    try:
        package = importlib.import_module(device.plugin)
    except ImportError as error:
        raise Unusable(str(error), install=device.install) from error
    onnxruntime.register_execution_provider_library(device.provider, package.get_library_path())
    found = [entry for entry in onnxruntime.get_ep_devices() if entry.ep_name == device.provider]
    if not found:
        raise Unusable(f"{device.provider} finds no device", install=device.install, logged=True)
    return found


def _is_software(device: "onnxruntime.OrtEpDevice") -> bool:
    """Whether a driver emulates the device on the CPU: ONNX Runtime then offers it as a CPU."""
    import onnxruntime

    return device.device.type == onnxruntime.OrtHardwareDeviceType.CPU


def check_names(batch: Batch, expected: list[str]) -> None:
    """Refuse samples of other inputs than the model's; ValueError then."""
    if sorted(batch) != sorted(expected):
        raise ValueError(f"the model's inputs are {expected}, the samples hold {sorted(batch)}")
