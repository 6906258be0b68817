"""docs/tables_and_signals.md as a reader types it: each section planned in this process, and run as commands (slow)."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from compress.errors import ModelError
from compress.pipeline.plan import plan
from compress.pipeline.run import Options
from compress.progress import Reporter
from compress.recipe import Recipe

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "tables_and_signals.md").read_text(encoding="utf-8")
SECTIONS = {section.partition("\n")[0]: section for section in TEXT.split("\n## ")[1:]}
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
AT_LEAST = {  # of the shipped file on test, in percent
    "A table with categories": 80,
    "Categories to look up, gaps, targets": 80,
    "A signal": 85,
    "Sequences with lengths": 85,
    "A tag for each step": 80,
    "Two inputs": 85,
    "Numbers from signals, several labels": 80,
}


def write(section: str, folder: Path) -> list[list[str]]:
    """Write a section's files, and return the words of its commands."""
    commands: list[list[str]] = []
    for language, text in BLOCK.findall(SECTIONS[section]):
        if language == "sh":
            commands += [shlex.split(line) for line in text.splitlines()]
        else:
            name = re.match(r"# (\S+)\n", text)
            assert name is not None, f"a {language} block of {section!r} does not begin with the name of its file"
            (folder / name[1]).write_text(text, encoding="utf-8")
    return commands


def typed(words: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COMPRESS_STORE": "store"}
    found = next(folder.glob("store/runs/*/bundle"), Path("BUNDLE"))
    words = [word.replace("BUNDLE", str(found)) for word in words]
    start = {"compressor": ["-m", "compress"], "python": []}[words[0]]
    command = [sys.executable, *start, *words[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_section_is_known():
    assert set(AT_LEAST) == set(SECTIONS)


@pytest.mark.parametrize(
    "section", [pytest.param(name, marks=pytest.mark.slow) if name == "A signal" else name for name in SECTIONS]
)
def test_every_section_is_planned_with_its_formula_and_nothing_is_refused(section, tmp_path, monkeypatch):
    commands = write(section, tmp_path)
    monkeypatch.chdir(tmp_path)
    for script in sorted(tmp_path.glob("make_*.py")):
        exec(compile(script.read_text(), script, "exec"), {})
    code = [tmp_path / words[-1] for words in commands if "--code" in words][:1]
    options = Options(store=tmp_path / "store", threads=1, code=code, reporter=Reporter(quiet=True))
    planned = plan(Recipe.load(tmp_path / "recipe.yaml"), options)
    assert planned.input_formula
    assert {row.name for row in planned.steps} >= {"teacher", "distill", "export"}


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_runs_as_it_is_shown(section, tmp_path):
    commands = write(section, tmp_path)
    told = {" ".join(words[:2]): typed(words, tmp_path) for words in commands}
    (row,) = re.findall(r"^export  .* ([\d.]+)$", told["compressor run"], re.MULTILINE)
    assert float(row) >= AT_LEAST[section], told["compressor run"]
    lines = typed(["python", "BUNDLE/predict.py"], tmp_path).splitlines()
    assert len(lines) >= 36  # of the reference
    if "python BUNDLE/predict.py" in told:
        assert told["python BUNDLE/predict.py"].splitlines()


def test_a_forward_that_takes_its_inputs_in_another_order_is_refused_by_plan(tmp_path):
    write("Two inputs", tmp_path)
    text = (tmp_path / "my_pairs.py").read_text().replace("forward(self, left, right)", "forward(self, right, left)")
    (tmp_path / "my_pairs.py").write_text(text)
    options = Options(store=tmp_path / "store", code=[tmp_path / "my_pairs.py"], reporter=Reporter(quiet=True))
    with pytest.raises(ModelError, match=r"(?s)another order.*forward\(left, right\).*forward\(right, left\)"):
        plan(Recipe.load(tmp_path / "recipe.yaml"), options)


def test_an_embedding_that_is_too_small_is_refused_by_plan(tmp_path, monkeypatch):
    write("Categories to look up, gaps, targets", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile((tmp_path / "make_cars.py").read_text(), "make_cars.py", "exec"), {})
    text = (tmp_path / "my_model.py").read_text().replace("nn.Embedding(4, 4)", "nn.Embedding(3, 4)")
    (tmp_path / "my_model.py").write_text(text)
    options = Options(store=tmp_path / "store", code=[tmp_path / "my_model.py"], reporter=Reporter(quiet=True))
    with pytest.raises(ModelError, match=r"(?s)look up all the numbers.*brand \(3\), fuel \(2\).*one entry more"):
        plan(Recipe.load(tmp_path / "recipe.yaml"), options)
