"""The MLflow server as this machine's user needs it: loopback, one worker, nothing runs on request."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from compress.errors import InputError
from compress.tracking.tracker import DATABASE, database_uri


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """What to start, for ``subprocess`` or ``os.execve``."""

    arguments: list[str]
    environment: dict[str, str]
    address: str


def ui(store: Path, *, port: int = 5000) -> ServerCommand:
    """The command that serves a store's runs on 127.0.0.1.

    Raises:
        InputError: when the store has no MLflow database.
    """
    store = store.absolute()
    if not (store / DATABASE).exists():
        raise InputError(
            "no runs to show", expected=f"{DATABASE} in the store", where=store, hint="run a pipeline first"
        )
    arguments = [
        sys.executable, "-m", "mlflow", "server",
        "--backend-store-uri", database_uri(store),
        "--default-artifact-root", (store / "mlflow-artifacts").as_uri(),
        "--host", "127.0.0.1",
        "--port", str(port),
        "--workers", "1",
    ]  # fmt: skip
    # MLflow's job execution is on by default and would start worker processes for requests.
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return ServerCommand(arguments, dict(environment), f"http://127.0.0.1:{port}")
