"""The command line: thin, and quick to answer because every command imports what it needs itself."""

import io
import os
import sys
from pathlib import Path

import typer

from compress.cli.benchmark import compare, env
from compress.cli.bundle import verify
from compress.cli.messages import say
from compress.cli.plan import check, plan
from compress.cli.recipe import init, schema, validate
from compress.cli.results import compare_runs, report
from compress.cli.run import run, sweep
from compress.cli.tracking import promote, ui
from compress.errors import EXIT_CODES, CompressError

# In the order of --help.
COMMANDS = (run, check, plan, validate, schema, init, verify, sweep, report, compare_runs, promote, ui, env, compare)
EPILOG = "\b\n" + "\n".join(["Exit codes:", *(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())])

app = typer.Typer(
    name="compressor",
    help="Compress a trained teacher into the smallest, fastest ONNX student that still passes an accuracy gate.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # its tracebacks print local variables, and those hold secrets
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command line; our own errors are told without a traceback, with their exit code."""
    _take_utf8()
    try:
        app(prog_name="compressor")
    except CompressError as error:
        say(f"error: {error}")
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        from compress.config.user_code import failure, users_lines

        if not (lines := users_lines(error)):
            raise
        refusal = failure(error, Path(lines[-1].rpartition(":")[0]))
        say(f"error: {refusal}")
        raise SystemExit(refusal.exit_code) from error


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
