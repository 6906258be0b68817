"""Every script of benchmarks/ and pipelines/ imports what there is, and says how it is called."""

import multiprocessing
import runpy
import sys
from pathlib import Path

import pytest

import compress.pipeline.run  # noqa: F401 # once, and not in each fork

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("benchmarks", "pipelines")
    for path in (ROOT / folder).rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)
NEEDS = {"benchmarks/optimum_baseline.py": "optimum.onnxruntime"}


def ask_for_help(script):
    sys.argv = [script, "--help"]
    sys.path.insert(0, str((ROOT / script).parent))
    runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_how_it_is_called(script, capfd):
    if script in NEEDS:
        pytest.importorskip(NEEDS[script])
    # A fork, because scripts set variables and paths, and because torch is imported here already.
    asked = multiprocessing.get_context("fork").Process(target=ask_for_help, args=(script,))
    asked.start()
    asked.join(timeout=120)
    said, problem = capfd.readouterr()
    assert asked.exitcode == 0, problem
    assert f"python {script}" in said, "its own call is in its docstring"
