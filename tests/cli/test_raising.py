"""Whatever the user's own code raises, wherever it is called: exit code 3 with the user's line, never a traceback."""

import sys
from pathlib import Path

import pytest

from compress.cli import main
from compress.config.user_code import USER_ERRORS, telling_users
from compress.errors import InputError
from compress.pipeline import run as pipeline

MINE = """\
import torch
from torch import nn

from compress import LogitTerm, Stage

CALLS = 0


def odd(how):
    global CALLS
    CALLS += 1
    if how == "raise":
        raise RuntimeError("odd")
    if how == "key":
        return {}["missing"]
    if how == "exit":
        raise SystemExit(0)
    if how == "generator":
        raise GeneratorExit
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "input":
        raise EOFError


class Odd(LogitTerm):
    how: str = "no"

    def value(self, student, targets):
        if len(student) > 2:
            odd(self.how)
        return (student - targets.teacher()).abs().sum(dim=1)


class Noise(Stage):
    how: str = "no"

    def run(self, source, work, host):
        odd(self.how)


class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 10)

    def forward(self, x):
        x = self.body(x.flatten(1))
        if self.training and torch.is_grad_enabled():
            odd("key")
        return x


class Branching(Late):
    def forward(self, x):
        x = self.body(x.flatten(1))
        if x.sum() > 0:
            return x
        return 2 * x


def build(kind):
    return globals()[kind]()


def top(outputs, labels):
    odd("raise" if len(labels) > 20 else "no")
"""
RECIPE = """\
schema: 1
name: odd
data: {source: digits}
teacher:
  model: {cnn: {widths: [4], strides: [2]}}
  train: {epochs: 2, batch_size: 64, learning_rate: 0.5}
student: {cnn: {widths: [4], strides: [2]}}
loss: {kl: {}, mine: {file: mine.py, class: Odd}}
stages:
  - distill: {epochs: 1, batch_size: 64}
  - noise: {file: mine.py, class: Noise}
"""
MODEL = "{{file: {{path: mine.py, arguments: {{kind: {}}}}}}}"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "mine.py").write_text(MINE)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def line_of(words: str) -> str:
    (number,) = (at for at, line in enumerate(MINE.splitlines(), 1) if line.strip() == words)
    return f"mine.py:{number}"


def ends(project: Path, monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    """Return the exit code and standard error of a command, as the installed program has them."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["compressor", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("raise", 'raise RuntimeError("odd")'),
        ("key", 'return {}["missing"]'),
        ("exit", "raise SystemExit(0)"),
        ("generator", "raise GeneratorExit"),
        ("interrupt", "raise KeyboardInterrupt"),
        ("input", "raise EOFError"),
    ],
)
def test_a_term_that_raises_in_training_is_refused_with_its_line(project, monkeypatch, capsys, how, line):
    given = ("run", "recipe.yaml", "--code", "mine.py", "--until", "distill", "--force-teacher", "--quiet")
    code, told = ends(project, monkeypatch, capsys, *given, "--set", f"loss.mine.how={how}")
    assert code == 3, told[:3000]
    assert "error: your code fails: mine.py" in told
    assert line_of(line) in told


def test_a_stage_a_measure_and_a_model_that_raise_are_refused_with_their_line(project, monkeypatch, capsys):
    given = ("recipe.yaml", "--code", "mine.py", "--force-teacher", "--quiet")
    code, told = ends(project, monkeypatch, capsys, "run", *given, "--set", "stages.noise.how=raise")
    assert code == 3, told[:3000]
    assert line_of('raise RuntimeError("odd")') in told
    measure = "data.judge={measure: {file: mine.py, function: top}}"
    code, told = ends(project, monkeypatch, capsys, "run", *given, "--set", measure)
    assert code == 3, told[:3000]
    assert line_of('raise RuntimeError("odd")') in told
    student = f"student={MODEL.format('Late')}"
    code, told = ends(project, monkeypatch, capsys, "run", *given, "--set", student, "--until", "distill")
    assert code == 3, told[:3000]
    assert line_of('return {}["missing"]') in told


def test_a_model_that_cannot_be_exported_is_refused_with_its_line(project, monkeypatch, capsys):
    student = f"student={MODEL.format('Branching')}"
    code, told = ends(project, monkeypatch, capsys, "plan", "recipe.yaml", "--code", "mine.py", "--set", student)
    assert code == 3, told[:3000]
    assert "cannot be exported" in told
    assert line_of("if x.sum() > 0:") in told


def test_a_teacher_of_an_ensemble_is_refused_and_a_baseline_left_out_by_plan_already(project, monkeypatch, capsys):
    given = ("plan", "recipe.yaml", "--code", "mine.py")
    train = "train: {epochs: 1}"
    other = f"ensemble={{other: {{teacher: {{model: {MODEL.format('Branching')}, {train}}}}}}}"
    code, told = ends(project, monkeypatch, capsys, *given, "--set", other)
    assert code == 3, told[:3000]
    assert line_of("if x.sum() > 0:") in told
    rival = f"baselines={{alone: {{model: {MODEL.format('Branching')}, {train}}}}}"
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["compressor", *given, "--set", rival])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert not ended.value.code
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("alone")]
    assert "none" in row
    assert "cannot be exported" in row


def test_what_passes_no_code_of_the_users_is_no_fault_of_theirs(monkeypatch):
    with pytest.raises(InputError, match=f"(?s)your code fails.*{Path(__file__).name}"), telling_users():
        raise RuntimeError("odd")
    monkeypatch.setattr("compress.config.user_code.is_users", lambda _: False)
    for kind in USER_ERRORS:
        with pytest.raises(kind), telling_users():
            raise kind
    assert pipeline.explain(InputError("odd", got="3")) == "odd: 3"
