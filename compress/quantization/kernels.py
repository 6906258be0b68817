"""What a quantized file really runs: the kernels left after ONNX Runtime's own optimisation.

A pair that does not fuse still gives the right numbers, in float, so nothing but this would notice.
"""

import math
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from compress.benchmark.model_file import macs
from compress.errors import ModelError, StageError
from compress.export.onnx_file import read_graph
from compress.export.session import Session
from compress.quantization.placement import SLOW_CONVOLUTION, Mode, place_dynamic, place_static
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
INT8_BYTES_FRACTION = 0.25  # of the fp32 bytes of a weight
MIN_AGREEMENT = 0.98
INTEGERS = re.compile(r"_int8(#\d+)?(/transposed)?$")  # what the writer appends to the name of a weight
RENAMED = re.compile(r"(/int32)?(_token_\d+)?$")  # what the writer and ONNX Runtime append to the name of a layer
STATIC = "set mode: static, which has int8 kernels for convolutions"
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
        Session(quantized, exact_int8=False, save_optimized=path)  # exact ones are renamed
        optimized = read_graph(path).graph
    types = Counter(node.op_type for node in optimized.node)
    products = [node for node in optimized.node if node.op_type in INT8_PRODUCTS]
    view = GraphView(model.graph)
    counts, computed = macs(model), _find_computed(model.graph)
    total, weighted, in_float = sum(counts.values()), 0, 0
    reasons: dict[str, str] = {}
    for node in model.graph.node:
        if node.name not in counts or node.name not in computed:
            continue
        if node.input[1] not in view.constants:
            reasons[node.name] = "both inputs depend on data"
            continue
        weighted += counts[node.name]
        sharing = [reader for reader in view.readers(node.input[1]) if reader.name in computed & counts.keys()]
        if not _runs_in_int8(node, products, num_sharing=len(sharing)):
            in_float += counts[node.name]
            reasons[node.name] = plan.kept_float.get(node.name, "ONNX Runtime left it in float")
    return KernelReport(
        kernels={name: types[name] for name in sorted(INT8_PRODUCTS | INT8_COMPANIONS) if types[name]},
        int8_macs_fraction=1 - in_float / max(weighted, 1),
        float_layers=reasons,
        float_macs_fraction={name: counts[name] / total for name in reasons},
    )


def find_hindrance(model: onnx.ModelProto, *, mode: Mode) -> str | None:
    """Why nothing of a float graph would run in int8 in a mode, or None: known before anything is trained."""
    try:
        macs(model)
    except ModelError as error:
        return f"{error.message}: {error.got}"
    placed = (place_static if mode == "static" else place_dynamic)(model.graph).layers
    if any(node.name in placed and node.op_type != "Gather" for node in model.graph.node):
        return None
    return f"nothing to quantize: no layer has a {mode} int8 kernel"


def weighted_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of one sample by node, for the products of a value that depends on data with a weight."""
    counts, computed, constants = macs(model), _find_computed(model.graph), GraphView(model.graph).constants
    products = [node for node in model.graph.node if node.name in counts and node.name in computed]
    return {node.name: counts[node.name] for node in products if node.input[1] in constants}


def _find_computed(graph: onnx.GraphProto) -> frozenset[str]:
    """The nodes that depend on an input, by name; ONNX Runtime computes the others once, when it loads the file."""
    values, found = {value.name for value in graph.input}, set[str]()
    for node in graph.node:
        if values.intersection(node.input):
            values.update(node.output)
            found.add(node.name)
    return frozenset(found)


def _runs_in_int8(node: onnx.NodeProto, products: Sequence[onnx.NodeProto], *, num_sharing: int) -> bool:
    """Whether one of the int8 products is what became of a float layer.

    A kernel is known by its weight; where several layers share one and not all of them have a kernel, by its name too,
    which ONNX Runtime keeps but for a suffix.
    """
    mine = [product for product in products if any(_is_form_of(name, node.input[1]) for name in product.input)]
    return len(mine) >= num_sharing or node.name in {RENAMED.sub("", product.name) for product in mine}


def _is_form_of(name: str, weight: str) -> bool:
    """Whether a constant holds the integers of a weight, as they are or transposed."""
    return name.startswith(f"{weight}_int8") and INTEGERS.fullmatch(name.removeprefix(weight)) is not None


def check_kernels(report: KernelReport, *, min_int8_macs_fraction: float = MIN_INT8_MACS_FRACTION) -> None:
    """Refuses a file that says int8 and runs float.

    Raises:
        StageError: too few multiply-accumulates in int8, with the layers that did it; or no int8 product at all,
            whatever the bound.
    """
    worst = sorted(report.float_layers, key=report.float_macs_fraction.__getitem__, reverse=True)
    named = [f"{name} ({report.float_macs_fraction[name]:.1%} of MACs: {report.float_layers[name]})" for name in worst]
    is_slow = SLOW_CONVOLUTION in report.float_layers.values()
    if not INT8_PRODUCTS & report.kernels.keys():
        raise StageError(
            "no layer runs in int8",
            expected="at least one int8 kernel",
            got="; ".join(named[:SHOWN]) or "no layer with a weight",
            hint=STATIC if is_slow else "leave quantize out of the recipe",
        )
    if report.int8_macs_fraction < min_int8_macs_fraction:
        raise StageError(
            "too little of the model runs in int8",
            expected=f"at least {min_int8_macs_fraction:.1%} of the multiply-accumulates with a weight",
            got=f"{report.int8_macs_fraction:.1%}; in float: " + "; ".join(named[:SHOWN]),
            hint=STATIC
            if is_slow
            else "allow a larger accuracy drop, keep fewer layers in float, or set min_int8_macs_fraction to "
            f"{round_down(report.int8_macs_fraction)}, which this file keeps to",
        )


def round_down(share: float) -> float:
    """The share in hundredths, not above what it is."""
    return math.floor(100 * share) / 100


def weight_bytes_fraction(model: onnx.ModelProto, quantized: onnx.ModelProto, plan: QuantPlan) -> float:
    """Bytes of the quantized weights and of any float copy left, over their fp32 bytes.

    Scales are not counted: a layer with 16 inputs spends 4 bytes a channel on one, whatever the writer does.
    """
    names = set(_weights(model, plan).values())
    original = {tensor.name: _size(tensor) for tensor in model.graph.initializer}
    after = sum(_size(tensor) for tensor in quantized.graph.initializer if INTEGERS.sub("", tensor.name) in names)
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
            f"data, or a smaller max_accuracy_drop; min_agreement: {round_down(agreement)} would take it as it is",
        )
    return agreement
