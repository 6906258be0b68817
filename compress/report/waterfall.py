"""The stages as one picture, for READMEs and MLflow."""

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, nan
from typing import TYPE_CHECKING

from compress.measures.intervals import Estimate
from compress.report.document import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BETTER, WORSE = "#9fd3b8", "#eab5a5"  # moves in the waterfall
UNKNOWN = Estimate(nan, nan, nan)


def waterfall(report: Report) -> "Figure":
    """Draw accuracy, KL from the teacher where it is known, size and latency of every row, one panel each.

    Accuracy and KL are points, and bars from the stage before to each stage; a row beside the chain, such as a
    baseline, is a point alone. What was not measured is left out.

    Raises:
        ValueError: without a benchmark.
    """
    from matplotlib.figure import Figure

    if report.benchmark is None:
        raise ValueError("a run that stopped before its benchmark has nothing to draw")
    rows, primary = report.benchmark.rows, report.benchmark.primary
    names = [row.name for row in rows]
    chain = [names.index(stage.name) for stage in report.chain]
    known = [report.scores[name].teacher_kl_nats for name in names]
    nats = [nan if value is None else value for value in known]
    judged = len(chain) > 1 and isfinite(nats[chain[-1]])
    figure = Figure(figsize=(11.2 + 3.6 * judged, 0.42 * len(rows) + 1.4), layout="constrained")
    axes = iter(figure.subplots(1, 3 + judged, sharey=True))
    found = [row.accuracy or UNKNOWN for row in rows]
    accuracy = [100 * one.value for one in found]
    errors = [[100 * abs(end - one.value) for one, end in zip(found, ends, strict=True)] for ends in _ends(found)]
    axis = next(axes)
    _draw_moves(axis, accuracy, chain, up=BETTER, down=WORSE)
    axis.errorbar(accuracy, range(len(rows)), xerr=errors, fmt="o", color="#1f5f8b", capsize=3)
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    axis.set_xlabel(f"{report.task.measure} on select, %, 95% interval")
    if judged:
        axis, nats[chain[0]] = next(axes), 0.0
        _draw_moves(axis, nats, chain, up=WORSE, down=BETTER)
        axis.plot(nats, range(len(rows)), "o", color="#6a4bc4")
        axis.set_xlabel("KL from the teacher, nats")
    latency_ms = [row.latency_ms.get(primary, nan) for row in rows]
    _draw_bars(next(axes), [row.size_bytes / 1e3 for row in rows], "file, kB", colour="#8fb8de")
    _draw_bars(next(axes), latency_ms, f"median latency, ms ({primary})", colour="#f2b880")
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.25)
        axis.set_axisbelow(True)
    figure.suptitle(report.benchmark.title, fontsize=11)
    return figure


def _ends(found: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    """Return the lower and the upper bounds."""
    return [one.low for one in found], [one.high for one in found]


def _draw_moves(axis: "Axes", values: Sequence[float], chain: Sequence[int], *, up: str, down: str) -> None:
    """Draw a bar from each value of the chain to the next, in the next one's row."""
    for before, after in pairwise(chain):
        move = values[after] - values[before]
        axis.barh(after, move, left=values[before], height=0.5, color=up if move > 0 else down)


def _draw_bars(axis: "Axes", values: Sequence[float], title: str, *, colour: str) -> None:
    """Draw values from zero, with their numbers."""
    axis.barh(range(len(values)), values, color=colour)
    axis.set_xlabel(title)
    axis.margins(x=0.18)
    for index, value in enumerate(values):
        if isfinite(value):
            label = f" {value:,.3g}" if value < 1000 else f" {value:,.0f}"
            axis.annotate(label, (value, index), va="center", fontsize=8)
