"""The report as CSV."""

import csv
import io

from compress.benchmark.compare import Comparison
from compress.benchmark.document import Row
from compress.benchmark.measure import PERCENTILES
from compress.measures.intervals import Estimate
from compress.report.document import Facts, Report

Cells = dict[str, str | int | float | None]


def csv_text(report: Report) -> str:
    """Return the rows as CSV: one line a model, shares from 0 to 1, bytes and milliseconds.

    The columns of a profile bear its name. Without a race there are the columns of the scores alone.
    """
    timed = {} if report.benchmark is None else {row.name: row for row in report.benchmark.rows}
    compared = {} if report.benchmark is None else report.benchmark.by_profile
    tests = {} if report.verdict is None else {row.name: row.accuracy for row in report.verdict.test}
    rows = []
    for name in timed or report.scores:
        found = _fill_scores(name, report.scores[name], timed.get(name), tests.get(name))
        for profile, comparison in compared.items():
            found |= _fill_times(timed[name], profile, comparison)
        rows.append(found)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _fill_scores(name: str, scores: Facts, row: Row | None, tested: Estimate | None) -> Cells:
    cells: Cells = {
        "model": name,
        "size_bytes": scores.size_bytes,
        "parameters": scores.parameters,
        "macs": scores.macs,
    }
    selected = None if row is None else row.accuracy
    cells |= _bounds("accuracy_select", selected)
    if selected is None:
        cells["accuracy_select"] = scores.accuracy
    cells |= _bounds("accuracy_test", tested)
    return cells | {"teacher_agreement": scores.teacher_agreement, "teacher_kl_nats": scores.teacher_kl_nats}


def _fill_times(row: Row, profile: str, comparison: Comparison) -> Cells:
    cells: Cells = {f"{profile}_ms": row.latency_ms.get(profile)}
    cells |= _bounds(f"{profile}_speedup", row.speedup.get(profile))
    cells[f"{profile}_verdict"] = row.verdict.get(profile)
    measured = comparison.measurements.get(row.name)
    bounds = {} if measured is None else measured.percentile_ms
    cells |= {f"{profile}_{percentile}_at_most_ms": bounds.get(percentile) for percentile in PERCENTILES}
    cells[f"{profile}_load_ms"] = measured and measured.load_ms
    cells[f"{profile}_samples_per_s"] = measured and measured.throughput_per_s
    cells[f"{profile}_peak_memory_bytes"] = measured and measured.peak_memory_bytes
    cells[f"{profile}_energy_mj_per_sample"] = measured and measured.energy_mj_per_sample
    scored, apart = row.runtime_accuracy.get(profile), comparison.against_cpu.get(row.name)
    cells[f"{profile}_accuracy_select"] = scored and scored.accuracy and scored.accuracy.value
    cells[f"{profile}_max_abs_off_cpu"] = apart and apart.max_abs
    cells[f"{profile}_agreement_with_cpu"] = apart and apart.agreement
    cells[f"{profile}_failure"] = row.failures.get(profile)
    return cells


def _bounds(name: str, estimate: Estimate | None) -> Cells:
    value, low, high = (None, None, None) if estimate is None else estimate
    return {name: value, f"{name}_low": low, f"{name}_high": high}
