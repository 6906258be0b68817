"""What a quantized file really runs: the kernels left after ONNX Runtime's own optimisation.

A pair that does not fuse still gives the right numbers, in float, so nothing but this would notice.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from compress.benchmark.model_file import macs
from compress.errors import StageError
from compress.export.onnx_file import read_graph
from compress.export.session import Session
from compress.quantization.plan import QuantPlan
from compress.quantization.view import GraphView, weight_of

INT8_PRODUCTS = frozenset(
    {
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)
INT8_COMPANIONS = frozenset(
    {"QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSigmoid"}
)
MIN_INT8_MACS_FRACTION = 0.90
MAX_WEIGHT_BYTES_FRACTION = 0.30
MIN_AGREEMENT = 0.98
SHOWN = 10  # layers named in a message


@dataclass(frozen=True)
class KernelReport:
    """What ONNX Runtime runs.

    Attributes:
        kernels: int8 kernels by type, with their number.
        int8_macs_fraction: of the multiply-accumulates that have a weight, those in int8 kernels, 0 to 1.
        float_layers: the other products, by name, with the reason; those of two values that depend on data (attention)
            too.
        float_macs_fraction: their share of all multiply-accumulates, by name.
    """

    kernels: dict[str, int]
    int8_macs_fraction: float
    float_layers: dict[str, str]
    float_macs_fraction: dict[str, float]


def inspect_kernels(model: onnx.ModelProto, quantized: onnx.ModelProto, plan: QuantPlan) -> KernelReport:
    """Loads `quantized` as it would be loaded in production and looks at what is left.

    Args:
        model: the float graph.
        quantized: the same graph with `plan` written into it.
        plan: for the reasons.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "optimized.onnx"
        Session(quantized, save_optimized=path)
        optimized = read_graph(path).graph
    types = Counter(node.op_type for node in optimized.node)
    in_int8 = {name for node in optimized.node if node.op_type in INT8_PRODUCTS for name in node.input}
    view = GraphView(model.graph)
    counts = macs(model)
    total, weighted, in_float = sum(counts.values()), 0, 0
    reasons: dict[str, str] = {}
    for node in model.graph.node:
        if node.name not in counts:
            continue
        if node.input[1] not in view.constants:
            reasons[node.name] = "both inputs depend on data"
            continue
        weighted += counts[node.name]
        if f"{node.input[1]}_int8" not in in_int8:
            in_float += counts[node.name]
            reasons[node.name] = plan.kept_float.get(node.name, "ONNX Runtime left it in float")
    return KernelReport(
        kernels={name: types[name] for name in sorted(INT8_PRODUCTS | INT8_COMPANIONS) if types[name]},
        int8_macs_fraction=1 - in_float / weighted,
        float_layers=reasons,
        float_macs_fraction={name: counts[name] / total for name in reasons},
    )


def check_kernels(report: KernelReport, *, min_int8_macs_fraction: float = MIN_INT8_MACS_FRACTION) -> None:
    """Refuses a file that says int8 and runs float.

    Raises:
        StageError: too few multiply-accumulates in int8, with the layers that did it; or no int8 product at all,
            whatever the bound.
    """
    worst = sorted(report.float_layers, key=report.float_macs_fraction.__getitem__, reverse=True)
    named = [f"{name} ({report.float_macs_fraction[name]:.1%} of MACs: {report.float_layers[name]})" for name in worst]
    if not INT8_PRODUCTS & report.kernels.keys():
        raise StageError("no layer runs in int8", expected="at least one int8 kernel", got="; ".join(named))
    if report.int8_macs_fraction < min_int8_macs_fraction:
        raise StageError(
            "too little of the model runs in int8",
            expected=f"at least {min_int8_macs_fraction:.1%} of the multiply-accumulates with a weight",
            got=f"{report.int8_macs_fraction:.1%}; in float: " + "; ".join(named[:SHOWN]),
            hint="allow a larger accuracy drop, keep fewer layers in float, or lower min_int8_macs_fraction",
        )


def weight_bytes_fraction(model: onnx.ModelProto, quantized: onnx.ModelProto, plan: QuantPlan) -> float:
    """Bytes of the quantized weights and of any float copy left, over their fp32 bytes.

    Scales are not counted: a layer with 16 inputs spends 4 bytes a channel on one, whatever the writer does.
    """
    names = set(_weights(model, plan).values())
    sizes = {tensor.name: _size(tensor) for tensor in quantized.graph.initializer}
    original = {tensor.name: _size(tensor) for tensor in model.graph.initializer}
    after = sum(sizes.get(name + suffix, 0) for name in names for suffix in ("", "_int8"))
    return after / sum(original[name] for name in names)


def _size(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize


def float_copies(model: onnx.ModelProto, quantized: onnx.ModelProto, plan: QuantPlan) -> dict[str, int]:
    """Bytes of the fp32 weights that are left in the file beside their int8 form, by layer, largest first."""
    left = {tensor.name: _size(tensor) for tensor in quantized.graph.initializer}
    copies = {layer: left[weight] for layer, weight in _weights(model, plan).items() if weight in left}
    return dict(sorted(copies.items(), key=lambda item: -item[1]))


def _weights(model: onnx.ModelProto, plan: QuantPlan) -> dict[str, str]:
    """The weights that the plan quantizes, by layer."""
    planned = {entry.at.path for entry in plan.weights}
    return {node.name: weight_of(node) for node in model.graph.node if node.name in planned}


def check_weight_bytes(
    fraction: float, *, copies: Mapping[str, int], max_weight_bytes_fraction: float = MAX_WEIGHT_BYTES_FRACTION
) -> None:
    """Refuses a file whose quantized weights did not shrink.

    Args:
        fraction: see `weight_bytes_fraction`.
        copies: see `float_copies`.
        max_weight_bytes_fraction: the bound.

    Raises:
        StageError: they take too much of their fp32 bytes, with the layers that did it.
    """
    if fraction > max_weight_bytes_fraction:
        named = [f"{name} ({size} bytes)" for name, size in copies.items()]
        raise StageError(
            "the quantized weights take too many bytes",
            expected=f"at most {max_weight_bytes_fraction:.1%} of fp32",
            got=f"{fraction:.1%}; still in fp32 too: {'; '.join(named[:SHOWN]) or 'none'}",
            hint="a layer in float shares its weight with one in int8: keep both in float"
            if named
            else "int8 takes a quarter of fp32: raise max_weight_bytes_fraction",
        )


def check_agreement(
    reference: np.ndarray, quantized: np.ndarray, *, layers: Sequence[str], min_agreement: float = MIN_AGREEMENT
) -> float:
    """The share of decisions that are the same.

    Args:
        reference: what the float model decides, any shape.
        quantized: what the quantized model decides, the same shape.
        layers: what is in int8, in words, what hurts most first.
        min_agreement: the bound, 0 to 1.

    Raises:
        StageError: below the bound, with the layers that did it.
    """
    agreement = float((reference == quantized).mean())
    if agreement < min_agreement:
        raise StageError(
            "the quantized model decides differently from the float model",
            expected=f"at least {min_agreement:.1%} of decisions equal",
            got=f"{agreement:.1%}; in int8: {'; '.join(layers[:SHOWN])}",
            hint="keep the first of them in float (keep_float), or try another calibration method, more calibration "
            "data, or a smaller max_accuracy_drop",
        )
    return agreement
