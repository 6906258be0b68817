"""The report of a pipeline: one JSON document, and its views as a terminal table, Markdown and a picture."""

import csv
import io
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from compress.benchmark import tables
from compress.benchmark.measure import PERCENTILES
from compress.data import Data
from compress.errors import InputError
from compress.judge.verdict import GateResult, Verdict
from compress.stage import Host
from compress.store.artifact import write_atomically
from compress.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCHEMA = 1
BETTER, WORSE = "#9fd3b8", "#eab5a5"  # moves in the waterfall
LISTED_CLASSES = 5  # with more, the recall of each is on the page only
MARKERS = ("<!-- result: written by `compressor run`, do not edit -->", "<!-- end of result -->")


def verdict_section(verdict: Verdict) -> dict[str, Any]:
    """Return what was judged as JSON values."""
    return {
        "test": verdict.test,
        "rival": verdict.rival,
        "speedup_over_rival": asdict(verdict.over_rival),
        "over_rival_measurable": verdict.over_rival_measurable,
        "gates": [asdict(gate) for gate in verdict.gates],
        "passed": verdict.passed,
        "mistakes": None if verdict.mistakes is None else asdict(verdict.mistakes),
    }


def command(host: Host) -> str:
    """Return the command that repeats a run from the ``recipe.yaml`` in its directory."""
    words = ["compressor", "run", "recipe.yaml", "--threads", str(host.execution.threads)]
    for path in host.code:
        words += ["--code", str(path.absolute())]
    return shlex.join(words)


def data_section(data: Data, task: Task) -> dict[str, Any]:
    """Return the data's digest and how many samples each role has, train lost and a role's were cut, as JSON values."""
    truncated = {role: task.truncated(samples) for role, samples in data.roles.items()}
    return {
        "digest": data.digest,
        "samples": {role: len(samples) for role, samples in data.roles.items()},
        "dropped_duplicates": data.dropped_duplicates,
        "truncated": {role: count for role, count in truncated.items() if count},
    }


def data_line(section: dict[str, Any]) -> str:
    """Return the data section in one line."""
    dropped = section["dropped_duplicates"]
    return f"data: {_by_role(section['samples'])}; {dropped:,} duplicates dropped from train{truncation(section)}"


def truncation(section: dict[str, Any]) -> str:
    """Return how many samples of a data section are cut in which roles, to follow what there are; empty for none."""
    return f"; cut at max_length: {_by_role(section['truncated'])}" if section["truncated"] else ""


def _by_role(counts: dict[str, int]) -> str:
    return ", ".join(f"{role} {count:,}" for role, count in counts.items())


def loss_line(report: dict[str, Any]) -> str:
    """Return the fingerprint of the pipeline's loss, and of each stage that uses another."""
    own = report["loss"]["fingerprint"]
    others = [
        f"{stage['name']} uses {stage['loss_fingerprint']}"
        for stage in report["stages"]
        if stage["loss_fingerprint"] not in (None, own)
    ]
    return "; ".join([f"loss: {own}", *others])


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print the tables, at most 100 columns wide; colours only on a terminal."""
    if report["benchmark"] is not None:
        console.print(tables.table(report["benchmark"]))
        console.print(tables.profile_table(report["benchmark"]))
        console.print(tables.tail_table(report["benchmark"]))
        for table in tables.scored_tables(report["benchmark"]):
            console.print(table)
    if report["verdict"] is not None:
        console.print(_test_table(report["verdict"]))
        heads, rows = _measures(report["verdict"])
        if rows:
            console.print(_table("Other measures on test, not gated", heads, rows))
        for line in verdict_lines(report["verdict"]):
            console.print(line, highlight=False)
    console.print(loss_line(report), highlight=False)


def verdict_lines(verdict: dict[str, Any]) -> list[str]:
    """Return the comparison with the rival and each gate, in words."""
    over = verdict["speedup_over_rival"]
    sure = "" if verdict.get("over_rival_measurable", True) else "~"
    lines = [f"{sure}{over['value']:.2f}x [{over['low']:.2f}, {over['high']:.2f}] as fast as {verdict['rival']}"]
    for entry in verdict["gates"]:
        gate = GateResult(**entry)
        lines.append(f"gate {'passed' if gate.passed else 'MISSED'}  {gate.gap}")
        lines += [f"  next: {gate.remedy}"] if gate.remedy else []
    return lines


def markdown(report: dict[str, Any]) -> str:
    """Return the tables, the verdict and the environment as Markdown."""
    parts = []
    if report["benchmark"] is not None:
        parts += [f"**{report['benchmark']['title']}**", "", tables.markdown(report["benchmark"])]
    if report["verdict"] is not None:
        parts += ["**Verdict (test, read once)**", ""]
        parts += ["| model | accuracy % | change in points | agreement with the teacher |", "|---|---:|---:|---:|"]
        parts += ["| " + " | ".join(cells) + " |" for cells in map(_test_cells, report["verdict"]["test"])]
        heads, rows = _measures(report["verdict"])
        if rows:
            parts += ["", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
            parts += [f"| {' | '.join(cells)} |" for cells in rows]
        parts += ["", *(f"- {line}" for line in verdict_lines(report["verdict"])), ""]
    parts += [f"{data_line(report['data'])}.", "", f"{loss_line(report)}.", ""]
    environment = report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
    made = {stage["name"]: stage["made_s"] for stage in report["stages"] if stage["made_s"] is not None}
    unknown = [stage["name"] for stage in report["stages"] if stage["made_s"] is None]
    parts.append(
        f"{environment['date'][:10]}; {environment['cpu_model']}, {environment['allowed_cores']} cores, "
        f"{report['execution']['threads']} training threads, {report['execution']['precision']}; seed "
        f"{environment['seed']}; {versions}; recipe {report['recipe_sha256'][:12]}. Seconds to make and score: "
        + ", ".join(f"{name} {seconds:.0f}" for name, seconds in made.items())
        + (f"; {', '.join(unknown)} reused, of unknown time" if unknown else "")
        + f"; {sum(made.values()) / 60:.1f} minutes together. This run took {report['seconds']:.0f} s."
    )
    return "\n".join(parts) + "\n"


def csv_text(report: dict[str, Any]) -> str:
    """Return the rows as CSV: one line a model, shares from 0 to 1, bytes and milliseconds.

    The columns of a profile bear its name. Without a race there are the columns of the scores alone.
    """
    timed = {} if report["benchmark"] is None else {row["name"]: row for row in report["benchmark"]["rows"]}
    scored = {stage["name"]: stage["scores"] for stage in report["stages"]} | report["variants"]
    profiles = [] if report["benchmark"] is None else report["benchmark"]["profiles"]
    compared = [] if report["benchmark"] is None else report["benchmark"]["comparisons"]
    comparisons = dict(zip(profiles, compared, strict=True))
    tests = {row["name"]: row for row in report["verdict"]["test"]} if report["verdict"] is not None else {}
    rows = []
    for name in timed or scored:
        scores, row = scored[name], timed.get(name, {})
        found = {
            "model": name,
            "size_bytes": scores["size_bytes"],
            "parameters": scores["parameters"],
            "macs": scores["macs"],
            **_columns("accuracy_select", row.get("accuracy") or {"value": scores["accuracy"]}),
            **_columns("accuracy_test", tests.get(name, {}).get("accuracy")),
            "teacher_agreement": scores.get("teacher_agreement"),
            "teacher_kl_nats": scores.get("teacher_kl_nats"),
        }
        for profile in profiles:
            found[f"{profile}_ms"] = row["latency_ms"].get(profile)
            found |= _columns(f"{profile}_speedup", row["speedup"].get(profile))
            found[f"{profile}_verdict"] = row.get("verdict", {}).get(profile)
            measured = comparisons[profile]["measurements"].get(name, {})
            bounds = measured.get("percentile_ms", {})
            found |= {f"{profile}_{percentile}_at_most_ms": bounds.get(percentile) for percentile in PERCENTILES}
            found[f"{profile}_load_ms"] = measured.get("load_ms")
            found[f"{profile}_samples_per_s"] = measured.get("throughput_per_s")
            found[f"{profile}_peak_memory_bytes"] = measured.get("memory_bytes", {}).get("runs")
            found[f"{profile}_energy_mj_per_sample"] = measured.get("energy_mj_per_sample")
            in_runtime = row.get("runtime_accuracy", {}).get(profile, {})
            found[f"{profile}_accuracy_select"] = in_runtime.get("accuracy", {}).get("value")
            apart = comparisons[profile].get("against_cpu", {}).get(name, {})
            found[f"{profile}_max_abs_off_cpu"] = apart.get("max_abs")
            found[f"{profile}_agreement_with_cpu"] = apart.get("agreement")
            found[f"{profile}_failure"] = row["failures"].get(profile)
        rows.append(found)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _columns(name: str, estimate: dict[str, float] | None) -> dict[str, float | None]:
    found = estimate or {}
    return {name: found.get("value"), f"{name}_low": found.get("low"), f"{name}_high": found.get("high")}


def around_result(readme: Path) -> tuple[str, str]:
    """Return the text of a Markdown file before and after its result, the markers included.

    Raises:
        InputError: when the file cannot be read or has no markers.
    """
    try:
        text = readme.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the file for the result cannot be read", got=error, where=readme) from error
    begin, end = (text.find(marker) for marker in MARKERS)
    if begin < 0 or end < begin:
        raise InputError(
            "the file has no place for the result",
            expected=" ... ".join(MARKERS),
            where=readme,
            hint="put both lines where the result is to stand",
        )
    return text[: begin + len(MARKERS[0])], text[end:]


def write_into(readme: Path, report: dict[str, Any]) -> None:
    """Replace the text between the result markers of a Markdown file by this report.

    Raises:
        InputError: when the file cannot be read or has no markers.
        EnvironmentFault: when it cannot be written.
    """
    before, after = around_result(readme)
    write_atomically(readme.resolve(), f"{before}\n\n{markdown(report)}\n{after}")


def waterfall(report: dict[str, Any]) -> "Figure":
    """Draw accuracy, KL from the teacher where it is known, size and latency of every row, one panel each.

    Accuracy and KL are points, and bars from the stage before to each stage; a row beside the chain, such as a
    baseline, is a point alone. What was not measured is left out.
    """
    from matplotlib.figure import Figure

    document = report["benchmark"]
    rows, primary = document["rows"], document["profiles"][0]
    names = [row["name"] for row in rows]
    chain = [names.index(stage["name"]) for stage in report["stages"] if stage["role"] in ("teacher", "stage")]
    scores = {stage["name"]: stage["scores"] for stage in report["stages"]} | report["variants"]
    nats = [scores[name].get("teacher_kl_nats", nan) for name in names]
    judged = len(chain) > 1 and isfinite(nats[chain[-1]])
    figure = Figure(figsize=(11.2 + 3.6 * judged, 0.42 * len(rows) + 1.4), layout="constrained")
    axes = iter(figure.subplots(1, 3 + judged, sharey=True))
    accuracy = [100 * row["accuracy"]["value"] for row in rows]
    errors = [[100 * abs(row["accuracy"][end] - row["accuracy"]["value"]) for row in rows] for end in ("low", "high")]
    axis = next(axes)
    _draw_moves(axis, accuracy, chain, up=BETTER, down=WORSE)
    axis.errorbar(accuracy, range(len(rows)), xerr=errors, fmt="o", color="#1f5f8b", capsize=3)
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    axis.set_xlabel(f"{report['task']['measure']} on select, %, 95% interval")
    if judged:
        axis, nats[chain[0]] = next(axes), 0.0
        _draw_moves(axis, nats, chain, up=WORSE, down=BETTER)
        axis.plot(nats, range(len(rows)), "o", color="#6a4bc4")
        axis.set_xlabel("KL from the teacher, nats")
    latency_ms = [row["latency_ms"].get(primary, nan) for row in rows]
    _draw_bars(next(axes), [row["size_bytes"] / 1e3 for row in rows], "file, kB", colour="#8fb8de")
    _draw_bars(next(axes), latency_ms, f"median latency, ms ({primary})", colour="#f2b880")
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.25)
        axis.set_axisbelow(True)
    figure.suptitle(document["title"], fontsize=11)
    return figure


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


def _test_table(verdict: dict[str, Any]) -> Table:
    heads = ("model", "accuracy %", "change in points", "agreement")
    return _table("Verdict (test, read once)", heads, map(_test_cells, verdict["test"]))


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _measures(verdict: dict[str, Any]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return heads and rows of what was measured on test besides the judged measure, teacher and shipped file.

    Of many classes the page has the recalls, and a table of them would hide the rest.
    """
    teacher, shipped = verdict["test"][0], verdict["test"][-1]
    _, *names = shipped["measures"]
    recalls = [name for name in names if name.startswith("recall of ")]
    if len(recalls) > LISTED_CLASSES:
        names = [name for name in names if name not in recalls]
    rows: list[Sequence[str]] = [
        (name, *map(_number, (teacher["measures"][name], shipped["measures"][name], shipped["changes"][name])))
        for name in names
    ]
    return ("measure", teacher["name"], shipped["name"], "change"), rows


def _number(estimate: dict[str, float]) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _test_cells(row: dict[str, Any]) -> Sequence[str]:
    agreed = row.get("agreement")
    agreement = "" if agreed is None else f"{100 * agreed['value']:.2f}%"
    return row["name"], _points(row["accuracy"], sign=""), _points(row.get("change"), sign="+"), agreement


def _points(estimate: dict[str, float] | None, *, sign: str) -> str:
    if estimate is None:
        return ""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
