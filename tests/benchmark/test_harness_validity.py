"""The table that says whether the harness tells the truth, from made-up repetitions."""

import importlib.util
import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def run():
    path = Path(__file__).parents[2] / "benchmarks" / "harness_validity" / "run.py"
    spec = importlib.util.spec_from_file_location("harness_validity", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, case: str, count: int, *, preset: str = "standard", **fields) -> None:
    for number in range(count):
        chosen = {key: value(number) if callable(value) else value for key, value in fields.items()}
        document = {"case": case, "preset": preset, "seconds": 60.0, "degraded": []}
        document |= {"environment": {"cpu_model": "a CPU", "date": "2026-01-01T00:00:00"}} | chosen
        (folder / f"{case}-{preset}-{number:02}.json").write_text(json.dumps(document))


def lines(run, folder: Path, *, preset: str = "standard") -> dict[str, list[str]]:
    cells = [line.strip("| ").split(" | ") for line in run.summary(folder, preset=preset).splitlines()[2:]]
    return {found[0]: found for found in cells if len(found) == 7}


def test_each_case_is_judged_by_what_was_asked(run, tmp_path):
    same, apart = "no measurable difference", "faster"
    write(tmp_path, "equal", 20, verdict=lambda n: apart if n == 3 else same, degraded=["other processes"])
    write(tmp_path, "slower", 20, verdict="slower", seconds=lambda n: 121.0 if n == 7 else 90.0)
    write(tmp_path, "bare", 20, bare_ms=1.0, harness_ms=lambda n: 1.01 + 0.001 * (n % 3))
    write(tmp_path, "cost", 1, preset="strict", wall_s=100.0, model_s=94.0)
    found = lines(run, tmp_path)
    assert found["equal"] == ["equal", "20", "at most 1 of 20 differ", "1 differ, 5% [0%, 25%]", "yes", "20", "60"]
    assert found["slower"][3:] == ["20 slower, 100% [83%, 100%]; 19 in time", "NO", "0", "121"]
    assert found["bare"][4] == "yes"
    assert found["cost"][3:5] == ["6.0%", "NO"]


def test_fewer_repetitions_and_other_presets_judge_nothing(run, tmp_path):
    write(tmp_path, "slower", 5, verdict="slower")
    write(tmp_path, "slower", 20, preset="quick", verdict="faster")
    assert lines(run, tmp_path)["slower"][1:5:3] == ["5", "too few"]
    assert lines(run, tmp_path, preset="quick")["slower"][4] == "NO"
