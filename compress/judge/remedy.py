"""What a missed gate asks for: what each stage bought and cost, and the setting that has most to give.

All numbers are those of the race, so accuracies are on select, like everything that chooses. How a size or a time moves
with a setting is taken to be proportional: a first guess, and the message says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.benchmark.document import Row
from compress.stage import Quantity, Stage

BOUGHT = 1.02  # a smaller factor is no purchase


@dataclass(frozen=True)
class Move:
    """A stage, with the training that recovers from it.

    Attributes:
        stage: the first of them.
        name: of all of them.
        points: accuracy gained on select, in points of 0.01.
        smaller: bytes before over bytes after.
        faster: latency before over latency after; None where one of them is unknown.
        facts: of the artifact that the stage made.
    """

    stage: Stage
    name: str
    points: float
    smaller: float
    faster: float | None
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        """Such as ``prune with recover +0.37 points, 1.74x smaller, 1.31x faster``."""
        parts = [f"{self.name} {self.points:+.2f} points", _times(self.smaller, "smaller", "larger")]
        return ", ".join(parts if self.faster is None else [*parts, _times(self.faster, "faster", "slower")])

    def bought(self, quantity: Quantity) -> float:
        """How many times less of a quantity there is; 1 where that is unknown."""
        return self.smaller if quantity == "size" else self.faster or 1.0


def moves(
    stages: Sequence[Stage], rows: Mapping[str, Row], facts: Mapping[str, Mapping[str, Any]], profile: str
) -> list[Move]:
    """Return what each stage did, from the row before it.

    Args:
        stages: in order; of a file that is not quantized, without the quantization.
        rows: of the race, by name; ``teacher`` is where the first stage starts from.
        facts: of the stages' artifacts, by name.
        profile: that times are taken from.
    """
    groups: list[list[Stage]] = []
    for stage in stages:
        recovers = stage.training is not None and not stage.cuts
        if recovers and groups and groups[-1][0].cuts:
            groups[-1].append(stage)
        else:
            groups.append([stage])
    found: list[Move] = []
    before = rows["teacher"]
    for group in groups:
        after = rows[group[-1].title]
        was_ms, took_ms = (row.latency_ms.get(profile) for row in (before, after))
        found.append(
            Move(
                stage=group[0],
                name=" with ".join(stage.title for stage in group),
                points=100 * (_accuracy(after) - _accuracy(before)),
                smaller=before.size_bytes / after.size_bytes,
                faster=None if was_ms is None or took_ms is None else was_ms / took_ms,
                facts=facts[group[0].title],
            )
        )
        before = after
    return found


def remedy(
    quantity: Quantity,
    found: Sequence[Move],
    *,
    missing: float,
    float_file: bool,
    measured_passes: bool,
    better: str = "",
    int8_is_slow: bool = False,
) -> str:
    """Return what to change first, and what each stage bought and cost.

    Args:
        quantity: what the gate is about.
        found: see ``moves``.
        missing: what is left to buy of size or time: the value asked over the one judged, below 1.
        float_file: whether the file is one that is never quantized.
        measured_passes: whether the measured value passes and only its interval's bound does not.
        better: the bundle's other file that serves the gates better and holds this one; empty where none does.
        int8_is_slow: whether the teacher became slower when it was only quantized.
    """
    if better:
        first = f"ship {better}: it holds this gate on select; `primary: auto` under `export` has it judged"
    elif measured_passes:
        more = "more test samples" if quantity == "accuracy" else "`benchmark.preset: strict`"
        first = f"the value measured passes, its interval does not: {more} would narrow it"
    elif quantity == "accuracy":
        first = _for_accuracy(found)
    else:
        first = _for_cost(quantity, found, missing=missing, float_file=float_file, int8_is_slow=int8_is_slow)
    return f"{first}. By stage, on select: {'; '.join(map(str, found))}"


def _accuracy(row: Row) -> float:
    assert row.accuracy is not None  # every file of a pipeline is scored
    return row.accuracy.value


def _for_accuracy(found: Sequence[Move]) -> str:
    worst = min(found, key=lambda move: move.points)
    if worst.points >= 0:
        return "no stage lost accuracy on select: test differs from it, so look at the data before the settings"
    setting = worst.stage.gentler(f"stages.{worst.stage.title}") or "it has no setting for that"
    return f"most accuracy is lost by {worst.name} ({worst.points:+.2f} points): {setting}"


def _for_cost(
    quantity: Quantity, found: Sequence[Move], *, missing: float, float_file: bool, int8_is_slow: bool
) -> str:
    """Among the stages that can still give, the one that bought most for the accuracy it cost.

    A stage that made it worse is not asked for more of the same.
    """
    quantized = [move for move in found if move.stage.produces == "quantized"]
    if not float_file and not quantized and not (quantity == "speed" and int8_is_slow):
        return "nothing is quantized: add `quantize` before `export`, int8 weights take a quarter of float32"
    slower = next((move for move in quantized if move.bought(quantity) * BOUGHT < 1), None)
    if slower is not None:
        enough = "" if slower.bought(quantity) <= missing else ", which is not all that is missing"
        return (
            f"int8 is {_times(slower.bought(quantity), 'faster', 'slower')} than float32 here{enough}: ship fp32, with "
            "`variants: [fp32, int8-x86]` and `primary: auto` under `export`"
        )
    able: dict[str, str] = {}
    for move in found:
        path = f"stages.{move.stage.title}"
        setting = move.stage.cheaper(path, quantity, missing=missing, facts=move.facts)
        able |= {move.name: setting} if setting and move.bought(quantity) >= 1 else {}
    if not able:
        pruned = any(move.stage.scales for move in found)
        return "no stage has enough left to give: " + (
            "choose a smaller `student`" if pruned else "add `prune`, or choose a smaller `student`"
        )
    best = min((move for move in found if move.name in able), key=lambda move: _price(quantity, move))
    return f"{best.name} has most to give: {able[best.name]}"


def _price(quantity: Quantity, move: Move) -> tuple[float, float]:
    """Points of accuracy for each factor of e; at one price, the larger purchase first."""
    bought = move.bought(quantity)
    return (max(0.0, -move.points) / math.log(bought) if bought > BOUGHT else math.inf), -bought


def _times(factor: float, more: str, less: str) -> str:
    return f"{factor:.2f}x {more}" if factor >= 1 else f"{1 / factor:.2f}x {less}"
