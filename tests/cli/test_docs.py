"""Every command of ours in the docs is one that the command line knows, and those of docs/ do what they are there for.

README's are typed by test_newcomer.py, those of pipelines by tests/pipelines, those of docs/extending.md,
docs/tables_and_signals.md and docs/processes.md by tests of their own.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import text_zoo
import torch
import typer
from typed import compressor

from compress.cli.main import app
from compress.errors import EXIT_CODES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("pipelines/*/README.md")])
DOCS = [page for page in PAGES if page.parent.name == "docs"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


END = """\
benchmark: {preset: quick, profiles: [{}]}
gates: {max_accuracy_drop: 0.5}
"""
RECIPES = {
    "digits": f"""\
schema: 1
name: digits
data: {{source: digits}}
teacher: {{model: {{cnn: {{widths: [32, 32], strides: [2, 1]}}}}, train: {{epochs: 6, batch_size: 64}}}}
student: {{cnn: {{widths: [32, 32], strides: [2, 1]}}}}
loss: {{hard: {{weight: 0.1}}, kl: {{weight: 0.9, temperature: 4}}}}
stages:
  - distill: {{epochs: 4, batch_size: 64}}
  - prune: {{kept_macs_fraction: 0.7}}
  - distill: {{name: recover, epochs: 2, batch_size: 64}}
  - quantize: {{max_accuracy_drop: 0.5}}
  - export
{END}""",
    "reviews": f"""\
schema: 1
name: reviews
data:
  source: {{table: {{path: reviews.csv, text: text, label: label}}}}
  split: {{test: 100, select: 100, calibration: 32}}
  tokenize: {{max_length: 24}}
teacher:
  model: {{huggingface: {{path: bert}}}}
  train: {{epochs: 8, batch_size: 20, optimizer: adamw, learning_rate: 0.003}}
student: teacher
loss: {{hard: {{weight: 0.1}}, kl: {{weight: 0.9, temperature: 2}}}}
stages:
  - shorten: {{layers: every-other}}
  - distill: {{epochs: 3, batch_size: 20, optimizer: adamw, learning_rate: 0.003}}
  - quantize: {{mode: dynamic}}
  - export
{END}""",
}


def commands(text: str) -> list[list[str]]:
    """The words of each command of ours in blocks of shell, without `compressor`."""
    blocks = [block for language, block in BLOCK.findall(text) if language in ("", "sh", "bash")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("compressor ")]


def test_the_pages_hold_the_commands_of_a_users_day():
    named = {words[0] for page in PAGES for words in commands(page.read_text(encoding="utf-8"))}
    assert {"init", "run", "plan", "check", "sweep", "report", "compare-runs", "promote", "package", "verify"} <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_known_with_its_options(page):
    program = typer.main.get_command(app)
    for name, *words in commands(page.read_text(encoding="utf-8")):
        with program.commands[name].make_context(name, words):  # a wrong option or a missing argument raises
            pass


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_troubleshooting_has_every_exit_code():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", text, re.MULTILINE)
    assert {int(code) for code, _ in rows} == {code for code in EXIT_CODES if code}
    assert all(len(row.split("|")) == 4 for _, row in rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, Path]:
    """A folder for each recipe, in which it was run."""
    folders = {name: tmp_path_factory.mktemp(name) for name in RECIPES}
    torch.manual_seed(0)
    text_zoo.make_bert(folders["reviews"] / "bert")
    text_zoo.write_reviews(folders["reviews"] / "reviews.csv")
    for name, folder in folders.items():
        (folder / "recipe.yaml").write_text(RECIPES[name])
        done = compressor("run", "recipe.yaml", "--threads", "1", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folders


ELSEWHERE = ("extending", "processes", "tables_and_signals")
HERE = {"ssh edge-box": "env", "/opt/ort/bin/python": sys.executable}  # for another machine, and its interpreter


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in DOCS if page.stem not in ELSEWHERE and commands(page.read_text("utf-8"))],
    ids=lambda page: page.stem,
)
def test_every_command_of_a_page_runs(page, finished, tmp_path):
    name, folder = "reviews" if page.stem == "deploy" else "digits", tmp_path / "mine"
    shutil.copytree(finished[name], folder)
    (run_dir,) = (folder / "compress-store" / "runs").iterdir()
    shutil.copytree(run_dir / "bundle", folder / "bundle")
    for file, of in (("A", "fp32"), ("B", "int8-x86"), ("mine", "fp32")):
        shutil.copyfile(run_dir / "bundle" / f"{of}.onnx", folder / f"{file}.onnx")
    np.savez(folder / "samples.npz", pixel_values=np.random.default_rng(0).random((64, 1, 8, 8), dtype=np.float32))
    for words in commands(page.read_text("utf-8")):
        there = [re.sub("^.*/NAME/", f"compress-store/runs/{run_dir.name}/", HERE.get(word, word)) for word in words]
        done = compressor(*(word.replace("NAME", name) for word in there), cwd=folder)
        assert done.returncode in ([0, 8] if "--strict" in words else [0]), f"{words}\n{done.stdout}\n{done.stderr}"
