"""Addresses in a store's own MLflow database, when the store was moved or copied.

MLflow keeps absolute addresses. A copied store would go on writing into the folders of the original, and a moved one
would show runs without their files; so they are made to begin where the store is now, before the database is opened.
"""

import contextlib
import sqlite3
from pathlib import Path

FOLDER = "mlflow-artifacts"
ADDRESSES = (  # every table and column that holds the address of a file
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def relocate(database: Path) -> None:
    """Let the addresses of artifacts begin at the folder beside the database.

    Does nothing where that folder does not exist, or the database cannot be written: whoever opens it next tells that.

    Args:
        database: the store's own.
    """
    here = database.parent / FOLDER
    if not (database.exists() and here.is_dir()):
        return
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection,
        connection,
    ):
        found = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        roots = {address[: address.rindex(f"/{FOLDER}/")] for (address,) in found if f"/{FOLDER}/" in (address or "")}
        for root in roots - {database.parent.as_uri()}:
            _replace(connection, f"{root}/{FOLDER}/", f"{here.as_uri()}/")


def _replace(connection: sqlite3.Connection, there: str, here: str) -> None:
    """Replace the beginning of every address; within the caller's transaction."""
    for table, column in ADDRESSES:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (here, len(there) + 1, len(there), there),
        )
