"""Runs end with the very artifacts and values that were recorded before the house was rebuilt (`record`)."""

import json
from pathlib import Path
from typing import Any

import pytest
from record import compare
from typed import compressor

PIPELINES = Path(__file__).parents[2] / "pipelines"
FASHION = ("--set", "teacher.train.epochs=1", "--set", "stages.distill.epochs=1", "--until", "distill")


def run(name: str, *options: str, folder: Path) -> dict[str, Any]:
    done = compressor("run", PIPELINES / name / "recipe.yaml", "--threads", "1", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "compress-store" / "runs").glob("*/report.json")
    return json.loads(path.read_text())


def test_digits_end_with_the_recorded_artifacts(tmp_path):
    compare(run("digits", "--until", "export", folder=tmp_path), "digits")


@pytest.mark.slow
def test_digits_are_read_on_test_as_recorded(tmp_path):
    report = run("digits", folder=tmp_path)
    compare(report, "digits")
    assert {row["name"] for row in report["verdict"]["test"]} == {"teacher", "teacher-static", "export"}


@pytest.mark.slow
def test_fashion_mnist_ends_with_the_recorded_artifacts(tmp_path):
    compare(run("fashion_mnist", *FASHION, folder=tmp_path), "fashion_mnist")
