"""What a command imports decides how long it keeps one waiting: each loads only what it uses."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

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
