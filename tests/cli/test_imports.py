"""What a command imports decides how long it keeps one waiting: each loads only what it uses."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from typed import ONE_THREAD, compressor

ROOT = Path(__file__).parents[2]
HEAVY = {
    "datasets", "matplotlib", "mlflow", "onnxscript", "optimum", "pandas", "pyarrow", "scipy", "sklearn",
    "torch_pruning", "transformers",
}  # fmt: skip


def loaded(code: str, *arguments: str | Path) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after this code, however it ended."""
    result = subprocess.run(
        [sys.executable, "-c", f"import sys\ntry:\n {code}\nfinally: print(*sys.modules, file=sys.stderr)", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return set(result.stderr.split())


@pytest.mark.parametrize("module", ["compress.pipeline.plan", "compress.pipeline.run", "compress.recipe"])
def test_what_plans_imports_nothing_that_it_may_not_use(module):
    found = loaded(f"import {module}")
    assert module in found
    assert not found & HEAVY


def test_digits_are_read_without_scikit_learn():
    found = loaded("from compress.data.sources import Digits; Digits().load(code=())")
    assert "compress.data.sources" in found
    assert not found & HEAVY


def test_an_empty_store_has_no_runs_to_compare_and_nothing_to_import(tmp_path):
    found = loaded("import compress.cli.main as c; c.main()", "compare-runs", "--store", tmp_path)
    assert "compress.pipeline.runs" in found
    assert not found & (HEAVY | {"numpy", "torch", "onnx", "onnxruntime"})


def test_the_server_is_started_without_importing_it(tmp_path):
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE experiments (name, experiment_id, lifecycle_stage)")
        database.execute("CREATE TABLE experiment_tags (key, experiment_id)")
    code = "from pathlib import Path; from compress.tracking.server import ui; ui(Path(sys.argv[1]))"
    found = loaded(code, tmp_path)
    assert "compress.tracking.server" in found
    assert not found & (HEAVY | {"torch", "onnx", "onnxruntime"})


FOREIGN = """
import os, pkgutil, signal, sys
import filelock  # has a lock of Windows' own
for name in ("fcntl", "pwd", "grp", "resource", "termios"):
    sys.modules[name] = None  # an import of it fails
import compress
for module in pkgutil.walk_packages(compress.__path__, "compress."):
    programs = (".__main__", ".predict", ".predict_arrays", ".predict_sequence", ".predict_text", ".bootstrap")
    if not module.name.endswith(programs):
        __import__(module.name)
for name in ("fork", "killpg", "pread", "sysconf", "getloadavg", "sched_getaffinity", "sched_setaffinity", "getpgid",
             "getuid", "geteuid", "setsid", "uname", "statvfs", "O_CLOEXEC", "O_DIRECTORY"):
    delattr(os, name)
del signal.SIGHUP
sys.platform = "win32"
from pathlib import Path
from compress.benchmark import environment
from compress.benchmark.process import Worker
from compress.cli.interruption import watch
from compress.store import store as module
folder = Path(sys.argv[1])
kill, module.os.kill = module.os.kill, None  # there it would end the process that is asked about
(folder / "artifacts" / f".draft-{'0' * 16}-{module._machine()}-1-{'1' * 8}").mkdir(parents=True)
store = module.Store.open(folder)
made = store.commit({"x": 1}, kind="model", write=lambda folder: (folder / "a").write_text("a") and {})
assert store.find(made.key, verify=True) == made
module.os.kill = kill
with watch(): pass
environment.read = lambda path: None  # nor are there files of a kernel
assert (environment.describe(seed=0).memory_bytes, environment.NoiseProbe().noise().load_average) == (None, None)
with Worker() as worker:
    assert worker.usable("ort-cpu").usable
    worker._kill()
"""


def test_what_posix_alone_has_is_not_needed(tmp_path):
    """No Windows here: its modules and calls are taken away, and its name is given."""
    result = subprocess.run(
        [sys.executable, "-c", FOREIGN, tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_a_terminal_says_from_the_beginning_that_something_happens(tmp_path):
    screen, terminal = os.openpty()
    begin = "import compress.cli.main as c; c.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", begin, "report", "none"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(screen, 4096):
            shown += chunk
    except OSError:  # how Linux tells that nobody writes there any more
        pass
    os.close(screen)
    assert process.wait()
    assert 0 <= shown.find(b"loading the libraries") < shown.find(b"error")


def test_a_plan_that_was_told_before_is_told_again_without_torch(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TOLD)
    store = ["--store", str(tmp_path / "store"), "--until", "distill"]
    first = compressor("plan", "recipe.yaml", *store, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    again = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "compress", "plan", "recipe.yaml", *store],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | ONE_THREAD,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.stdout == first.stdout
    found = {line.rpartition("|")[2].strip() for line in again.stderr.splitlines()}
    assert "compress.pipeline.typed" in found
    assert not found & (HEAVY | {"numpy", "torch", "onnx", "onnxruntime"})


TOLD = """
schema: 1
name: told
data: {source: digits}
teacher: {model: {mlp: {widths: [8]}}, train: {epochs: 1}}
student: {mlp: {widths: [4]}}
stages: [distill]
"""
