"""The report's views: what is measured on test besides the judged measure is told, without drowning the rest."""

import io
import json
import math
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from compress.errors import ArtifactError
from compress.report.document import Report, TestRow
from compress.report.markdown import markdown
from compress.report.page import page
from compress.report.terminal import print_all
from compress.report.waterfall import waterfall
from compress.store.document import OtherSchemaError, from_json, load, to_json


@pytest.fixture(scope="module")
def report() -> Report:
    return load(Report, Path(__file__).parents[1] / "digits_report.json")


def printed(report: Report) -> str:
    stream = io.StringIO()
    print_all(report, Console(file=stream, width=100))
    return stream.getvalue()


def test_a_report_survives_its_file_and_answers_as_it_did(report):
    text = to_json(report)
    assert from_json(Report, text, where=Path("report.json")) == report
    assert json.loads(text)["schema"] == report.schema
    assert report.verdict.passed is True
    assert [stage.name for stage in report.chain] == ["teacher", "distill", "prune", "recover", "quantize", "export"]


def test_a_report_of_schema_2_is_read_and_shown_and_new_ones_are_of_schema_3(report):
    assert report.schema == 2  # as an earlier version recorded it
    assert (report.texts, report.price_per_hour) == (None, None)
    assert "digits" in page(report)
    (schema,) = (entry for entry in fields(Report) if entry.name == "schema")
    assert schema.default == 3
    now = replace(report, schema=3)
    assert from_json(Report, to_json(now), where=Path("report.json")) == now


@pytest.mark.parametrize(("schema", "next_"), [(1, "make it again"), (4, "update compress")])
def test_a_report_of_another_version_is_refused_in_one_sentence(report, schema, next_):
    text = json.dumps(json.loads(to_json(report)) | {"schema": schema})
    with pytest.raises(OtherSchemaError, match=rf"(?s)schema 3.*schema {schema}.*report\.json.*{next_}"):
        from_json(Report, text, where=Path("report.json"))


def test_a_damaged_report_is_refused_with_the_name_of_its_field(report):
    values = json.loads(to_json(report))
    values["stages"][2]["scores"]["accuracy"] = "high"
    with pytest.raises(ArtifactError, match=r"(?s)stages\.2\.scores\.accuracy: .*number.*report\.json"):
        from_json(Report, json.dumps(values), where=Path("report.json"))


def test_other_measures_are_told_with_their_change(report):
    shipped = report.verdict.shipped
    value, change = shipped.measures["macro-f1"].value, shipped.changes["macro-f1"].value
    row = next(line for line in markdown(report).splitlines() if line.startswith("| macro-f1 |"))
    assert f"{value:.3f} [" in row
    assert f"{change:.3f} [" in row
    assert "macro-f1" in printed(report)


def test_recalls_are_listed_of_few_classes_only(report):
    assert "recall of 3" not in markdown(report)

    def keep(row: TestRow) -> TestRow:
        names = [name for name in row.measures if not name.startswith("recall of ") or name[-1] <= "3"]
        return replace(row, measures={name: row.measures[name] for name in names})

    few = replace(report, verdict=replace(report.verdict, test=tuple(map(keep, report.verdict.test))))
    assert "recall of 3" in markdown(few)
    assert max(map(len, printed(few).splitlines())) <= 100


def test_the_waterfall_moves_from_stage_to_stage_and_leaves_out_what_was_not_measured(report):
    rows = [*report.benchmark.rows]
    rows[3] = replace(rows[3], latency_ms={})  # distill did not run
    report = replace(report, benchmark=replace(report.benchmark, rows=tuple(rows)))
    figure = waterfall(report)
    accuracy, nats, sizes, latency = figure.axes
    values = {row.name: 100 * row.accuracy.value for row in rows}
    chain = ["teacher", "distill", "prune", "recover", "quantize", "export"]
    moves = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in accuracy.patches]
    assert moves == [pytest.approx((values[one], values[next_])) for one, next_ in pairwise(chain)]
    assert accuracy.get_xlabel().startswith("accuracy on select")
    kl = {stage.name: stage.scores.teacher_kl_nats or 0.0 for stage in report.stages}
    assert [patch.get_x() for patch in nats.patches] == [pytest.approx(kl[one]) for one in chain[:-1]]
    assert len(sizes.texts) == len(rows)
    assert len(latency.texts) == len(rows) - 1  # a bar of zero would say that it is the fastest
    assert math.isnan(latency.patches[3].get_width())
