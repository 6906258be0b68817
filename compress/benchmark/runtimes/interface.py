"""What a runtime is: how it is asked for, what it answers, and how it says that it cannot work here."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Batch = dict[str, "NDArray[np.generic]"]


@dataclass(frozen=True, slots=True)
class Load:
    """What to run and how. Paths are absolute, or relative to what the worker was sent."""

    runtime: str
    model: str
    """An ONNX file, or an artifact directory for torch."""
    inputs: str
    """An .npz of real samples: one array per model input, samples along the first axis; see `worker.batches`."""
    batch_size: int
    threads: int
    first_core: int | None
    """Where pinning starts to count physical cores; None leaves the process where it is."""
    seed: int
    """Of the arrivals in the server scenario; rivals of a launch share it, so the same queries come to each."""
    strict: bool
    """Refuse a session that runs any node on the CPU although the runtime is for another device."""
    package_root: str
    """The directory that holds the compress package; used by torch alone."""
    code: list[str]
    """The user's Python files that may be run to build the model; used by torch alone."""
    text: str = ""
    """Of the file of a runtime of the user's own."""


@dataclass(frozen=True, slots=True)
class Started:
    """What a model's load took."""

    load_ms: float
    """From its file to ready."""
    first_run_ms: float
    """Allocation, algorithm search and compilation included."""
    settings: dict[str, Any]
    """Resolved options and versions, and on which device the nodes run; ready for JSON."""
    memory_bytes: dict[str, int | None]
    """Peak resident bytes at the end of each phase so far; None where the system does not tell."""


@dataclass(frozen=True, slots=True)
class Block:
    """What the queries of a block took."""

    times_ns: list[int]
    """Of every query."""
    elapsed_ns: int
    """Of the block."""
    involuntary_switches: int | None
    """Of the process meanwhile; None: unknown, like the next."""
    energy_uj: int | None
    """Microjoules of all CPU packages."""


@dataclass(frozen=True, slots=True)
class Usability:
    """Whether a runtime works somewhere."""

    usable: bool
    why: str = ""
    """Why not; of one that does, a doubt about it."""
    install: str = ""
    """What to do about it."""


class Unusable(Exception):
    """A runtime cannot work here.

    Args:
        why: exactly what is missing.
        install: what to do about it.
        logged: whether what is missing is told on standard error alone, by a library that goes on without it.
    """

    def __init__(self, why: str, *, install: str, logged: bool = False) -> None:
        super().__init__(f"{why}; next: {install}")
        self.why, self.install, self.logged = why, install, logged


class Loaded(Protocol):
    """A model that is ready to run."""

    settings: dict[str, Any]
    """Resolved options and versions, and on which device the nodes run; ready for JSON."""

    def feed(self, batch: Batch) -> Any:
        """Return a batch in host memory, in the form that `run` takes."""
        ...

    def run(self, feed: Any) -> Any:
        """Compute from host memory to host memory, and be done when it returns."""
        ...

    def outputs(self, result: Any) -> "list[NDArray[np.generic]]":
        """Return what `run` returned as arrays in the model's order."""
        ...


class LoadedOnDevice(Loaded, Protocol):
    """A model on a device with memory of its own."""

    def place(self, batch: Batch) -> Any:
        """Return a batch in device memory, with room for the outputs, in the form that `time_compute` takes."""
        ...

    def time_compute(self, feeds: Sequence[Any], *, start: int, block_ms: float, multiple: int = 1) -> list[int]:
        """Return the nanoseconds of single calls on the device, nothing copied; arguments as in `time_calls`."""
        ...


def time_calls(
    call: Callable[[Any], object], feeds: Sequence[Any], *, start: int, block_ms: float, multiple: int = 1
) -> list[int]:
    """Call until block_ms have passed, at least once.

    Args:
        call: done when it returns.
        feeds: rotated through.
        start: index of the first feed, around the end.
        block_ms: at least so long.
        multiple: stop only after a multiple of so many calls.

    Returns:
        The nanoseconds of every call.
    """
    clock = time.perf_counter_ns
    times_ns: list[int] = []
    end = clock() + int(block_ms * 1e6)
    while True:
        feed = feeds[(start + len(times_ns)) % len(feeds)]
        before = clock()
        call(feed)
        after = clock()
        times_ns.append(after - before)
        if after >= end and len(times_ns) % multiple == 0:
            return times_ns
