"""Terms of the user's own file, as a user types them: refused before anything trains, run, and known by content."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TERM = """\
import torch

from compress import LogitTerm


class Margin(LogitTerm):
    margin: float = 0.2

    def value(self, student, targets):
        rows = torch.arange(len(student))
        return torch.relu(self.margin - student.float()[rows, targets.teacher().argmax(dim=1)])
"""
RECIPE = """\
schema: 1
name: own
data: {source: digits}
teacher:
  model: {cnn: {widths: [8], strides: [2]}}
  train: {epochs: 1, batch_size: 64}
student: {cnn: {widths: [4], strides: [2]}}
loss: {preset: hinton, mine: {file: my_loss.py, class: Margin, weight: 0.5, margin: 0.2}}
stages:
  - distill: {epochs: 1, batch_size: 64}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "my_loss.py").write_text(TERM)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def compressor(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "compress", *arguments], cwd=cwd, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_a_term_trains_is_in_the_report_and_counts_by_its_content(project):
    until = ("--until", "distill", "--code", "my_loss.py")
    result = compressor("run", "recipe.yaml", *until, "--set", "loss.mine.margin=0.3", "--json", cwd=project)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["loss"]["fields"]["mine"]["margin"] == 0.3
    written = Path(report["run_dir"]) / "recipe.yaml"
    assert f"file: {project / 'my_loss.py'}" in written.read_text()
    again = compressor("plan", str(written), *until, "--json", cwd=project)
    assert again.returncode == 0, again.stderr
    assert {step["action"] for step in json.loads(again.stdout)["steps"]} == {"reuse"}
    (project / "my_loss.py").write_text(TERM.replace("self.margin - ", "2 * self.margin - "))
    edited = compressor("plan", str(written), *until, "--json", cwd=project)
    steps = {step["name"]: step for step in json.loads(edited.stdout)["steps"]}
    assert (steps["teacher"]["action"], steps["distill"]["action"]) == ("reuse", "run")
    assert "loss.mine.class" in steps["distill"]["why"]


@pytest.mark.parametrize("command", ["plan", "check", "run"])
def test_a_file_that_is_not_named_is_not_run(project, command):
    result = compressor(command, "recipe.yaml", cwd=project)
    assert result.returncode == 3
    assert f"add --code {project / 'my_loss.py'}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["plan", "check", "run"])
def test_a_wrong_field_is_refused_before_anything_is_made(project, command):
    result = compressor(command, "recipe.yaml", "--code", "my_loss.py", "--set", "loss.mine.margn=1", cwd=project)
    assert result.returncode == 3
    for words in ("my_loss.py, class Margin", "loss.mine.margn: unknown key", "did you mean 'margin'?"):
        assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (project / "compress-store").exists()


def test_validate_reads_it_without_code(project):
    result = compressor("validate", "recipe.yaml", "--set", "loss.mine.margin=1", cwd=project)
    assert result.returncode == 0, result.stderr
    assert "margin: 1" in result.stdout
