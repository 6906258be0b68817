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


@pytest.mark.slow
def test_the_study_of_a_gpu_runs_on_the_cpu(tmp_path):
    done = run("gpu/one_gpu.py", "--device", "cpu", "--smoke", output=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu_cpu.json").read_text())["subjects"]
    for kind in ("images", "texts"):
        assert found[kind]["against_cpu"]["max_abs"] == 0
        assert found[kind]["races"]["ort-cpu"]["failures"] == {}
        assert found[kind]["training"]["float32"]["distill_samples_per_s"] > 0
