"""The MLflow server as this machine's user needs it: loopback, one worker, nothing runs on request."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compress.errors import EnvironmentFault, InputError
from compress.tracking.relocate import FOLDER, relocate
from compress.tracking.tracker import DATABASE, database_uri
from compress.tracking.views import TAG, address


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """What `serve` starts."""

    arguments: list[str]
    environment: dict[str, str]
    address: str
    views: list[str]
    """Name of each experiment, and where its pipelines are compared; that of the newest run last."""


def ui(store: Path, *, port: int = 5000) -> ServerCommand:
    """The command that serves a store's runs on 127.0.0.1.

    Raises:
        InputError: when the store has no MLflow database.
        EnvironmentFault: when something listens on the port already, or the database cannot be read.
    """
    store = store.absolute()
    if not (store / DATABASE).exists():
        raise InputError(
            "no runs to show", expected=f"{DATABASE} in the store", where=store, hint="run a pipeline first"
        )
    _check_free(port)
    relocate(store / DATABASE)
    arguments = [
        sys.executable, "-m", "mlflow", "server",
        "--backend-store-uri", database_uri(store),
        "--default-artifact-root", (store / FOLDER).as_uri(),
        "--host", "127.0.0.1",
        "--port", str(port),
        "--workers", "1",
        "--uvicorn-opts", "--log-level=warning",  # a line for each request would hide where to look
    ]  # fmt: skip
    # MLflow's job execution is on by default and would start worker processes for requests.
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = f"http://127.0.0.1:{port}"
    return ServerCommand(arguments, dict(environment), server, _views(store / DATABASE, server))


def serve(command: ServerCommand, *, ready: Callable[[], object]) -> int:
    """Run the server until it ends, or Ctrl-C ends it; when this process is killed, nothing of it is left.

    Args:
        command: of the server.
        ready: called once it answers.

    Returns:
        The server's exit code; 0 after Ctrl-C.
    """
    words = [sys.executable, "-I", "-X", "utf8", str(Path(__file__).with_name("guard.py")), *command.arguments]
    with subprocess.Popen(words, env=command.environment, stdin=subprocess.PIPE, start_new_session=True) as guard:
        threading.Thread(target=_await_answer, args=(command.address, guard, ready), daemon=True).start()
        try:
            code = guard.wait()
        except KeyboardInterrupt:
            code = 0
        finally:
            if sys.platform != "win32":  # a guard that was killed has left its group
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(guard.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _await_answer(server: str, guard: subprocess.Popen[bytes], ready: Callable[[], object]) -> None:
    while guard.poll() is None:
        try:
            with urllib.request.urlopen(f"{server}/health", timeout=2):
                break
        except OSError:
            time.sleep(0.1)
    else:
        return  # it ended before it answered
    ready()


def _check_free(port: int) -> None:
    """Refuse a port that is in use before its address is told; the server would say so in a traceback of its own."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does, after one that has just ended
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise EnvironmentFault(
                "the port cannot be used",
                expected="a free port of 127.0.0.1",
                got=error.strerror,
                where=f"127.0.0.1:{port}",
                hint="name another with --port, or end what listens there",
            ) from error


def _views(database: Path, server: str) -> list[str]:
    """Read from the database itself: importing MLflow would take longer than the server's start may."""
    query = "SELECT e.name, e.experiment_id FROM experiments e JOIN experiment_tags t USING (experiment_id) "
    query += "LEFT JOIN runs r USING (experiment_id) WHERE e.lifecycle_stage = 'active' AND t.key = ? "
    query += "GROUP BY e.experiment_id ORDER BY MAX(r.start_time), e.name"
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute(query, (TAG + "compress-pipelines",)).fetchall()
    except sqlite3.Error as error:
        raise EnvironmentFault(
            "the MLflow database cannot be read",
            got=error,
            where=database,
            hint="when it is locked, end what holds it; when it is damaged, restore it or move it away",
        ) from error
    return [f"{name}: {server}/{address(experiment, 'compress-pipelines')}" for name, experiment in found]
