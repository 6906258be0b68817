"""What is told on stderr, so that stdout holds results alone."""

import gc
import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import typer

from compress.errors import CompressError


def say(text: str) -> None:
    """Write lines to stderr, which fit a terminal there."""
    typer.echo(_fit(text, sys.stderr), err=True)


def tell_error(error: CompressError) -> None:
    """Say what is wrong; where one JSON object was asked for, that is it."""
    say(f"error: {error}")
    if "--json" in sys.argv[1:]:
        parts = {"message": error.message, "expected": error.expected, "got": error.got, "where": error.where}
        told = {key: str(value) for key, value in (parts | {"next": error.hint}).items() if value is not None}
        typer.echo(json.dumps({"error": told | {"exit_code": error.exit_code}}))


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
    return _fit(text, sys.stdout)


def width() -> int:
    """Return how wide lines on stdout may be; what reads a pipe finds whole ones."""
    return _width(sys.stdout)


def _fit(text: str, stream: TextIO) -> str:
    if not stream.isatty():
        return text
    from compress.progress import fold as folded

    return "\n".join(line for given in text.split("\n") for line in folded(given, _width(stream)))


def _width(stream: TextIO) -> int:
    return shutil.get_terminal_size().columns if stream.isatty() else sys.maxsize


def say_how_to_go_on() -> None:
    """Say with which command an interrupted one continues: the same, without its secrets."""
    from compress.config.secrets import mask

    command = shlex.join(["compressor", *map(mask, sys.argv[1:])])
    typer.echo(f"stopped; this goes on from here:\n  {command}", err=True)  # whole, to be copied
