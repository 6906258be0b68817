"""OpenVINO on the CPU."""

from typing import TYPE_CHECKING, Any

from .interface import Batch, Load

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CpuModel:
    """An ONNX file compiled by OpenVINO for low latency.

    Float layers run in float32: OpenVINO's own default on recent CPUs is bfloat16, which is another model.
    """

    def __init__(self, load: Load) -> None:
        import openvino

        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": load.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,  # the process is pinned already
        }
        compiled = core.compile_model(core.read_model(load.model), "CPU", options)
        self._request = compiled.create_infer_request()
        self._inputs = [port.get_any_name() for port in compiled.inputs]
        self._outputs = len(compiled.outputs)
        self.settings: dict[str, Any] = {"openvino": openvino.__version__, "options": options}

    def feed(self, batch: Batch) -> Batch:
        """The batch, its names checked."""
        if sorted(batch) != sorted(self._inputs):
            raise ValueError(f"the model's inputs are {self._inputs}, the samples hold {sorted(batch)}")
        return batch

    def run(self, feed: Batch) -> Any:
        """Infer with inputs in the caller's memory."""
        return self._request.infer(feed, share_inputs=True)

    def outputs(self, result: Any) -> "list[NDArray[Any]]":
        """In the model's order."""
        return [result[index] for index in range(self._outputs)]
