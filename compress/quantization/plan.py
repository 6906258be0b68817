"""The quant plan: what is quantized and how, keyed by module path, so that it outlives any one ONNX file.

A plan holds policy and the ranges of activations. It holds no weight scales: they are computed from the weights that
are in the graph when it is written, so a plan stays right when weights change later.
"""

from collections.abc import Mapping
from typing import Literal

import onnx
from pydantic import BaseModel, ConfigDict

from compress.errors import StageError
from compress.quantization.placement import Mode, Placement
from compress.quantization.view import GraphView

PortKind = Literal["input", "output", "weight"]


class Port(BaseModel):
    """One place in a model.

    Attributes:
        path: module path as exported (``layers.0.conv1``; ``layers.0/Add`` for an operation without a module;
            ``layers.0.relu#1`` for the second call of a module), or the name of a graph input.
        port: ``output`` of that module or operation, its ``weight``, or ``input`` for a graph input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    port: PortKind


class Activation(BaseModel):
    """A quantized activation: one scale for the tensor, zero exactly representable.

    Attributes:
        at: where.
        low: smallest value represented, at most 0.
        high: largest value represented, at least 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Port
    low: float
    high: float


class Weight(BaseModel):
    """A quantized weight: int8, symmetric, one scale per output channel, or per row of an embedding's table.

    Attributes:
        at: where.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Port


class QuantPlan(BaseModel):
    """Which weights and activations are quantized.

    Attributes:
        format_version: of this record.
        mode: static (ranges from calibration) or dynamic (ranges from each batch, so `activations` is empty).
        weights: in graph order.
        activations: in graph order.
        kept_float: layers left in float, path to reason.
        reduce_range: 7-bit weights, for CPUs without VNNI, whose int8 products saturate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    mode: Mode
    weights: tuple[Weight, ...]
    activations: tuple[Activation, ...] = ()
    kept_float: dict[str, str] = {}
    reduce_range: bool = False


def ports(graph: onnx.GraphProto) -> dict[str, Port]:
    """Maps every value and every layer's weight to its place in the model; the names in the graph carry it already."""
    found = {value.name: Port(path=value.name, port="input") for value in graph.input}
    for node in graph.node:
        found |= {name: Port(path=name, port="output") for name in node.output if name}
    return found


def static_plan(
    graph: onnx.GraphProto,
    placement: Placement,
    ranges: Mapping[str, tuple[float, float]],
    *,
    reduce_range: bool = False,
) -> QuantPlan:
    """Joins a placement with calibrated ranges.

    Args:
        graph: the graph that both were made from.
        placement: what is in int8.
        ranges: low and high of every int8 value, in the units of the value.
        reduce_range: see `QuantPlan`.

    Raises:
        StageError: a value was not calibrated.
    """
    missing = [name for name in placement.values if name not in ranges]
    if missing:
        raise StageError("some values have no calibrated range", got=missing)
    shared = {name: group for group in placement.same for name in group}
    at = ports(graph)
    activations = []
    for name in placement.values:
        members = [ranges[member] for member in shared.get(name, (name,))]
        low, high = min(0.0, *(low for low, _ in members)), max(0.0, *(high for _, high in members))
        activations.append(Activation(at=at[name], low=low, high=high))
    return QuantPlan(
        mode="static",
        weights=tuple(Weight(at=Port(path=name, port="weight")) for name in placement.layers),
        activations=tuple(activations),
        kept_float=placement.kept_float,
        reduce_range=reduce_range,
    )


def dynamic_plan(placement: Placement, *, reduce_range: bool = False) -> QuantPlan:
    """A plan without ranges: every batch brings its own."""
    return QuantPlan(
        mode="dynamic",
        weights=tuple(Weight(at=Port(path=name, port="weight")) for name in placement.layers),
        kept_float=placement.kept_float,
        reduce_range=reduce_range,
    )


def resolve(plan: QuantPlan, view: GraphView) -> tuple[list[onnx.NodeProto], dict[str, Activation]]:
    """Finds a plan's places in a graph.

    Returns:
        The layers to quantize, and activation policy by value name.

    Raises:
        StageError: the graph lacks a place that the plan names.
    """
    nodes = {node.name: node for node in view.graph.node}
    values = ports(view.graph)
    by_value = {entry.at.path: entry for entry in plan.activations}
    missing = [entry.at.path for entry in plan.weights if entry.at.path not in nodes]
    missing += [entry.at.path for entry in plan.activations if values.get(entry.at.path) != entry.at]
    if missing:
        raise StageError(
            "the quant plan names places that the graph does not have",
            got=missing,
            hint="quantize again: the plan was made for another architecture",
        )
    return [nodes[entry.at.path] for entry in plan.weights], by_value
