"""Pipelines of a store beside each other."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from compress.errors import InputError
from compress.pipeline.runs import plot, read_runs, table

REPORT = json.loads((Path(__file__).parents[1] / "digits_report.json").read_text())


def add(
    store: Path,
    name: str,
    *,
    size: int,
    latency: float,
    accuracy: float,
    data: str = "d",
    cpu: str = "c",
    judged: bool = True,
):
    report = json.loads(json.dumps(REPORT))
    report["data"]["digest"], report["environment"]["cpu_model"] = data, cpu
    shipped = report["benchmark"]["rows"][-1]
    shipped |= {"size_bytes": size, "accuracy": {"value": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01}}
    shipped["latency_ms"][report["benchmark"]["profiles"][0]] = latency
    measured = report["benchmark"]["comparisons"][0]["measurements"][shipped["name"]]
    measured["block_median_ms"] = [latency * (1 + share / 1000) for share in range(len(measured["block_median_ms"]))]
    if not judged:
        report["verdict"] = None
    folder = store / "runs" / name
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))


def test_the_pareto_set_is_of_size_speed_and_accuracy_within_one_data_set_and_machine(tmp_path):
    add(tmp_path, "small", size=10, latency=2.0, accuracy=0.90)
    add(tmp_path, "fast", size=30, latency=1.0, accuracy=0.90, judged=False)
    add(tmp_path, "beaten", size=40, latency=2.5, accuracy=0.89)
    add(tmp_path, "other-data", size=90, latency=9.0, accuracy=0.10, data="e")
    add(tmp_path, "other-machine", size=41, latency=2.6, accuracy=0.88, cpu="f")
    runs = {run.name: run for run in read_runs(tmp_path, say=print)}
    assert {name for name, run in runs.items() if run.optimal} == {"small", "fast", "other-data", "other-machine"}
    assert runs["fast"].accuracy_test is None
    assert runs["small"].passed is True
    plot([*runs.values()], tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 10_000


def test_a_star_needs_more_than_luck(tmp_path):
    add(tmp_path, "small", size=10, latency=2.0, accuracy=0.90)
    add(tmp_path, "lucky", size=30, latency=1.95, accuracy=0.905)  # larger, and no more than luck ahead in the rest
    add(tmp_path, "fast", size=31, latency=1.0, accuracy=0.90)
    add(tmp_path, "same", size=10, latency=2.01, accuracy=0.90)
    runs = {run.name: run for run in read_runs(tmp_path, say=print)}
    assert {name for name, run in runs.items() if run.optimal} == {"small", "fast", "same"}


def test_the_table_fits_100_columns(tmp_path):
    add(tmp_path, "a-rather-long-name-of-a-recipe-0123456789", size=123_456, latency=0.123, accuracy=0.9)
    text = StringIO()
    Console(file=text, width=100).print(table(read_runs(tmp_path, say=print)))
    assert max(map(len, text.getvalue().splitlines())) <= 100
    assert "passed" in text.getvalue()
    assert "\x1b[" not in text.getvalue()


def test_a_run_that_stopped_early_is_left_out_and_a_damaged_one_is_named(tmp_path):
    with pytest.raises(InputError, match="no finished pipelines"):
        read_runs(tmp_path, say=print)
    folder = tmp_path / "runs" / "early"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(REPORT | {"benchmark": None}))
    with pytest.raises(InputError, match="no finished pipelines"):
        read_runs(tmp_path, say=print)
    (folder / "report.json").write_text(json.dumps(REPORT | {"schema": 1}))
    said = []
    with pytest.raises(InputError, match="no finished pipelines"):
        read_runs(tmp_path, say=said.append)
    (line,) = said
    assert "left out: the document is of another version" in line
    assert str(folder / "report.json") in line
    (folder / "report.json").write_text("{")
    with pytest.raises(InputError, match=r"early.report\.json"):
        read_runs(tmp_path, say=print)
