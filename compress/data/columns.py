"""The columns of a table of numbers and categories, cell by cell, as samples with a field for each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compress.data.named import MAX_CATEGORY
from compress.errors import DataError

PANDAS_NONE = ("NAType", "NaTType")  # by name: pandas is imported where a table is read
DECIMAL_COMMA = "write a point for a decimal comma"


def numbers_of(cells: Sequence[object], name: str, where: str) -> NDArray[np.float64]:
    """Return a column of numbers, float64 [N]; an empty cell is NaN.

    Raises:
        DataError: for a cell that holds something else, with its row.
    """
    found = np.empty(len(cells), np.float64)
    for row, cell in enumerate(cells):
        if is_empty(cell):
            found[row] = np.nan
            continue
        try:
            found[row] = float(cell)  # pyright: ignore[reportArgumentType] # refused below
        except (TypeError, ValueError) as error:
            comma = isinstance(cell, str) and cell.count(",") == 1 and cell.replace(",", "").lstrip("-").isdigit()
            raise DataError(
                "a cell holds no number",
                expected="a number, or nothing where it is missing",
                got=repr(cell),
                where=f"{where}, column {name}, row {row + 1}",
                hint=DECIMAL_COMMA if comma else "empty the cell, or name the column under categories",
            ) from error
    return found


def categories_of(cells: Sequence[object], name: str, where: str) -> NDArray[np.str_]:
    """Return a column of categories, text [N]; whole numbers are written without a point, and an empty cell is "".

    Raises:
        DataError: for a cell that is no category but a text.
    """
    found = ["" if is_empty(cell) else _category(cell) for cell in cells]
    longest = max(range(len(found)), key=lambda row: len(found[row]), default=0)
    if found and len(found[longest]) > MAX_CATEGORY:
        raise DataError(
            "a cell is too long for a category",
            expected=f"at most {MAX_CATEGORY} characters",
            got=f"{len(found[longest])}: {found[longest][:40]!r}...",
            where=f"{where}, column {name}, row {longest + 1}",
            hint="leave the column out, or learn from it as a text (`text:`)",
        )
    return np.array(found, np.str_)


def _category(cell: object) -> str:
    whole = isinstance(cell, bool) or (isinstance(cell, float) and cell.is_integer())
    return str(int(cell)) if whole else str(cell)  # pyright: ignore[reportArgumentType] # a bool or a float


def is_empty(cell: object) -> bool:
    """Whether nothing is in a cell: no characters, null, NaN, or pandas' NA."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or type(cell).__name__ in PANDAS_NONE or (isinstance(cell, float) and np.isnan(cell))


def widen(tables: Sequence[dict[str, NDArray[np.generic]]]) -> None:
    """Give a category as many characters in every table: equal rows are to have equal bytes. In place."""
    for name in tables[0]:
        if all(table[name].dtype.kind == "U" for table in tables):
            kind = max((table[name].dtype for table in tables), key=lambda dtype: dtype.itemsize)
            for table in tables:
                table[name] = table[name].astype(kind)
