"""What a run came to, without its times: the values that a change of the code's structure must leave as they are.

``python tests/pipelines/record.py REPORT.json NAME`` writes ``recorded/NAME.json``, which `test_recorded` reads.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.benchmark.environment import PACKAGES

HERE = Path(__file__).parent / "recorded"
TIMED = ("images_per_s",)
ACCURACY = 0.05  # of one another, on machines that round otherwise
UNRECORDED = "unrecorded"  # a bundle names its ancestors' keys, and no run was recorded since keys are without threads
TRAINED = 0.5  # an accuracy below is that of a model right after it was cut, which no other machine repeats
MACHINE = ("cpu_model", "cpu_flags", "versions")  # bits are promised on one machine, with one set of versions


def record(report: dict[str, Any]) -> dict[str, Any]:
    """Return keys, digests, facts and scores of every row, and what was read on test."""
    rows = {
        row["name"]: {
            "key": row["key"],
            "digest": row["digest"],
            "facts": {name: value for name, value in row["facts"].items() if name not in TIMED},
            "scores": row["scores"],
        }
        for row in report["stages"]
    }
    test = [] if report["verdict"] is None else report["verdict"]["test"]
    machine = {name: report["environment"].get(name) for name in MACHINE}
    machine["versions"] = {name: machine["versions"].get(name) for name in PACKAGES}
    return {
        "machine": machine,
        "rows": rows,
        "test": {row["name"]: {name: row.get(name) for name in ("accuracy", "change", "agreement")} for row in test},
    }


def differences(now: Any, before: Any, *, path: str = "") -> list[str]:
    """Return the leaves that differ, each with its path."""
    if isinstance(now, dict) and isinstance(before, dict):
        names = sorted(now.keys() | before.keys())
        return [line for name in names for line in differences(now.get(name), before.get(name), path=f"{path}/{name}")]
    return [] if now == before or before == UNRECORDED else [f"{path}: {before} before, {now} now"]


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
        if known["scores"]["accuracy"] > TRAINED:
            assert found["scores"]["accuracy"] == pytest.approx(known["scores"]["accuracy"], abs=ACCURACY)
    if here:
        assert not differences(now["test"], {row: before["test"].get(row) for row in now["test"]})


if __name__ == "__main__":
    found = record(json.loads(Path(sys.argv[1]).read_text()))
    (HERE / f"{sys.argv[2]}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
