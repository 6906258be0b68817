"""The report's views: what is measured on test besides the judged measure is told, without drowning the rest."""

import copy
import io
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from compress.report import views as reporting


@pytest.fixture(scope="module")
def report() -> dict:
    return json.loads((Path(__file__).parents[1] / "digits_report.json").read_text())


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


def test_the_waterfall_moves_from_stage_to_stage_and_leaves_out_what_was_not_measured(report):
    report = copy.deepcopy(report)
    rows = report["benchmark"]["rows"]
    del rows[3]["latency_ms"]["ort-cpu-b1-t1"]  # distill did not run
    figure = reporting.waterfall(report)
    accuracy, nats, sizes, latency = figure.axes
    values = {row["name"]: 100 * row["accuracy"]["value"] for row in rows}
    chain = ["teacher", "distill", "prune", "recover", "quantize", "export"]
    moves = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in accuracy.patches]
    assert moves == [pytest.approx((values[one], values[next_])) for one, next_ in pairwise(chain)]
    assert accuracy.get_xlabel().startswith("accuracy on select")
    kl = {stage["name"]: stage["scores"].get("teacher_kl_nats", 0.0) for stage in report["stages"]}
    assert [patch.get_x() for patch in nats.patches] == [pytest.approx(kl[one]) for one in chain[:-1]]
    assert len(sizes.texts) == len(rows)
    assert len(latency.texts) == len(rows) - 1  # a bar of zero would say that it is the fastest
    assert math.isnan(latency.patches[3].get_width())
