"""Tables on a terminal: columns are left out before a name is cut or a line is split."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

GAP = 2
Cells = Sequence[str]


def fit_columns(heads: Cells, rows: Sequence[Cells], *, width: int, dispensable: Cells) -> list[int]:
    """Return the positions of the columns that fit.

    Args:
        heads: of all columns.
        rows: their cells.
        width: columns of the terminal.
        dispensable: heads of the columns that may go, the first of them first.
    """
    widths = _measure(heads, rows)
    kept = list(range(len(heads)))
    for head in dispensable:
        if _sum(widths[index] for index in kept) <= width:
            break
        kept = [index for index in kept if heads[index] != head]
    return kept


def _measure(heads: Cells, rows: Sequence[Cells]) -> list[int]:
    """Return how wide each column is: heads may be split between words, cells are not."""
    words = [max(map(len, head.split()), default=0) for head in heads]
    lines = [[max(map(len, cell.split("\n"))) for cell in row] for row in rows]
    return [max(column) for column in zip(words, *lines, strict=True)]


def _sum(widths: Iterable[int]) -> int:
    return sum(width + GAP for width in widths) - GAP


def fitted_table(
    heads: Cells,
    rows: Sequence[Cells],
    *,
    width: int,
    dispensable: Cells = (),
    title: str = "",
    caption: str = "",
    styles: Sequence[str] = (),
) -> Table:
    """Return a table with names on the left and numbers on the right, at most as wide as the terminal.

    Args:
        heads: of all columns, the name's first.
        rows: their cells.
        width: columns of the terminal.
        dispensable: see `fit_columns`; what had to go is told below the table.
        title: above it.
        caption: below it.
        styles: of the rows; none where there are none.
    """
    kept = fit_columns(heads, rows, width=width, dispensable=dispensable)
    widths = _measure(heads, rows)
    fits = _sum(widths[index] for index in kept) <= width
    gone = [head for index, head in enumerate(heads) if index not in kept]
    told = [caption] * bool(caption) + [f"no room for: {', '.join(gone)}"] * bool(gone)
    made = Table(
        title=Text(title) if title else None,
        title_justify="left",
        caption=Text("\n".join(told)) if told else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
    )
    for index in kept:
        name = index == kept[0]
        made.add_column(
            Text(heads[index]),
            justify="left" if name else "right",
            overflow="fold",
            min_width=None if name and not fits else widths[index],
        )
    for number, row in enumerate(rows):
        made.add_row(*(Text(row[index]) for index in kept), style=styles[number] if styles else None)
    return made
