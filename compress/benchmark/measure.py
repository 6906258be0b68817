"""What is measured of one model under one profile, and how call times become numbers."""

import hashlib
import math
import statistics as stdlib_statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from compress.benchmark.model_file import contents
from compress.benchmark.process import HERE, Place, Worker, check_launchable
from compress.benchmark.runtimes import RUNTIMES, find
from compress.benchmark.runtimes.interface import Started
from compress.benchmark.runtimes.machine import count_allowed_cores
from compress.benchmark.runtimes.own import is_own
from compress.errors import InputError
from compress.export.onnx_file import size_bytes
from compress.export.program_file import is_program
from compress.measures.intervals import percentile_bound

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
NUM_QUANTILES = 21  # every 5%
STABLE_WITHIN = 0.05  # of the last three warm-up blocks, as perf_analyzer does within 10%
SWITCHES_PER_S = 100.0  # involuntary context switches of an undisturbed worker stay far below
WRITTEN_SYMBOLS = 32  # of the texts whose symbols are timed; speed is compared at one length
OVERLOADED = "overloaded"  # how the doubt about a model that falls behind begins
MULTISTREAM_SAMPLES = 8  # of one query, as in MLPerf

Scenario = Literal["single_stream", "multistream", "server", "offline"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A runtime with batch size and threads, how queries come (MLPerf's scenarios), and where the worker runs.

    Attributes:
        runtime: a name of `runtimes.RUNTIMES`, or ``my_runtime.py:Mine`` for a class in the user's file.
        batch_size: samples a call.
        threads: of the runtime.
        scenario: ``single_stream`` sends a batch when the last one is done; ``multistream`` sends queries of 8 samples,
            in calls of batch_size; ``server`` sends batches at random times (a Poisson process) and counts latency from
            the scheduled time; ``offline`` has all samples at hand, and its number is the throughput.
        arrivals_per_s: of ``server``; the same for all models of a comparison.
        place: an interpreter or machine.

    Raises:
        InputError: for what cannot be measured so.
    """

    runtime: str = "ort-cpu"
    batch_size: int = 1
    threads: int = 1
    scenario: Scenario = "single_stream"
    arrivals_per_s: float | None = None
    place: Place = HERE

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES and not is_own(self.runtime):
            raise InputError("unknown runtime", expected=", ".join(RUNTIMES), got=self.runtime)
        if self.batch_size < 1 or self.threads < 1:
            raise InputError("batch size and threads start at 1", got=f"{self.batch_size} and {self.threads}")
        if self.scenario not in get_args(Scenario):
            raise InputError("unknown scenario", expected=", ".join(get_args(Scenario)), got=self.scenario)
        rate = self.arrivals_per_s
        if (rate is not None) != (self.scenario == "server") or (rate is not None and rate <= 0):
            raise InputError("the server scenario, and no other, has arrivals_per_s above 0", got=rate)
        if self.scenario == "multistream" and MULTISTREAM_SAMPLES % self.batch_size:
            raise InputError(
                "a multistream query has 8 samples, in whole batches", expected="1, 2, 4 or 8", got=self.batch_size
            )
        if self.place.launcher:
            check_launchable(self.runtime)

    @property
    def name(self) -> str:
        """For keys and table heads, such as ort-cpu-b1-t1 or ort-cuda-b8-t1-offline@edge-box."""
        name = f"{self.runtime.rpartition(':')[2]}-b{self.batch_size}-t{self.threads}"
        if self.scenario != "single_stream":
            name += f"-{self.scenario}" + ("" if self.arrivals_per_s is None else f"{self.arrivals_per_s:g}")
        return f"{name}@{self.place.name}" if self.place.name else name

    @property
    def takes_files(self) -> bool:
        """Whether it runs exported files, and so every row of a comparison."""
        return find(self.runtime).takes_files

    @property
    def on_device(self) -> bool:
        """Whether compute is timed apart from copies."""
        return find(self.runtime).on_device

    @property
    def calls_per_query(self) -> int:
        """Calls that answer one query."""
        return MULTISTREAM_SAMPLES // self.batch_size if self.scenario == "multistream" else 1


def default_profiles(*, large_batch: int = 32) -> list[Profile]:
    """ONNX Runtime at batch 1 and a large batch, each on 1 thread and on all allowed cores; torch at batch 1.

    The first is the primary one.
    """
    threads = sorted({1, count_allowed_cores()})
    files = [Profile("ort-cpu", size, count) for size in (1, large_batch) for count in threads]
    return [*files, Profile("torch-cpu", 1, 1)]


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How the workers of a model were warmed up."""

    blocks: int
    stable: bool
    """Whether the medians of the last three blocks were within 5% before the time limit, in every launch."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model under one profile, in fresh processes. Times in milliseconds per query, else per call of a batch."""

    size_bytes: int
    """Of the file and its external data, or of all files of the directory."""
    sha256: str | None
    """Of the file; None for a directory, which has a digest of its own."""
    load_ms: float
    """Session, engine or module, from its file to ready; the median over launches."""
    first_run_ms: float
    """Allocation, algorithm search and compilation included; the median over launches."""
    num_calls: int
    """Queries answered."""
    median_ms: float
    """What a caller waits, from host memory to host memory, queueing included in the server scenario."""
    percentile_ms: dict[str, float]
    """Upper bounds that hold with 99% confidence; a percentile the calls are too few for is absent."""
    throughput_per_s: float
    """Samples a second: over the time spent in calls, or in the server scenario over all time."""
    memory_bytes: dict[str, int | None]
    """Peak resident memory after each phase: import, load, first_run, runs; the largest over launches."""
    block_median_ms: list[float]
    """One per round, launch after launch; the rounds of all models in a comparison are aligned."""
    warm_up: WarmUp
    involuntary_switches: int | None
    settings: dict[str, Any]
    """Resolved options and versions, and how many nodes run on which provider."""
    quantile_ms: list[float] = field(default_factory=list)
    """What the calls took at 0, 5, ... 100% of them, as measured: no bounds, and calls of a block are correlated."""
    degraded: list[str] = field(default_factory=list)
    """Why the numbers deserve less trust; empty when nothing was found."""
    e2e_ms: float | None = None
    """The median again, for devices with memory of their own; None elsewhere, where compute is all there is."""
    compute_ms: float | None = None
    """Median of runs whose inputs and outputs stay on the device; None where there is no device."""
    energy_mj_per_sample: float | None = None
    """Millijoules of all CPU packages, whatever else they did; None where no counter can be read, and for runtimes on
    devices, whose energy that counter leaves out."""
    block_mean_ms: list[float] = field(default_factory=list)
    """As block_median_ms, of the mean: its inverse is the round's throughput."""
    half_launch_p99_ms: list[float] = field(default_factory=list)
    """The 99th percentile of the first and the second half of each launch's rounds, as an upper bound that holds with
    99% confidence; empty when one of them has fewer than 662 queries, or outside the server scenario."""
    parameters: int | None = None
    """Elements of the file's initializers; None for a directory."""
    initializer_bytes: dict[str, int] = field(default_factory=dict)
    """Bytes of the file's weights by data type."""
    writing_ms: dict[str, float] = field(default_factory=dict)
    """Of a program: milliseconds to the first symbol and for each further one, greedy and with its beam, of texts of
    one length; the median over launches. Empty for other files."""
    writing_per_s: dict[str, float] = field(default_factory=dict)
    """Of a program: symbols a second of the same texts as a whole; likewise."""
    macs: int | None = None
    """Multiply-accumulates of one sample as `model_file.macs` counts them; None for a directory and where unknown."""

    @property
    def peak_memory_bytes(self) -> int | None:
        """Peak resident memory after all runs."""
        return self.memory_bytes["runs"]

    @property
    def on_software(self) -> bool:
        """Whether a software adapter ran it, whose times say nothing about a device."""
        return self.settings.get("adapter") == "software"

    @property
    def placement(self) -> dict[str, int]:
        """How many nodes ran on which provider, by its name without the ending; empty where that is not known."""
        nodes: dict[str, int] = self.settings.get("nodes") or {}
        return {provider.removesuffix("ExecutionProvider"): count for provider, count in nodes.items()}

    @property
    def highest_percentile(self) -> tuple[str, float] | None:
        """The highest percentile that the calls support, with its bound in milliseconds; None where none is."""
        return next(reversed(self.percentile_ms.items()), None)


class Subject:
    """A model being measured: its worker of this launch, and what was collected in all launches.

    Args:
        path: an ONNX file, or an artifact directory for torch.
        profile: how to run it.
        inputs: .npz of real samples, as `runtimes.worker.batches` takes them.
    """

    def __init__(self, path: Path, profile: Profile, *, inputs: Path) -> None:
        self._path, self._profile, self._inputs = path, profile, inputs
        self._worker: Worker | None = None
        self._loads: list[Started] = []
        self._memory: list[dict[str, int | None]] = []
        self._warm_ups: list[WarmUp] = []
        self._writing: list[dict[str, dict[str, float]]] = []
        self._block_times_ms: list[list[float]] = []
        self._compute_ms: list[float] = []
        self._block_elapsed_ms: list[float] = []
        self.model_s = 0.0
        """Time that the model itself took so far: loads, first runs, warm-ups and blocks."""
        self._switches: int | None = 0
        self._energy_uj: int | None = None if profile.on_device else 0

    def launch(self, running: Worker, *, first_core: int, strict: bool, code: Sequence[Path] = ()) -> None:
        """Load the model in a fresh worker; the arguments are those of `Worker.load`.

        Raises:
            WorkerError: when it cannot be loaded and run.
        """
        profile = self._profile
        loaded = running.load(
            runtime=profile.runtime, model=self._path, inputs=self._inputs, batch_size=profile.batch_size,
            threads=profile.threads, first_core=first_core, seed=len(self._loads), strict=strict, code=code,
        )  # fmt: skip
        self._worker = running
        self._loads.append(loaded)
        self.model_s += (loaded.load_ms + loaded.first_run_ms) / 1e3

    def warm_up(self, *, block_ms: float, limit_ms: float) -> None:
        """Run blocks until the medians of the last three agree within 5%, or limit_ms of blocks have passed.

        Raises:
            WorkerError: when the worker is gone.
        """
        assert self._worker is not None
        medians: list[float] = []
        spent_ms = 0.0
        stable = False
        while not stable and (len(medians) < 3 or spent_ms < limit_ms):
            block = self._worker.block(block_ms=block_ms)
            times_ns = block.times_ns
            spent_ms += sum(times_ns) / 1e6
            self.model_s += block.elapsed_ns / 1e9
            medians.append(stdlib_statistics.median(times_ns))
            last = medians[-3:]
            stable = len(last) == 3 and max(last) <= (1 + STABLE_WITHIN) * min(last)
        self._warm_ups.append(WarmUp(blocks=len(medians), stable=stable))

    def run_block(self, *, block_ms: float) -> None:
        """Time one block, and on a device another of compute alone.

        Raises:
            WorkerError: when the worker is gone.
        """
        assert self._worker is not None
        profile = self._profile
        found = self._worker.block(
            block_ms=block_ms, calls_per_query=profile.calls_per_query, arrivals_per_s=profile.arrivals_per_s
        )
        self._block_times_ms.append([time / 1e6 for time in found.times_ns])
        self._switches = _sum(self._switches, found.involuntary_switches)
        self._energy_uj = _sum(self._energy_uj, found.energy_uj)
        self._block_elapsed_ms.append(found.elapsed_ns / 1e6)
        self.model_s += found.elapsed_ns / 1e9
        if profile.on_device:
            alone = self._worker.block(block_ms=block_ms, compute=True)
            self._compute_ms += [time / 1e6 for time in alone.times_ns]
            self.model_s += alone.elapsed_ns / 1e9

    @property
    def typical_block_ms(self) -> float:
        """The median of what the blocks took so far, waiting for queries included, compute alone left out."""
        return stdlib_statistics.median(self._block_elapsed_ms)

    def outputs(self, batch: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The model's outputs for one batch.

        Raises:
            WorkerError: when one is not finite, or the worker is gone.
        """
        assert self._worker is not None
        return self._worker.outputs(batch)

    def end(self) -> None:
        """Note the peak memory of this launch, and of a program what symbols take.

        Raises:
            WorkerError: when the worker is gone.
        """
        assert self._worker is not None
        self._memory.append(self._worker.memory_bytes())
        if is_program(self._path):
            self._writing.append(self._worker.writing(symbols=WRITTEN_SYMBOLS))

    def measurement(self) -> Measurement:
        """The numbers of all launches."""
        profile = self._profile
        times_ms = np.concatenate(self._block_times_ms)
        busy_s = sum(self._block_elapsed_ms) / 1e3 if profile.scenario == "server" else float(times_ms.sum()) / 1e3
        samples = len(times_ms) * profile.calls_per_query * profile.batch_size
        bounds = {name: percentile_bound(times_ms, quantile=quantile) for name, quantile in PERCENTILES.items()}
        warm_up = WarmUp(sum(found.blocks for found in self._warm_ups), all(found.stable for found in self._warm_ups))
        inside = contents(self._path) if self._path.is_file() else None
        median_ms = float(np.median(times_ms))
        return Measurement(
            size_bytes=size_bytes(self._path),
            sha256=_sha256(self._path) if self._path.is_file() else None,
            load_ms=stdlib_statistics.median(found.load_ms for found in self._loads),
            first_run_ms=stdlib_statistics.median(found.first_run_ms for found in self._loads),
            num_calls=len(times_ms),
            median_ms=median_ms,
            percentile_ms={name: bound for name, bound in bounds.items() if bound is not None},
            throughput_per_s=samples / busy_s,
            memory_bytes={phase: _largest([found[phase] for found in self._memory]) for phase in self._memory[0]},
            block_median_ms=[float(np.median(block)) for block in self._block_times_ms],
            warm_up=warm_up,
            involuntary_switches=self._switches,
            settings=self._loads[-1].settings,
            quantile_ms=[float(value) for value in np.quantile(times_ms, np.linspace(0, 1, NUM_QUANTILES))],
            degraded=self._degraded(warm_up, busy_s=busy_s, num_calls=len(times_ms)),
            e2e_ms=median_ms if profile.on_device else None,
            compute_ms=float(np.median(self._compute_ms)) if self._compute_ms else None,
            energy_mj_per_sample=None if self._energy_uj is None else self._energy_uj / 1e3 / samples,
            block_mean_ms=[float(np.mean(block)) for block in self._block_times_ms],
            half_launch_p99_ms=self._half_launch_p99_ms() if profile.scenario == "server" else [],
            parameters=None if inside is None else inside.parameters,
            initializer_bytes={} if inside is None else inside.initializer_bytes,
            macs=None if inside is None else inside.macs,
            writing_ms=self._median_writing("writing_ms"),
            writing_per_s=self._median_writing("writing_per_s"),
        )

    def _half_launch_p99_ms(self) -> list[float]:
        count, halves = len(self._block_times_ms), 2 * len(self._loads)
        edges = [step * count // halves for step in range(halves + 1)]
        bounds = [
            percentile_bound(
                [time_ms for block in self._block_times_ms[start:end] for time_ms in block],
                quantile=PERCENTILES["p99"],
            )
            for start, end in pairwise(edges)
        ]
        known = [bound for bound in bounds if bound is not None]
        return known if len(known) == halves else []

    def _median_writing(self, quantity: str) -> dict[str, float]:
        """Return the medians over launches of what a program takes to write."""
        launches = [launch[quantity] for launch in self._writing]
        names = launches[0] if launches else ()
        return {name: stdlib_statistics.median(launch[name] for launch in launches) for name in names}

    def _degraded(self, warm_up: WarmUp, *, busy_s: float, num_calls: int) -> list[str]:
        found = [] if warm_up.stable else ["the warm-up did not become stable"]
        if self._switches is not None and self._switches > SWITCHES_PER_S * busy_s:
            found.append(f"the worker lost its CPU {self._switches / busy_s:.0f} times a second")
        offered = (self._profile.arrivals_per_s or 0) * busy_s
        if num_calls < offered - 4 * math.sqrt(offered):  # their number is a Poisson variable
            found.append(f"{OVERLOADED}: {num_calls} of {offered:.0f} queries that came were answered")
        settings = self._loads[-1].settings
        if settings["pinned_cpus"] is None:
            cores = "a core" if self._profile.threads == 1 else f"{self._profile.threads} cores"
            found.append(f"not pinned to {cores} of its own: there are fewer, or the system cannot pin")
        if settings.get("adapter") == "software":
            found.append("a software adapter: its times say nothing about a device")
        return found


def _sum(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more


def _largest(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
