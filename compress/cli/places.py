"""Which run is meant, and where its files are."""

import shlex
from pathlib import Path

from compress.errors import InputError

MOST_NAMES = 8  # that a message lists


def find_run(run: str, *, store: Path) -> Path:
    """Return the directory of a run.

    Args:
        run: the directory, or its name in the store, or a beginning of that which no other run has.
        store: the store's directory.

    Raises:
        InputError: when there is no such run, or several.
    """
    if (Path(run) / "report.json").is_file():
        return Path(run)
    names = sorted(path.parent.name for path in (store / "runs").glob("*/report.json"))
    meant = [run] if run in names else [name for name in names if name.startswith(run)]
    if len(meant) != 1:
        listed = ", ".join((meant or names)[:MOST_NAMES]) + (", ..." if len(meant or names) > MOST_NAMES else "")
        raise InputError(
            "several runs begin so" if meant else "there is no such run",
            expected=f"one of {listed}" if names else "a run that has ended",
            got=run,
            where=store,
        )
    return store / "runs" / meant[0]


def places(run_dir: Path) -> list[str]:
    """Return where the bundle and the page of a run are, and the commands for its tables and for MLflow."""
    shown = near(run_dir)
    bundle = [f"bundle:  {shown / 'bundle'}"] if (run_dir / "bundle").is_dir() else []
    details = shlex.join(["compressor", "report", str(shown), "--all"])
    return [*bundle, f"report:  {shown / 'report.html'}", f"details: {details}"]


def near(path: Path) -> Path:
    """Return a path as it is shown: from the working directory where it lies below that, else from the root."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
