"""Databases that are locked, read-only or none, journals that say nothing: told in one line, and the run goes on."""

import functools
import json
import sqlite3
import zlib
from pathlib import Path

import pytest

from compress.errors import EnvironmentFault
from compress.tracking import Tracker, ui
from compress.tracking.registry import promote


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Nobody waits for a lock that nobody will free."""
    for module in (sqlite3, sqlite3.dbapi2):
        monkeypatch.setattr(module, "connect", functools.partial(sqlite3.connect, timeout=0.01))


def log_once(store: Path, *, name: str = "r", key: str | None = None) -> None:
    with Tracker.open(store) as tracker, tracker.run(name, experiment="e", key=key) as run:
        run.headline({"size_mb": 1.0})
        tracker.flush(timeout_s=0)


def names(store: Path, client) -> set[str]:
    found = client(f"sqlite:///{store}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in found.search_experiments()]
    return {run.info.run_name for run in found.search_runs(experiments)}


def told(caplog, capfd) -> str:
    written = "\n".join([*(record.getMessage() for record in caplog.records), *capfd.readouterr()])
    assert "Traceback" not in written
    assert "sqlalche.me" not in written
    return written


def test_a_locked_database_is_told_in_a_line_and_gets_everything_later(store: Path, client, caplog, capfd):
    with sqlite3.connect(store / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        log_once(store)
        assert "database is locked" in told(caplog, capfd)
        with pytest.raises(EnvironmentFault, match=r"(?s)cannot be read.*locked"):
            ui(store)
        with pytest.raises(EnvironmentFault, match="locked"):
            promote("r", store=store)
        other.execute("ROLLBACK")
    other.close()
    log_once(store, name="later")
    assert names(store, client) == {"r", "later"}


def test_a_database_that_refuses_to_be_written_is_told_in_a_line(store: Path, client, caplog, capfd):
    read_only = f"sqlite:///file:{store}/mlflow.db?mode=ro&uri=true"  # root may write files that are read-only
    with Tracker.open(store, read_only) as tracker, tracker.run("r", experiment="e") as run:
        run.headline({"size_mb": 1.0})
    assert "readonly database" in told(caplog, capfd)
    assert names(store, client) == set()


def test_an_experiment_that_is_there_and_not_there_is_told_in_a_line(store: Path, caplog, capfd):
    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute("CREATE TRIGGER no BEFORE INSERT ON experiments BEGIN SELECT RAISE(ABORT, 'not here'); END")
    database.close()
    log_once(store)
    assert "not here" in told(caplog, capfd)


@pytest.mark.parametrize("content", [b"SQLite format 3\0" + bytes(range(256)) * 30, b"no database", None])
def test_what_is_no_database_is_refused_in_a_line(tmp_path: Path, content, caplog, capfd):
    path = tmp_path / "mlflow.db"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(EnvironmentFault, match=r"damaged|cannot be read"):
        log_once(tmp_path)
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        ui(tmp_path)
    told(caplog, capfd)


def line(event: object) -> bytes:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return b'{"crc":"%08x","event":%s}\n' % (zlib.crc32(body), body)


START = {"do": "start", "uid": "u", "name": "old", "parent": None, "experiment": "e", "tags": {}, "run": "0", "ms": 1}
DAMAGED = {
    "no UTF-8": [line(START), line(b'{"do":"end","run":"\xff"}'), line(START)],
    "a missing key": [line({name: value for name, value in START.items() if name != "uid"})],
    "no kind": [line({"run": "0"})],
    "another type": [line(START), line({"do": "log", "metrics": "all", "run": "0", "ms": 1})],
    "a list": [line(START), line([1, 2]), line(START)],
    "no beginning": [line({"do": "end", "status": "FINISHED", "run": "7", "ms": 1})],
}


@pytest.mark.parametrize("lines", DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.parametrize("key", ["own", "another"])
def test_a_damaged_journal_is_named_and_the_run_is_tracked(store: Path, client, lines, key, caplog, capfd):
    log_once(store, name="before", key="own")
    (journal,) = (store / "tracking").glob("*/own.1/events.ndjson")
    journal.write_bytes(b"".join(lines))
    (journal.parent / "settled").unlink()
    log_once(store, name="after", key=key)
    assert str(journal) in told(caplog, capfd)
    assert names(store, client) == {"before", "after"}


def test_deliveries_that_are_damaged_are_named(store: Path, client, caplog, capfd):
    log_once(store, name="before", key="own")
    (notes,) = (store / "tracking").glob("*/own.1/delivery.ndjson")
    for content in (b"no line\n" + line({}), line({"taken": "all"}), line({"run_ids": []}), line({"taken": 10})):
        caplog.clear()
        notes.write_bytes(content)
        (notes.parent / "settled").unlink(missing_ok=True)
        log_once(store, name="after")
        assert str(notes.parent) in told(caplog, capfd)
    assert "after" in names(store, client)


def test_a_kept_file_that_is_gone_is_told_and_the_rest_is_sent(store: Path, client, tmp_path: Path, caplog, capfd):
    (tmp_path / "table.csv").write_text("1")
    with sqlite3.connect(store / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")  # so that it waits
        with Tracker.open(store) as tracker, tracker.run("r", experiment="e") as run:
            run.artifact(tmp_path / "table.csv")
        other.execute("ROLLBACK")
    other.close()
    (kept,) = store.glob("tracking/*/*/files/*/table.csv")
    kept.unlink()
    log_once(store, name="later")
    assert "no longer there" in told(caplog, capfd)
    assert names(store, client) == {"r", "later"}
