"""Which layers int8 hurts, judged by the guided loss, and the fewest of them to leave in float."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from compress.export.onnx_file import write_model
from compress.quantization.calibration import Range
from compress.quantization.placement import Mode, Placement, layers, place_dynamic, place_static
from compress.quantization.plan import QuantPlan, dynamic_plan, static_plan
from compress.quantization.view import GraphView, weight_of
from compress.quantization.writer import write_quantized


@dataclass(frozen=True)
class Score:
    """How good a file is on select.

    Attributes:
        loss: mean guided loss per sample, nats.
        accuracy: 0 to 1.
    """

    loss: float
    accuracy: float


Scorer = Callable[[Path], Score]


@dataclass(frozen=True)
class Point:
    """One file that was scored.

    Attributes:
        kept_float: layers left in float by choice (those without a kernel not counted), worst first.
        score: of that file.
    """

    kept_float: tuple[str, ...]
    score: Score


@dataclass(frozen=True)
class Choice:
    """The outcome of the search.

    Attributes:
        plan: with the chosen layers in float.
        float_score: of the unquantized file.
        ranking: increase of the loss with only that layer in int8, layer by layer, largest first.
        curve: files scored on the way, fewest layers in float first.
    """

    plan: QuantPlan
    float_score: Score
    ranking: dict[str, float]
    curve: tuple[Point, ...]


class Quantizer:
    """Makes plans for one float graph with given layers in float.

    Args:
        model: float.
        mode: static or dynamic.
        keep_float: layers that stay in float in any case, with the reason.
        reduce_range: 7-bit weights.

    Attributes:
        layers: layers that can be quantized, in graph order; of those that share a weight, which are in int8 together,
            the first.
        values: every value that some choice of layers needs a range for, in graph order.
    """

    def __init__(
        self, model: onnx.ModelProto, *, mode: Mode, keep_float: Mapping[str, str], reduce_range: bool = False
    ) -> None:
        self.model = model
        self._mode: Mode = mode
        self._keep_float = dict(keep_float)
        self._reduce_range = reduce_range
        full = self._place({})
        weights = {node.name: weight_of(node) for node in layers(GraphView(model.graph))}
        self.layers = tuple({weights[name]: name for name in reversed(full.layers)}.values())[::-1]
        alone = [self._place(self._others(name)) for name in self.layers]
        self.values = tuple(dict.fromkeys(value for placement in (full, *alone) for value in placement.values))

    def _others(self, layer: str) -> dict[str, str]:
        return {name: "ranking" for name in self.layers if name != layer}

    def _place(self, extra: Mapping[str, str]) -> Placement:
        place = place_static if self._mode == "static" else place_dynamic
        return place(self.model.graph, keep_float=self._keep_float | dict(extra))

    def plan(self, ranges: Mapping[str, Range], extra: Mapping[str, str]) -> QuantPlan:
        """A plan with the layers of `extra` in float too, with their reasons."""
        placement = self._place(extra)
        if self._mode == "dynamic":
            return dynamic_plan(placement, reduce_range=self._reduce_range)
        return static_plan(self.model.graph, placement, ranges, reduce_range=self._reduce_range)

    def alone(self, ranges: Mapping[str, Range], layer: str) -> QuantPlan:
        """A plan with only `layer` in int8."""
        return self.plan(ranges, self._others(layer))


def most_files(num_layers: int) -> int:
    """How many files ``choose_layers`` scores at most: the float one, one a layer, and those of the bisection."""
    return 1 + num_layers + (1 + (num_layers - 1).bit_length() if num_layers else 0)


def choose_layers(
    quantizer: Quantizer,
    ranges: Mapping[str, Range],
    scorer: Scorer,
    *,
    max_accuracy_drop: float,
    done: Callable[[], object] = lambda: None,
) -> Choice:
    """Ranks the layers one at a time, then leaves the fewest in float that keep the accuracy.

    The layers that raise the loss most are left in float first. How many is found by bisection, which takes the
    accuracy to rise with their number; every file on the way is in the curve.

    Args:
        quantizer: of the float graph.
        ranges: of `quantizer.values`.
        scorer: guided loss and accuracy of a file on the select role.
        max_accuracy_drop: allowed on select, 0 to 1.
        done: called after each file that was scored.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"

        def score(model: onnx.ModelProto) -> Score:
            write_model(model, path)
            found = scorer(path)
            done()
            return found

        reference = score(quantizer.model)
        increase = {
            name: score(write_quantized(quantizer.model, quantizer.alone(ranges, name))).loss - reference.loss
            for name in quantizer.layers
        }
        ranking = dict(sorted(increase.items(), key=lambda item: -item[1]))
        worst = tuple(ranking)
        scored: dict[int, Point] = {}

        def keep(count: int) -> QuantPlan:
            return quantizer.plan(ranges, {name: "int8 costs too much accuracy" for name in worst[:count]})

        def meets(count: int) -> bool:
            if count == len(worst):
                return True
            scored[count] = Point(worst[:count], score(write_quantized(quantizer.model, keep(count))))
            return scored[count].score.accuracy >= reference.accuracy - max_accuracy_drop

        low, high = 0, 0 if not worst or meets(0) else len(worst)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if meets(middle) else (middle, high)
    return Choice(
        plan=keep(high),
        float_score=reference,
        ranking=ranking,
        curve=tuple(scored[count] for count in sorted(scored)),
    )
