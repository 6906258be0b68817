"""Runs end with the very artifacts and values that were recorded before the house was rebuilt (`record`)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from record import HERE, differences, record

PIPELINES = Path(__file__).parents[2] / "pipelines"
ACCURACY = 0.05  # of one another, on machines that round otherwise
FASHION = ("--set", "teacher.train.epochs=1", "--set", "stages.distill.epochs=1", "--until", "distill")


def run(name: str, *options: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "compress", "run", str(PIPELINES / name / "recipe.yaml"), "--threads", "1"]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "compress-store" / "runs").glob("*/report.json")
    return json.loads(path.read_text())


def compare(report: dict[str, Any], name: str) -> None:
    """To the bit where the recorded machine and versions are these; sizes, costs and about the accuracy elsewhere."""
    before, now = json.loads((HERE / f"{name}.json").read_text()), record(report)
    here = now["machine"] == before["machine"]
    for row, found in now["rows"].items():
        known = before["rows"][row]
        if here:
            assert not differences(found, known, path=row)
            continue
        assert [found["scores"][field] for field in ("parameters", "macs")] == [
            known["scores"][field] for field in ("parameters", "macs")
        ]
        assert found["scores"]["accuracy"] == pytest.approx(known["scores"]["accuracy"], abs=ACCURACY)
    if here:
        assert not differences(now["test"], {row: before["test"].get(row) for row in now["test"]})


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
