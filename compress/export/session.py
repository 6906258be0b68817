"""A model file as a function from arrays to arrays, for scoring (the benchmark has its own, with providers)."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: no telemetry leaves a user's machine

import onnxruntime as ort  # noqa: E402
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors  # noqa: E402 # pyright: ignore[reportAttributeAccessIssue]

from compress.errors import ArtifactError  # noqa: E402
from compress.export.processor import saturates  # noqa: E402

if TYPE_CHECKING:
    from onnx import ModelProto

EXACT_INT8 = "session.x64quantprecision"

# What it raises for graphs that it cannot load and inputs that it cannot run.
RUN_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class Session:
    """One ONNX file loaded on the CPU.

    Args:
        model: path of the file, its bytes, or a graph in memory of any size.
        threads: threads inside one operation.
        optimize: ONNX Runtime's own graph optimisations, all or none.
        exact_int8: multiply int8 without saturation, which is slower; None does so where the CPU would saturate, if the
            file can be loaded so: ONNX Runtime 1.32 cannot where two layers share one int8 weight.
        save_optimized: writes the optimised graph to this path.

    Attributes:
        inputs: names of the inputs, in call order.
        shapes: of the inputs, the same order; an axis of any size is a name.
        outputs: names of the outputs, in return order.
        metadata: the file's own key-value pairs.
        raw: ONNX Runtime's own session.

    Raises:
        ArtifactError: ONNX Runtime cannot load the file.
    """

    def __init__(
        self,
        model: "Path | bytes | ModelProto",
        *,
        threads: int = 1,
        optimize: bool = True,
        exact_int8: bool | None = None,
        save_optimized: Path | None = None,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        if exact_int8 or (exact_int8 is None and saturates() and can_be_exact(model)):
            options.add_session_config_entry(EXACT_INT8, "1")
        if save_optimized is not None:
            options.optimized_model_filepath = str(save_optimized)
            # Needed above 2 GB, where it must have a name; nobody reads weights that ONNX Runtime has packed.
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", f"{save_optimized.name}.data"
            )
        try:
            with _source(model) as source:
                self.raw = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except RUN_ERRORS as error:
            raise ArtifactError(
                "ONNX Runtime cannot load the model",
                got=str(error)[:600],
                where=model if isinstance(model, Path) else "a model in memory",
            ) from error
        self.inputs = tuple(value.name for value in self.raw.get_inputs())
        self.shapes: tuple[tuple[int | str, ...], ...] = tuple(tuple(value.shape) for value in self.raw.get_inputs())
        self.outputs = tuple(value.name for value in self.raw.get_outputs())
        self.metadata: dict[str, str] = dict(self.raw.get_modelmeta().custom_metadata_map)

    def __call__(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Runs one batch: one array per input, one array per output."""
        feeds: dict[str, Any] = dict(zip(self.inputs, arrays, strict=True))
        return tuple(np.asarray(output) for output in self.raw.run(None, feeds))


def can_be_exact(model: "Path | bytes | ModelProto") -> bool:
    """Whether ONNX Runtime can load a file so that int8 products do not saturate on a CPU without VNNI."""
    try:
        Session(model, exact_int8=True)
    except ArtifactError:
        return False
    return True


def _source(model: "Path | bytes | ModelProto") -> AbstractContextManager[str | bytes]:
    if isinstance(model, Path | bytes):
        return nullcontext(model if isinstance(model, bytes) else str(model))
    from compress.export.onnx_file import loadable  # brings onnx, which nobody needs who checks a file

    return loadable(model)
