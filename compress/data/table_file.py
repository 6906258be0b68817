"""A file of rows by its suffix: CSV, TSV, JSON lines or Parquet."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data.encoding import decode
from compress.data.separated import check_columns, read_separated
from compress.errors import DataError, EnvironmentFault

if TYPE_CHECKING:
    import pandas as pd

LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character, which JSON can spell and UTF-8 cannot
SUFFIXES = {".csv": "separated", ".tsv": "separated", ".jsonl": "lines", ".ndjson": "lines", ".parquet": "parquet"}


@dataclass(frozen=True)
class Rows:
    """A table as it was read.

    Attributes:
        frame: the rows.
        where: what the table is called in messages.
        notes: what a user should know of how it was read.
    """

    frame: "pd.DataFrame"
    where: str
    notes: tuple[str, ...] = ()


def read_table(path: Path) -> Rows:
    """Return a file's rows; empty cells are empty strings, and nothing is guessed to be missing.

    Raises:
        DataError: when it is missing, damaged, not UTF-8, of an unknown kind or wider than a table of texts can be.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise DataError("unknown kind of table", expected=", ".join(SUFFIXES), got=path.name, where=path)
    try:
        if kind == "parquet":
            return Rows(_read_parquet(path), str(path))
        text = decode(path.read_bytes(), path)
        if kind == "lines":
            return Rows(_read_lines(text, path), str(path))
        frame, notes = read_separated(text, path)
        return Rows(frame, str(path), tuple(f"{path.name}: {note}" for note in notes))
    except ImportError as error:
        raise EnvironmentFault(
            "parquet files cannot be read", got=str(error).splitlines()[0], where=path, hint="pip install pyarrow"
        ) from error
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError("the table cannot be read", got=str(error).splitlines()[0], where=path) from error


def _read_parquet(path: Path) -> "pd.DataFrame":
    import pandas as pd
    import pyarrow.parquet as pq

    check_columns(len(pq.read_schema(path)), path)
    return pd.read_parquet(path)


def _read_lines(text: str, path: Path) -> "pd.DataFrame":
    import pandas as pd

    rows: list[dict[str, Any]] = []
    names: set[str] = set()
    for line, row in enumerate(text.split("\n"), start=1):
        if row.strip():
            rows.append(_object(row, line, path))
            names.update(rows[-1])
            check_columns(len(names), path)
    return pd.DataFrame(rows, dtype=object)


def _object(row: str, line: int, path: Path) -> dict[str, Any]:
    """Return one line of JSON."""
    try:
        found = json.loads(row)
    except RecursionError as error:
        raise DataError("a line of JSON is nested too deep", got=row[:80], where=f"{path}, line {line}") from error
    except ValueError as error:  # which a number of more than 4,300 digits is, too
        raise DataError("a line is no JSON", got=str(error), where=f"{path}, line {line}") from error
    if not isinstance(found, dict):
        raise DataError("a line is no JSON object", got=row[:80], where=f"{path}, line {line}")
    if "\\u" in row and (half := LONE_SURROGATE.search(json.dumps(found, ensure_ascii=False))):
        raise DataError(
            "a text holds half a character",
            expected="surrogates in pairs, such as \\ud83d\\ude00",
            got=f"\\u{ord(half[0]):04x} alone",
            where=f"{path}, line {line}",
            hint="the text was cut inside a character; remove what is left of it",
        )
    return found
