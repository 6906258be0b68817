"""The process that runs one model: load, warm up, time blocks of calls, report memory.

Run as ``python -I worker.py``. One JSON request per line on standard input, one JSON reply per line on what
was standard output when the process started; anything a library prints goes to standard error. A failure
ends the process with its traceback there: `process.Worker` turns it into a message.

Self-contained on purpose: an ONNX Runtime worker imports numpy and onnxruntime and nothing of this package,
so its memory is the model's and not the library's. The thread variables are set by the parent.

    {"do": "load", ...Load fields}        -> load_ms, first_run_ms, settings, memory_bytes
    {"do": "block", "block_ms": 100}      -> times_ns of every call, involuntary_switches
    {"do": "memory"}                      -> memory_bytes: peak after each phase so far
    {"do": "close"}                       -> {} and the process ends
"""

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BATCHES = 64  # distinct batches held in memory; enough to rotate, bounded for large inputs

Batches = list[dict[str, Any]]
Feeds = list[Any]
Call = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Load:
    """What to run and how."""

    runtime: str
    model: str
    """An ONNX file for ONNX Runtime, an artifact directory for torch."""
    inputs: str
    """An .npz of real samples: one array per model input, samples along the first axis."""
    batch_size: int
    threads: int
    cpus: list[int] | None
    """The CPUs the process may use; None leaves them as inherited."""
    package_root: str
    """The directory that holds the compress package; used by torch alone."""
    code: list[str]
    """The user's Python files that may be run to build the model; used by torch alone."""


def onnxruntime_cpu(load: Load, batches: Batches) -> tuple[Call, Feeds, dict[str, Any]]:
    """A session on the CPU provider, and the batches to feed it.

    Spinning is off: an idle session that spins would slow the rival measured in the same rounds.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = load.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(load.model, options, providers=["CPUExecutionProvider"])
    expected = [node.name for node in session.get_inputs()]
    if sorted(batches[0]) != sorted(expected):
        raise ValueError(f"the model's inputs are {expected}, the samples hold {sorted(batches[0])}")
    names = [node.name for node in session.get_outputs()]
    settings = {"onnxruntime": onnxruntime.__version__, "providers": session.get_providers(), "spinning": False}
    return lambda feed: session.run(names, feed), batches, settings


def torch_cpu(load: Load, batches: Batches) -> tuple[Call, Feeds, dict[str, Any]]:
    """An artifact's module in eager torch, and the batches to feed it.

    A single input is passed by position, several by name.
    """
    import torch

    from compress.models import load_model  # the one runtime that needs the package

    torch.set_num_threads(load.threads)
    torch.set_num_interop_threads(1)
    torch.set_grad_enabled(mode=False)
    module = load_model(Path(load.model), code=[Path(file) for file in load.code]).eval()
    feeds = [{name: torch.from_numpy(array) for name, array in batch.items()} for batch in batches]
    settings = {"torch": torch.__version__, "memory_format": "contiguous", "dtype": "float32"}
    if len(batches[0]) == 1:
        return lambda feed: module(feed), [next(iter(feed.values())) for feed in feeds], settings
    return lambda feed: module(**feed), feeds, settings


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a runtime gets ready."""

    modules: tuple[str, ...]
    """Imported first, so that load_ms and the memory of the load are the model's alone."""
    prepare: Callable[[Load, Batches], tuple[Call, Feeds, dict[str, Any]]]
    takes_files: bool
    """Whether it runs exported files; else it runs the torch module of an artifact."""


RUNTIMES = {
    "ort-cpu": Runtime(("onnxruntime",), onnxruntime_cpu, takes_files=True),
    "torch-cpu": Runtime(("torch", "compress.models"), torch_cpu, takes_files=False),
}


def _batches(load: Load) -> Batches:
    """Batches that rotate through all samples and around their end."""
    import numpy as np

    with np.load(load.inputs, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"every input needs the same number of samples, at least 1; got {sorted(counts)}")
    num_samples = counts.pop()
    num_batches = min(MAX_BATCHES, -(-num_samples // load.batch_size))
    starts = range(0, num_batches * load.batch_size, load.batch_size)
    rows = [np.arange(start, start + load.batch_size) % num_samples for start in starts]
    return [{name: array[picked] for name, array in arrays.items()} for picked in rows]


def _status(field: str) -> int | None:
    """A number from /proc/self/status, or None where the system has no such file."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next((int(line.split()[1]) for line in status if line.startswith(field + ":")), None)
    except OSError:
        return None


def _peak_memory_bytes() -> int | None:
    """Peak resident memory so far. Not ru_maxrss: on Linux that survives exec, so it starts at the parent's peak."""
    peak_kib = _status("VmHWM")
    return None if peak_kib is None else peak_kib * 1024


class Model:
    """A loaded model with its rotating batches."""

    def __init__(self, load: Load) -> None:
        if load.cpus is not None:
            os.sched_setaffinity(0, load.cpus)
        runtime = RUNTIMES[load.runtime]
        sys.path.append(load.package_root)
        for module in runtime.modules:
            importlib.import_module(module)
        batches = _batches(load)
        self.memory_bytes = {"import": _peak_memory_bytes()}
        started = time.perf_counter_ns()
        self._call, self._feeds, self.settings = runtime.prepare(load, batches)
        self.load_ms = (time.perf_counter_ns() - started) / 1e6
        self.memory_bytes["load"] = _peak_memory_bytes()
        self._next = 0
        self.first_run_ms = self.block(block_ms=0.0)[0] / 1e6
        self.memory_bytes["first_run"] = _peak_memory_bytes()
        gc.collect()
        gc.freeze()

    def block(self, *, block_ms: float) -> list[int]:
        """Calls until block_ms have passed, at least one; the nanoseconds each call took."""
        call, feeds, clock = self._call, self._feeds, time.perf_counter_ns
        position, times_ns = self._next, []
        gc.disable()
        end = clock() + int(block_ms * 1e6)
        while True:
            feed = feeds[position % len(feeds)]
            before = clock()
            call(feed)
            after = clock()
            times_ns.append(after - before)
            position += 1
            if after >= end:
                break
        gc.enable()
        self._next = position
        return times_ns


def main() -> None:
    """Answer requests until "close" or the end of standard input."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    model: Model | None = None
    for line in sys.stdin:
        request = json.loads(line)
        action = request.pop("do")
        if action == "load":
            model = Model(Load(**request))
            reply = {
                "load_ms": model.load_ms,
                "first_run_ms": model.first_run_ms,
                "settings": model.settings,
                "memory_bytes": model.memory_bytes,
            }
        elif action == "close":
            reply = {}
        elif model is None:
            raise RuntimeError(f"{action!r} before load")
        elif action == "block":
            switches = _status("nonvoluntary_ctxt_switches")
            times_ns = model.block(block_ms=request["block_ms"])
            now = _status("nonvoluntary_ctxt_switches")
            reply = {
                "times_ns": times_ns,
                "involuntary_switches": None if switches is None or now is None else now - switches,
            }
        elif action == "memory":
            model.memory_bytes["runs"] = _peak_memory_bytes()
            reply = {"memory_bytes": model.memory_bytes}
        else:
            raise RuntimeError(f"unknown request {action!r}")
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        if action == "close":
            return


if __name__ == "__main__":
    main()
