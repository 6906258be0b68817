"""UTF-8, and what a file that is not UTF-8 probably is: converting it by the wrong code page changes it silently."""

import codecs
import re
from pathlib import Path

from compress.errors import DataError

WIDE = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # longest first
CODE_PAGES = ("windows-1252", "windows-1250", "windows-1251", "shift_jis", "gb18030", "euc-kr")
TRIED_BYTES = 100_000


def decode(content: bytes, path: Path) -> str:
    """Return a file's text without its byte order mark.

    Raises:
        DataError: when it is not UTF-8; says where and what it may be, and shows a word in each code page that fits.
    """
    if wide := _wide(content):
        raise DataError(
            f"the file is {wide.upper()}", expected="UTF-8", where=path, hint=f"convert it: {_command(wide, path)}"
        )
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        readings = _readings(content, error.start)
        shown = ", ".join(f"{word!r} in {page}" for page, word in readings.items())
        raise DataError(
            "the file is not UTF-8",
            got=f"byte {content[error.start]:#04x} at offset {error.start}" + (f": {shown}" if shown else ""),
            where=path,
            hint=f"convert it from the one that reads right: {_command(next(iter(readings), 'latin1'), path)}",
        ) from error


def _wide(content: bytes) -> str:
    """Return the name of an encoding of two or four bytes a character, or an empty string."""
    for mark, name in WIDE.items():
        if content.startswith(mark):
            return name
    head = content[:1000]
    halves = [head[start::2] for start in (0, 1)]
    for name, zeros in zip(("utf-16be", "utf-16le"), halves, strict=True):
        if zeros and zeros.count(0) > len(zeros) / 2 and head.count(0) < 0.75 * len(head):
            return name
    return ""


def _readings(content: bytes, start: int) -> dict[str, str]:
    """Return the word around a byte in every code page that can read what follows it."""
    before = re.split(rb"[\s,;\"]", content[max(0, start - 20) : start])[-1]
    after = re.split(rb"[\s,;\"]", content[start : start + 20])[0]
    found = {}
    for page in CODE_PAGES:
        try:
            codecs.getincrementaldecoder(page)().decode(content[start : start + TRIED_BYTES])
        except UnicodeDecodeError:
            continue
        found[page] = (before + after).decode(page, "replace")
    return found


def _command(encoding: str, path: Path) -> str:
    return f"iconv -f {encoding} -t utf-8 {path.name} > {path.stem}-utf8{path.suffix}"
