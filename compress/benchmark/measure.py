"""What is measured of one model under one profile, and how call times become numbers."""

import hashlib
import statistics as stdlib_statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress.benchmark import worker
from compress.benchmark.environment import allowed_cores
from compress.benchmark.process import Worker
from compress.benchmark.statistics import percentile_bound
from compress.errors import InputError

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
NUM_QUANTILES = 21  # every 5%
STABLE_WITHIN = 0.05  # of the last three warm-up blocks, as perf_analyzer does within 10%
SWITCHES_PER_S = 100.0  # involuntary context switches of an undisturbed worker stay far below


@dataclass(frozen=True, slots=True)
class Profile:
    """A runtime with batch size and threads.

    Raises:
        InputError: for an unknown runtime, or a batch size or thread count below 1.
    """

    runtime: str = "ort-cpu"
    batch_size: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        if self.runtime not in worker.RUNTIMES:
            raise InputError("unknown runtime", expected=", ".join(worker.RUNTIMES), got=self.runtime)
        if self.batch_size < 1 or self.threads < 1:
            raise InputError("batch size and threads start at 1", got=f"{self.batch_size} and {self.threads}")

    @property
    def name(self) -> str:
        """For keys and table heads, such as ort-cpu-b1-t1."""
        return f"{self.runtime}-b{self.batch_size}-t{self.threads}"

    @property
    def takes_files(self) -> bool:
        """Whether it runs exported files, and so every row of a comparison."""
        return worker.RUNTIMES[self.runtime].takes_files


def default_profiles(*, large_batch: int = 32) -> list[Profile]:
    """ONNX Runtime at batch 1 and a large batch, each on 1 thread and on all allowed cores; torch at batch 1.

    The first is the primary one.
    """
    threads = sorted({1, allowed_cores()})
    files = [Profile("ort-cpu", size, count) for size in (1, large_batch) for count in threads]
    return [*files, Profile("torch-cpu", 1, 1)]


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How a worker was warmed up."""

    blocks: int
    stable: bool
    """Whether the medians of the last three blocks were within 5% before the time limit."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model under one profile, in a fresh process. Times in milliseconds per call of a whole batch."""

    size_bytes: int
    """Of the file, or of all files of the directory."""
    sha256: str | None
    """Of the file; None for a directory, which has a digest of its own."""
    load_ms: float
    first_run_ms: float
    num_calls: int
    median_ms: float
    percentile_ms: dict[str, float]
    """Upper bounds that hold with 99% confidence; a percentile the calls are too few for is absent."""
    throughput_per_s: float
    """Samples a second: batch size times calls over the time spent in calls."""
    memory_bytes: dict[str, int | None]
    """Peak resident memory after each phase: import, load, first_run, runs."""
    block_median_ms: list[float]
    """One per round; the rounds of all models in a comparison are aligned."""
    warm_up: WarmUp
    involuntary_switches: int | None
    settings: dict[str, Any]
    quantile_ms: list[float] = field(default_factory=list)
    """What the calls took at 0, 5, ... 100% of them, as measured: no bounds, and calls of a block are correlated."""
    degraded: list[str] = field(default_factory=list)
    """Why the numbers deserve less trust; empty when nothing was found."""


class Subject:
    """A model being measured: its worker and the call times collected so far."""

    def __init__(self, running: Worker, *, path: Path, profile: Profile) -> None:
        self._worker, self._path, self._profile = running, path, profile
        self._loaded = running.load()
        self._warm_up = WarmUp(blocks=0, stable=False)
        self._block_times_ms: list[list[float]] = []
        self._switches: int | None = 0

    def warm_up(self, *, block_ms: float, limit_ms: float) -> None:
        """Run blocks until the medians of the last three agree within 5%, or limit_ms of blocks have passed.

        Raises:
            WorkerError: when the worker is gone.
        """
        medians: list[float] = []
        spent_ms = 0.0
        stable = False
        while not stable and (len(medians) < 3 or spent_ms < limit_ms):
            times_ns, _ = self._worker.block(block_ms=block_ms)
            spent_ms += sum(times_ns) / 1e6
            medians.append(stdlib_statistics.median(times_ns))
            last = medians[-3:]
            stable = len(last) == 3 and max(last) <= (1 + STABLE_WITHIN) * min(last)
        self._warm_up = WarmUp(blocks=len(medians), stable=stable)

    def run_block(self, *, block_ms: float) -> None:
        """Time one block.

        Raises:
            WorkerError: when the worker is gone.
        """
        times_ns, switches = self._worker.block(block_ms=block_ms)
        self._block_times_ms.append([time / 1e6 for time in times_ns])
        self._switches = None if switches is None or self._switches is None else self._switches + switches

    def measurement(self) -> Measurement:
        """The numbers of all blocks so far.

        Raises:
            WorkerError: when the worker is gone.
        """
        times_ms = np.concatenate(self._block_times_ms)
        busy_s = float(times_ms.sum()) / 1e3
        bounds = {name: percentile_bound(times_ms, quantile=quantile) for name, quantile in PERCENTILES.items()}
        degraded = [] if self._warm_up.stable else ["the warm-up did not become stable"]
        if self._switches is not None and self._switches > SWITCHES_PER_S * busy_s:
            degraded.append(f"the worker lost its CPU {self._switches / busy_s:.0f} times a second")
        return Measurement(
            size_bytes=size_bytes(self._path),
            sha256=_sha256(self._path) if self._path.is_file() else None,
            load_ms=self._loaded["load_ms"],
            first_run_ms=self._loaded["first_run_ms"],
            num_calls=len(times_ms),
            median_ms=float(np.median(times_ms)),
            percentile_ms={name: bound for name, bound in bounds.items() if bound is not None},
            throughput_per_s=self._profile.batch_size * len(times_ms) / busy_s,
            memory_bytes=self._worker.memory_bytes(),
            block_median_ms=[float(np.median(block)) for block in self._block_times_ms],
            warm_up=self._warm_up,
            involuntary_switches=self._switches,
            settings=self._loaded["settings"],
            quantile_ms=np.quantile(times_ms, np.linspace(0, 1, NUM_QUANTILES)).tolist(),
            degraded=degraded,
        )


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of all files of a directory."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
