"""A run, a sweep and the MLflow UI on one store at once, each in a process of its own, as a user starts them."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

RECIPE = """\
schema: 1
name: shared
data: {source: digits}
teacher:
  model: {file: {path: mine.py}}
  train: {epochs: 3, batch_size: 64}
student: teacher
stages:
  - distill: {epochs: 3, batch_size: 64}
  - export
benchmark: {preset: smoke, profiles: [{}]}
gates: {max_size_mb: 1}
"""
# Whoever builds the teacher goes on when the test has seen what it wants to see during a run.
MODEL = """\
import time
from pathlib import Path
from torch import nn

def build():
    here = Path(__file__).parent
    (here / "building").touch()
    while not (here / "go").exists():
        time.sleep(0.02)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
PATIENCE_S = 600


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a command in the project; ``NAME.log`` has all that it says."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "mine.py").write_text(MODEL)
    started: list[subprocess.Popen[bytes]] = []

    def run(name: str, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "compress", command, *arguments],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore Ctrl-C
            )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pipelines(port: int) -> dict[str, str]:
    """Return the status of each pipeline that the UI's server tells of; empty as long as it does not answer."""

    def ask(what: str, **question: object) -> dict:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/{what}/search",
            json.dumps(question | {"max_results": 100}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    with contextlib.suppress(OSError):
        experiments = [entry["experiment_id"] for entry in ask("experiments").get("experiments", [])]
        runs = ask("runs", experiment_ids=experiments, filter="tags.`compress.role` = 'pipeline'").get("runs", [])
        return {entry["info"]["run_name"]: entry["info"]["status"] for entry in runs}
    return {}


@pytest.mark.timeout(2 * PATIENCE_S)
def test_ui_and_a_sweep_work_on_the_store_of_a_run_that_goes_on(start, tmp_path):
    run = start("run", "run", "recipe.yaml", "--code", "mine.py", "--threads", "1")
    wait_for(lambda: (tmp_path / "building").exists())
    port = free_port()
    ui = start("ui", "ui", "--port", str(port))
    wait_for(lambda: pipelines(port) == {"shared": "RUNNING"})

    shared = ("recipe.yaml", "--code", "mine.py", "--threads", "1", "--set")
    same = start("same", "sweep", *shared, "stages.distill.epochs=3,1")
    assert same.wait(PATIENCE_S) == 7
    assert f"process {run.pid}" in (tmp_path / "same.log").read_text()

    sweep = start("sweep", "sweep", *shared, "stages.distill.epochs=1")
    wait_for(lambda: f"waiting for process {run.pid}" in (tmp_path / "sweep.log").read_text())
    (tmp_path / "go").touch()
    assert run.wait(PATIENCE_S) == 0
    assert sweep.wait(PATIENCE_S) == 0
    names = ["epochs=1 shared", "epochs=1, chosen, shared", "shared"]
    assert sorted(pipelines(port).items()) == [(name, "FINISHED") for name in names]
    ui.send_signal(signal.SIGINT)
    assert ui.wait(PATIENCE_S) == 0

    for name in ("run", "same", "sweep", "ui"):
        told = (tmp_path / f"{name}.log").read_text()
        assert "Traceback" not in told
        assert "wait in" not in told, "events for MLflow were left behind"
    store = tmp_path / "compress-store"
    manifests = [json.loads(path.read_text()) for path in store.glob("artifacts/*/manifest.json")]
    made = Counter(manifest["inputs"].get("stage") for manifest in manifests)
    assert (made["Create"], made["Train"], made["Distill"], made["Export"]) == (1, 1, 2, 2)
    assert not (store / "damaged").exists()
    with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
