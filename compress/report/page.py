"""The report as one HTML page that needs nothing else: no network, no script; phone, dark, print, keyboard, reader.

Like every view it reads the report and nothing besides. The frame and the styles are in ``page.html``.
"""

import re
import shlex
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

from compress.measures.units import format_bytes, format_factor, format_ms, format_speedup
from compress.report.answer import answer, find_doubts
from compress.report.document import Report
from compress.report.markup import interval, with_code, with_minus, with_unit
from compress.report.page_charts import latency, pareto, price, stages
from compress.report.page_tables import classes, files, layers, mistakes, models, texts
from compress.report.words import truncation

DATA_SECTION = re.compile(r"^data:\n(?:[ -].*\n)+", re.MULTILINE)  # of a recipe as it is written


def page(report: Report) -> str:
    """Return the page of a report document.

    A section whose data a report does not have is left out: a run that stopped early has no race and no verdict, a
    regression has no classes.
    """
    sections = [
        ("gates", "Gates", _gates(report)),
        ("deploy", "Deploy", _deploy(report)),
        ("pareto", "Accuracy against latency", pareto(report)),
        ("stages", "Stage by stage", stages(report)),
        ("latency", "Latency", latency(report)),
        ("price", "Price", price(report)),
        ("classes", "Classes", classes(report)),
        ("mistakes", "Mistakes", mistakes(report)),
        ("texts", "Texts", texts(report)),
        ("layers", "Layers", layers(report)),
        ("models", "All models", models(report)),
        ("environment", "Environment", _environment(report)),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    template = Template(resources.files("compress.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        name=escape(report.recipe),
        date=escape(report.environment.day),
        version=escape(str(report.environment.versions.get("compress-onnx"))),
        lead=_lead(report),
        links="\n".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in shown),
        sections=_headline(report)
        + "\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title">\n<h2 id="{key}-title">{title}</h2>\n{body}\n</section>'
            for key, title, body in shown
        ),
    )


def _lead(report: Report) -> str:
    """Return the badge and the sentence that a run ends with on the terminal, too."""
    found = answer(report)
    badge = f'<p class="verdict {found.outcome}">{escape(found.title)}</p>'
    if not found.size:
        return badge
    claims = " and ".join(f"<b>{escape(claim)}</b>" for claim in (found.size, found.speed) if claim)
    return (
        f'{badge}<p class="lead">The shipped file is {claims}; <b>{escape(with_minus(found.change))}</b>. '
        f"{escape(found.where)}</p>"
        + "".join(f'<p class="warn">Disturbed: {escape(doubt)}.</p>' for doubt in find_doubts(report))
    )


def _headline(report: Report) -> str:
    verdict, benchmark = report.verdict, report.benchmark
    if verdict is None or benchmark is None:
        return ""
    shipped, primary = benchmark.shipped, benchmark.primary
    sure = "" if verdict.over_rival_measurable else "~"
    test, over, faster = verdict.shipped, verdict.speedup_over_rival, shipped.speedup[primary]
    teacher = benchmark.row(benchmark.reference)
    cards = [
        (
            f"{report.task.measure} on test",
            f"{100 * test.accuracy.value:.2f}<small>%</small>",
            f"{interval(test.accuracy)}, teacher {100 * verdict.teacher.accuracy.value:.2f}%",
        ),
        ("size", with_unit(format_bytes(shipped.size_bytes)), f"teacher {format_bytes(teacher.size_bytes)}"),
        (
            f"median latency, {primary}",
            f"{format_ms(shipped.latency_ms[primary])} <small>ms</small>",
            f"{format_speedup(faster, measurable=shipped.measurable[primary])} over the teacher",
        ),
    ]
    if over is not None:
        cards.append(
            (
                f"speed over {verdict.rival}",
                f"{sure}{format_factor(over.value)}<small>x</small>",
                f"[{over.low:.2f}, {over.high:.2f}]; that is the teacher quantized without retraining",
            )
        )
    return (
        '<dl class="headline">'
        + "".join(
            f'<div><dt>{escape(term)}</dt><dd><span class="big">{value}</span><br><span class="note">{escape(note)}'
            "</span></dd></div>"
            for term, value, note in cards
        )
        + "</dl>\n"
    )


def _gates(report: Report) -> str:
    on_test = report.verdict is not None
    gates = report.gates_on_select if report.verdict is None else report.verdict.gates
    if not gates:
        return ""
    items = []
    for gate in gates:
        word, mark = ("passed", "✓") if gate.passed else ("missed", "✗")
        items.append(
            f'<li class="{word}"><b aria-hidden="true">{mark}</b><span><strong>{word}</strong> · {escape(gate.gap)}'
            f"{f'<br>Next: {with_code(gate.remedy)}' if gate.remedy else ''}</span></li>"
        )
    return (
        f'<p class="note">Judged on {"test" if on_test else "select"} with the exported file, at the unfavourable end '
        "of each interval: 95% for accuracy, 99% for times.</p>"
        f'<ul class="gates">{"".join(items)}</ul>'
    )


def _deploy(report: Report) -> str:
    """Return which file to take, and what to type; nothing where there is no bundle."""
    told = answer(report)
    if not told.file:
        return ""
    choice = f"<p>{with_code(told.file)}</p>" + files(report)
    if not told.ships:
        return choice
    lines = [
        "cp -r bundle /srv/model && cd /srv/model",
        "pip install onnxruntime numpy",
        "python predict.py --help",
        "compressor verify .",
        "compressor package --help",
    ]
    return (
        f'{choice}<p class="note">In the directory of this page. The README of the bundle says what else it needs; the '
        "last two lines are for where this package is installed.</p>" + _code(lines, label="Commands")
    )


def _code(lines: Sequence[str], *, label: str) -> str:
    return f'<pre tabindex="0" aria-label="{label}"><code>{escape(chr(10).join(lines))}</code></pre>'


def _environment(report: Report) -> str:
    found = report.environment
    made = sum(stage.made_s or 0.0 for stage in report.stages)
    where = "" if report.execution.device == "cpu" else f"{report.execution.device}, "
    facts = {
        "processor": f"{found.cpu_model}, {found.allowed_cores} of {found.logical_cores} cores",
        "instructions": " ".join(found.cpu_flags) or "unknown",
        "memory": "unknown" if found.memory_bytes is None else format_bytes(found.memory_bytes),
        "system": f"{found.system}, Python {found.python}",
        "versions": found.installed,
        "training": f"{where}{report.execution.threads} threads, {report.execution.precision}, "
        f"seed {found.seed}, {made / 60:.1f} minutes",
        "data": ", ".join(f"{role} {count:,}" for role, count in report.data.samples.items())
        + truncation(report.data)
        + "".join(f"; {note}" for note in report.data.notes),
        "loss": report.loss.fingerprint,
        "recipe": report.recipe_sha256[:12],
    }
    listed = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(value)}</dd></div>" for term, value in facts.items())
    return f'<dl class="facts">{listed}</dl>{_reproduction(report)}'


def _reproduction(report: Report) -> str:
    """Return what makes the run again: an environment, the data and the command."""
    found = report.environment
    # Without what names a build (2.13.0+cpu), which an index does not know.
    wanted = [f"{name}=={version.partition('+')[0]}" for name, version in found.versions.items() if version]
    install = [f"python{'.'.join(found.python.split('.')[:2])} -m venv .venv", "source .venv/bin/activate"]
    data = DATA_SECTION.search(report.recipe_yaml)
    samples = ", ".join(f"{count:,} {role}" for role, count in report.data.samples.items())
    return (
        "<h3>To reproduce</h3>"
        '<p class="note">An environment with these versions; others round otherwise.</p>'
        + _code([*install, f"pip install {shlex.join(wanted)}"], label="Installation")
        + '<p class="note">The data, as the recipe names them; a path starts where the recipe lay. They were '
        f"{escape(samples)}. Their digest begins with <code>{escape(report.data.digest[:12])}</code>; that of yours is "
        "in report.json (data.digest).</p>"
        + (_code([data[0].rstrip()], label="Data") if data else "")
        + '<p class="note">The run, where the recipe below lies as recipe.yaml.</p>'
        + _code([report.command], label="Command")
        + "<details><summary>recipe.yaml, every default written out</summary>"
        + _code([report.recipe_yaml], label="Recipe")
        + "</details>"
    )
