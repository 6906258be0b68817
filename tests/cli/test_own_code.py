"""Terms and stages of the user's own file, as a user types them: refused early, run, and known by content."""

import json
from pathlib import Path

import pytest
from typed import compressor

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
  train: {epochs: 6, batch_size: 64}
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


def test_a_term_trains_is_in_the_report_and_counts_by_its_content(project):
    until = ("--until", "distill", "--code", "my_loss.py")
    result = compressor("run", "recipe.yaml", *until, "--set", "loss.mine.margin=0.3", "--json", cwd=project)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["loss"]["fields"]["mine"]["margin"] == 0.3
    written = (Path(report["run_dir"]) / "recipe.yaml").read_text()
    assert "file: my_loss.py" in written
    (project / "again.yaml").write_text(written)
    again = compressor("plan", "again.yaml", *until, "--json", cwd=project)
    assert again.returncode == 0, again.stderr
    assert {step["action"] for step in json.loads(again.stdout)["steps"]} == {"reuse"}
    (project / "my_loss.py").write_text(TERM.replace("self.margin - ", "2 * self.margin - "))
    edited = compressor("plan", "again.yaml", *until, "--json", cwd=project)
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


STAGE = """\
import torch

from compress import Stage, load_model, load_structure


class AddNoise(Stage):
    scale: float = 0.01

    def run(self, source, work, host):
        structure, module = load_structure(source.path), load_model(source.path, code=host.code)
        generator = torch.Generator().manual_seed(self.seed(source, work, host))
        with torch.no_grad():
            for value in module.parameters():
                value += self.scale * torch.randn(value.shape, generator=generator)
        return self.commit(module, source, work, host, model=structure.model, signature=structure.signature, facts={})
"""


def test_a_stage_runs_between_ours_and_counts_by_its_content(project):
    (project / "my_stage.py").write_text(STAGE)
    loss = RECIPE.index("loss:")
    text = (
        RECIPE[:loss]
        + RECIPE[RECIPE.index("stages:") :]
        + (
            "  - add-noise: {file: my_stage.py, class: AddNoise, scale: 0.02, name: noisy}\n"
            "  - distill: {epochs: 1, batch_size: 64, name: again}\n"
        )
    )
    (project / "recipe.yaml").write_text(text)
    options = ("--until", "again", "--code", "my_stage.py", "--json")
    result = compressor("run", "recipe.yaml", *options, cwd=project)
    assert result.returncode == 0, result.stderr
    stages = {stage["name"]: stage for stage in json.loads(result.stdout)["stages"]}
    assert list(stages) == ["teacher", "distill", "noisy", "again"]
    assert len({stages[name]["digest"] for name in ("distill", "noisy", "again")}) == 3
    (project / "my_stage.py").write_text(STAGE.replace("torch.randn", "2 * torch.randn"))
    edited = json.loads(compressor("plan", "recipe.yaml", *options, cwd=project).stdout)["steps"]
    assert {step["name"]: step["action"] for step in edited}["noisy"] == "run"
    assert [step["action"] for step in edited if step["name"] in ("teacher", "distill")] == ["reuse", "reuse"]
    refused = compressor("plan", "recipe.yaml", *options, "--set", "stages.noisy.scal=1", cwd=project)
    assert refused.returncode == 3
    assert "my_stage.py, class AddNoise: stages.noisy.scal: unknown key" in refused.stderr


def test_validate_reads_it_without_code(project):
    result = compressor("validate", "recipe.yaml", "--set", "loss.mine.margin=1", cwd=project)
    assert result.returncode == 0, result.stderr
    assert "margin: 1" in result.stdout
