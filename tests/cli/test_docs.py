"""Every command of ours in the docs is one that the command line knows, option by option."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from compress.cli.main import app
from compress.errors import EXIT_CODES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("pipelines/*/README.md")])
BLOCK = re.compile(r"^```(?:sh|bash)?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The words of each command of ours in blocks of shell, without `compressor`."""
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
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
