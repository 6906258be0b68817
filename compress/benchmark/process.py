"""The parent's side of a worker: start it, ask it, and turn a hang or a crash into a clear message."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from compress.benchmark import worker
from compress.errors import CompressError

_WORKER_FILE = Path(worker.__file__)
_PACKAGE_ROOT = Path(__file__).parents[2]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerError(CompressError):
    """A benchmark worker crashed, hung or refused its model; the other models go on."""


class Worker:
    """A fresh process that holds one model; a context manager that always ends it.

    It has a session of its own, so that Ctrl-C in the terminal reaches the parent alone, which ends it in order. When
    the parent is killed, the end of standard input ends it.

    Args:
        runtime: a name of `worker.RUNTIMES`.
        model: an ONNX file, or an artifact directory for torch.
        inputs: .npz of real samples.
        batch_size: samples a call.
        threads: intra-op threads.
        cpus: the CPUs it may use; None inherits the parent's.
        code: the user's Python files that torch may run to build the model.
        load_limit_s: longest wait for the load and the first run.
        reply_limit_s: longest wait for any other reply, beyond the time asked for.
    """

    def __init__(
        self,
        *,
        runtime: str,
        model: Path,
        inputs: Path,
        batch_size: int,
        threads: int,
        cpus: Sequence[int] | None = None,
        code: Sequence[Path] = (),
        load_limit_s: float = 120.0,
        reply_limit_s: float = 60.0,
    ) -> None:
        self._load_limit_s, self._reply_limit_s = load_limit_s, reply_limit_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker, closed by close()
        environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"ORT_DISABLE_TELEMETRY": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER_FILE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._stdout = self._process.stdin, self._process.stdout
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._load = worker.Load(
            runtime=runtime,
            model=str(model.absolute()),
            inputs=str(inputs.absolute()),
            batch_size=batch_size,
            threads=threads,
            cpus=None if cpus is None else list(cpus),
            package_root=str(_PACKAGE_ROOT),
            code=[str(file.absolute()) for file in code],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def load(self) -> dict[str, Any]:
        """Load the model and run it once.

        Returns:
            load_ms, first_run_ms, settings and memory_bytes by phase.

        Raises:
            WorkerError: when the model cannot be loaded or run within the limit.
        """
        return self._ask({"do": "load", **asdict(self._load)}, limit_s=self._load_limit_s)

    def block(self, *, block_ms: float) -> tuple[list[int], int | None]:
        """Time calls for block_ms.

        Returns:
            The nanoseconds of every call, and the involuntary context switches meanwhile (None: unknown).

        Raises:
            WorkerError: when the worker is gone or does not answer.
        """
        reply = self._ask({"do": "block", "block_ms": block_ms}, limit_s=self._reply_limit_s + block_ms / 1e3)
        return reply["times_ns"], reply["involuntary_switches"]

    def memory_bytes(self) -> dict[str, int | None]:
        """Peak resident bytes at the end of each phase so far; None where the system does not tell.

        Raises:
            WorkerError: when the worker is gone or does not answer.
        """
        return self._ask({"do": "memory"}, limit_s=self._reply_limit_s)["memory_bytes"]

    def close(self) -> None:
        """End the process, gently when it still listens."""
        if self._process.poll() is None:
            try:
                self._ask({"do": "close"}, limit_s=2.0)
                self._process.wait(timeout=2.0)
            except (WorkerError, subprocess.TimeoutExpired):
                self._process.kill()
        self._process.wait()
        self._reader.join()
        self._stdout.close()
        with contextlib.suppress(BrokenPipeError):  # the last request never reached a worker that is gone
            self._requests.close()
        self._errors.close()

    def _read(self) -> None:
        for line in self._stdout:
            self._replies.put(line)
        self._replies.put("")

    def _ask(self, request: dict[str, Any], *, limit_s: float) -> dict[str, Any]:
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
            reply = self._replies.get(timeout=limit_s)
        except BrokenPipeError:
            reply = ""
        except queue.Empty:
            self._process.kill()
            raise WorkerError(
                f"no answer to {request['do']!r} within {limit_s:.0f} s", where=self._load.model
            ) from None
        if not reply:
            raise WorkerError(self._last_words(), where=self._load.model)
        return json.loads(reply)

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1].strip() if lines else "no message"
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"the worker ended ({how}): {reason}"
