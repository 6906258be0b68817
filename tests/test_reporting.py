"""The report's views: what is measured on test besides the judged measure is told, without drowning the rest."""

import copy
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from compress import reporting


@pytest.fixture(scope="module")
def report() -> dict:
    return json.loads((Path(__file__).parent / "digits_report.json").read_text())


def printed(report: dict) -> str:
    stream = io.StringIO()
    reporting.print_report(report, Console(file=stream, width=100))
    return stream.getvalue()


def test_other_measures_are_told_with_their_change(report):
    shipped = report["verdict"]["test"][-1]
    value, change = shipped["measures"]["macro-f1"]["value"], shipped["changes"]["macro-f1"]["value"]
    row = next(line for line in reporting.markdown(report).splitlines() if line.startswith("| macro-f1 |"))
    assert f"{value:.3f} [" in row
    assert f"{change:.3f} [" in row
    assert "macro-f1" in printed(report)


def test_recalls_are_listed_of_few_classes_only(report):
    assert "recall of 3" not in reporting.markdown(report)
    few = copy.deepcopy(report)
    for row in few["verdict"]["test"]:
        for name in [name for name in row["measures"] if name.startswith("recall of ") and name[-1] > "3"]:
            del row["measures"][name]
    assert "recall of 3" in reporting.markdown(few)
    assert max(map(len, printed(few).splitlines())) <= 100
