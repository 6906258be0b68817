"""Pieces of the page's HTML: tables that scroll, numbers with units, signs and intervals."""

from collections.abc import Sequence
from html import escape

from compress.export.layers import LayerSize
from compress.measures.intervals import Estimate
from compress.report.charts import Kind
from compress.report.document import Report


def scroll(caption: str, head: Sequence[str], rows: str, *, text: Sequence[int] = (), stacked: bool = False) -> str:
    """Return a table in a box of its own that scrolls sideways, by keyboard too.

    Args:
        caption: what it is.
        head: of its columns.
        rows: their cells.
        text: columns that align left.
        stacked: whether what is set small stands below its number, not beside it: for tables of many columns.
    """
    cells = "".join(
        f'<th scope="col"{" class=text" if index in text else ""}>{escape(title)}</th>' if title else "<td></td>"
        for index, title in enumerate(head)
    )
    label, kind = escape(caption, quote=True), " class=stacked" if stacked else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table{kind}>'
        f'<caption class="visually-hidden">{label}</caption><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody>'
        "</table></div>"
    )


def plain_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = ()) -> str:
    """Return a table of cells that are text; the first of each row is its name."""
    cells = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            f"<td{' class=text' if index in text else ''}>{escape(cell)}</td>" for index, cell in enumerate(rest, 1)
        )
        + "</tr>"
        for name, *rest in rows
    )
    return scroll(caption, head, cells, text=text)


def kind_of(report: Report, name: str) -> Kind:
    """Return how a row is drawn; a variant counts as a stage."""
    if report.benchmark is not None and name == report.benchmark.shipped.name:
        return "shipped"
    role = next((stage.role for stage in report.stages if stage.name == name), "stage")
    return "teacher" if role == "teacher" else "stage" if role == "stage" else "baseline"


def shape_of(layer: LayerSize) -> str:
    """Return the shape and the type of a layer's largest tensor."""
    return f'{"×".join(map(str, layer.shape)) or "1"} <span class="ci">{layer.dtype}</span>'


def with_code(text: str) -> str:
    """Return a text, escaped, in which what stands between backticks is set as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def with_unit(text: str) -> str:
    """Return a number with its unit set small."""
    number, _, unit = text.partition(" ")
    return f"{number} <small>{unit}</small>"


def with_interval(text: str) -> str:
    """Return a number whose interval, if it has one, is set small."""
    value, bracket, rest = text.partition(" [")
    return f'{value} <span class="ci">[{rest}</span>' if bracket else value


def interval(estimate: Estimate, *, digits: int = 2) -> str:
    """Return the bounds of a share in percent."""
    return f"[{100 * estimate.low:.{digits}f}, {100 * estimate.high:.{digits}f}]"


def points(estimate: Estimate | None, *, sign: str) -> str:
    """Return a change of shares in points with its interval."""
    if estimate is None:
        return "0"
    value, low, high = (f"{100 * bound:{sign}.2f}" for bound in estimate)
    return with_minus(f"{value} [{low}, {high}]")


def with_minus(text: str) -> str:
    """Return numbers with the minus sign of print, which is as wide as the plus sign."""
    return text.replace("-", "\N{MINUS SIGN}")
