"""The views of a benchmark's result document: tables for the terminal, for Markdown, and the cells of both.

They read the JSON document and nothing else, so a stored result prints as it did on its day.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from compress.measures.units import (
    format_bytes,
    format_count,
    format_factor,
    format_ms,
    format_rate,
    format_share,
    format_speedup,
)

TAIL_HEAD = "highest supported percentile, ms; peak memory"
COST_HEAD = (
    "model", "percentiles, ms at most", "load ms", "first run ms", "samples/s", "peak after import", "after load",
    "after first run", "after all runs", "mJ/sample", "nodes on",
)  # fmt: skip
SCORED_HEAD = ("model", "accuracy %", "change", "McNemar p", "agree %", "KL, nats", "off CPU")
HEAD = ("model", "size", "params", "accuracy %", "change", "p50 ms", "speedup")


def table(document: dict[str, Any]) -> Table:
    """The rows under the primary profile, at most 100 columns wide; rich colours it on a terminal only."""
    caption = "\n".join([*_noise_lines(document), _footnote(document)])
    made = Table(
        title=document["title"],
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    made.add_column(HEAD[0], min_width=10, overflow="fold")
    for head in HEAD[1:]:
        made.add_column(head, justify="right", no_wrap=True)
    for row in document["rows"]:
        style = "dim" if row["name"] == document["reference"] else "red" if row["failures"] else None
        made.add_row(*_cells(row, document), style=style)
    return made


def profile_table(document: dict[str, Any]) -> Table:
    """Median latency and speedup of every row under every profile."""
    made = Table(title="p50 ms (speedup)", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("model", overflow="fold")
    for head in profile_heads(document):
        made.add_column(head, justify="right", overflow="fold")
    for row in document["rows"]:
        made.add_row(row["name"], *(_profile_cell(row, document, profile) for profile in document["profiles"]))
    return made


def tail_table(document: dict[str, Any]) -> Table:
    """The highest percentile that the calls support, and peak memory, of every row under every profile."""
    made = Table(title=TAIL_HEAD, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("model", overflow="fold")
    for name in document["profiles"]:
        made.add_column(name, justify="right", overflow="fold")
    for row in document["rows"]:
        made.add_row(row["name"], *_tail_cells(row, document))
    return made


def scored_tables(document: dict[str, Any]) -> list[Table]:
    """What each file scores in the very runtime that was timed, and how far its outputs are from the CPU's."""
    tables = []
    for title, rows in scored(document):
        made = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
        shown = len(SCORED_HEAD) - all(row[-1] == "-" for row in rows)  # what is on the CPU is not off it
        made.add_column(SCORED_HEAD[0], min_width=10, overflow="fold")
        made.add_column(SCORED_HEAD[1], justify="right", min_width=18, overflow="fold")  # or why it failed
        for head in SCORED_HEAD[2:shown]:
            made.add_column(head, justify="right", no_wrap=True)
        for row in rows:
            made.add_row(*row[:shown])
        tables.append(made)
    return tables


def scored(document: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """The titles and cells of those tables, profiles with the same cells in one; a title says when samples are few."""
    found: dict[tuple[str, tuple[tuple[str, ...], ...]], list[str]] = {}
    for comparison, profile in zip(document["comparisons"], document["profiles"], strict=True):
        judged = {row["name"]: row.get("runtime_accuracy", {}).get(profile) for row in document["rows"]}
        off = {name: _off_cell(comparison, name) for name in judged}
        rows = [
            (name, *_scored_cells(entry or {}), off[name])
            for name, entry in judged.items()
            if entry is not None or off[name] != "-"
        ]
        few = sorted({entry["doubt"] for entry in judged.values() if entry and entry.get("doubt")})
        if rows:
            found.setdefault(("".join(f"; {doubt}" for doubt in few), tuple(rows)), []).append(profile)
    return [
        (f"accuracy in {', '.join(profiles)}, on select{few}", [[*row] for row in rows])
        for (few, rows), profiles in found.items()
    ]


def profile_heads(document: dict[str, Any]) -> list[str]:
    """What stands above each profile's times: its name, and what ranks there if not the median."""
    heads = []
    for comparison, profile in zip(document["comparisons"], document["profiles"], strict=True):
        software = "software" in {found["settings"].get("adapter") for found in comparison["measurements"].values()}
        notes = {
            "samples/s": _scenario(comparison) == "offline",
            f"ranked by {comparison.get('ranked_by')}": _scenario(comparison) == "server" and not software,
            "not ranked: software adapter": software,
        }
        shown = ", ".join(note for note, holds in notes.items() if holds)
        heads.append(f"{profile} ({shown})" if shown else profile)
    return heads


def time_cell(row: dict[str, Any], document: dict[str, Any], profile: str) -> str:
    """What a row took: its median in ms, the 99th percentile where that ranks, offline the samples a second.

    Args:
        row: of the document.
        document: that holds it.
        profile: its name.
    """
    if profile in row["failures"]:
        return "failed"
    comparison = document["comparisons"][document["profiles"].index(profile)]
    found = comparison["measurements"].get(row["name"])
    if found is not None and _scenario(comparison) == "offline":
        return f"{format_rate(found['throughput_per_s'])}/s"
    if found is not None and comparison.get("ranked_by") == "p99 latency":
        return f"p99 {format_ms(found['percentile_ms']['p99'])}"
    return format_ms(row["latency_ms"].get(profile))


def factor(row: dict[str, Any], profile: str) -> str:
    """A row's speed over the reference, such as 1.85x, with ~ before one within the noise; empty where there is none.

    Args:
        row: of a document.
        profile: its name.
    """
    speedup = row["speedup"].get(profile)
    sure = "" if row["measurable"].get(profile, False) else "~"
    return "" if speedup is None else f"{sure}{format_factor(speedup['value'])}x"


def costs(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Cells under `COST_HEAD` of what every model took besides its latency; a dash for what no counter tells."""
    rows = []
    for name, found in comparison["measurements"].items():
        percentiles = ", ".join(f"{which} {format_ms(bound)}" for which, bound in found["percentile_ms"].items())
        peaks = [found["memory_bytes"][phase] for phase in ("import", "load", "first_run", "runs")]
        energy, nodes = found.get("energy_mj_per_sample"), found["settings"].get("nodes") or {}
        placed = ", ".join(f"{provider.removesuffix('ExecutionProvider')} {count}" for provider, count in nodes.items())
        rows.append(
            [
                name,
                percentiles or "-",
                format_ms(found["load_ms"]),
                format_ms(found["first_run_ms"]),
                format_rate(found["throughput_per_s"]),
                *("-" if peak is None else format_bytes(peak) for peak in peaks),
                "-" if energy is None else f"{energy:.3g}",
                placed or "-",
            ]
        )
    return rows


def doubts(comparison: Mapping[str, Any]) -> list[str]:
    """Why to trust a profile's numbers less: what disturbed all of it, then each kind of reason of single models once.

    Reasons that differ in their numbers alone are of one kind, and the first model stands for all.
    """
    kinds: dict[str, list[str]] = {}
    for name, found in comparison["measurements"].items():
        for why in found["degraded"]:
            kinds.setdefault(re.sub(r"\d[\d.]*", "0", why), []).append(f"{name}: {why}")
    return [
        *comparison["degraded"],
        *(first + (f" (and {len(more)} more alike)" if more else "") for first, *more in kinds.values()),
    ]


def failure_lines(comparison: Mapping[str, Any]) -> list[str]:
    """Why models have no measurement: one line for all when nothing ran, else one a model."""
    failures = comparison["failures"]
    reasons = list(dict.fromkeys(failures.values()))
    if not comparison["measurements"] and len(reasons) == 1:
        return reasons
    return [f"{name}: {reason}" for name, reason in failures.items()]


def markdown(document: dict[str, Any]) -> str:
    """The tables and the environment as Markdown."""
    lines = [_line(HEAD), _line(["---", *["---:"] * (len(HEAD) - 1)])]
    lines += [_line(_cells(row, document)) for row in document["rows"]]
    if len(document["profiles"]) > 1:
        lines += ["", _line(["p50 ms (speedup)", *profile_heads(document)])]
        lines += [_line(["---", *["---:"] * len(document["profiles"])])]
        lines += [
            _line([row["name"], *(_profile_cell(row, document, profile) for profile in document["profiles"])])
            for row in document["rows"]
        ]
    if document["profiles"]:
        lines += ["", _line([TAIL_HEAD, *document["profiles"]])]
        lines += [_line(["---", *["---:"] * len(document["profiles"])])]
        lines += [_line([row["name"], *_tail_cells(row, document)]) for row in document["rows"]]
    for title, rows in scored(document):
        lines += ["", f"{title}:", "", _line(SCORED_HEAD), _line(["---", *["---:"] * (len(SCORED_HEAD) - 1)])]
        lines += map(_line, rows)
    return "\n".join([*lines, "", *_noise_lines(document), _footnote(document), ""])


def _cells(row: dict[str, Any], document: dict[str, Any]) -> list[str]:
    primary = document["profiles"][0] if document["profiles"] else ""
    faster = format_speedup(row["speedup"].get(primary), measurable=row["measurable"].get(primary, False))
    return [
        row["name"],
        format_bytes(row["size_bytes"]),
        format_count(row["num_params"]),
        format_share(row["accuracy"], sign=""),
        format_share(row["accuracy_change"], sign="+"),
        time_cell(row, document, primary) if primary else "-",
        "not ranked" if row.get("verdict", {}).get(primary) == "not ranked" else faster,
    ]


def _profile_cell(row: dict[str, Any], document: dict[str, Any], profile: str) -> str:
    faster = factor(row, profile)
    return time_cell(row, document, profile) + (f" ({faster})" if faster else "")


def _scenario(comparison: dict[str, Any]) -> str:
    return comparison["profile"].get("scenario", "single_stream")


def _tail_cells(row: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """Such as ``p99 0.0312 58 MB``; the percentile is its upper bound, see `Measurement.percentile_ms`."""
    cells = []
    for comparison, profile in zip(document["comparisons"], document["profiles"], strict=True):
        measured = comparison["measurements"].get(row["name"])
        if measured is None:
            cells.append("failed" if profile in row["failures"] else "-")
            continue
        parts = [f"{name} {format_ms(value)}" for name, value in [*measured["percentile_ms"].items()][-1:]]
        peak = measured["memory_bytes"]["runs"]
        cells.append(" ".join([*parts, *([] if peak is None else [f"{peak / 1e6:.0f} MB"])]) or "-")
    return cells


def _scored_cells(found: dict[str, Any]) -> list[str]:
    if "failure" in found:
        return [f"failed: {found['failure']}", "", "", "", ""]
    p_value, agreed, nats = (found.get(key) for key in ("mcnemar_p", "teacher_agreement", "teacher_kl_nats"))
    return [
        format_share(found.get("accuracy"), sign=""),
        format_share(found.get("change"), sign="+"),
        "-" if p_value is None else f"{p_value:.2g}",
        "-" if agreed is None else f"{100 * agreed:.2f}",
        "-" if nats is None else f"{nats:.3g}",
    ]


def _off_cell(comparison: dict[str, Any], name: str) -> str:
    """The largest difference to the CPU's outputs, and how many decisions are the same: ``1.2e-06 100%``."""
    if name in comparison.get("unchecked", {}):
        return "not compared"
    apart = comparison.get("against_cpu", {}).get(name)
    return "-" if apart is None else f"{apart['max_abs']:.1e} {apart['agreement']:.0%}"


def _noise_lines(document: dict[str, Any]) -> list[str]:
    lines = []
    for comparison, profile in zip(document["comparisons"], document["profiles"], strict=True):
        lines += [f"degraded ({profile}): {reason}" for reason in doubts(comparison)]
        lines += [f"failed ({profile}): {line}" for line in failure_lines(comparison)]
    return lines


def _footnote(document: dict[str, Any]) -> str:
    environment = document["environment"]
    flags = " ".join(flag for flag in environment["cpu_flags"] if "vnni" in flag or "int8" in flag or "i8mm" in flag)
    profile = document["profiles"][0] if document["profiles"] else "no latency measured"
    ratios = next((found.get("confidence", 0.95) for found in document["comparisons"]), 0.95)
    intervals = "95% intervals" if ratios == 0.95 else f"95% intervals, of speedups {ratios:.0%}"
    return (
        f"{profile}; {environment['cpu_model']} ({flags or 'no int8 instructions'}); {environment['date'][:10]}; "
        f"{intervals}; ~ marks a speedup within the noise"
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
