"""Every command of ours in the docs' pages of words is one that the command line knows, option by option."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from compress.cli.main import app
from compress.errors import EXIT_CODES

ROOT = Path(__file__).parents[2]
PAGES = ("deploy", "troubleshooting", "choose", "faq", "glossary", "compare", "limits")
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_known_with_its_options(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    program = typer.main.get_command(app)
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines() if line.startswith("compressor ")]
    assert lines or page in ("glossary", "compare", "limits")
    for line in lines:
        _, name, *words = shlex.split(line)
        with program.commands[name].make_context(name, words):  # a wrong option or a missing argument raises
            pass


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages_that_are_there(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([\w.]+\.md)\)", text):
        assert (ROOT / "docs" / target).exists(), target


def test_troubleshooting_has_every_exit_code():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", text, re.MULTILINE)
    assert {int(code) for code, _ in rows} == {code for code in EXIT_CODES if code}
    assert all(len(row.split("|")) == 4 for _, row in rows)
