"""Text on the command line: what is cut is told, and what cannot be learnt from is refused before anything trains."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import text_zoo

from compress.cli import main
from compress.recipe import Recipe

RECIPE = """\
schema: 1
name: reviews
data:
  source: {table: {path: reviews.csv, text: text, label: label}}
  split: {test: 40, select: 40, calibration: 4}
  tokenize: {max_length: 48}
teacher:
  model: {huggingface: {path: bert}}
  expected_accuracy: 0.02   # as a teacher that needs no training has; this one has learnt nothing
student: teacher
stages:
  - distill: {epochs: 1, batch_size: 20}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a recipe, an encoder and 200 reviews."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    text_zoo.make_bert(tmp_path / "bert", num_hidden_layers=1)
    text_zoo.write_reviews(tmp_path / "reviews.csv", count=200)
    return tmp_path


@pytest.fixture
def compressor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Return a function that runs the command line in this process: its exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["compressor", *arguments])
        capsys.readouterr()  # what making the project said
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return call


def test_texts_that_are_cut_are_counted_for_each_role(compressor, project):
    arguments = ("--until", "teacher", "--threads", "1", "--json", "--set", "data.tokenize.max_length=18")
    code, out, err = compressor("run", "recipe.yaml", *arguments)
    assert code == 0, err
    data = Recipe.load(project / "recipe.yaml").data.load()
    # Every word of the reviews is one token, and two tokens are special.
    long = {role: sum(len(text.split()) > 16 for text in samples.inputs) for role, samples in data.roles.items()}
    assert 0 in long.values()
    report = json.loads(out)
    assert report["data"]["truncated"] == {role: count for role, count in long.items() if count} != {}
    told = "; cut at max_length: " + ", ".join(f"{role} {count}" for role, count in long.items() if count)
    assert err.startswith(f"data: train {len(data.train)}, ")
    assert err.splitlines()[0].endswith(f"duplicates dropped from train{told}")
    run_dir = Path(report["run_dir"])
    assert f"duplicates dropped from train{told}.\n" in (run_dir / "report.md").read_text()
    assert told in (run_dir / "report.html").read_text()
