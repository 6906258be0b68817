"""The process that runs one model: load, warm up, time blocks of calls, report memory.

One JSON request per line on standard input, bytes after it where it announces a size; one JSON reply per line on what
was standard output when the process started. Anything a library prints goes to standard error. A failure ends the
process with its traceback there: `process.Worker` turns it into a message.

    {"do": "receive", "files": [[name, size], ...]}  -> {}; the bytes of the files follow the line
    {"do": "load", ...Load fields}        -> the fields of Started
    {"do": "block", "block_ms": 100, ...} -> the fields of Block
    {"do": "outputs", "size": 1234}       -> outputs for the batch in the .npz that follows the line
    {"do": "memory"}                      -> memory_bytes: peak after each phase so far
    {"do": "writing", "symbols": 32}      -> what `programs.CpuProgram.time_writing` returns
    {"do": "usable", "name": ...}         -> found: the fields of Usability, and logged: whether standard error tells
                                             more
    {"do": "close"}                       -> {} and the process ends
"""

import base64
import contextlib
import gc
import importlib
import io
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import Runtime, find
from .interface import Batch, Block, Load, Loaded, Started, Unusable, Usability, time_calls
from .machine import cpu, energy_uj, peak_memory_bytes, pin, status
from .own import content
from .programs import CpuProgram

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_BATCHES = 64  # distinct batches held in memory; enough to rotate, bounded for large inputs
MAX_RAGGED_BATCHES = 16  # where lengths vary: a block covers them all, so that rivals run the same lengths
LENGTHS = "__lengths__"  # a key of the samples: how long each one is, along the second axis of every input
MASK = "attention_mask"  # tells the lengths where that key is absent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Threads that wait for work sleep at once (GNU's and Intel's OpenMP): those of an idle worker that spin, 200 ms by
# Intel's default, would run into the block of a rival on the same cores.
WAIT_VARIABLES = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
# An Add of two floats: y = x + x. A runtime is usable when it has run this.
TINY = bytes.fromhex(
    "080812003a350a0e0a01780a017812017922034164641201745a0f0a0178120a0a08080112040a020802620f0a0179120a0a08080112040a0208"
    "0242040a001012"
)


def batches(path: Path, *, batch_size: int) -> list[Batch]:
    """Batches that rotate through all samples and around their end.

    Where samples have lengths, every batch is cut to its longest sample, as it would be padded in use. There are then
    at most 16 batches: of all that the samples make, the quantiles by length.

    Args:
        path: an .npz of one array per input, samples first. Lengths are those of an array ``__lengths__``, or of an
            input ``attention_mask`` [samples, padded length].
        batch_size: samples each.

    Raises:
        ValueError: when the inputs differ in their number of samples, or there are none.
    """
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    lengths = take_lengths(arrays)
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"every input needs the same number of samples, at least 1; got {sorted(counts)}")
    num_samples = counts.pop()
    num_batches = -(-num_samples // batch_size)
    starts = range(0, num_batches * batch_size, batch_size)
    rows = [np.arange(start, start + batch_size) % num_samples for start in starts]
    if lengths is not None:
        order = sorted(range(num_batches), key=lambda at: lengths[rows[at]].max())
        kept = min(MAX_RAGGED_BATCHES, num_batches)
        rows = [rows[at] for at in sorted(order[(2 * step + 1) * num_batches // (2 * kept)] for step in range(kept))]
    return [take(arrays, picked, lengths) for picked in rows[:MAX_BATCHES]]


def take_lengths(arrays: Batch) -> "NDArray[np.integer] | None":
    """How long each sample is, at least 1; None where nothing tells. The array of lengths leaves `arrays`."""
    import numpy as np

    if LENGTHS in arrays:
        return np.maximum(1, arrays.pop(LENGTHS).astype(np.int64))
    if MASK not in arrays:
        return None
    # Up to the last token, not the sum of the row: what is padded on the left stays as it is.
    mask = arrays[MASK]
    return np.maximum(1, (np.arange(1, mask.shape[1] + 1) * (mask != 0)).max(axis=1))


def take(arrays: Batch, rows: "NDArray[np.integer]", lengths: "NDArray[np.integer] | None") -> Batch:
    """The batch of some samples, cut to the longest of them where they have lengths.

    Args:
        arrays: [samples, ...] by input. Beside an ``attention_mask``, only arrays as long as the mask are cut.
        rows: which samples.
        lengths: of all samples.
    """
    found = {name: array[rows] for name, array in arrays.items()}
    if lengths is None:
        return found
    longest, padded = int(lengths[rows].max()), arrays[MASK].shape[1] if MASK in arrays else None
    for name, array in found.items():
        if array.ndim > 1 and padded in (None, array.shape[1]):
            found[name] = array[:, :longest].copy()
    return found


class Model:
    """A loaded model with its rotating batches."""

    def __init__(self, load: Load, *, place: Path) -> None:
        # Read by libraries when they are imported.
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(load.threads)) | WAIT_VARIABLES)
        pinned = None if load.first_core is None else pin(load.threads, first_core=load.first_core)
        sys.path.append(load.package_root)
        runtime = find(load.runtime, text=load.text)
        for module in runtime.modules:
            importlib.import_module(module)
        given = batches(place / load.inputs, batch_size=load.batch_size)
        self._ragged = len({tuple(array.shape for array in batch.values()) for batch in given}) > 1
        self.memory_bytes = {"import": peak_memory_bytes()}
        started = time.perf_counter_ns()
        self._loaded: Loaded = runtime.open(_at(load, place))
        self.load_ms = (time.perf_counter_ns() - started) / 1e6
        self.memory_bytes["load"] = peak_memory_bytes()
        self._feeds = [self._loaded.feed(batch) for batch in given]
        started = time.perf_counter_ns()
        result = self._loaded.run(self._feeds[0])
        self.first_run_ms = (time.perf_counter_ns() - started) / 1e6
        self.memory_bytes["first_run"] = peak_memory_bytes()
        _check_finite(self._loaded.outputs(result))
        for feed in self._feeds[1:] if self._ragged else ():  # each new shape may search, compile or allocate
            self._loaded.run(feed)
        self._placed = [self._loaded.place(batch) for batch in given] if runtime.on_device else []  # pyright: ignore[reportAttributeAccessIssue]
        self.settings = self._loaded.settings | {
            "pinned_cpus": pinned,
            "shapes_vary": self._ragged,
            "cpu_model": cpu()[0],
            **content(load.text),
        }
        self._next, self._late_ns, self._arrivals = 0, 0, random.Random(load.seed)

    def outputs(self, batch: Batch) -> list[Any]:
        """The model's outputs for one batch; they must be finite."""
        found = self._loaded.outputs(self._loaded.run(self._loaded.feed(batch)))
        _check_finite(found)
        return found

    def writing(self, symbols: int) -> dict[str, dict[str, float]]:
        """How long a program takes to write texts of one length."""
        assert isinstance(self._loaded, CpuProgram), "only programs write"
        return self._loaded.time_writing(self._feeds, symbols=symbols)

    def block(
        self, *, block_ms: float, calls_per_query: int, arrivals_per_s: float | None, compute: bool
    ) -> tuple[list[int], int]:
        """Run queries for block_ms.

        Args:
            block_ms: at least so long; longer where lengths vary, until every batch had its turn.
            calls_per_query: a query is answered when so many calls are done.
            arrivals_per_s: queries come by a Poisson process, and wait for each other; None sends one after another.
            compute: on the device alone, with inputs and outputs there.

        Returns:
            The nanoseconds each query took, from its scheduled time, and the time that passed.
        """
        turn = len(self._feeds) if self._ragged else 1
        gc.disable()
        started = time.perf_counter_ns()
        if arrivals_per_s is not None:
            times_ns = self._serve(block_ms=block_ms, arrivals_per_s=arrivals_per_s)
        elif compute:
            times_ns = self._loaded.time_compute(  # pyright: ignore[reportAttributeAccessIssue]
                self._placed, start=self._next, block_ms=block_ms, multiple=turn
            )
            self._next += len(times_ns)
        else:
            times_ns = time_calls(
                self._loaded.run, self._feeds, start=self._next, block_ms=block_ms, multiple=turn * calls_per_query
            )
            self._next += len(times_ns)
        elapsed_ns = time.perf_counter_ns() - started
        gc.enable()
        queries = [sum(times_ns[at : at + calls_per_query]) for at in range(0, len(times_ns), calls_per_query)]
        return queries, elapsed_ns

    def _serve(self, *, block_ms: float, arrivals_per_s: float) -> list[int]:
        """Answer queries as they come; what waits at a block's end still waits at the start of the next."""
        clock, times_ns = time.perf_counter_ns, []
        began = clock()
        scheduled = began - self._late_ns
        end = began + int(block_ms * 1e6)
        while True:
            wait_s = (scheduled - clock()) / 1e9
            if wait_s > 0:
                time.sleep(wait_s)
            self._loaded.run(self._feeds[self._next % len(self._feeds)])
            done = clock()
            times_ns.append(done - scheduled)
            self._next += 1
            scheduled += int(self._arrivals.expovariate(arrivals_per_s) * 1e9)
            if done >= end:
                self._late_ns = done - scheduled
                return times_ns


def usable(name: str, *, package_root: str, text: str) -> tuple[Usability, bool]:
    """Whether a runtime works in this process, and if not, whether standard error tells more."""
    install = find(name).install
    if package_root not in sys.path:
        sys.path.append(package_root)
    try:
        runtime = find(name, text=text)
        for module in runtime.modules:
            importlib.import_module(module)
        settings = {} if runtime.check is not None else _run_tiny(name, runtime)
        if runtime.check is not None:
            runtime.check()
    except Unusable as error:
        return Usability(False, error.why, error.install), error.logged
    except ImportError as error:
        return Usability(False, str(error), install), False
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises is why it is not usable
        return Usability(False, f"{type(error).__name__}: {error}", install), False
    adapter = settings.get("adapter")
    return Usability(True, "a software adapter: for tests only" if adapter == "software" else ""), False


def _run_tiny(name: str, runtime: Runtime) -> dict[str, Any]:
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="compressor-") as directory:
        path = Path(directory, "tiny.onnx")
        path.write_bytes(TINY)
        load = Load(
            runtime=name, model=str(path), inputs="", batch_size=1, threads=1, first_core=None, seed=0, strict=False,
            package_root="", code=[],
        )  # fmt: skip
        loaded = runtime.open(load)
        found = loaded.outputs(loaded.run(loaded.feed({"x": np.array([1.0, 2.0], np.float32)})))
        if found[0].tolist() != [2.0, 4.0]:
            raise RuntimeError(f"1 + 1 and 2 + 2 came to {found[0].tolist()}")
        # A strict session would refuse the CPU too, but call a provider without its libraries a conflict of options.
        if runtime.on_device and "CPUExecutionProvider" in (loaded.settings["nodes"] or {}):
            raise RuntimeError("the node of a small model was left to the CPU")
        return loaded.settings


def _at(load: Load, place: Path) -> Load:
    """The same with an absolute path of the model; an absolute path stays what it is."""
    return replace(load, model=str(place / load.model))


def _check_finite(outputs: list[Any]) -> None:
    import numpy as np

    for index, output in enumerate(outputs):
        if np.issubdtype(output.dtype, np.floating) and not np.isfinite(output).all():
            raise ValueError(f"output {index} is not finite: NaN or infinity")


class Answers:
    """The requests, and what they share: a model, and a directory for what was sent."""

    def __init__(self, cleanup: contextlib.ExitStack) -> None:
        self._cleanup = cleanup
        self._place = Path()
        self._model: Model | None = None

    def answer(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to one request."""
        if action == "receive":
            self._place = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="compressor-")))
            for name, size in request["files"]:
                (self._place / Path(name).name).write_bytes(sys.stdin.buffer.read(size))
            return {}
        if action == "usable":
            found, logged = usable(**request)
            return {"found": asdict(found), "logged": logged}
        if action == "load":
            self._model = model = Model(Load(**request), place=self._place)
            gc.collect()
            gc.freeze()  # what is loaded stays, and no collection looks at it again
            return asdict(Started(model.load_ms, model.first_run_ms, model.settings, model.memory_bytes))
        if self._model is None:
            raise RuntimeError(f"{action!r} before load")
        return self._of_model(self._model, action, request)

    @staticmethod
    def _of_model(model: Model, action: str, request: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        if action == "block":
            switches, energy = status("nonvoluntary_ctxt_switches"), energy_uj()
            times_ns, elapsed_ns = model.block(**request)
            switches = _since(switches, status("nonvoluntary_ctxt_switches"))
            return asdict(Block(times_ns, elapsed_ns, switches, _since(energy, energy_uj())))
        if action == "outputs":
            with np.load(io.BytesIO(sys.stdin.buffer.read(request["size"])), allow_pickle=False) as stored:
                found = model.outputs({name: stored[name] for name in stored.files})
            held = io.BytesIO()
            np.savez(held, *found)
            return {"outputs": base64.b64encode(held.getvalue()).decode()}
        if action == "writing":
            return model.writing(request["symbols"])
        if action == "memory":
            model.memory_bytes["runs"] = peak_memory_bytes()
            return {"memory_bytes": model.memory_bytes}
        raise RuntimeError(f"unknown request {action!r}")


def _since(before: int | None, now: int | None) -> int | None:
    """The growth of a counter; None where it is unknown, or has started again at 0."""
    return None if before is None or now is None or now < before else now - before


def main() -> None:
    """Answer requests until "close" or the end of standard input."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with contextlib.ExitStack() as cleanup:
        answers = Answers(cleanup)
        for line in iter(sys.stdin.buffer.readline, b""):
            request = json.loads(line)
            action = request.pop("do")
            reply = {} if action == "close" else answers.answer(action, request)
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
            if action == "close":
                return
