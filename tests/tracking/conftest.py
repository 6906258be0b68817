import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compress.tracking import Tracker

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


class Server:
    """A real MLflow server on loopback that can be stopped and started again over the same database."""

    def __init__(self, folder: Path, database: Path) -> None:
        self._folder = folder
        folder.mkdir()
        shutil.copyfile(database, folder / "server.db")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port),
                "--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/server.db",
                "--artifacts-destination", str(self._folder / "files"),
            ],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise TimeoutError("the MLflow server did not start")

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow database, made once: its many migrations take seconds."""
    store = tmp_path_factory.mktemp("template")
    with Tracker.open(store):
        pass
    return store / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Path:
    made = tmp_path / "store"
    made.mkdir()
    shutil.copyfile(empty_database, made / "mlflow.db")
    return made


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server", empty_database)
    yield made
    made.stop()


@pytest.fixture
def client() -> Callable:
    from mlflow.tracking import MlflowClient

    return lambda uri: MlflowClient(tracking_uri=uri, registry_uri=uri)
