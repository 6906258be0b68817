"""One run as the pipeline sees it: every call is an event in the pipeline's journal."""

import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from compress.config.values import MOST_ENTRIES
from compress.errors import ArtifactError
from compress.tracking.courier import Courier
from compress.tracking.events import End, Event, Keep, Log, Register, Reopen, Start, now_ms, read_events
from compress.tracking.headline import is_headline
from compress.tracking.outbox import Outbox
from compress.tracking.servable import Takes

TensorRow = tuple[str, str, Sequence[int | str]]
"""Name, NumPy dtype and shape of a tensor; a dynamic axis is its name."""


@dataclass
class Record:
    """What the journal says about one run."""

    id: str
    name: str
    parent: str | None
    experiment: str
    status: str = "RUNNING"
    last_ms: int = 0
    headline: dict[str, float] = field(default_factory=dict)
    nonfinite: set[str] = field(default_factory=set)


class Tree:
    """A pipeline's parent run and its stages, as its journal holds them.

    Raises:
        ArtifactError: when the journal was edited.
    """

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.records: dict[str, Record] = {}
        self._latest_ms = 0
        for event, _ in read_events(outbox.events.path):
            if event.do == "start":
                self.records[event.run] = Record(event.run, event.name, event.parent, event.experiment)
            record = self.records.get(event.run)
            if record is None:
                raise ArtifactError(
                    "an event of a run that never began", got=event.run, where=outbox.events.path, hint="move it away"
                )
            record.last_ms = event.ms
            self._latest_ms = max(self._latest_ms, event.ms)
            if event.do == "end":
                record.status = event.status
            elif event.do == "reopen":
                record.status = "RUNNING"
            elif event.do == "log":
                record.headline |= {key: value for key, value in event.metrics.items() if is_headline(key)}

    @property
    def root(self) -> Record:
        """The parent run."""
        return self.records["0"]

    def now_ms(self) -> int:
        """Return the time in ms of Unix time; of a clock that was set back, that of the latest event."""
        self._latest_ms = max(self._latest_ms, now_ms())
        return self._latest_ms

    def start(self, name: str, *, experiment: str, parent: str | None, tags: dict[str, str]) -> Record:
        """Add a run; the first one is the parent."""
        record = Record(id=str(len(self.records)), name=name, parent=parent, experiment=experiment)
        self.records[record.id] = record
        begin = Start(
            uid=uuid.uuid4().hex,
            name=name,
            parent=parent,
            experiment=experiment,
            tags=tags,
            run=record.id,
            ms=self.now_ms(),
        )
        self.append(begin, sync=True)
        return record

    def reopen(self, record: Record, tags: dict[str, str]) -> Record:
        """Mark a run as running again."""
        record.status = "RUNNING"
        self.append(Reopen(run=record.id, ms=self.now_ms()), sync=True)
        self.append(Log(tags=tags, run=record.id, ms=self.now_ms()))
        return record

    def end_stale(self, *, children_only: bool) -> None:
        """Mark runs whose process is gone as KILLED, at the time of their last event."""
        for record in self.records.values():
            if record.status == "RUNNING" and not (children_only and record is self.root):
                record.status = "KILLED"
                self.append(End(status="KILLED", run=record.id, ms=record.last_ms), sync=True)

    def append(self, event: Event, *, sync: bool = False) -> None:
        """Write one event of a run."""
        self.outbox.append(event, sync=sync)


class Run:
    """One run. A context manager: FINISHED at its end, FAILED on an error, KILLED on an interruption."""

    def __init__(self, tree: Tree, record: Record, *, courier: Courier) -> None:
        self.tree, self.record, self._courier = tree, record, courier

    def params(self, values: Mapping[str, Any]) -> None:
        """Log a configuration, nested or flat, under dotted keys. A param cannot be changed later."""
        self.tree.append(Log(params=dict(flatten(values)), run=self.record.id, ms=self.tree.now_ms()))

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags; a later value replaces an earlier one."""
        tags = {key: str(value) for key, value in values.items()}
        self.tree.append(Log(tags=tags, run=self.record.id, ms=self.tree.now_ms()))

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Log points of curves. NaN and infinities are left out and named in a tag.

        Raises:
            ValueError: for a headline key: those have no steps.
        """
        wrong = [key for key in values if is_headline(key)]
        if wrong:
            raise ValueError(f"use headline() for {', '.join(wrong)}")
        self._points(values, step=step)

    def headline(self, values: Mapping[str, float]) -> None:
        """Log final numbers, once, at step 0; see ``headline.py`` for their keys."""
        known = self.record.headline
        fresh = {key: float(value) for key, value in values.items() if known.get(key) != value}
        known.update(fresh)
        self._points(fresh, step=0)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a copy of a file, or of every file below a directory."""
        if path.is_dir():
            for file in sorted(found for found in path.rglob("*") if found.is_file()):
                below = file.parent.relative_to(path.parent).as_posix()
                self.artifact(file, f"{folder}/{below}" if folder else below)
            return
        files = self.tree.outbox.keep(path)
        self.tree.append(Keep(files=files, folder=folder, run=self.record.id, ms=self.tree.now_ms()))

    def register_onnx(
        self,
        path: Path,
        *,
        name: str,
        inputs: Sequence[TensorRow],
        outputs: Sequence[TensorRow],
        example: Mapping[str, NDArray[Any]],
        data: Sequence[Path] = (),
        takes: Takes | None = None,
        tags: Mapping[str, object] | None = None,
        description: str = "",
        alias: str = "candidate",
    ) -> str:
        """Log an exported file as an MLflow ONNX model and register it as a version, byte for byte.

        Args:
            path: an ONNX file.
            name: of the registered model.
            inputs: its input tensors.
            outputs: its output tensors.
            example: one small batch, by input name.
            data: the files beside it that hold its weights, if there are any, and those that its server reads.
            takes: what its server is given; None for the graph's tensors.
            tags: of the version, such as headline numbers.
            description: of the version, as Markdown.
            alias: moved to this version.

        Returns:
            The sha256 of the file, which is also a tag of the run, the model and the version.
        """
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        model, *weights = self.tree.outbox.keep(path, *data)
        example_name = str(Path(model).with_name("example.npz"))
        arrays: dict[str, Any] = dict(example)
        np.savez(self.tree.outbox.directory / example_name, **arrays)
        registered = Register(
            files=[model, example_name, *weights],
            sha256=sha256,
            name=name,
            inputs=[[*row[:2], list(row[2])] for row in inputs],
            outputs=[[*row[:2], list(row[2])] for row in outputs],
            tags={key: str(value) for key, value in (tags or {}).items()},
            description=description,
            takes=takes,
            alias=alias,
            run=self.record.id,
            ms=self.tree.now_ms(),
        )
        self.tree.append(registered)
        return sha256

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self.record.status = status
        self.tree.append(End(status=status, run=self.record.id, ms=self.tree.now_ms()), sync=True)
        self._courier.flush(timeout_s=0.0)

    def _points(self, values: Mapping[str, float], *, step: int) -> None:
        finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        bad = values.keys() - finite.keys() - self.record.nonfinite
        if finite:
            self.tree.append(Log(metrics=finite, step=int(step), run=self.record.id, ms=self.tree.now_ms()))
        if bad:
            self.record.nonfinite |= bad
            self.tags({"compress.nonfinite": ", ".join(sorted(self.record.nonfinite))})


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys; lists that hold no mappings stay one value, as JSON, and so does what has more than MOST_ENTRIES."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        few = isinstance(value, Sequence | Mapping) and len(value) <= MOST_ENTRIES
        if few and isinstance(value, Sequence) and not isinstance(value, str):
            value = dict(enumerate(value)) if any(isinstance(item, Mapping) for item in value) else value
        if few and isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str)
