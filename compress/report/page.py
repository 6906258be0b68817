"""The report as one HTML page that needs nothing else: no network, no script; phone, dark, print, keyboard, reader.

Like every view it reads the report document and nothing besides. The frame and the styles are in ``report_page.html``.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from pydantic import TypeAdapter

from compress.benchmark import tables
from compress.judge.mistakes import Mistakes
from compress.judge.verdict import GateResult
from compress.measures.units import format_bytes, format_count, format_factor, format_ms, format_share, format_speedup
from compress.report import charts
from compress.report import views as reporting

WIDE_PX, NARROW_PX = 1030, 360
MOST_LAYERS = 40  # of a table that stands open
Document = dict[str, Any]


def page(report: Document) -> str:
    """Return the page of a report document.

    A section whose data a report does not have is left out: a run that stopped early has no race and no verdict, a
    regression has no classes.
    """
    sections = [
        ("gates", "Gates", _gates(report)),
        ("pareto", "Accuracy against latency", _pareto(report)),
        ("stages", "Stage by stage", _stages(report)),
        ("latency", "Latency", _latency(report)),
        ("classes", "Classes", _classes(report)),
        ("mistakes", "Mistakes", _mistakes(report)),
        ("layers", "Layers", _layers(report)),
        ("models", "All models", _models(report)),
        ("environment", "Environment", _environment(report)),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    template = Template(files("compress").joinpath("report_page.html").read_text(encoding="utf-8"))
    return template.substitute(
        name=escape(report["recipe"]),
        date=escape(report["environment"]["date"][:10]),
        version=escape(str(report["environment"]["versions"].get("compress-onnx"))),
        lead=_lead(report),
        links="\n".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in shown),
        sections=_headline(report)
        + "\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title">\n<h2 id="{key}-title">{title}</h2>\n{body}\n</section>'
            for key, title, body in shown
        ),
    )


def _lead(report: Document) -> str:
    verdict = report["verdict"]
    if report["benchmark"] is None:
        return '<p class="lead">The run stopped before the benchmark: nothing was timed or judged.</p>'
    if verdict is None:
        return '<p class="lead">A variant of a sweep: test was not read, everything here is about select.</p>'
    teacher, shipped = _row(report, report["benchmark"]["reference"]), _shipped(report)
    factor = teacher["size_bytes"] / shipped["size_bytes"]
    if factor > 1:
        size = f"{format_factor(factor)} times smaller than"
    else:
        size = f"{format_factor(1 / factor)} times as large as"
    primary = report["benchmark"]["profiles"][0]
    faster = shipped["speedup"][primary]
    change = _points(verdict["test"][-1].get("change"), sign="+")
    sure = "" if shipped["measurable"][primary] else "~"
    word = {True: "passed", False: "missed", None: ""}[verdict["passed"]]
    told = {True: "Every gate holds", False: "A gate is missed", None: ""}[verdict["passed"]]
    badge = f'<p class="verdict {word}">{told}</p>' if word else ""
    return (
        f'{badge}<p class="lead">The shipped file is <b>{size}</b> the teacher and '
        f"<b>{sure}{format_factor(faster['value'])} times as fast</b> in ONNX Runtime; "
        f"{escape(report['task']['measure'])} on test, read once, changed by <b>{change} points</b>.</p>"
    )


def _headline(report: Document) -> str:
    verdict = report["verdict"]
    if verdict is None:
        return ""
    shipped, primary = _shipped(report), report["benchmark"]["profiles"][0]
    sure = "" if verdict.get("over_rival_measurable", True) else "~"
    test, over, faster = verdict["test"][-1], verdict["speedup_over_rival"], shipped["speedup"][primary]
    teacher = _row(report, report["benchmark"]["reference"])
    cards = [
        (
            f"{report['task']['measure']} on test",
            f"{100 * test['accuracy']['value']:.2f}<small>%</small>",
            f"{_interval(test['accuracy'])}, teacher {100 * verdict['test'][0]['accuracy']['value']:.2f}%",
        ),
        ("size", _united(format_bytes(shipped["size_bytes"])), f"teacher {format_bytes(teacher['size_bytes'])}"),
        (
            f"median latency, {primary}",
            f"{format_ms(shipped['latency_ms'][primary])} <small>ms</small>",
            f"{format_speedup(faster, measurable=shipped['measurable'][primary])} over the teacher",
        ),
        (
            f"speed over {verdict['rival']}",
            f"{sure}{format_factor(over['value'])}<small>x</small>",
            f"[{over['low']:.2f}, {over['high']:.2f}]; that is the teacher quantized without retraining",
        ),
    ]
    return (
        '<dl class="headline">'
        + "".join(
            f'<div><dt>{escape(term)}</dt><dd><span class="big">{value}</span><br><span class="note">{escape(note)}'
            "</span></dd></div>"
            for term, value, note in cards
        )
        + "</dl>\n"
    )


def _gates(report: Document) -> str:
    on_test = report["verdict"] is not None
    gates = report["verdict"]["gates"] if on_test else report["gates_on_select"]
    if not gates:
        return ""
    items = []
    for entry in gates:
        gate = GateResult(**entry)
        word, mark = ("passed", "✓") if gate.passed else ("missed", "✗")
        items.append(
            f'<li class="{word}"><b aria-hidden="true">{mark}</b><span><strong>{word}</strong> · {escape(gate.gap)}'
            f"{f'<br>Next: {escape(gate.remedy)}' if gate.remedy else ''}</span></li>"
        )
    return (
        f'<p class="note">Judged on {"test" if on_test else "select"} with the exported file, at the unfavourable end '
        "of each interval: 95% for accuracy, 99% for times.</p>"
        f'<ul class="gates">{"".join(items)}</ul>'
    )


def _pareto(report: Document) -> str:
    if report["benchmark"] is None:
        return ""
    primary = report["benchmark"]["profiles"][0]
    points = [
        charts.Point(
            name=row["name"],
            kind=_kind(report, row["name"]),
            latency_ms=row["latency_ms"][primary],
            accuracy=100 * row["accuracy"]["value"],
            low=100 * row["accuracy"]["low"],
            high=100 * row["accuracy"]["high"],
            size_bytes=row["size_bytes"],
        )
        for row in report["benchmark"]["rows"]
        if primary in row["latency_ms"] and row["accuracy"] is not None
    ]
    if not points:
        return ""
    drawn = [
        charts.scatter(
            points,
            width=width,
            height=height,
            title="Scatter of accuracy against latency",
            description="Every value is in the table under All models.",
            measure=f"{report['task']['measure']} on select",
        )
        for width, height in ((WIDE_PX, 470), (NARROW_PX, 400))
    ]
    return (
        f'<p class="note">Select role, {escape(primary)}. Up and to the left is better; bars are 95% intervals, the '
        "area of a bubble is the size of its file, the dashed steps join the models that no other beats.</p>"
        f'<div class="wide">{drawn[0]}</div><div class="narrow">{drawn[1]}</div>'
        '<ul class="key"><li class="of-teacher"><i></i>teacher</li><li class="of-student"><i></i>shipped</li>'
        '<li class="of-stage"><i></i>a stage</li><li class="of-baseline"><i></i>for comparison</li></ul>'
    )


def _stages(report: Document) -> str:
    chain = [stage for stage in report["stages"] if stage["role"] in ("teacher", "stage")]
    if len(chain) < 2:
        return ""
    names, scores = [stage["name"] for stage in chain], [stage["scores"] for stage in chain]
    panels = [
        _panel(
            f"{report['task']['measure']} on select, %",
            names,
            [100 * score["accuracy"] for score in scores],
            texts=[f"{100 * score['accuracy']:.2f}" for score in scores],
            changes="{:+.2f}",
            more_is_better=True,
        )
    ]
    if all("teacher_kl_nats" in score for score in scores[1:]):
        nats = [0.0, *(score["teacher_kl_nats"] for score in scores[1:])]
        panels.append(
            _panel("KL divergence from the teacher, nats", names, nats, texts=[f"{value:.3g}" for value in nats])
        )
    sizes = [score["size_bytes"] for score in scores]
    panels.append(_panel("size", names, sizes, texts=[format_bytes(size) for size in sizes]))
    if report["benchmark"] is not None:
        primary = report["benchmark"]["profiles"][0]
        times = [_row(report, name)["latency_ms"].get(primary) for name in names]
        if None not in times:
            panels.append(
                _panel(f"median latency, ms ({primary})", names, times, texts=[format_ms(time) for time in times])
            )
    return (
        '<p class="note">What each stage bought and cost: from the value before it to the value after it, always '
        "measured on the exported ONNX file.</p>"
        f'<div class="panels">{"".join(panels)}</div>'
    )


def _panel(
    title: str,
    names: Sequence[str],
    values: Sequence[float],
    *,
    texts: Sequence[str],
    changes: str = "",
    more_is_better: bool = False,
) -> str:
    """Return one waterfall; changes are shares, doubled values factors, unless a format for differences is given."""
    moves = []
    for index, (name, value, text) in enumerate(zip(names, values, texts, strict=True)):
        before = values[index - 1] if index else value
        if changes:
            change = changes.format(value - before)
        else:
            change = (
                "" if not before else f"×{value / before:.3g}" if value > 2 * before else f"{value / before - 1:+.0%}"
            )
        change = _minus(change)
        good = None if value == before else (value > before) == more_is_better
        moves.append(charts.Move(name, value, text, change if index and value != before else "", good))
    told = ", ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
    drawn = charts.waterfall(moves, title=title, description=told, from_zero=not more_is_better)
    return f"<div><h3>{escape(title)}</h3>{drawn}</div>"


def _latency(report: Document) -> str:
    if report["benchmark"] is None:
        return ""
    parts = []
    comparisons = zip(report["benchmark"]["profiles"], report["benchmark"]["comparisons"], strict=True)
    for index, (profile, comparison) in enumerate(comparisons):
        measured, launches = comparison["measurements"], comparison["preset"].get("launches", 1)
        rows = [
            charts.Spread(
                name=row["name"],
                kind=_kind(report, row["name"]),
                median_ms=measured[row["name"]]["median_ms"],
                quantiles_ms=measured[row["name"]]["quantile_ms"],
                units_ms=_units_ms(measured[row["name"]]["block_median_ms"], launches=launches),
                tail=next(reversed(measured[row["name"]]["percentile_ms"].items()), None),
            )
            for row in report["benchmark"]["rows"]
            if row["name"] in measured
        ]
        lost = "".join(f'<p class="warn">Not measured: {escape(line)}</p>' for line in tables.failure_lines(comparison))
        if not rows:
            parts.append(f"<h3>{escape(profile)}</h3>{lost}" if lost else "")
            continue
        drawn = [
            charts.spreads(
                rows,
                width=width,
                title=f"Distribution of latency under {profile}",
                description=", ".join(f"{row.name} {format_ms(row.median_ms)} ms" for row in rows),
            )
            for width in (WIDE_PX, NARROW_PX)
        ]
        taken = "".join(
            f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
            for name, *cells in tables.costs(comparison)
        )
        body = f'<div class="wide">{drawn[0]}</div><div class="narrow">{drawn[1]}</div>' + _scrolled(
            f"Percentiles, load, memory and energy under {profile}", tables.COST_HEAD, taken
        )
        doubts = tables.doubts(comparison)
        noise = lost + "".join(f'<p class="warn">Disturbed: {escape(reason)}.</p>' for reason in doubts)
        floor = comparison["noise_floor"]
        if floor is not None:
            noise += (
                f'<p class="note">Noise floor: the teacher against itself {floor["value"]:.3f} '
                f"[{floor['low']:.3f}, {floor['high']:.3f}].</p>"
            )
        parts.append(
            f"<h3>{escape(profile)}</h3>{body}{noise}"
            if index == 0
            else f"<details><summary>{escape(profile)}</summary>{body}{noise}</details>"
        )
    if not any(parts):
        return ""
    return (
        '<p class="note">Models took turns in interleaved rounds. Thick: the middle half of all calls; thin: 5 to 95%; '
        "line: the median; dots: the median of each launch, or of each round where there is one launch; diamond: the "
        "highest percentile that the number of calls supports, as an upper bound with 99% confidence.</p>"
        + "".join(parts)
    )


def _units_ms(block_median_ms: list[float], *, launches: int) -> list[float]:
    """What the interval of a latency resamples: launches, or the rounds of a single one."""
    if launches == 1:
        return block_median_ms
    rounds = len(block_median_ms) // launches
    return [statistics.median(block_median_ms[at : at + rounds]) for at in range(0, len(block_median_ms), rounds)]


def _classes(report: Document) -> str:
    found = None if report["verdict"] is None else report["verdict"]["mistakes"]
    if found is None:
        return ""
    rated = sum(entry["units"] > 0 for entry in found["classes"])
    shown = [asdict(entry) for entry in TypeAdapter(Mistakes).validate_python(found).listed]
    low = min(min(entry["student"]["low"], entry["teacher"]["low"]) for entry in shown)
    left = max(0.0, low - 0.02)
    rows = []
    for entry in shown:
        change = 100 * (entry["student"]["value"] - entry["teacher"]["value"])
        tone = "gain" if change > 0 else "loss" if change < 0 else ""
        rail = "".join(_range(entry[who], left, f"of-{who}") for who in ("teacher", "student"))
        rows.append(
            f'<tr><th scope="row">{escape(entry["name"])}</th><td>{entry["units"]:,}</td>'
            f"<td>{100 * entry['teacher']['value']:.1f}</td><td>{100 * entry['student']['value']:.1f} "
            f'<span class="ci">{_interval(entry["student"], digits=1)}</span></td>'
            f'<td class="{tone}">{_minus(f"{change:+.1f}")}</td>'
            f'<td class="track" aria-hidden="true"><span class="rail">{rail}</span></td></tr>'
        )
    more = (
        ""
        if len(shown) == rated
        else f" The {len(shown)} of {rated:,} classes that lost most samples; all are in report.json."
    )
    return (
        '<p class="note">How much of each class is recognised (recall) on test, with 95% intervals.' + more + "</p>"
        '<ul class="key"><li class="of-teacher"><i></i>teacher</li><li class="of-student"><i></i>shipped</li></ul>'
        + _scrolled(
            "Recall of each class",
            ["class", "samples", "teacher %", "shipped %", "change", f"{100 * left:.0f} to 100%"],
            "".join(rows),
        )
    )


def _range(estimate: dict[str, float], left: float, kind: str) -> str:
    """Return a dot with its interval on a rail from ``left`` to 1."""
    value, low, high = (100 * (estimate[key] - left) / (1 - left or 1) for key in ("value", "low", "high"))
    return (
        f'<span class="{kind}"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i><b style="left:{value:.1f}%"></b>'
        "</span>"
    )


def _mistakes(report: Document) -> str:
    found = None if report["verdict"] is None else report["verdict"]["mistakes"]
    if found is None:
        return ""
    units = found["units"]
    cells = [
        ("both right", "both_right", ""),
        ("only the teacher right", "teacher_alone_right", "lost"),
        ("only the student right", "student_alone_right", ""),
        ("neither right", "neither_right", ""),
    ]
    parts = ['<dl class="square">']
    for term, key, tone in cells:
        share = f'<span class="ci">{100 * found[key] / units:.2f}%</span>'
        parts.append(f'<div class="{tone}"><dt>{term}</dt><dd>{found[key]:,} {share}</dd></div>')
    parts.append("</dl>")
    if found["confusions"]:
        most = found["confusions"][0]["count"]
        rows = "".join(
            f'<tr><th scope="row">{escape(entry["label"])}</th><td class="text">{escape(entry["decided"])}</td>'
            f"<td>{entry['count']}</td>"
            f'<td class="track" aria-hidden="true"><span class="rail of-baseline"><i class="fill" '
            f'style="width:{100 * entry["count"] / most:.0f}%"></i></span></td></tr>'
            for entry in found["confusions"]
        )
        parts.append("<h3>What the student gets wrong that the teacher got right</h3>")
        parts.append(_scrolled("The most frequent confusions", ["it is", "student says", "count", ""], rows, text=(1,)))
    pictures = [entry for entry in found["examples"] if entry["picture"]]
    if pictures:
        items = "".join(
            f'<li><img src="{entry["picture"]}" alt="" loading="lazy"><ins>{escape(entry["label"])}</ins><br>'
            f"<del>taken for {escape(entry['decided'])}</del></li>"
            for entry in pictures
        )
        parts.append(
            "<h3>Some of them</h3>"
            '<p class="note">The label, which the teacher says too, and what the student says.</p>'
            f'<ul class="gallery">{items}</ul>'
        )
    return '<p class="note">Decisions on test, teacher and shipped file side by side.</p>' + "".join(parts)


def _layers(report: Document) -> str:
    chain = [stage for stage in report["stages"] if stage["role"] == "stage"]
    if not chain or not chain[-1]["layers"]:
        return ""
    last = chain[-1]
    first = chain[0]
    before = {layer["name"]: layer for layer in first["layers"]}
    named = [layer for layer in last["layers"] if layer["name"] and layer["shape"]]  # scalars quantize activations
    most = max(layer["size_bytes"] for layer in (*named, *before.values()))
    rows = []
    for layer in named:
        was = before.get(layer["name"])
        ghost = "" if was is None else f'<i class="was" style="width:{100 * was["size_bytes"] / most:.1f}%"></i>'
        rows.append(
            f'<tr><th scope="row">{escape(layer["name"])}</th>'
            f'<td class="text">{"" if was is None or was is layer else _shape(was)}</td>'
            f'<td class="text">{_shape(layer)}</td>'
            f"<td>{'' if was is None else format_bytes(was['size_bytes'])}</td>"
            f"<td>{format_bytes(layer['size_bytes'])}</td>"
            f'<td class="track" aria-hidden="true"><span class="rail of-student">{ghost}'
            f'<i class="fill" style="width:{100 * layer["size_bytes"] / most:.1f}%"></i></span></td></tr>'
        )
    rest = last["scores"]["size_bytes"] - sum(layer["size_bytes"] for layer in named)
    rows.append(
        '<tr><th scope="row">graph and the rest</th><td></td><td></td><td></td>'
        f'<td>{format_bytes(rest)}</td><td class="track"></td></tr>'
    )
    table = _scrolled(
        "Size layer by layer",
        ["layer", f"after {first['name']}", "shipped", f"after {first['name']}", "shipped", ""],
        "".join(rows),
        text=(1, 2),
    )
    if len(named) > MOST_LAYERS:
        table = f"<details><summary>All {len(named)} layers</summary>{table}</details>"
    return (
        f'<p class="note">Bytes of each layer in the shipped file ({escape(last["name"])}), pale behind it those after '
        f"{escape(first['name'])}.</p>{table}"
    )


def _models(report: Document) -> str:
    if report["benchmark"] is None:
        rows = "".join(
            f'<tr><th scope="row">{escape(stage["name"])}</th><td>{format_bytes(stage["scores"]["size_bytes"])}</td>'
            f"<td>{format_count(stage['scores']['parameters'])}</td>"
            f"<td>{format_count(stage['scores']['macs'])}</td>"
            f"<td>{100 * stage['scores']['accuracy']:.2f}</td></tr>"
            for stage in report["stages"]
        )
        measure = f"{report['task']['measure']} on select, %"
        return _scrolled("Every model of this run", ["model", "size", "parameters", "MACs", measure], rows)
    heads = tables.profile_heads(report["benchmark"])
    rows = "".join(_model_row(report, row) for row in report["benchmark"]["rows"])
    head = ["model", "size", "parameters", "MACs", f"{report['task']['measure']} on select, %", "change"]
    timed = "median ms (offline samples a second), and speed over the teacher, by profile"
    shown = f'<p class="note">Behind accuracy: {timed}; ~ marks a speedup within the noise.</p>' + _scrolled(
        f"Every model of this run; {timed}", [*head, *heads], rows
    )
    for title, scored in tables.scored(report["benchmark"]):
        cells = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(accuracy)}</td><td>{escape(_minus(change))}</td>'
            f"{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
            for name, accuracy, change, *rest in scored
        )
        shown += f"<h3>{escape(title)}</h3>" + _scrolled(title, tables.SCORED_HEAD, cells)
    return shown


def _model_row(report: Document, row: Document) -> str:
    cells = [
        format_bytes(row["size_bytes"]),
        format_count(row["num_params"]),
        format_count(row.get("macs")),
        _with_interval(format_share(row["accuracy"], sign="")),
        _with_interval(_minus(format_share(row["accuracy_change"], sign="+"))),
    ]
    for profile in report["benchmark"]["profiles"]:
        cell = tables.time_cell(row, report["benchmark"], profile)
        faster = tables.factor(row, profile)
        cell += f' <span class="ci">{faster}</span>' if faster else ""
        cells.append(cell)
    kind = _kind(report, row["name"])
    return (
        f'<tr class="{kind}"><th scope="row">{escape(row["name"])}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def _environment(report: Document) -> str:
    found = report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    made = sum(stage["made_s"] or 0.0 for stage in report["stages"])
    facts = {
        "processor": f"{found['cpu_model']}, {found['allowed_cores']} of {found['logical_cores']} cores",
        "instructions": " ".join(found["cpu_flags"]) or "unknown",
        "memory": format_bytes(found["memory_bytes"]),
        "system": f"{found['system']}, Python {found['python']}",
        "versions": versions,
        "training": f"{report['execution']['threads']} threads, {report['execution']['precision']}, "
        f"seed {found['seed']}, {made / 60:.1f} minutes",
        "data": ", ".join(f"{role} {count:,}" for role, count in report["data"]["samples"].items())
        + reporting.truncation(report["data"]),
        "loss": report["loss"]["fingerprint"],
        "recipe": report["recipe_sha256"][:12],
    }
    listed = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(value)}</dd></div>" for term, value in facts.items())
    return (
        f'<dl class="facts">{listed}</dl><h3>To reproduce</h3>'
        '<p class="note">In the directory of this page, on a machine with these versions.</p>'
        f'<pre tabindex="0" aria-label="Command"><code>{escape(report["command"])}</code></pre>'
        "<details><summary>recipe.yaml, every default written out</summary>"
        f'<pre tabindex="0" aria-label="Recipe"><code>{escape(report["recipe_yaml"])}</code></pre></details>'
    )


def _scrolled(caption: str, head: Sequence[str], rows: str, *, text: Sequence[int] = ()) -> str:
    """Return a table in a box of its own that scrolls sideways, by keyboard too; ``text`` columns align left."""
    cells = "".join(
        f'<th scope="col"{" class=text" if index in text else ""}>{escape(title)}</th>' if title else "<td></td>"
        for index, title in enumerate(head)
    )
    label = escape(caption, quote=True)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
        f'<caption class="visually-hidden">{label}</caption><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody>'
        "</table></div>"
    )


def _kind(report: Document, name: str) -> charts.Kind:
    """Return how a row is drawn; a variant counts as a stage."""
    if report["benchmark"] is not None and name == report["benchmark"]["rows"][-1]["name"]:
        return "shipped"
    role = next((stage["role"] for stage in report["stages"] if stage["name"] == name), "stage")
    return "teacher" if role == "teacher" else "stage" if role == "stage" else "baseline"


def _row(report: Document, name: str) -> Document:
    return next(row for row in report["benchmark"]["rows"] if row["name"] == name)


def _shipped(report: Document) -> Document:
    return report["benchmark"]["rows"][-1]


def _shape(layer: Document) -> str:
    return f'{"×".join(map(str, layer["shape"])) or "1"} <span class="ci">{layer["dtype"]}</span>'


def _united(text: str) -> str:
    number, _, unit = text.partition(" ")
    return f"{number} <small>{unit}</small>"


def _with_interval(text: str) -> str:
    value, bracket, rest = text.partition(" [")
    return f'{value} <span class="ci">[{rest}</span>' if bracket else value


def _interval(estimate: dict[str, float], *, digits: int = 2) -> str:
    return f"[{100 * estimate['low']:.{digits}f}, {100 * estimate['high']:.{digits}f}]"


def _points(estimate: dict[str, float] | None, *, sign: str) -> str:
    if estimate is None:
        return "0"
    value, low, high = (f"{100 * estimate[key]:{sign}.2f}" for key in ("value", "low", "high"))
    return _minus(f"{value} [{low}, {high}]")


def _minus(text: str) -> str:
    """Return numbers with the minus sign of print, which is as wide as the plus sign."""
    return text.replace("-", "\N{MINUS SIGN}")
