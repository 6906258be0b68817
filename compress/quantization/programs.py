"""A program in int8: both graphs with ranges that are found at run time; what of them really runs in int8."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from compress.errors import StageError
from compress.export.deployable import Deployable
from compress.quantization import kernels
from compress.quantization.placement import Mode, place_dynamic
from compress.quantization.plan import QuantPlan, dynamic_plan
from compress.quantization.plans import Plans, quantized
from compress.quantization.quantize import Bounds, Reach, find_kept, find_reach, list_layers, matching

STATIC = "a program is quantized with ranges that are found at run time: mode dynamic"


@dataclass(frozen=True)
class QuantizedProgram:
    """An int8 program, and how it came about.

    Attributes:
        plans: which weights are in int8, by graph.
        program: what they make of the float one.
        report: what ONNX Runtime runs, both graphs together; the share of multiply-accumulates is the smaller one.
        weight_bytes_fraction: bytes of the quantized weights over their fp32 bytes, in the graph where that is larger.
        agreement: share of texts equal to the float program's.
    """

    plans: Plans
    program: Deployable
    report: kernels.KernelReport
    weight_bytes_fraction: float
    agreement: float


def quantize_program(
    model: Deployable,
    *,
    decide: Callable[[Deployable], NDArray[Any]],
    mode: Mode | None = None,
    keep_float: Sequence[str] = (),
    reduce_range: bool = False,
    bounds: Bounds,
    where: str = "quantize",
) -> QuantizedProgram:
    """Return an int8 program that keeps to its bounds, each of them in both graphs.

    Args:
        model: float; not changed.
        decide: what a program writes for samples.
        mode: ``dynamic``, or None, which is the same.
        keep_float: globs of module paths that stay in float.
        reduce_range: 7-bit weights, for CPUs without VNNI.
        bounds: what is asserted of the result.
        where: named in messages.

    Raises:
        StageError: when a bound is missed, with the layers that did it, a glob matches nothing, or the mode is static.
    """
    _refuse_static(mode, where=where)
    names = [name for graph in model.graphs.values() for name in list_layers(graph)]
    kept = find_kept(names, keep_float, where=where)
    plans = {
        name: dynamic_plan(place_dynamic(graph.graph, keep_float=kept), reduce_range=reduce_range)
        for name, graph in model.graphs.items()
    }
    made = quantized(model, plans)
    triples = [(model.graphs[name], made.graphs[name], plan) for name, plan in plans.items()]
    reports = [kernels.inspect_kernels(*triple) for triple in triples]
    for report in reports:
        kernels.check_kernels(report, min_int8_macs_fraction=bounds.min_int8_macs_fraction)
    fractions = [_check_weight_bytes(*triple, bounds=bounds) for triple in triples]
    int8 = [entry.at.path for plan in plans.values() for entry in plan.weights]
    agreement = kernels.check_agreement(decide(model), decide(made), layers=int8, min_agreement=bounds.min_agreement)
    return QuantizedProgram(plans, made, _join(reports), max(fractions), agreement)


def reach_of_program(
    model: Deployable, *, mode: Mode | None, keep_float: Sequence[str], bound: float, where: str = "quantize"
) -> Reach:
    """Return how much of a program could be in int8: of the graph of which it is less; see `find_reach`.

    Raises:
        StageError: as `find_reach`, or for static mode.
    """
    _refuse_static(mode, where=where)
    find_kept([name for graph in model.graphs.values() for name in list_layers(graph)], keep_float, where=where)
    found = [
        find_reach(graph, mode="dynamic", keep_float=matching(graph, keep_float), bound=bound, where=where)
        for graph in model.graphs.values()
    ]
    return min(found, key=lambda reach: reach.int8_macs_fraction)


def find_obstacle(model: Deployable, *, mode: Mode) -> str | None:
    """Why nothing of a float model, a graph or a program, would run in int8 in a mode, or None."""
    if model.writing is not None and mode == "static":
        return STATIC
    whys = [kernels.find_hindrance(graph, mode=mode) for graph in model.graphs.values()]
    return next((why for why in whys if why is not None), None)


def _refuse_static(mode: Mode | None, *, where: str) -> None:
    if mode == "static":
        raise StageError(STATIC, expected="dynamic", got=mode, where=where, hint="leave mode out")


def _check_weight_bytes(model: onnx.ModelProto, made: onnx.ModelProto, plan: QuantPlan, *, bounds: Bounds) -> float:
    fraction = kernels.weight_bytes_fraction(model, made, plan)
    copies = kernels.float_copies(model, made, plan)
    kernels.check_weight_bytes(fraction, copies=copies, max_weight_bytes_fraction=bounds.max_weight_bytes_fraction)
    return fraction


def _join(reports: Sequence[kernels.KernelReport]) -> kernels.KernelReport:
    return kernels.KernelReport(
        kernels=dict(sum((Counter(report.kernels) for report in reports), Counter())),
        int8_macs_fraction=min(report.int8_macs_fraction for report in reports),
        float_layers={name: why for report in reports for name, why in report.float_layers.items()},
        float_macs_fraction={name: share for report in reports for name, share in report.float_macs_fraction.items()},
    )
