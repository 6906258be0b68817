"""What is told on stderr, so that stdout holds results alone."""

import gc
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer


def say(text: str) -> None:
    """Write a line to stderr."""
    typer.echo(text, err=True)


@contextmanager
def loading() -> Iterator[None]:
    """Show that something happens while a command loads its libraries; nothing where stderr is no terminal.

    Python looks for no garbage meanwhile: what is imported stays, and looking through it again and again takes a fifth
    of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status("loading the libraries"):
            yield
    finally:
        if collects:
            gc.enable()


def fold(text: str) -> str:
    """Return a text whose lines fit the terminal on stdout, split between words; elsewhere as it is.

    What reads a pipe finds whole lines.
    """
    from rich.console import Console

    from compress.report.ending import fold as folded

    console = Console()
    if not console.is_terminal:
        return text
    return "\n".join(line for given in text.split("\n") for line in folded(given, console.width))


def say_how_to_go_on() -> None:
    """Say with which command an interrupted one continues: the same, without its secrets."""
    from compress.config.secrets import mask

    say(f"stopped; this goes on from here:\n  {shlex.join(['compressor', *map(mask, sys.argv[1:])])}")
