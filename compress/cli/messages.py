"""What is told on stderr, so that stdout holds results alone."""

import shlex
import sys

import typer


def say(text: str) -> None:
    """Write a line to stderr."""
    typer.echo(text, err=True)


def say_how_to_go_on() -> None:
    """Say with which command an interrupted one continues: the same, without its secrets."""
    from compress.config.secrets import mask

    say(f"stopped; this goes on from here:\n  {shlex.join(['compressor', *map(mask, sys.argv[1:])])}")
