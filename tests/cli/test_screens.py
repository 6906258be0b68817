"""What is printed at 80 and 120 columns, compared with text files; ``COMPRESS_SCREENS=1`` writes them anew.

The run is a stored one, so its numbers are the same everywhere.
"""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from compress.pipeline import runs
from compress.report.document import Report
from compress.report.terminal import print_all, print_ending
from compress.store.document import load

HERE = Path(__file__).parent / "screens"
REPORT = Path(__file__).parents[1] / "digits_report.json"


def show_compare_runs(console: Console, folder: Path) -> None:
    """Two runs of one store."""
    for name in ("digits-0123456789", "digits-9876543210"):
        (folder / "runs" / name).mkdir(parents=True)
        shutil.copyfile(REPORT, folder / "runs" / name / "report.json")
    console.print(runs.table(runs.read_runs(folder, say=print), width=console.width))


SCREENS: dict[str, Callable[[Console, Path], None]] = {
    "run": lambda console, _: print_ending(load(Report, REPORT), console),
    "all": lambda console, _: print_all(load(Report, REPORT), console),
    "compare-runs": show_compare_runs,
}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_as_it_was_and_nothing_on_it_is_wider(name, width, tmp_path):
    stream = io.StringIO()
    SCREENS[name](Console(file=stream, width=width), tmp_path)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    text, path = "\n".join(lines) + "\n", HERE / f"{name}-{width}.txt"
    if os.environ.get("COMPRESS_SCREENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
