"""Separated values: which separator, and what pandas would read as something else without a word."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MAX_COLUMNS = 10_000  # pandas takes minutes and gigabytes for a million
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
SWALLOWED_ROWS = 10  # lines of a quoted field that read as rows, every one: no text does
LONG_CHARACTERS = 10_000  # an e-mail is shorter, nearly always
LONG_ROWS = 100  # and a field as long as so many rows stands out
QUOTE_HINT = 'double the quotes and quote the field ("a ""word"" in quotes"), or write .jsonl'


@dataclass(frozen=True)
class Field:
    """A quoted field: where its quotes are in the text, and the line of the first, counted from 1."""

    start: int
    stop: int
    line: int


def read_separated(text: str, path: Path) -> tuple["pd.DataFrame", tuple[str, ...]]:
    """Return the rows of a .csv or .tsv, all as strings, and what a user should know of how they were read.

    A .csv whose header has no comma is separated by the semicolons or tabs that it has.

    Raises:
        DataError: when quotes are not closed, close too early or join rows, rows have too many fields or columns, or
            two columns have one name.
    """
    import pandas as pd

    separator = "\t" if path.suffix.lower() == ".tsv" else _find_separator(text)
    columns = _header(text).count(separator) + 1
    check_columns(columns, path)
    fields = list(_quoted(text, separator, path))
    _check_swallowed(text, fields, separator, columns, path)
    frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(
            "the rows have more fields than the header has names",
            expected=f"{len(frame.columns)} fields",
            got=f"{len(frame.columns) + frame.index.nlevels} in row 1",
            where=path,
            hint="quote texts that contain the separator",
        )
    named = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, header=None, nrows=1).iloc[
        0
    ]
    if twice := sorted({str(name) for name in named[named.duplicated()] if name}):
        raise DataError(
            "two columns have one name, and which is meant is not clear",
            expected="names of their own",
            got=", ".join(twice),
            where=path,
            hint="rename or remove one of them",
        )
    lines = sum(1 for line in io.StringIO(text, newline=None) if line.strip(" \n")) - 1  # pandas skips blank ones, too
    if path.suffix.lower() == ".tsv" and len(frame) != lines:
        joined = next((field for field in fields if _breaks(text, field)), None)
        raise DataError(
            "a quote joins lines of a .tsv",
            expected=f"{lines} rows, one a line",
            got=len(frame),
            where=path if joined is None else f"{path}, line {joined.line}, where the quote opens",
            hint=QUOTE_HINT,
        )
    notes = _notes(text, fields, rows=len(frame), lines=lines)
    kind = SEPARATORS[separator]
    sniffed = () if separator == "," or path.suffix.lower() == ".tsv" else (f"its columns are separated by {kind}",)
    return frame, (*sniffed, *notes)


def check_columns(count: int, path: Path) -> None:
    """Refuse a table that is wider than any of texts and labels is.

    Raises:
        DataError: above `MAX_COLUMNS`.
    """
    if count > MAX_COLUMNS:
        raise DataError(
            "the table has too many columns",
            expected=f"at most {MAX_COLUMNS:,}",
            got=f"{count:,}",
            where=path,
            hint="keep the columns that are learnt from and the labels; wider arrays of numbers are read from .npz",
        )


def _header(text: str) -> str:
    """Return the first line that is not blank, without what is in quotes."""
    line = re.match(r"\s*([^\r\n]*)", text)
    return re.sub('"[^"]*"', "", line[1] if line else "")


def _find_separator(text: str) -> str:
    header = _header(text)
    counts = {mark: header.count(mark) for mark in SEPARATORS}
    return "," if counts[","] else max(counts, key=counts.__getitem__)


def _quoted(text: str, separator: str, path: Path) -> Iterator[Field]:
    """Yield every quoted field; a quote inside a field that does not begin with one is a character like others.

    Raises:
        DataError: for a quote that is not closed, or is closed before the field ends; pandas would go on reading.
    """
    before, after = f"{separator}\r\n", ("", separator, "\r", "\n")
    start, counted, line = text.find('"'), 0, 1
    while start >= 0:
        stop = start
        if start == 0 or text[start - 1] in before:
            line, counted = line + text.count("\n", counted, start), start
            stop = text.find('"', start + 1)
            while stop >= 0 and text.startswith('""', stop):
                stop = text.find('"', stop + 2)
            if stop < 0:
                raise DataError(
                    "a quote is never closed",
                    got=repr(text[start : start + 40]),
                    where=f"{path}, line {line}",
                    hint=QUOTE_HINT,
                )
            if text[stop + 1 : stop + 2] not in after:
                closed = line + text.count("\n", start, stop)
                raise DataError(
                    "a quoted field goes on after its closing quote",
                    expected="a separator or the end of the line after it",
                    got=f"{text[stop : stop + 40]!r} in line {closed}",
                    where=f"{path}, line {line}, where the quote opens: {text[start : start + 40]!r}",
                    hint=QUOTE_HINT,
                )
            yield Field(start, stop, line)
        start = text.find('"', stop + 1)


def _breaks(text: str, field: Field) -> int:
    return text.count("\n", field.start, field.stop)


def _check_swallowed(text: str, fields: list[Field], separator: str, columns: int, path: Path) -> None:
    """Refuse a quoted field whose lines are rows, every one: two stray quotes, far from each other, make one."""
    for field in fields if columns > 1 else ():
        if _breaks(text, field) <= SWALLOWED_ROWS:
            continue
        inner = [line for line in text[field.start : field.stop].split("\n")[1:-1] if line.strip()]
        if len(inner) >= SWALLOWED_ROWS and all(line.count(separator) == columns - 1 for line in inner):
            raise DataError(
                "a quoted field holds lines that read as rows",
                expected="no stray quotes",
                got=f"{len(inner):,} lines of {columns} fields each between two quotes",
                where=f"{path}, line {field.line}, where the quote opens: {text[field.start : field.start + 40]!r}",
                hint=QUOTE_HINT,
            )


def _notes(text: str, fields: list[Field], *, rows: int, lines: int) -> tuple[str, ...]:
    """Return what looks like a quote that swallowed others, and may be none."""
    longest = max(fields, key=lambda field: field.stop - field.start, default=None)
    if longest is None:
        return ()
    size, notes = longest.stop - longest.start - 1, []
    if 2 * rows < lines:
        most = max(fields, key=lambda field: _breaks(text, field))
        notes.append(
            f"{lines:,} lines are {rows:,} rows, because quoted fields hold line breaks; "
            f"the most, {_breaks(text, most):,}, the one that begins in line {most.line}"
        )
    if size >= LONG_CHARACTERS and size * rows >= LONG_ROWS * len(text):
        notes.append(f"the field that begins in line {longest.line} has {size:,} characters, as much as many rows")
    return tuple(notes)
