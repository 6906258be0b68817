"""The page's sections that are tables: classes, mistakes, layers, every model."""

from collections.abc import Sequence
from html import escape

from compress.benchmark import tables
from compress.benchmark.document import BenchmarkResult, Row
from compress.measures.intervals import Estimate
from compress.measures.units import format_bytes, format_count, format_factor, format_share
from compress.report.document import Recalls, Report
from compress.report.markup import interval, kind_of, plain_table, scroll, shape_of, with_interval, with_minus
from compress.report.words import contrast_line, simplest_lines

MOST_LAYERS = 40  # of a table that stands open
MOST_BESIDE = 3  # profiles of a table whose intervals stand beside their numbers; with more, below them


def classes(report: Report) -> str:
    """Return how much of each class is recognised, by teacher and shipped file."""
    found = None if report.verdict is None else report.verdict.mistakes
    if found is None:
        return ""
    rated = sum(entry.units > 0 for entry in found.classes)
    shown = found.listed
    if not shown:
        return ""
    more = "" if len(shown) == rated else f" The {len(shown)} of {rated:,} classes that lost most samples."
    folded = ""
    if more:
        every = _recalls([entry for entry in found.classes if entry.units], caption="Recall of every class")
        folded = f"<details><summary>All {rated:,} classes</summary>{every}</details>"
    return (
        '<p class="note">How much of each class is recognised (recall) on test, with 95% intervals.' + more + "</p>"
        '<ul class="key"><li class="of-teacher"><i></i>teacher</li><li class="of-student"><i></i>shipped</li></ul>'
        + _recalls(shown, caption="Recall of each class")
        + folded
    )


def _recalls(entries: Sequence[Recalls], *, caption: str) -> str:
    """Return the table of some classes, all of which have units."""
    known = [
        (entry, entry.teacher, entry.student)
        for entry in entries
        if entry.teacher is not None and entry.student is not None
    ]
    left = max(0.0, min(min(student.low, teacher.low) for _, teacher, student in known) - 0.02)
    rows = []
    for entry, teacher, student in known:
        change = 100 * (student.value - teacher.value)
        tone = "gain" if change > 0 else "loss" if change < 0 else ""
        rail = _range(teacher, left, "of-teacher") + _range(student, left, "of-student")
        rows.append(
            f'<tr><th scope="row">{escape(entry.name)}</th><td>{entry.units:,}</td>'
            f"<td>{100 * teacher.value:.1f}</td><td>{100 * student.value:.1f} "
            f'<span class="ci">{interval(student, digits=1)}</span></td>'
            f'<td class="{tone}">{with_minus(f"{change:+.1f}")}</td>'
            f'<td class="track" aria-hidden="true"><span class="rail">{rail}</span></td></tr>'
        )
    heads = ["class", "samples", "teacher %", "shipped %", "change", f"{100 * left:.0f} to 100%"]
    return scroll(caption, heads, "".join(rows))


def _range(estimate: Estimate, left: float, kind: str) -> str:
    """Return a dot with its interval on a rail from ``left`` to 1."""
    value, low, high = (100 * (bound - left) / (1 - left or 1) for bound in estimate)
    return (
        f'<span class="{kind}"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i><b style="left:{value:.1f}%"></b>'
        "</span>"
    )


def mistakes(report: Report) -> str:
    """Return what the student gets wrong that the teacher got right."""
    found = None if report.verdict is None else report.verdict.mistakes
    if found is None:
        return ""
    units = found.units
    cells = [
        ("both right", found.both_right, ""),
        ("only the teacher right", found.teacher_alone_right, "lost"),
        ("only the student right", found.student_alone_right, ""),
        ("neither right", found.neither_right, ""),
    ]
    parts = ['<dl class="square">']
    for term, count, tone in cells:
        share = f'<span class="ci">{100 * count / units:.2f}%</span>'
        parts.append(f'<div class="{tone}"><dt>{term}</dt><dd>{count:,} {share}</dd></div>')
    parts.append("</dl>")
    if found.confusions:
        most = found.confusions[0].count
        rows = "".join(
            f'<tr><th scope="row">{escape(entry.label)}</th><td class="text">{escape(entry.decided)}</td>'
            f"<td>{entry.count}</td>"
            f'<td class="track" aria-hidden="true"><span class="rail of-baseline"><i class="fill" '
            f'style="width:{100 * entry.count / most:.0f}%"></i></span></td></tr>'
            for entry in found.confusions
        )
        parts.append("<h3>What the student gets wrong that the teacher got right</h3>")
        parts.append(scroll("The most frequent confusions", ["it is", "student says", "count", ""], rows, text=(1,)))
    pictures = [entry for entry in found.examples if entry.picture]
    if pictures:
        items = "".join(
            f'<li><img src="{entry.picture}" alt="" loading="lazy"><ins>{escape(entry.label)}</ins><br>'
            f"<del>taken for {escape(entry.decided)}</del></li>"
            for entry in pictures
        )
        parts.append(
            "<h3>Some of them</h3>"
            '<p class="note">The label, which the teacher says too, and what the student says.</p>'
            f'<ul class="gallery">{items}</ul>'
        )
    return '<p class="note">Decisions on test, teacher and shipped file side by side.</p>' + "".join(parts)


def texts(report: Report) -> str:
    """Return texts of select that the student answers otherwise than the teacher."""
    found = report.texts
    if found is None or not found.differing:
        return ""
    shown = "".join(
        f"<li><blockquote>{escape(entry.source)}</blockquote><dl><div><dt>right</dt><dd>{escape(entry.reference)}</dd>"
        f'</div><div class="of-teacher"><dt>teacher</dt><dd>{escape(entry.teacher)}</dd></div>'
        f'<div class="of-student"><dt>student</dt><dd>{escape(entry.student)}</dd></div></dl></li>'
        for entry in found.examples
    )
    kind = "of these" if len(found.examples) <= found.lost else "of those that differ, these before the others"
    few = f" Below are the first {len(found.examples)} {kind}." if found.examples else ""
    return (
        f'<p class="note">{escape(contrast_line(found).capitalize())}.{few}</p>'
        + f'<ul class="texts">{shown}</ul>' * bool(shown)
    )


def files(report: Report) -> str:
    """Return the files of the bundle beside each other; nothing where there is one, or no gates to choose by."""
    if report.benchmark is None or len(report.files) < 2:
        return ""
    rows = []
    for fit in report.files:
        row = report.benchmark.row(fit.name)
        room = "all of it" if fit.room is None else f"{format_factor(fit.room)}x, {fit.tightest}"
        rows.append(
            [
                fit.variant,
                format_bytes(row.size_bytes),
                tables.time_cell(row, report.benchmark, report.benchmark.primary),
                "-" if row.accuracy is None else f"{100 * row.accuracy.value:.2f}",
                room,
                ", ".join(fit.missed) or "none",
            ]
        )
    heads = ["file", "size", f"ms, {report.benchmark.primary}", f"{report.task.measure} on select, %"]
    return plain_table("Files of the bundle", [*heads, "room at its tightest gate", "gates missed"], rows)


def layers(report: Report) -> str:
    """Return where the bytes of the shipped file are."""
    chain = [stage for stage in report.stages if stage.role == "stage"]
    if not chain or not chain[-1].layers:
        return ""
    last = chain[-1]
    first = chain[0]
    before = {layer.name: layer for layer in first.layers}
    named = [layer for layer in last.layers if layer.name and layer.shape]  # scalars quantize activations
    most = max(layer.size_bytes for layer in (*named, *before.values()))
    rows = []
    for layer in named:
        was = before.get(layer.name)
        ghost = "" if was is None else f'<i class="was" style="width:{100 * was.size_bytes / most:.1f}%"></i>'
        rows.append(
            f'<tr><th scope="row">{escape(layer.name)}</th>'
            f'<td class="text">{"" if was is None or was is layer else shape_of(was)}</td>'
            f'<td class="text">{shape_of(layer)}</td>'
            f"<td>{'' if was is None else format_bytes(was.size_bytes)}</td>"
            f"<td>{format_bytes(layer.size_bytes)}</td>"
            f'<td class="track" aria-hidden="true"><span class="rail of-student">{ghost}'
            f'<i class="fill" style="width:{100 * layer.size_bytes / most:.1f}%"></i></span></td></tr>'
        )
    rest = last.scores.size_bytes - sum(layer.size_bytes for layer in named)
    rows.append(
        '<tr><th scope="row">graph and the rest</th><td></td><td></td><td></td>'
        f'<td>{format_bytes(rest)}</td><td class="track"></td></tr>'
    )
    table = scroll(
        "Size layer by layer",
        ["layer", f"after {first.name}", "shipped", f"after {first.name}", "shipped", ""],
        "".join(rows),
        text=(1, 2),
    )
    if len(named) > MOST_LAYERS:
        table = f"<details><summary>All {len(named)} layers</summary>{table}</details>"
    return (
        f'<p class="note">Bytes of each layer in the shipped file ({escape(last.name)}), pale behind it those after '
        f"{escape(first.name)}.</p>{table}"
    )


def models(report: Report) -> str:
    """Return every model of the run, in numbers."""
    if report.benchmark is None:
        rows = "".join(
            f'<tr><th scope="row">{escape(stage.name)}</th><td>{format_bytes(stage.scores.size_bytes)}</td>'
            f"<td>{format_count(stage.scores.parameters)}</td>"
            f"<td>{format_count(stage.scores.macs)}</td>"
            f"<td>{100 * stage.scores.accuracy:.2f}</td></tr>"
            for stage in report.stages
        )
        rows += _absent_rows(report, columns=4)
        measure = f"{report.task.measure} on select, %"
        head = ["model", "size", "parameters", "MACs", measure]
        return scroll("Every model of this run", head, rows) + _simplest(report)
    heads = tables.profile_heads(report.benchmark)
    rows = "".join(_model_row(report, report.benchmark, row) for row in report.benchmark.rows)
    rows += _absent_rows(report, columns=5 + len(heads))
    head = ["model", "size", "parameters", "MACs", f"{report.task.measure} on select, %", "change"]
    timed = "median ms (offline samples a second), and speed over the teacher, by profile"
    shown = f'<p class="note">Behind accuracy: {timed}; ~ marks a speedup within the noise.</p>' + scroll(
        f"Every model of this run; {timed}", [*head, *heads], rows, stacked=len(heads) > MOST_BESIDE
    )
    for title, scored in tables.accuracy_rows(report.benchmark):
        cells = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(accuracy)}</td><td>{escape(with_minus(change))}</td>'
            f"{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
            for name, accuracy, change, *rest in scored
        )
        shown += f"<h3>{escape(title)}</h3>" + scroll(title, tables.SCORED_HEAD, cells)
    return shown + _simplest(report)


def _simplest(report: Report) -> str:
    """Return a line on the simplest model, which is no file and in no race."""
    return "".join(f'<p class="note">{escape(with_minus(line))}</p>' for line in simplest_lines(report))


def _absent_rows(report: Report, *, columns: int) -> str:
    """Return a row for each model that could not be made, with the reason in place of its numbers."""
    return "".join(
        f'<tr class="baseline"><th scope="row">{escape(name)}</th><td colspan="{columns}">none: {escape(why)}</td></tr>'
        for name, why in report.absent.items()
    )


def _model_row(report: Report, benchmark: BenchmarkResult, row: Row) -> str:
    cells = [
        format_bytes(row.size_bytes),
        format_count(row.num_params),
        format_count(row.macs),
        with_interval(format_share(row.accuracy, sign="")),
        with_interval(with_minus(format_share(row.accuracy_change, sign="+"))),
    ]
    for profile in benchmark.profiles:
        cell = tables.time_cell(row, benchmark, profile)
        faster = tables.factor(row, profile)
        cell += f' <span class="ci">{faster}</span>' if faster else ""
        cells.append(cell)
    kind = kind_of(report, row.name)
    return (
        f'<tr class="{kind}"><th scope="row">{escape(row.name)}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )
