"""The report on a terminal: every file in a line, what stands in the way, and last the answer; tables on request."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from compress.benchmark import tables
from compress.benchmark.fitting import fitted_table
from compress.progress import fold
from compress.report.answer import Outcome, answer
from compress.report.document import Report
from compress.report.ending import file_lines, notes, summary
from compress.report.words import (
    absent_lines,
    fill_test_cells,
    loss_line,
    other_measures,
    price_note,
    price_rows,
    simplest_lines,
    text_lines,
    verdict_lines,
)

TEST_HEAD = ("model", "accuracy %", "change in points", "agreement")
STYLES: dict[Outcome, str] = {
    "passed": "bold green", "disturbed": "bold yellow", "missed": "bold red", "unjudged": "bold",
}  # fmt: skip


def print_ending(report: Report, console: Console) -> None:
    """Print every file in a line, the gates, what disturbed the measurement, and last the answer.

    Names are neither cut nor wrapped. Colours appear on a terminal only.
    """
    head, *rows = file_lines(report, width=console.width)
    _print(console, head, style="dim")
    for line in rows:
        _print(console, line)
    for line in notes(report, width=console.width):
        _print(console, line, style="red" if line.startswith("gate MISSED") else "")
    _print(console, "")
    print_answer(report, console)


def print_answer(report: Report, console: Console) -> None:
    """Print the verdict in its colour, what ships against the teacher, and which file to take."""
    found = answer(report)
    _print(console, found.title, style=STYLES[found.outcome])
    for text in filter(None, [found.sentence, found.rival, found.file]):
        for line in fold(text, console.width, indent=""):
            _print(console, line)


def print_all(report: Report, console: Console) -> None:
    """Print every table, as wide as the terminal."""
    width = console.width
    for line in summary(report):
        _print(console, line, style="bold")
    if report.benchmark is not None:
        console.print(tables.table(report.benchmark, width=width))
        console.print(tables.profile_table(report.benchmark, width=width))
        console.print(tables.tail_table(report.benchmark, width=width))
        for table in tables.accuracy_tables(report.benchmark, width=width):
            console.print(table)
    for line in (*simplest_lines(report), *absent_lines(report)):
        console.print(line, highlight=False)
    if report.verdict is not None:
        cells = [*map(fill_test_cells, report.verdict.test)]
        console.print(_table("Verdict (test, read once)", TEST_HEAD, cells, width=width))
        heads, rows = other_measures(report.verdict)
        if rows:
            console.print(_table("Other measures on test, not gated", heads, rows, width=width))
        for line in verdict_lines(report.verdict):
            console.print(line, highlight=False)
    console.print(loss_line(report), highlight=False)
    for line in text_lines(report):
        for folded in fold(line, width):
            _print(console, folded)
    if report.price_per_hour is not None:
        print_price(report, console, price_per_hour=report.price_per_hour)


def print_price(report: Report, console: Console, *, price_per_hour: float) -> None:
    """Print what a million predictions of each file cost, by profile; nothing where nothing was timed."""
    heads, rows = price_rows(report, price_per_hour=price_per_hour)
    if len(heads) > 1:
        console.print(_table("Cost of a million predictions", heads, rows, width=console.width))
        for line in fold(price_note(price_per_hour), console.width, indent=""):
            _print(console, line)


def _print(console: Console, line: str, *, style: str = "") -> None:
    """Print a line as it is: what looks like markup or a number is text, and no line is folded again."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> Table:
    return fitted_table(heads, rows, width=width, dispensable=heads[:1:-1], title=title)
