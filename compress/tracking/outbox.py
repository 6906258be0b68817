"""The events of one pipeline on disk, and how far they have been delivered.

A directory: ``events.ndjson`` (what was logged, the truth), ``delivery.ndjson`` (which run id the server gave
to which run, and up to which byte the events were taken), ``files/`` (copies of artifact files until taken).
Delivery repeats what a crash may have cut off between sending and noting it, so every operation of a `Sink`
is idempotent.
"""

import contextlib
import logging
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from compress.errors import ArtifactError, CompressError
from compress.tracking.events import Event, Log, Register, Start, read_events, to_line
from compress.tracking.journal import Journal, Line, read

_log = logging.getLogger("compress.tracking")
BATCH_POINTS = 1000  # MLflow's limit of metrics per request


class Down(Exception):  # noqa: N818 - a state of the server, not a fault of ours
    """The server cannot be reached or failed by itself: try again later."""


class Refused(Exception):  # noqa: N818 - see Down
    """The server will never take this event: note why and go on."""


@dataclass
class Points:
    """What `log` sends for one run: metrics as (key, value, timestamp in ms, step)."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def add(self, event: Log) -> None:
        """Add what a log event holds."""
        self.metrics += [(key, value, event.ms, event.step or 0) for key, value in event.metrics.items()]
        self.params |= event.params
        self.tags |= event.tags

    def __len__(self) -> int:
        return len(self.metrics) + len(self.params) + len(self.tags)

    def single(self) -> Iterator["Points"]:
        """Each point alone."""
        yield from (Points(metrics=[metric]) for metric in self.metrics)
        yield from (Points(params={key: value}) for key, value in self.params.items())
        yield from (Points(tags={key: value}) for key, value in self.tags.items())


class Sink(Protocol):
    """Where events go. Every operation may be repeated with the same effect, and raises Down or Refused."""

    def start(self, event: Start, *, parent_id: str | None) -> str:
        """Find the run of this event, or create it; returns the server's run id."""
        ...

    def reopen(self, run_id: str) -> None:
        """Mark a run as running again."""
        ...

    def log(self, run_id: str, points: Points) -> None:
        """Add points to a run."""
        ...

    def artifact(self, run_id: str, path: Path, *, folder: str) -> None:
        """Add a file to a run."""
        ...

    def register(self, run_id: str, path: Path, example: Path, *data: Path, event: Register) -> None:
        """Register an ONNX file, and the files that hold its weights, as a model version."""
        ...

    def end(self, run_id: str, *, status: str, end_ms: int) -> None:
        """Close a run."""
        ...


class Outbox:
    """One pipeline's events, opened by the one process that may add or deliver them.

    Raises:
        LockedError: when another process holds it.
        ArtifactError: when its journal was edited.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events = Journal(directory / "events.ndjson")
        try:
            self._delivery = Journal(directory / "delivery.ndjson")
        except CompressError:
            self.events.close()
            raise
        self._settled = directory / "settled"
        self._settled.unlink(missing_ok=True)
        self._taken = 0
        self._run_ids: dict[str, str] = {}
        for note, _ in read(self._delivery.path):
            taken, run_ids = note.get("taken", self._taken), note.get("run_ids", {})
            if not isinstance(taken, int) or not isinstance(run_ids, dict):
                self.release()
                raise ArtifactError("a line of deliveries is damaged", got=note, where=self._delivery.path)
            self._taken = taken
            self._run_ids |= run_ids

    @staticmethod
    def is_settled(directory: Path) -> bool:
        """Whether an outbox was closed with everything delivered and every run ended."""
        return (directory / "settled").exists()

    @property
    def is_delivered(self) -> bool:
        """Whether the server has every event."""
        return self._taken >= self.events.size_bytes

    def keep(self, path: Path, *beside: Path) -> list[str]:
        """Copy a file that may change before it is delivered, and what belongs beside it.

        Returns:
            Their names for an event, relative to the outbox.

        Raises:
            OSError: when it cannot be copied.
        """
        folder = Path("files", uuid.uuid4().hex)
        (self.directory / folder).mkdir(parents=True)
        names = [str(folder / file.name) for file in (path, *beside)]
        for file, name in zip((path, *beside), names, strict=True):
            shutil.copyfile(file, self.directory / name)
        return names

    def deliver(self, sink: Sink) -> None:
        """Send every pending event, in order, points gathered into batches.

        Raises:
            Down: when the server went away; what it took is noted, the rest stays.
            ArtifactError: when the journals do not fit together.
        """
        gathered: dict[str, Points] = {}
        done = self._taken
        for event, end in read_events(self.events.path, start=self._taken):
            if event.do == "log":
                gathered.setdefault(event.run, Points()).add(event)
            else:
                self._send(sink, gathered, upto=done)
                self._act(sink, event)
                self._note({"taken": end})
                for file in event.files if event.do == "artifact" or event.do == "register" else ():
                    shutil.rmtree((self.directory / file).parent, ignore_errors=True)
            done = end
            if sum(map(len, gathered.values())) >= BATCH_POINTS:
                self._send(sink, gathered, upto=done)
        self._send(sink, gathered, upto=done)

    def close(self) -> None:
        """Give up the lock; when all is delivered, note that nobody needs to look here again."""
        if self.is_delivered:
            self._settled.touch()
            shutil.rmtree(self.directory / "files", ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Give up the lock, and leave everything as it is."""
        self.events.close()
        self._delivery.close()

    def append(self, event: Event, *, sync: bool = False) -> None:
        """Write an event; see `Journal.append`."""
        self.events.append(to_line(event), sync=sync)

    def _note(self, note: Line) -> None:
        self._delivery.append(note)
        self._taken = note.get("taken", self._taken)

    def _send(self, sink: Sink, gathered: dict[str, Points], *, upto: int) -> None:
        for run, points in gathered.items():
            try:
                sink.log(self._run_id(run), points)
            except Refused:  # find the point that was refused, and keep the others
                for point in points.single():
                    with self._noting_refusal(f"{point} of {run}"):
                        sink.log(self._run_id(run), point)
        gathered.clear()
        if upto > self._taken:
            self._note({"taken": upto})

    def _act(self, sink: Sink, event: Event) -> None:
        if event.do == "start":
            parent_id = None if event.parent is None else self._run_id(event.parent)
            self._run_ids[event.run] = sink.start(event, parent_id=parent_id)
            self._note({"run_ids": {event.run: self._run_ids[event.run]}})
            return
        run_id = self._run_id(event.run)
        with self._noting_refusal(f"{event.do} of {event.run}"):
            if event.do == "reopen":
                sink.reopen(run_id)
            elif event.do == "artifact":
                self._check_files(event.files)
                (name,) = event.files
                sink.artifact(run_id, self.directory / name, folder=event.folder)
            elif event.do == "register":
                self._check_files(event.files)
                model, example, *data = (self.directory / name for name in event.files)
                sink.register(run_id, model, example, *data, event=event)
            elif event.do == "end":
                sink.end(run_id, status=event.status, end_ms=event.ms)

    def _check_files(self, names: list[str]) -> None:
        for name in names:
            if not (self.directory / name).is_file():  # which would look like a server that is down, for ever
                raise Refused(f"{name} is no longer there")

    def _run_id(self, run: str) -> str:
        if run not in self._run_ids:
            raise ArtifactError(
                "deliveries of a run whose name on the server is not noted", got=run, where=self._delivery.path
            )
        return self._run_ids[run]

    @contextlib.contextmanager
    def _noting_refusal(self, what: str) -> Iterator[None]:
        try:
            yield
        except Refused as refusal:
            _log.warning("the tracking server refused %s: %s", what, refusal)
            self._note({"refused": what, "why": str(refusal)})
