"""The scripts that wait for other machines run here, on little: two processes, and a GPU's study on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str, output: Path) -> subprocess.CompletedProcess[str]:
    """Run a benchmark's script."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments, "--output", str(output)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_are_compared_with_one(tmp_path):
    little = ("--rounds", "2", "--width", "4", "--batch", "4", "--accumulate", "2", "--updates", "2")
    done = run("scale/processes.py", *little, output=tmp_path)
    assert done.returncode == 0, done.stderr
    ways = json.loads((tmp_path / "scale_processes.json").read_text())["ways"]
    assert [row["processes"] for row in ways.values()] == [1, 2, 2]
    assert ways["exact"]["same_weights"]
    assert "times one process" in (tmp_path / "scale_processes.md").read_text()


MIRRORED = """
import runpy, sys
sys.path.insert(0, "{tests}")
import mirror_device
mirror_device.install()
sys.argv = ["one_gpu.py", "--device", "mirror:0", "--smoke", "--output", "{output}"]
runpy.run_path("{script}", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "mirror"])
def test_the_study_of_a_gpu_runs_on_the_cpu_and_on_a_pretend_device(device, tmp_path):
    if device == "cpu":
        done = run("gpu/one_gpu.py", "--device", "cpu", "--smoke", output=tmp_path)
    else:
        script = ROOT / "benchmarks" / "gpu" / "one_gpu.py"
        code = MIRRORED.format(tests=ROOT / "tests", output=tmp_path, script=script)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / f"gpu_{device}.json").read_text())["subjects"]
    for kind in ("images", "texts"):
        assert found[kind]["against_cpu"]["max_abs"] < 1e-4
        assert found[kind]["race on ort-cpu"]["failures"] == {}
        assert found[kind]["training in float32"]["distill_samples_per_s"] > 0


def test_a_section_that_fails_is_noted_and_the_next_one_goes_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "gpu")
    from one_gpu import Record

    record = Record(tmp_path / "gpu.json", {"subjects": {}}, float("inf"))

    def fail() -> None:
        raise RuntimeError("CUDA error")

    assert record.note("images", "training", fail) is None
    assert record.note("images", "race", lambda: {"ms": 1}) == {"ms": 1, "section_s": pytest.approx(0, abs=10)}
    record.until_s = 0.0
    assert record.note("images", "late", fail) is None
    told = json.loads((tmp_path / "gpu.json").read_text())["subjects"]["images"]
    assert "CUDA error" in told["training"]["failed"]
    assert told["race"]["ms"] == 1
    assert "not begun" in told["late"]["failed"]
    assert record.failed == ["images, training", "images, late"]
