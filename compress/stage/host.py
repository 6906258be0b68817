"""Host: where a result is made; nothing here decides what it is, but for the precision that `Execution` names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from compress.progress import Reporter
from compress.stage.device import name_device, name_kind
from compress.stage.group import Group
from compress.store.store import Store

Precision = Literal["float32", "bfloat16", "tf32"]
Reduction = Literal["exact", "fast"]
BatchSize = Literal["asked", "auto"]


class Recorder(Protocol):
    """Where a stage's curves and files go; the tracker's runs are this."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Record values at a step."""
        ...

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a copy of a file."""
        ...


class Unrecorded:
    """A recorder that forgets; for plans and experiments."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Forget."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Forget."""


@dataclass(frozen=True)
class Execution:
    """How numbers are computed; fixed for a whole pipeline.

    The precision is part of every key. Threads and device are not: they change the last bits and nothing else, and what
    some have made, others go on with. They are kept with each artifact, and in keys where the same bits are asked for.

    Attributes:
        threads: torch's intra-op threads.
        precision: of training's forward passes; bfloat16 means autocast, tf32 products of rounded float32 on CUDA.
        device: where models are trained and run, as torch names it; surgery is verified on the CPU, in float64.
        reproduce: whether the same bits are asked for, not only the same up to rounding.
        processes: that share training and the teachers' passes.
        reduction: how they add gradients: ``exact`` in the order of an update's batches, to the bits of one process, or
            ``fast``, in whatever order is.
        batch_size: of a pass in training: what the stage asks, or ``auto``, as much of it as fits the device.
        compile: whether what is trained goes through torch's compiler.
    """

    threads: int
    precision: Precision
    device: str = "cpu"
    reproduce: bool = False
    processes: int = 1
    reduction: Reduction = "exact"
    batch_size: BatchSize = "asked"
    compile: bool = False

    @property
    def rounding(self) -> dict[str, Any]:
        """What decides the last bits alone, as JSON values: kept with each artifact."""
        added: dict[str, Any] = {"processes": self.processes} if self.reduction == "fast" and self.processes > 1 else {}
        if self.compile:
            added["compile"] = True
        if self.batch_size == "auto":  # dropout draws for each part of a batch
            added["batch_size"] = self.batch_size
        return {"threads": self.threads, "device": name_kind(self.device), **added}

    @property
    def in_keys(self) -> dict[str, Any]:
        """What of the rounding is in keys: all of it where the same bits are asked for, else nothing."""
        return {"rounding": self.rounding} if self.reproduce else {}

    def __str__(self) -> str:
        """In words: ``cuda:0 (NVIDIA H200), 8 threads, bfloat16``."""
        shared = f"{self.processes} processes ({self.reduction} sums), each on " if self.processes > 1 else ""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        added = ", compiled" * self.compile + ", in batches that fit" * (self.batch_size == "auto")
        return f"{shared}{name_device(self.device)}, {threads}, {self.precision}{added}"


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How numbers are made, and who is told of it: all that training needs to know of where it happens.

    Attributes:
        execution: threads and precision.
        recorder: the tracked run.
        reporter: progress and notices.
        interrupted: says whether to checkpoint and stop.
        checkpoint_every_s: seconds between checkpoints inside training.
        group: the processes that share training.
    """

    execution: Execution
    recorder: Recorder = field(default_factory=Unrecorded)
    reporter: Reporter = field(default_factory=Reporter)
    interrupted: Callable[[], bool] = lambda: False
    checkpoint_every_s: float = 30.0
    group: Group = field(default_factory=Group)

    @property
    def device(self) -> torch.device:
        """Where models are trained and run."""
        return torch.device(self.execution.device)

    def autocast(self) -> torch.autocast:
        """Return the precision of forward passes as a context manager."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.execution.precision == "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Host(Compute):
    """Where a stage happens: what computes, and what it may read and write.

    Attributes:
        store: where artifacts are committed.
        code: the user's Python files that may be run.
        traces: graphs of models that the user's files build, which no store keeps; see `compress.export.stored`.
    """

    store: Store
    code: Sequence[Path] = ()
    traces: dict[str, str] = field(default_factory=dict[str, str], compare=False, repr=False)
