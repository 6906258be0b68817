"""A local database is there whole or not at all, whenever its maker is killed."""

import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from compress.tracking import Tracker

MAKER = """
import sys
from pathlib import Path
from compress.tracking import Tracker
Tracker.open(Path(sys.argv[1])).close()
"""


@pytest.mark.parametrize("tables", [1, 12])
def test_a_maker_killed_between_tables_spoils_nothing(tmp_path, tables):
    process = subprocess.Popen([sys.executable, "-c", MAKER, str(tmp_path)], stderr=subprocess.DEVNULL)
    seen = 0
    while process.poll() is None and seen < tables:
        for draft in tmp_path.glob(".mlflow.db.draft-*"):
            try:
                with sqlite3.connect(f"file:{draft}?mode=ro", uri=True) as connection:
                    seen = len(connection.execute("select * from sqlite_master where type = 'table'").fetchall())
                connection.close()
            except sqlite3.Error:
                continue
        time.sleep(0.001)
    assert process.poll() is None, "it was never caught at work"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    with Tracker.open(tmp_path, required=True) as tracker, tracker.run("r", experiment="e") as run:
        run.headline({"size_mb": 1.0})
    assert (tmp_path / "mlflow.db").exists()
