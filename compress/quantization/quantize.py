"""quantize(): from a float graph and batches to an int8 graph with its plan, and what of it really runs in int8."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import onnx
from numpy.typing import NDArray

from compress.errors import StageError
from compress.progress import Reporter
from compress.quantization import kernels
from compress.quantization.calibration import Batches, Finder, observe
from compress.quantization.placement import Mode, layers, place_dynamic, place_static, usual_mode
from compress.quantization.plan import QuantPlan
from compress.quantization.sensitivity import Choice, Quantizer, Scorer, choose_layers, most_files
from compress.quantization.view import GraphView
from compress.quantization.writer import write_quantized

Decide = Callable[[onnx.ModelProto], NDArray[Any] | None]


@dataclass(frozen=True)
class Bounds:
    """What a quantized file must keep to.

    Attributes:
        min_int8_macs_fraction: of the multiply-accumulates with a weight, in int8 kernels after ONNX Runtime's own
            optimisation, 0 to 1.
        min_agreement: share of decisions equal to the float model's, 0 to 1.
        max_weight_bytes_fraction: bytes of the quantized weights over their fp32 bytes.
    """

    min_int8_macs_fraction: float = kernels.MIN_INT8_MACS_FRACTION
    min_agreement: float = kernels.MIN_AGREEMENT
    max_weight_bytes_fraction: float = kernels.MAX_WEIGHT_BYTES_FRACTION


USUAL = Bounds()
SILENT = Reporter(quiet=True)


@dataclass(frozen=True)
class Quantized:
    """An int8 graph, and how it came about.

    Attributes:
        plan: which weights and activations are in int8; it outlives any one file.
        graph: the file that the plan makes of the float graph.
        choice: the search for the layers to leave in float; None when every layer that can be is in int8.
        report: what ONNX Runtime runs.
        weight_bytes_fraction: bytes of the quantized weights over their fp32 bytes.
        agreement: share of decisions equal to the float model's; None where nothing is decided, as in regression.
    """

    plan: QuantPlan
    graph: onnx.ModelProto
    choice: Choice | None
    report: kernels.KernelReport
    weight_bytes_fraction: float
    agreement: float | None

    @property
    def onnx(self) -> bytes:
        """The content of the file; above 2 GB there is none, and `write_model` of `graph` makes two files."""
        return self.graph.SerializeToString()


def quantize(
    model: onnx.ModelProto,
    batches: Batches,
    *,
    find: Finder,
    decide: Decide,
    mode: Mode | None = None,
    keep_float: Sequence[str] = (),
    reduce_range: bool = False,
    scorer: Scorer | None = None,
    max_accuracy_drop: float = 0.0,
    bounds: Bounds = USUAL,
    where: str = "quantize",
    reporter: Reporter = SILENT,
) -> Quantized:
    """Return an int8 graph that keeps to its bounds.

    Args:
        model: float; not changed.
        batches: calibration inputs; not read in dynamic mode.
        find: picks a range from a histogram.
        decide: what a graph decides on samples; None where nothing is decided.
        mode: ``static`` or ``dynamic``; None takes dynamic for a graph with attention whose
            multiply-accumulates are not in convolutions, else static.
        keep_float: globs of module paths that stay in float.
        reduce_range: 7-bit weights, for CPUs without VNNI.
        scorer: judges a file, to find the layers to leave in float; None leaves none.
        max_accuracy_drop: allowed by the scorer, 0 to 1; not read without one.
        bounds: what is asserted of the result.
        where: named in messages.
        reporter: shows how far the search for layers is.

    Raises:
        StageError: when a bound is missed, with the layers that did it, a glob matches nothing, or there are no
            calibration inputs.
    """
    mode = mode or usual_mode(model, min_int8_macs_fraction=bounds.min_int8_macs_fraction)
    quantizer = Quantizer(
        model, mode=mode, keep_float=find_kept(list_layers(model), keep_float, where=where), reduce_range=reduce_range
    )
    histograms = {} if mode == "dynamic" else observe(model, quantizer.values, batches)
    ranges = {name: find(histogram) for name, histogram in histograms.items()}
    choice = None
    if scorer is not None:
        with reporter.bar(f"{where}, ranking", most_files(len(quantizer.layers))) as bar:
            choice = choose_layers(quantizer, ranges, scorer, max_accuracy_drop=max_accuracy_drop, done=bar.advance)
    plan = quantizer.plan(ranges, {}) if choice is None else choice.plan
    quantized = write_quantized(model, plan)
    report = kernels.inspect_kernels(model, quantized, plan)
    kernels.check_kernels(report, min_int8_macs_fraction=bounds.min_int8_macs_fraction)
    fraction = kernels.weight_bytes_fraction(model, quantized, plan)
    kernels.check_weight_bytes(
        fraction,
        copies=kernels.float_copies(model, quantized, plan),
        max_weight_bytes_fraction=bounds.max_weight_bytes_fraction,
    )
    theirs, ours = (decide(graph) for graph in (model, quantized))
    agreement = None
    if ours is not None and theirs is not None:
        worst = _worst_first(plan, choice)
        agreement = kernels.check_agreement(theirs, ours, layers=worst, min_agreement=bounds.min_agreement)
    return Quantized(plan, quantized, choice, report, fraction, agreement)


@dataclass(frozen=True)
class Reach:
    """What of a float graph could run in int8.

    Attributes:
        mode: in which.
        int8_macs_fraction: of the multiply-accumulates with a weight, those of layers that have a kernel, 0 to 1.
        float_layers: the others, by name, with the reason.
    """

    mode: Mode
    int8_macs_fraction: float
    float_layers: dict[str, str]


def find_reach(
    model: onnx.ModelProto, *, mode: Mode | None, keep_float: Sequence[str], bound: float, where: str = "quantize"
) -> Reach:
    """Return how much of a float graph could be in int8; known before anything is trained.

    Args:
        model: float; not changed.
        mode: as `quantize` takes it.
        keep_float: globs of module paths that stay in float.
        bound: the share that has to be in int8, 0 to 1.
        where: named in messages.

    Raises:
        StageError: when nothing could, less than the bound, or a glob matches nothing.
    """
    mode = mode or usual_mode(model, min_int8_macs_fraction=bound)
    if (hindrance := kernels.find_hindrance(model, mode=mode)) is not None:
        raise StageError("nothing can run in int8", got=hindrance, where=where, hint="leave quantize out")
    kept = find_kept(list_layers(model), keep_float, where=where)
    placed = (place_static if mode == "static" else place_dynamic)(model.graph, keep_float=kept)
    weighted = kernels.weighted_macs(model)
    share = sum(count for name, count in weighted.items() if name in placed.layers) / max(sum(weighted.values()), 1)
    reasons = {
        name: placed.kept_float.get(name, "it has no int8 kernel") for name in weighted if name not in placed.layers
    }
    if share < bound:
        raise StageError(
            "too little of the model can run in int8",
            expected=f"at least {bound:.1%} of the multiply-accumulates with a weight",
            got=f"{share:.1%}; in float: {'; '.join(f'{name} ({why})' for name, why in reasons.items())}",
            where=where,
            hint=f"set min_int8_macs_fraction to {kernels.round_down(share)}, or leave quantize out",
        )
    return Reach(mode, share, reasons)


def list_layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of a graph's layers, in its order."""
    return [node.name for node in layers(GraphView(model.graph))]


def matching(model: onnx.ModelProto, globs: Sequence[str]) -> list[str]:
    """Return the globs that match a layer of a graph."""
    names = list_layers(model)
    return [glob for glob in globs if any(fnmatchcase(name, glob) for name in names)]


def find_kept(names: Sequence[str], globs: Sequence[str], *, where: str) -> dict[str, str]:
    """Return the layers that a glob keeps in float, with the reason.

    Args:
        names: of the layers.
        globs: of module paths.
        where: named in messages.

    Raises:
        StageError: when a glob matches nothing.
    """
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise StageError("keep_float matches no layer", expected=f"one of {[*names]}", got=glob, where=where)
    return {name: f"keep_float: {glob}" for glob in globs for name in names if fnmatchcase(name, glob)}


def _worst_first(plan: QuantPlan, choice: Choice | None) -> list[str]:
    """Return what is in int8, in words, what hurts most first where that is known."""
    int8 = [entry.at.path for entry in plan.weights]
    ranking = {} if choice is None else choice.ranking
    return [f"{name} ({increase:+.4f} nats alone)" for name, increase in ranking.items() if name in int8] or int8
