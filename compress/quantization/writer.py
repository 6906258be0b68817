"""The one writer of quantized graphs: a float graph and a plan, from calibration or from training, to int8."""

import onnx

from compress.quantization.calibration import Batches, Finder, observe
from compress.quantization.dynamic import write_dynamic
from compress.quantization.placement import Mode, place_dynamic, place_static
from compress.quantization.plan import QuantPlan, dynamic_plan, static_plan
from compress.quantization.residual import keep_residuals_apart
from compress.quantization.static import write_static


def write_quantized(model: onnx.ModelProto, plan: QuantPlan) -> onnx.ModelProto:
    """Returns a quantized copy of the float `model`; weight scales come from the weights that are in it now.

    Raises:
        StageError: the plan names places that the graph does not have.
    """
    quantized = write_static(model, plan) if plan.mode == "static" else write_dynamic(model, plan)
    keep_residuals_apart(quantized.graph)
    return quantized


def plan_without_training(model: onnx.ModelProto, batches: Batches, *, mode: Mode, find: Finder) -> QuantPlan:
    """A plan for any float ONNX graph: all that has an int8 kernel, ranges from calibration.

    Written by `write_quantized`, the teacher's is the honest baseline that a student has to beat.

    Args:
        model: float, with named nodes.
        batches: calibration inputs; not read in dynamic mode.
        mode: static or dynamic.
        find: picks a range from a histogram.
    """
    if mode == "dynamic":
        return dynamic_plan(place_dynamic(model.graph))
    placement = place_static(model.graph)
    histograms = observe(model, placement.values, batches)
    return static_plan(model.graph, placement, {name: find(histogram) for name, histogram in histograms.items()})
