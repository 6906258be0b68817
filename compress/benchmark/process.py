"""The parent's side of a worker: start it, ask it, and turn a hang or a crash into a clear message.

A worker is an interpreter that gets its code over standard input, so it can run anywhere a command can start one: in
another environment of this machine, in a container, or behind ssh on the machine where the model will live.
"""

import base64
import contextlib
import io
import json
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from compress.benchmark.runtimes import RUNTIMES, Load, find
from compress.benchmark.runtimes.interface import Block, Started, Usability
from compress.benchmark.runtimes.own import is_own, split
from compress.config.user_code import read_user_file
from compress.errors import CompressError, EnvironmentFault, InputError, ModelError
from compress.export import decoding
from compress.export.onnx_file import external_files

_SHIPPED = Path(__file__).with_name("runtimes")
_PACKAGE_ROOT = Path(__file__).parents[2]
_MOST_LOGGED = 2**20  # bytes that a runtime may write before it gives up, to be searched for the reason
_LOGGED_WIDTH = 400
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOG_PREFIX = re.compile(r"^(\S+ \S+ \[\w:onnxruntime:[^]]*\] )?(.*\[ONNXRuntimeError\] : \d+ : \w+ : )?")


class WorkerError(CompressError):
    """A benchmark worker crashed, hung or refused its model; the other models go on."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs.

    Attributes:
        python: the interpreter, which needs the runtime and numpy; empty means this one, or python3 behind a launcher.
        launcher: words before the interpreter, such as ``("ssh", "edge-box")``. The worker is then sent its model and
            inputs too. ``ssh`` hands its words to a shell, so they are quoted for it; other launchers get them as they
            are.
    """

    python: str = ""
    launcher: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The launcher's last word without a user, else the interpreter's environment; empty for this interpreter."""
        if self.launcher:
            return self.launcher[-1].rpartition("@")[2]
        return Path(self.python).absolute().parent.parent.name if self.python else ""

    def command(self) -> list[str]:
        """The words that start a worker."""
        python = self.python or ("python3" if self.launcher else sys.executable)
        words = [python, "-I", "-X", "utf8", "-c", (_SHIPPED / "bootstrap.py").read_text(encoding="utf-8")]
        if self.launcher and Path(self.launcher[0]).name == "ssh":
            words = [shlex.quote(word) for word in words]
        return [*self.launcher, *words]


HERE = Place()


class Worker:
    """A fresh process that holds one model; a context manager that always ends it.

    It has a session of its own, so that Ctrl-C in the terminal reaches the parent alone, which ends it in order. When
    the parent is killed, the end of standard input ends it.

    Args:
        place: where it runs.
        load_limit_s: longest wait for the load and the first run, what is sent included.
        reply_limit_s: longest wait for any other reply, beyond the time asked for.

    Raises:
        WorkerError: when it cannot be started.
    """

    def __init__(self, place: Place = HERE, *, load_limit_s: float = 120.0, reply_limit_s: float = 60.0) -> None:
        self._place = place
        self._load_limit_s, self._reply_limit_s = load_limit_s, reply_limit_s
        self._where = place.name or "this interpreter"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker, closed by close()
        try:
            self._process = subprocess.Popen(
                place.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise WorkerError(f"the worker did not start: {error}", where=self._where) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._stdout = self._process.stdin, self._process.stdout
        self._replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        sources = {f"runtimes.{path.stem}": path.read_text(encoding="utf-8") for path in _SHIPPED.glob("*.py")}
        sources["runtimes"] = sources.pop("runtimes.__init__")
        sources["runtimes.decoding"] = Path(decoding.__file__).read_text(encoding="utf-8")
        with contextlib.suppress(BrokenPipeError):  # the first request tells why it is gone
            self._requests.write(json.dumps(sources).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id; of the launcher where there is one."""
        return self._process.pid

    def usable(self, runtime: str, *, code: Sequence[Path] = ()) -> Usability:
        """Whether a runtime works there.

        Where a library tells what it lacks on standard error alone, such as a provider whose CUDA libraries are
        missing, its last lines are part of ``why``.

        Raises:
            InputError: for a runtime of the user's own whose file ``code`` does not name.
            WorkerError: when trying it ended the worker.
        """
        written = os.fstat(self._errors.fileno()).st_size
        text = _text(runtime, code=code)
        request = {"do": "usable", "name": runtime, "package_root": str(_PACKAGE_ROOT), "text": text}
        reply = self._ask(request, limit_s=self._load_limit_s)
        found = Usability(**reply["found"])
        if reply["logged"] and hasattr(os, "pread"):
            # Not by seek and read: the worker writes at the same file position.
            logged = os.pread(self._errors.fileno(), _MOST_LOGGED, written).decode(errors="replace")
            found = replace(found, why=": ".join(filter(None, [found.why, "; ".join(last_logged(logged))])))
        return found

    def load(
        self,
        *,
        runtime: str,
        model: Path,
        inputs: Path,
        batch_size: int = 1,
        threads: int = 1,
        first_core: int | None = None,
        seed: int = 0,
        strict: bool = False,
        code: Sequence[Path] = (),
    ) -> Started:
        """Load a model and run it once.

        Args:
            runtime: a name of `runtimes.RUNTIMES`, or ``my_runtime.py:Mine``.
            model: an ONNX file, or an artifact directory for torch.
            inputs: .npz of real samples, as `runtimes.worker.batches` takes them.
            batch_size: samples a call.
            threads: intra-op threads.
            first_core: pin to as many physical cores, counted from this one; None does not pin.
            seed: of the arrivals in the server scenario.
            strict: refuse to run nodes on the CPU that the runtime's device cannot run.
            code: the user's Python files that may be run: by torch to build the model, or as a runtime.

        Raises:
            InputError: for a torch runtime behind a launcher, and a file that ``code`` does not name.
            WorkerError: when the model cannot be loaded or run within the limit.
        """
        self._where = str(model)
        load = Load(
            runtime=runtime,
            model=str(model.absolute()),
            inputs=str(inputs.absolute()),
            batch_size=batch_size,
            threads=threads,
            first_core=first_core,
            seed=seed,
            strict=strict,
            package_root=str(_PACKAGE_ROOT),
            code=[str(file.absolute()) for file in code],
            text=_text(runtime, code=code),
        )
        if self._place.launcher:
            check_launchable(runtime)
            weights = external_files(model)
            if any(file.parent != model.parent for file in weights):
                raise ModelError(
                    "a worker elsewhere takes files of one folder",
                    expected="the model's weights beside it",
                    got=[str(file.relative_to(model.parent)) for file in weights],
                    where=model,
                    hint="save the model again, with its external data in one file beside it",
                )
            self._send(model, *weights, inputs)
            load = replace(load, model=model.name, inputs=inputs.name, package_root="")
        return Started(**self._ask({"do": "load", **asdict(load)}, limit_s=self._load_limit_s))

    def block(
        self,
        *,
        block_ms: float,
        calls_per_query: int = 1,
        arrivals_per_s: float | None = None,
        compute: bool = False,
    ) -> Block:
        """Time queries for block_ms; the arguments are those of `runtimes.worker.Model.block`.

        Raises:
            WorkerError: when the worker is gone or does not answer.
        """
        request = {
            "do": "block", "block_ms": block_ms, "calls_per_query": calls_per_query, "arrivals_per_s": arrivals_per_s,
            "compute": compute,
        }  # fmt: skip
        return Block(**self._ask(request, limit_s=self._reply_limit_s + block_ms / 1e3))

    def outputs(self, batch: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The model's outputs for one batch.

        Raises:
            WorkerError: when one is not finite, or the worker is gone.
        """
        held = io.BytesIO()
        np.savez(held, allow_pickle=False, **batch)
        body = held.getvalue()
        reply = self._ask({"do": "outputs", "size": len(body)}, limit_s=self._reply_limit_s, body=[body])
        with np.load(io.BytesIO(base64.b64decode(reply["outputs"])), allow_pickle=False) as stored:
            return [stored[name] for name in stored.files]

    def writing(self, *, symbols: int) -> dict[str, dict[str, float]]:
        """How long a program takes to write texts of one length; see `CpuProgram.time_writing`.

        Raises:
            WorkerError: when the worker is gone or does not answer.
        """
        return self._ask({"do": "writing", "symbols": symbols}, limit_s=self._load_limit_s)

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
                self._kill()
        self._process.wait()
        self._reader.join()
        self._stdout.close()
        with contextlib.suppress(BrokenPipeError):  # the last request never reached a worker that is gone
            self._requests.close()
        self._errors.close()

    def _read(self) -> None:
        for line in self._stdout:
            self._replies.put(line)
        self._replies.put(b"")

    def _send(self, *paths: Path) -> None:
        files = [[path.name, path.stat().st_size] for path in paths]
        self._ask({"do": "receive", "files": files}, limit_s=self._load_limit_s, body=[p.read_bytes() for p in paths])

    def _ask(self, request: dict[str, Any], *, limit_s: float, body: Sequence[bytes] = ()) -> dict[str, Any]:
        # A worker that hangs does not read either, and a large body would wait for it for ever.
        late = threading.Event()
        alarm = threading.Timer(limit_s, lambda: (late.set(), self._kill()))
        alarm.start()
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            for part in body:
                self._requests.write(part)
            self._requests.flush()
            reply = self._replies.get()
        except BrokenPipeError:
            reply = b""
        finally:
            alarm.cancel()
        if reply:
            return json.loads(reply)
        self._replies.put(b"")  # whoever asks next is told too
        if late.is_set():
            raise WorkerError(f"no answer to {request['do']!r} within {limit_s:.0f} s", where=self._where)
        raise WorkerError(self._last_words(), where=self._where)

    def _kill(self) -> None:
        """The launcher and what it started, which share a session of their own."""
        if not hasattr(os, "killpg"):  # on Windows, where a launcher's own process is all that is known
            self._process.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1].strip() if lines else "no message"
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"the worker ended ({how}): {reason}"


def _text(runtime: str, *, code: Sequence[Path]) -> str:
    """The text of the file of a runtime of the user's own; empty for ours."""
    return read_user_file(Path(split(runtime)[0]), code=code) if is_own(runtime) else ""


def last_logged(text: str) -> list[str]:
    """The last three different lines of a log, oldest first, without colours, times and the place in the source.

    Of a long line the end is kept, which is where ONNX Runtime names the library that it could not open.
    """
    lines = (_LOG_PREFIX.sub("", _COLOUR.sub("", line)).strip() for line in text.splitlines())
    kept = [*dict.fromkeys(filter(None, lines))][-3:]
    return [line if len(line) <= _LOGGED_WIDTH else f"...{line[-_LOGGED_WIDTH:]}" for line in kept]


def check_launchable(runtime: str) -> None:
    """Refuse a runtime that needs this package, behind a launcher.

    Raises:
        InputError: for the torch runtimes.
    """
    if not find(runtime).takes_files:
        able = ", ".join(name for name, entry in RUNTIMES.items() if entry.takes_files)
        raise InputError(
            "a launcher sends files, and this runtime runs the module of an artifact", expected=able, got=runtime
        )


def usable_runtime(runtime: str, place: Place = HERE, *, code: Sequence[Path] = ()) -> Usability:
    """Whether one runtime works."""
    try:
        with Worker(place) as worker:
            return worker.usable(runtime, code=code)
    except WorkerError as error:
        return Usability(False, error.message, find(runtime).install)


def check_usable(runtime: str, place: Place = HERE, *, code: Sequence[Path] = ()) -> str:
    """Refuse a runtime that does not work; return the doubt about one that does, such as a software adapter.

    Raises:
        EnvironmentFault: with the reason, and what to install.
    """
    found = usable_runtime(runtime, place, code=code)
    if not found.usable:
        where = f"at {place.name}" if place.name else "here"
        raise EnvironmentFault(f"{runtime} does not work {where}", got=found.why, hint=found.install)
    return found.why


def usable_runtimes(place: Place = HERE) -> dict[str, Usability]:
    """Whether each runtime works there, by its name.

    A runtime that ends its worker is told so, and the next one gets a new worker.
    """
    found: dict[str, Usability] = {}
    while len(found) < len(RUNTIMES):
        with contextlib.ExitStack() as stack:
            name = next(name for name in RUNTIMES if name not in found)
            try:
                worker = stack.enter_context(Worker(place))
                for name in [name for name in RUNTIMES if name not in found]:
                    found[name] = worker.usable(name)
            except WorkerError as error:
                found[name] = Usability(False, error.message, RUNTIMES[name].install)
    return found
