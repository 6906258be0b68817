"""The page's sections that are drawings: accuracy against latency, stage by stage, latency."""

import statistics
from collections.abc import Sequence
from html import escape

from compress.benchmark import tables
from compress.benchmark.document import BenchmarkResult
from compress.measures.units import format_bytes, format_ms
from compress.report import charts
from compress.report.document import Report
from compress.report.markup import kind_of, plain_table, with_minus
from compress.report.words import price_note, price_rows

WIDE_PX, NARROW_PX = 1030, 360


def pareto(report: Report) -> str:
    """Return accuracy against latency, for wide and for narrow screens."""
    if report.benchmark is None:
        return ""
    primary = report.benchmark.primary
    models = [
        charts.Point(
            name=row.name,
            kind=kind_of(report, row.name),
            latency_ms=row.latency_ms[primary],
            accuracy=100 * row.accuracy.value,
            low=100 * row.accuracy.low,
            high=100 * row.accuracy.high,
            size_bytes=row.size_bytes,
        )
        for row in report.benchmark.rows
        if primary in row.latency_ms and row.accuracy is not None
    ]
    if not models:
        return ""
    drawn = [
        charts.scatter(
            models,
            width=width,
            height=height,
            title="Scatter of accuracy against latency",
            description="Every value is in the table under All models.",
            measure=f"{report.task.measure} on select",
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


def stages(report: Report) -> str:
    """Return what each stage bought and cost, one waterfall a quantity."""
    chain = report.chain
    if len(chain) < 2:
        return ""
    names, scores = [stage.name for stage in chain], [stage.scores for stage in chain]
    panels = [
        _panel(
            f"{report.task.measure} on select, %",
            names,
            [100 * score.accuracy for score in scores],
            texts=[f"{100 * score.accuracy:.2f}" for score in scores],
            changes="{:+.2f}",
            more_is_better=True,
        )
    ]
    diverged = [score.teacher_kl_nats for score in scores[1:] if score.teacher_kl_nats is not None]
    if len(diverged) == len(scores) - 1:
        nats = [0.0, *diverged]
        panels.append(
            _panel("KL divergence from the teacher, nats", names, nats, texts=[f"{value:.3g}" for value in nats])
        )
    sizes = [score.size_bytes for score in scores]
    panels.append(_panel("size", names, sizes, texts=[format_bytes(size) for size in sizes]))
    if report.benchmark is not None:
        primary = report.benchmark.primary
        found = [report.benchmark.row(name).latency_ms.get(primary) for name in names]
        times = [time for time in found if time is not None]
        if len(times) == len(found):
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
        change = with_minus(change)
        good = None if value == before else (value > before) == more_is_better
        moves.append(charts.Move(name, value, text, change if index and value != before else "", good))
    told = ", ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
    drawn = charts.waterfall(moves, title=title, description=told, from_zero=not more_is_better)
    return f"<div><h3>{escape(title)}</h3>{drawn}</div>"


def latency(report: Report) -> str:
    """Return the distribution of latency and what else every model took, profile by profile."""
    if report.benchmark is None:
        return ""
    parts = []
    for index, (profile, comparison) in enumerate(report.benchmark.by_profile.items()):
        launches, percentile = comparison.preset.launches, tables.common_percentile(comparison)
        measured = [(row.name, comparison.measurements.get(row.name)) for row in report.benchmark.rows]
        rows = [
            charts.Spread(
                name=name,
                kind=kind_of(report, name),
                median_ms=found.median_ms,
                quantiles_ms=found.quantile_ms,
                units_ms=_units_ms(found.block_median_ms, launches=launches),
                tail=None if percentile is None else (percentile, found.percentile_ms[percentile]),
            )
            for name, found in measured
            if found is not None
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
        body = f'<div class="wide">{drawn[0]}</div><div class="narrow">{drawn[1]}</div>' + plain_table(
            f"Percentile, load, memory and energy under {profile}", *tables.costs(comparison)
        )
        heads, borne = tables.loads(comparison)
        if borne:
            body += (
                "<h3>Under load</h3>"
                '<p class="note">Calls come at random times, on average as many samples a second as the table says, '
                "whether or not the last one is answered; waiting in the queue counts.</p>"
                + plain_table(f"What came and what was answered under {profile}", heads, borne)
            )
        doubts = tables.doubts(comparison)
        noise = lost + "".join(f'<p class="warn">Disturbed: {escape(reason)}.</p>' for reason in doubts)
        floor = comparison.noise_floor
        if floor is not None:
            noise += (
                f'<p class="note">Noise floor: the teacher against itself {floor.value:.3f} '
                f"[{floor.low:.3f}, {floor.high:.3f}].</p>"
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
        "highest percentile that the calls of all models support, as an upper bound with 99% confidence; report.csv "
        "has the others.</p>" + "".join(parts) + _writing(report.benchmark)
    )


def _writing(benchmark: BenchmarkResult) -> str:
    """Return what symbols take to write; nothing where no programs were timed."""
    return "".join(
        f"<h3>{escape(title)}</h3>{plain_table(title, heads, rows)}"
        for title, heads, rows in tables.writing_rows(benchmark)
    )


def price(report: Report) -> str:
    """Return what a million predictions of each file cost, profile by profile; nothing where no price is stated."""
    if report.benchmark is None or report.price_per_hour is None:
        return ""
    heads, rows = price_rows(report, price_per_hour=report.price_per_hour)
    return f'<p class="note">{price_note(report.price_per_hour)}</p>' + plain_table(
        "Cost of a million predictions", heads, rows
    )


def _units_ms(block_median_ms: list[float], *, launches: int) -> list[float]:
    """What the interval of a latency resamples: launches, or the rounds of a single one."""
    if launches == 1:
        return block_median_ms
    rounds = len(block_median_ms) // launches
    return [statistics.median(block_median_ms[at : at + rounds]) for at in range(0, len(block_median_ms), rounds)]
