"""The report on a terminal: first what changed hands, in a screenful; all the tables on request."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from compress.benchmark import tables
from compress.report.document import Report
from compress.report.ending import file_lines, notes, summary
from compress.report.words import (
    absent_lines,
    fill_test_cells,
    loss_line,
    other_measures,
    simplest_lines,
    verdict_lines,
)

TEST_HEAD = ("model", "accuracy %", "change in points", "agreement")


def print_ending(report: Report, console: Console) -> None:
    """Print what changed hands, every file in a line, the gates, and what disturbed the measurement.

    Names are neither cut nor wrapped. Colours appear on a terminal only.
    """
    told = summary(report)
    for line in told:
        _print(console, line, style="bold")
    if told:
        _print(console, "")
    head, *rows = file_lines(report, width=console.width)
    _print(console, head, style="dim")
    for line in rows:
        _print(console, line)
    for line in notes(report, width=console.width):
        _print(console, line, style="red" if line.startswith("gate MISSED") else "")


def print_all(report: Report, console: Console) -> None:
    """Print every table, at most 100 columns wide."""
    if report.benchmark is not None:
        console.print(tables.table(report.benchmark))
        console.print(tables.profile_table(report.benchmark))
        console.print(tables.tail_table(report.benchmark))
        for table in tables.accuracy_tables(report.benchmark):
            console.print(table)
    for line in (*simplest_lines(report), *absent_lines(report)):
        console.print(line, highlight=False)
    if report.verdict is not None:
        console.print(_table("Verdict (test, read once)", TEST_HEAD, map(fill_test_cells, report.verdict.test)))
        heads, rows = other_measures(report.verdict)
        if rows:
            console.print(_table("Other measures on test, not gated", heads, rows))
        for line in verdict_lines(report.verdict):
            console.print(line, highlight=False)
    console.print(loss_line(report), highlight=False)


def _print(console: Console, line: str, *, style: str = "") -> None:
    """Print a line as it is: what looks like markup or a number is text, and no line is folded again."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table
