"""What is there only to be compared with never ends a run: it is a row that says why it is not there."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from compress.benchmark.compare import PRESETS, QUICK
from compress.errors import ModelError
from compress.pipeline.plan import plan
from compress.pipeline.run import Options, run
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.report.document import Report
from compress.report.terminal import print_ending
from compress.store.document import load

MODELS = """
import torch
from torch import nn


class Rows(nn.Module):
    # a recurrent classifier of the rows of an image

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.gru(x.squeeze(1))[0][:, -1])


def recurrent():
    return Rows()


def convolutional():
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 10, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Undecided(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x.flatten(1)) if x.sum() > 0 else self.head(-x.flatten(1))


def undecided():
    return Undecided()
"""
RECIPE = """
schema: 1
name: alone
data: {source: digits}
teacher: {model: {file: {path: models.py, factory: FACTORY}}, train: {epochs: 1, batch_size: 64}}
student: {mlp: {widths: [16]}}
baselines:
  undecided: {model: {file: {path: models.py, factory: undecided}}, train: {epochs: 1, batch_size: 64}}
stages:
  - distill: {epochs: 1, batch_size: 64}
  - export: {variants: [fp32]}
benchmark: {preset: quick, profiles: [{threads: 1}]}
gates: {max_accuracy_drop: 1.0}
"""


class Told(Reporter):
    """A quiet reporter that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """From a teacher's factory to the recipe and how to run it."""
    monkeypatch.setitem(PRESETS, "quick", replace(QUICK, rounds=8, block_ms=1.0, warm_up_limit_ms=10.0))

    def make(factory):
        (tmp_path / "models.py").write_text(MODELS)
        (tmp_path / "recipe.yaml").write_text(RECIPE.replace("FACTORY", factory))
        code = (tmp_path / "models.py",)
        options = Options(tmp_path / "store", code, threads=1, force_teacher=True, reporter=Told())
        return Recipe.load(tmp_path / "recipe.yaml"), options

    return make


def test_a_teacher_without_a_matrix_product_has_no_dynamic_rival_and_plan_says_so(make):
    rows = {row.name: row for row in plan(*make("convolutional")).steps}
    assert rows["teacher-static"].action == "run"
    assert rows["teacher-dynamic"].action == "none"
    assert rows["teacher-dynamic"].why == "nothing to quantize: no layer has a dynamic int8 kernel"


def test_a_run_without_any_rival_comes_to_its_verdict_and_every_view_says_what_is_missing(make):
    recipe, options = make("recurrent")
    planned = {row.name: row.action for row in plan(recipe, options).steps}
    assert [name for name, action in planned.items() if action == "none"] == [
        "teacher-static", "teacher-dynamic", "undecided",
    ]  # fmt: skip
    outcome = run(recipe, options)
    report = outcome.report
    assert outcome.passed is True
    assert list(report.absent) == ["teacher-static", "teacher-dynamic", "undecided"]
    assert [row.name for row in report.stages] == ["teacher", "distill", "export"]
    assert report.verdict.rival is None
    assert load(Report, outcome.run_dir / "report.json") == report
    stream = io.StringIO()
    print_ending(report, Console(file=stream, width=100))
    views = [stream.getvalue(), *((outcome.run_dir / f"report.{kind}").read_text() for kind in ("md", "html"))]
    for name in report.absent:
        assert all(name in view for view in views)
        assert any(line.startswith(name) and "none" in line for line in options.reporter.lines)
    assert "GRU" in report.absent["teacher-static"]


def test_what_is_more_than_a_comparison_still_ends_the_run(make):
    recipe, options = make("undecided")
    with pytest.raises(ModelError, match=r"(?s)cannot be exported.*models\.py:32"):
        run(recipe, options)
