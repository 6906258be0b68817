"""The report as Markdown, and its place in a README."""

from pathlib import Path

from compress.benchmark import tables
from compress.errors import InputError
from compress.report.document import Report
from compress.report.words import (
    TEST_HEAD,
    absent_lines,
    data_line,
    fill_test_cells,
    loss_line,
    note_lines,
    other_measures,
    simplest_lines,
    verdict_lines,
)
from compress.store.disk import write_atomically

MARKERS = ("<!-- result: written by `compressor run`, do not edit -->", "<!-- end of result -->")


def markdown(report: Report) -> str:
    """Return the tables, the verdict and the environment as Markdown."""
    parts = []
    if report.benchmark is not None:
        parts += [f"**{report.benchmark.title}**", "", tables.markdown(report.benchmark)]
    if beside := [*simplest_lines(report), *absent_lines(report)]:
        parts += [*(f"- {line}" for line in beside), ""]
    if report.verdict is not None:
        parts += ["**Verdict (test, read once)**", ""]
        parts += [f"| {' | '.join(TEST_HEAD)} |", "|---|---:|---:|---:|"]
        parts += ["| " + " | ".join(cells) + " |" for cells in map(fill_test_cells, report.verdict.test)]
        heads, rows = other_measures(report.verdict)
        if rows:
            parts += ["", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
            parts += [f"| {' | '.join(cells)} |" for cells in rows]
        parts += ["", *(f"- {line}" for line in verdict_lines(report.verdict)), ""]
    parts += [f"{line}.  " for line in note_lines(report.data.notes)]
    parts += [f"{data_line(report.data)}.", "", f"{loss_line(report)}.", ""]
    environment = report.environment
    made = {stage.name: stage.made_s for stage in report.stages if stage.made_s is not None}
    unknown = [stage.name for stage in report.stages if stage.made_s is None]
    where = "" if report.execution.device == "cpu" else f" on {report.execution.device}"
    parts.append(
        f"{environment.day}; {environment.cpu_model}, {environment.allowed_cores} cores, "
        f"{report.execution.threads} training threads, {report.execution.precision}{where}; seed "
        f"{environment.seed}; {environment.installed}; recipe {report.recipe_sha256[:12]}. Seconds to make and score: "
        + ", ".join(f"{name} {seconds:.0f}" for name, seconds in made.items())
        + (f"; {', '.join(unknown)} reused, of unknown time" if unknown else "")
        + f"; {sum(made.values()) / 60:.1f} minutes together. This run took {report.seconds:.0f} s."
    )
    return "\n".join(parts) + "\n"


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


def write_into(readme: Path, report: Report) -> None:
    """Replace the text between the result markers of a Markdown file by this report.

    Raises:
        InputError: when the file cannot be read or has no markers.
        EnvironmentFault: when it cannot be written.
    """
    before, after = around_result(readme)
    write_atomically(readme.resolve(), f"{before}\n\n{markdown(report)}\n{after}")
