"""The views of a benchmark's result: tables for the terminal, for Markdown, and the cells of both.

They read the result and nothing else, so a stored one prints as it did on its day.
"""

import re
from collections.abc import Sequence

from rich.table import Table

from compress.benchmark.compare import Comparison
from compress.benchmark.document import BenchmarkResult, Row, RuntimeAccuracy
from compress.benchmark.fitting import fitted_table
from compress.benchmark.measure import OVERLOADED, PERCENTILES
from compress.measures.units import (
    format_bytes,
    format_count,
    format_factor,
    format_ms,
    format_rate,
    format_share,
    format_speedup,
)

WIDTH = 100  # columns, where nobody says how many there are
TAIL_HEAD = "highest percentile that all models support, ms at most; peak memory"
COST_HEAD = (
    "model", "median ms", "load ms", "first run ms", "samples/s", "peak after import", "after load",
    "after first run", "after all runs", "mJ/sample", "nodes on",
)  # fmt: skip
LOAD_HEAD = ("model", "came a second", "answered", "median wait, ms", "so it")
SCORED_HEAD = ("model", "accuracy %", "change", "McNemar p", "agree %", "KL, nats", "off CPU")
HEAD = ("model", "size", "params", "accuracy %", "change", "p50 ms", "speedup")


def table(result: BenchmarkResult, *, width: int = WIDTH) -> Table:
    """The rows under the primary profile; rich colours it on a terminal only."""
    return fitted_table(
        HEAD,
        [_cells(row, result) for row in result.rows],
        width=width,
        dispensable=("params", "change", "accuracy %", "p50 ms"),
        title=result.title,
        caption="\n".join([*_noise_lines(result), _footnote(result)]),
        styles=["dim" if row.name == result.reference else "red" * bool(row.failures) for row in result.rows],
    )


def profile_table(result: BenchmarkResult, *, width: int = WIDTH) -> Table:
    """Median latency and speedup of every row under every profile."""
    heads = ["model", *profile_heads(result)]
    rows = [[row.name, *(_profile_cell(row, result, name) for name in result.profiles)] for row in result.rows]
    return fitted_table(heads, rows, width=width, dispensable=heads[:1:-1], title="p50 ms (speedup)")


def tail_table(result: BenchmarkResult, *, width: int = WIDTH) -> Table:
    """The highest percentile that all rows' calls support, and peak memory, of every row under every profile."""
    heads = ["model", *tail_heads(result)]
    rows = [[row.name, *_tail_cells(row, result)] for row in result.rows]
    return fitted_table(heads, rows, width=width, dispensable=heads[:1:-1], title=TAIL_HEAD)


def accuracy_tables(result: BenchmarkResult, *, width: int = WIDTH) -> list[Table]:
    """What each file scores in the very runtime that was timed, and how far its outputs are from the CPU's."""
    tables = []
    for title, rows in accuracy_rows(result):
        shown = len(SCORED_HEAD) - all(row[-1] == "-" for row in rows)  # what is on the CPU is not off it
        cells = [row[:shown] for row in rows]
        dispensable = ("KL, nats", "off CPU", "McNemar p", "agree %", "change")
        tables.append(fitted_table(SCORED_HEAD[:shown], cells, width=width, dispensable=dispensable, title=title))
    return tables


def accuracy_rows(result: BenchmarkResult) -> list[tuple[str, list[list[str]]]]:
    """The titles and cells of those tables, profiles with the same cells in one; a title says when samples are few."""
    found: dict[tuple[str, tuple[tuple[str, ...], ...]], list[str]] = {}
    for comparison, profile in zip(result.comparisons, result.profiles, strict=True):
        judged = {row.name: row.runtime_accuracy.get(profile) for row in result.rows}
        off = {name: _off_cell(comparison, name) for name in judged}
        rows = [
            (name, *_accuracy_cells(entry or RuntimeAccuracy()), off[name])
            for name, entry in judged.items()
            if entry is not None or off[name] != "-"
        ]
        few = sorted({entry.doubt for entry in judged.values() if entry and entry.doubt})
        if rows:
            found.setdefault(("".join(f"; {doubt}" for doubt in few), tuple(rows)), []).append(profile)
    return [
        (f"accuracy in {', '.join(profiles)}, on select{few}", [[*row] for row in rows])
        for (few, rows), profiles in found.items()
    ]


def writing_rows(result: BenchmarkResult) -> list[tuple[str, list[str], list[list[str]]]]:
    """The title, head and cells of what symbols take to write, for each profile under which programs were timed."""
    found: list[tuple[str, list[str], list[list[str]]]] = []
    for comparison, profile in zip(result.comparisons, result.profiles, strict=True):
        timed = {name: entry for name, entry in comparison.measurements.items() if entry.writing_ms}
        kinds = list(dict.fromkeys(kind for entry in timed.values() for kind in entry.writing_ms))
        rates = list(dict.fromkeys(kind for entry in timed.values() for kind in entry.writing_per_s))
        rows = [
            [
                name,
                *(format_ms(entry.writing_ms.get(kind)) for kind in kinds),
                *(format_rate(entry.writing_per_s[kind]) if kind in entry.writing_per_s else "-" for kind in rates),
            ]
            for name, entry in timed.items()
        ]
        if rows:
            title = f"ms for each symbol, and symbols a second, of texts of one length, in {profile}"
            found.append((title, ["model", *kinds, *rates], rows))
    return found


def profile_heads(result: BenchmarkResult) -> list[str]:
    """What stands above each profile's times: its name, and what ranks there if not the median."""
    heads = []
    for comparison, profile in zip(result.comparisons, result.profiles, strict=True):
        notes = {
            "samples/s": comparison.profile.scenario == "offline",
            f"ranked by {comparison.ranked_by}": comparison.profile.scenario == "server" and comparison.ranked,
            "not ranked: software adapter": not comparison.ranked,
        }
        shown = ", ".join(note for note, holds in notes.items() if holds)
        heads.append(f"{profile} ({shown})" if shown else profile)
    return heads


def common_percentile(comparison: Comparison) -> str | None:
    """Return the highest percentile that the calls of every model support: rows of one table are compared by one.

    None where there is none, or nothing was measured.
    """
    shared = [found.percentile_ms for found in comparison.measurements.values()]
    return next((name for name in reversed(PERCENTILES) if shared and all(name in bounds for bounds in shared)), None)


def tail_heads(result: BenchmarkResult) -> list[str]:
    """What stands above each profile's tails: its name, and which percentile they are of."""
    named = zip(result.profiles, map(common_percentile, result.comparisons), strict=True)
    return [f"{profile} {percentile}" if percentile else profile for profile, percentile in named]


def time_cell(row: Row, result: BenchmarkResult, profile: str) -> str:
    """What a row took: its median in ms, the 99th percentile where that ranks, offline the samples a second.

    Args:
        row: of the result.
        result: that holds it.
        profile: its name.
    """
    if profile in row.failures:
        return "failed"
    comparison = result.by_profile[profile]
    found = comparison.measurements.get(row.name)
    if found is not None and comparison.profile.scenario == "offline":
        return f"{format_rate(found.throughput_per_s)}/s"
    if found is not None and comparison.ranked_by == "p99 latency":
        return f"p99 {format_ms(found.percentile_ms['p99'])}"
    return format_ms(row.latency_ms.get(profile))


def factor(row: Row, profile: str) -> str:
    """A row's speed over the reference, such as 1.85x, with ~ before one within the noise; empty where there is none.

    Args:
        row: of a result.
        profile: its name.
    """
    speedup = row.speedup.get(profile)
    sure = "" if row.measurable.get(profile, False) else "~"
    return "" if speedup is None else f"{sure}{format_factor(speedup.value)}x"


def costs(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return head and cells of what every model took: `COST_HEAD` with a percentile, without empty columns."""
    percentile = common_percentile(comparison)
    rows = []
    for name, found in comparison.measurements.items():
        tail = "-" if percentile is None else format_ms(found.percentile_ms[percentile])
        peaks = [found.memory_bytes[phase] for phase in ("import", "load", "first_run", "runs")]
        energy = found.energy_mj_per_sample
        placed = ", ".join(f"{provider} {count}" for provider, count in found.placement.items())
        rows.append(
            [
                name,
                format_ms(found.median_ms),
                tail,
                format_ms(found.load_ms),
                format_ms(found.first_run_ms),
                format_rate(found.throughput_per_s),
                *("-" if peak is None else format_bytes(peak) for peak in peaks),
                "-" if energy is None else f"{energy:.3g}",
                placed or "-",
            ]
        )
    heads = [*COST_HEAD[:2], f"{percentile}, at most", *COST_HEAD[2:]]
    kept = [index for index in range(len(heads)) if any(row[index] != "-" for row in rows)]
    return [heads[index] for index in kept], [[row[index] for index in kept] for row in rows]


def loads(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return head and cells of how models bore the calls of the server scenario; no rows under another one.

    Calls come at random times, and what a caller waits in the queue is latency, too. A model that answers fewer than
    are asked falls behind for as long as they come.
    """
    profile, percentile = comparison.profile, common_percentile(comparison)
    if profile.arrivals_per_s is None:
        return [*LOAD_HEAD], []
    came = format_rate(profile.arrivals_per_s * profile.batch_size)
    heads = [*LOAD_HEAD[:4], *([] if percentile is None else [f"{percentile}, at most"]), *LOAD_HEAD[4:]]
    rows = []
    for name, found in comparison.measurements.items():
        waits = [found.median_ms, *([] if percentile is None else [found.percentile_ms[percentile]])]
        behind = any(why.startswith(OVERLOADED) for why in found.degraded)
        answered = format_rate(found.throughput_per_s)
        rows.append([name, came, answered, *map(format_ms, waits), "falls behind" if behind else "keeps up"])
    return heads, rows


def prices(comparison: Comparison, *, price_per_hour: float) -> dict[str, str]:
    """Return what a million predictions of each model cost, in the currency of the price.

    On a machine that does nothing but this, one process at a time, as it was measured.

    Args:
        comparison: of one profile.
        price_per_hour: of the machine.
    """
    return {
        name: format_rate(1e6 * price_per_hour / 3600 / found.throughput_per_s)
        for name, found in comparison.measurements.items()
    }


def doubts(comparison: Comparison) -> list[str]:
    """Why to trust a profile's numbers less: what disturbed all of it, then each kind of reason of single models once.

    Reasons that differ in their numbers alone are of one kind, and the first model stands for all.
    """
    kinds: dict[str, list[str]] = {}
    for name, found in comparison.measurements.items():
        for why in found.degraded:
            kinds.setdefault(re.sub(r"\d[\d.]*", "0", why), []).append(f"{name}: {why}")
    return [
        *comparison.degraded,
        *(first + (f" (and {len(more)} more alike)" if more else "") for first, *more in kinds.values()),
    ]


def failure_lines(comparison: Comparison) -> list[str]:
    """Why models have no measurement: one line for all when nothing ran, else one a model."""
    failures = comparison.failures
    reasons = list(dict.fromkeys(failures.values()))
    if not comparison.measurements and len(reasons) == 1:
        return reasons
    return [f"{name}: {reason}" for name, reason in failures.items()]


def markdown(result: BenchmarkResult) -> str:
    """The tables and the environment as Markdown."""
    lines = [_line(HEAD), _line(["---", *["---:"] * (len(HEAD) - 1)])]
    lines += [_line(_cells(row, result)) for row in result.rows]
    if len(result.profiles) > 1:
        lines += ["", _line(["p50 ms (speedup)", *profile_heads(result)])]
        lines += [_line(["---", *["---:"] * len(result.profiles)])]
        lines += [
            _line([row.name, *(_profile_cell(row, result, profile) for profile in result.profiles)])
            for row in result.rows
        ]
    if result.profiles:
        lines += ["", _line([TAIL_HEAD, *tail_heads(result)])]
        lines += [_line(["---", *["---:"] * len(result.profiles)])]
        lines += [_line([row.name, *_tail_cells(row, result)]) for row in result.rows]
    for title, head, rows in writing_rows(result):
        lines += ["", f"{title}:", "", _line(head), _line(["---", *["---:"] * (len(head) - 1)])]
        lines += map(_line, rows)
    for title, rows in accuracy_rows(result):
        lines += ["", f"{title}:", "", _line(SCORED_HEAD), _line(["---", *["---:"] * (len(SCORED_HEAD) - 1)])]
        lines += map(_line, rows)
    return "\n".join([*lines, "", *_noise_lines(result), _footnote(result), ""])


def _cells(row: Row, result: BenchmarkResult) -> list[str]:
    primary = result.primary
    faster = format_speedup(row.speedup.get(primary), measurable=row.measurable.get(primary, False))
    return [
        row.name,
        format_bytes(row.size_bytes),
        format_count(row.num_params),
        format_share(row.accuracy, sign=""),
        format_share(row.accuracy_change, sign="+"),
        time_cell(row, result, primary) if primary else "-",
        "not ranked" if row.verdict.get(primary) == "not ranked" else faster,
    ]


def _profile_cell(row: Row, result: BenchmarkResult, profile: str) -> str:
    faster = factor(row, profile)
    return time_cell(row, result, profile) + (f" ({faster})" if faster else "")


def _tail_cells(row: Row, result: BenchmarkResult) -> list[str]:
    """The common percentile, at most, and peak memory, by profile; see `Measurement.percentile_ms`."""
    cells = []
    for comparison, profile in zip(result.comparisons, result.profiles, strict=True):
        measured = comparison.measurements.get(row.name)
        if measured is None:
            cells.append("failed" if profile in row.failures else "-")
            continue
        percentile, peak = common_percentile(comparison), measured.peak_memory_bytes
        parts = [] if percentile is None else [format_ms(measured.percentile_ms[percentile])]
        parts += [] if peak is None else [f"{peak / 1e6:.0f} MB"]
        cells.append(", ".join(parts) or "-")
    return cells


def _accuracy_cells(found: RuntimeAccuracy) -> list[str]:
    if found.failure:
        return [f"failed: {found.failure}", "", "", "", ""]
    p_value, agreed, nats = found.mcnemar_p, found.teacher_agreement, found.teacher_kl_nats
    return [
        format_share(found.accuracy, sign=""),
        format_share(found.change, sign="+"),
        "-" if p_value is None else f"{p_value:.2g}",
        "-" if agreed is None else f"{100 * agreed:.2f}",
        "-" if nats is None else f"{nats:.3g}",
    ]


def _off_cell(comparison: Comparison, name: str) -> str:
    """The largest difference to the CPU's outputs, and how many decisions are the same: ``1.2e-06 100%``."""
    if name in comparison.unchecked:
        return "not compared"
    apart = comparison.against_cpu.get(name)
    return "-" if apart is None else f"{apart.max_abs:.1e} {apart.agreement:.0%}"


def _noise_lines(result: BenchmarkResult) -> list[str]:
    lines = []
    for comparison, profile in zip(result.comparisons, result.profiles, strict=True):
        lines += [f"degraded ({profile}): {reason}" for reason in doubts(comparison)]
        lines += [f"failed ({profile}): {line}" for line in failure_lines(comparison)]
    return lines


def _footnote(result: BenchmarkResult) -> str:
    environment = result.environment
    flags = " ".join(flag for flag in environment.cpu_flags if "vnni" in flag or "int8" in flag or "i8mm" in flag)
    profile = result.primary or "no latency measured"
    ratios = next((found.confidence for found in result.comparisons), 0.95)
    intervals = "95% intervals" if ratios == 0.95 else f"95% intervals, of speedups {ratios:.0%}"
    return (
        f"{profile}; {environment.cpu_model} ({flags or 'no int8 instructions'}); {environment.day}; "
        f"{intervals}; ~ marks a speedup within the noise"
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
