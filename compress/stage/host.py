"""Host: where a result is made; nothing here decides what it is, but for the rounding that `Execution` names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch

from compress.progress import Reporter
from compress.store.artifact import Store

Precision = Literal["float32", "bfloat16"]


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
    """How numbers are rounded; part of every key, because bits are promised, and fixed for a whole pipeline.

    Attributes:
        threads: torch's intra-op threads.
        precision: of training's forward passes; bfloat16 means autocast.
    """

    threads: int
    precision: Precision


@dataclass(frozen=True)
class Host:
    """Where a stage happens.

    Attributes:
        store: where artifacts are committed.
        execution: threads and precision.
        code: the user's Python files that may be run.
        recorder: the stage's tracked run.
        reporter: progress and notices.
        interrupted: says whether to checkpoint and stop.
        checkpoint_every_s: seconds between checkpoints inside training.
    """

    store: Store
    execution: Execution
    code: Sequence[Path] = ()
    recorder: Recorder = field(default_factory=Unrecorded)
    reporter: Reporter = field(default_factory=Reporter)
    interrupted: Callable[[], bool] = lambda: False
    checkpoint_every_s: float = 30.0

    def autocast(self) -> torch.autocast:
        """Return the precision of forward passes as a context manager."""
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.execution.precision == "bfloat16")
