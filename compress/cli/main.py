"""The command line: thin, and quick to answer because every command imports what it needs itself."""

import functools
import io
import os
import sys
import textwrap
from collections.abc import Callable
from typing import Annotated, Any

import typer

from compress.cli.benchmark import compare, env
from compress.cli.bundle import package, verify
from compress.cli.messages import tell_error
from compress.cli.plan import check, plan
from compress.cli.recipe import init, schema, validate
from compress.cli.results import compare_runs, report
from compress.cli.run import run, sweep
from compress.cli.tracking import promote, ui
from compress.errors import EXIT_CODES, CompressError

# In the order of a user's day: begin, look ahead, run, look back, choose, ship, and what is asked now and then.
COMMANDS = (
    init,
    plan,
    check,
    run,
    report,
    sweep,
    compare_runs,
    promote,
    ui,
    verify,
    package,
    compare,
    env,
    validate,
    schema,
)
_lines = (
    textwrap.fill(f"{code:>5}  {meaning}", width=76, subsequent_indent=" " * 7) for code, meaning in EXIT_CODES.items()
)
EPILOG = "\n".join(["\b", "Exit codes:", *_lines])

app = typer.Typer(
    name="compressor",
    help="Compress a trained teacher into the smallest, fastest ONNX student that still passes an accuracy gate.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # its tracebacks print local variables, and those hold secrets
)


def _telling(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that refuses whatever the user's own code raises, with the user's line.

    Inside of click, which takes some of it for an end that was asked for.
    """

    @functools.wraps(command)
    def told(*arguments: Any, **named: Any) -> None:
        try:
            command(*arguments, **named)
        except CompressError:
            raise
        except (Exception, SystemExit, GeneratorExit) as error:
            from compress.config.user_code import raise_users

            raise_users(error)
            raise

    return told


for command in COMMANDS:
    app.command()(_telling(command))


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("compress-onnx"))
        raise typer.Exit


@app.callback()
def _begin(
    version: Annotated[  # noqa: ARG001 # its callback answers
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; our own errors are told without a traceback, with their exit code."""
    _take_utf8()
    try:
        app(prog_name="compressor")
    except CompressError as error:
        tell_error(error)
        raise SystemExit(error.exit_code) from None


def _take_utf8() -> None:
    """Names of files are UTF-8 whatever the locale says, and a terminal that lacks a letter gets its number.

    Under an ASCII locale Python hands over other letters as lone surrogates, which neither JSON files, hashes, SQLite
    nor the libraries take. It decides that when it starts, so it starts once more; Windows and macOS never ask for it.
    """
    if sys.getfilesystemencoding() != "utf-8" and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
