"""How a run ends: one table of every file, gates and doubts; and what changed hands, as lines of text."""

import textwrap
from collections.abc import Sequence

from compress.benchmark import tables
from compress.benchmark.document import BenchmarkResult, Row
from compress.measures.intervals import Estimate
from compress.measures.units import format_bytes, format_factor
from compress.progress import fold
from compress.report.document import Report, Verdict
from compress.report.words import absent_lines, gate_lines, simplest_lines

GAP = "  "  # between columns


def summary(report: Report) -> list[str]:
    """Return how much smaller, how much faster and how many points, each with its interval where it has one.

    Against the teacher and, where test was read, the teacher with quantization only; empty without a benchmark.
    """
    if report.benchmark is None:
        return []
    rivals = [report.benchmark.reference]
    rivals += [] if report.verdict is None or report.verdict.rival is None else [report.verdict.rival]
    shipped, measure = report.benchmark.shipped, report.task.measure
    size = [_size(report.benchmark.row(name), shipped) for name in rivals]
    verdict, role = report.verdict, "select" if report.verdict is None else "test"
    changes = [shipped.accuracy_change] if verdict is None else [verdict.shipped.change, verdict.change_from_rival]
    changes = changes[: len(rivals)]
    rows = [
        ["what ships, against", *rivals],
        ["size", *size],
        ["speed", *_speeds(report.benchmark, verdict)],
        [f"{measure} on {role}", *map(_points, changes)],
    ]
    return _align(rows, right=False)


def file_lines(report: Report, *, width: int) -> list[str]:
    """Return a table of every file, its head first; a name that leaves its numbers no room has a line of its own."""
    tested = {} if report.verdict is None else {row.name: row.accuracy.value for row in report.verdict.test}
    if report.benchmark is None:
        rows = [["", "size", "select"]]
        rows += [
            [stage.name, format_bytes(stage.scores.size_bytes), f"{100 * stage.scores.accuracy:.2f}"]
            for stage in report.stages
        ]
    else:
        rows = [["", "size", *_heads(report.benchmark), "select", "test"]]
        rows += [[row.name, *_cells(row, report.benchmark, tested.get(row.name))] for row in report.benchmark.rows]
    names = [row[0] for row in rows]
    numbers: list[str] = []
    for gap in (GAP, " "):
        numbers = _align([row[1:] for row in rows], right=True, gap=gap)
        if max(map(len, names)) + len(gap) + max(map(len, numbers)) <= width:
            return _align(list(zip(names, numbers, strict=True)), right=False, gap=gap)
    pairs = [(name, f"{GAP}{cells}") for name, cells in zip(names, numbers, strict=True)]
    return [pairs[0][1], *(line for pair in pairs[1:] for line in pair)]


def notes(report: Report, *, width: int) -> list[str]:
    """Return where and how it was timed, what is missing, the gates, and a line on each of what disturbed it."""
    environment = report.environment
    where = f"{environment.cpu_model}, {environment.day}"
    found = []
    if report.benchmark is not None:
        found.append(f"{report.benchmark.primary} on {where}; accuracy in %; ~ within the noise")
        found += _doubt_lines(report.benchmark, width=width)
    found += [*simplest_lines(report), *absent_lines(report)]
    gates = report.gates_on_select if report.verdict is None else report.verdict.gates
    held = [gate.name for gate in gates if gate.passed]
    if held:
        found.append(f"gates that hold: {', '.join(held)}")
    found += gate_lines(gate for gate in gates if not gate.passed)
    return [line for text in ["", *found] for line in fold(text, width)] if found else []


def _size(other: Row, shipped: Row) -> str:
    factor = other.size_bytes / shipped.size_bytes
    return f"{format_factor(factor)}x smaller" if factor >= 1 else f"{format_factor(1 / factor)}x larger"


def _speeds(benchmark: BenchmarkResult, verdict: Verdict | None) -> list[str]:
    """Return the speed of the shipped file over the teacher, and over the rival where the verdict has one."""
    shipped, primary = benchmark.shipped, benchmark.primary
    found = [_speed(shipped.speedup.get(primary), measurable=shipped.measurable.get(primary, False))]
    if verdict is not None and verdict.rival is not None:
        found.append(_speed(verdict.speedup_over_rival, measurable=verdict.over_rival_measurable))
    return found


def _speed(speedup: Estimate | None, *, measurable: bool) -> str:
    if speedup is None:
        return "not ranked"
    if speedup.value < 1:
        slower = Estimate(1 / speedup.value, 1 / speedup.high, 1 / speedup.low)
        return _factor(slower, "slower", measurable=measurable)
    return _factor(speedup, "faster", measurable=measurable)


def _factor(estimate: Estimate, word: str, *, measurable: bool) -> str:
    value, low, high = map(format_factor, estimate)
    return f"{'' if measurable else '~'}{value}x {word} [{low}, {high}]"


def _points(change: Estimate | None) -> str:
    if change is None:
        return "-"
    value, low, high = (100 * bound for bound in change)
    return f"{value:+.2f} points [{low:+.2f}, {high:+.2f}]"


def _heads(benchmark: BenchmarkResult) -> tuple[str, str]:
    offline = bool(benchmark.comparisons) and benchmark.comparisons[0].profile.scenario == "offline"
    return ("samples" if offline else "ms"), "speed"


def _cells(row: Row, benchmark: BenchmarkResult, tested: float | None) -> list[str]:
    primary = benchmark.primary
    return [
        format_bytes(row.size_bytes),
        tables.time_cell(row, benchmark, primary),
        tables.factor(row, primary) or "-",
        "-" if row.accuracy is None else f"{100 * row.accuracy.value:.2f}",
        "-" if tested is None else f"{100 * tested:.2f}",
    ]


def _doubt_lines(benchmark: BenchmarkResult, *, width: int) -> list[str]:
    """Return a line on what disturbed the measurement, and one on profiles under which files could not be measured."""
    doubts = [doubt for comparison in benchmark.comparisons for doubt in tables.doubts(comparison)]
    missed = [name for name, comparison in benchmark.by_profile.items() if comparison.failures]
    found = []
    if doubts:
        more = f" (and {len(doubts) - 1} more in report.md)" if len(doubts) > 1 else ""
        room = width - len("disturbed: ") - len(more)
        found.append(f"disturbed: {textwrap.shorten(doubts[0], room, placeholder='...')}{more}")
    if missed:
        found.append(f"not all files ran under {', '.join(missed)}; report.md says why")
    return found


def _align(rows: Sequence[Sequence[str]], *, right: bool, gap: str = GAP) -> list[str]:
    """Return rows of cells as lines whose columns are aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        gap.join(
            cell.rjust(width) if right else cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
