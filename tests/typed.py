"""The command line as a user types it: in a process of its own.

The processes are forked from one that has imported the libraries and run nothing, because half the time of a short
command is the import of torch. What depends on how Python starts (signals, encodings, what is imported, several
processes) has tests that start it anew.
"""

import atexit
import functools
import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # read when the libraries are loaded
PRELOADED = [
    "mlflow",
    "mlflow.onnx",
    "mlflow.store.tracking.sqlalchemy_store",
    "onnxruntime",
    "sklearn.datasets",
    "torch._dynamo",
    "torch.onnx._internal.exporter._core",
    "torch_pruning",
    "compress.cli.plan",
    "compress.pipeline.run",
    "compress.pipeline.plan",
    "compress.report.page",
]


def compressor(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m compress`` and return its exit code, stdout and stderr."""
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | ONE_THREAD | environment
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        paths = [f"/proc/{os.getpid()}/fd/{stream.fileno()}" for stream in (out, err)]
        process = _server().Process(target=_run, args=(words, str(cwd), dict(variables), paths))
        process.start()
        process.join()
        told = [os.pread(stream.fileno(), os.fstat(stream.fileno()).st_size, 0).decode() for stream in (out, err)]
    assert process.exitcode is not None
    return subprocess.CompletedProcess([sys.executable, "-m", "compress", *words], process.exitcode, *told)


@functools.cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with mock.patch.dict(os.environ, ONE_THREAD):
        forkserver.ensure_running()
    return context


def _run(words: list[str], cwd: str, variables: dict[str, str], paths: list[str]) -> None:
    """Be the process of a command from its first line on."""
    for descriptor, path in enumerate(paths, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    here = str(Path(__file__).parent)
    sys.path[:] = [cwd, str(ROOT), *(path for path in sys.path if path not in ("", here, str(ROOT)))]
    sys.argv = ["compress", *words]
    from compress.cli.main import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()
