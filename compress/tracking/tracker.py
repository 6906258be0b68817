"""Runs as the pipeline sees them: what is logged goes to a journal first and to MLflow when it answers.

Logging never fails for the server's sake. One experiment per task and data, one parent run per pipeline,
one child per stage, never deeper. What differs between stages is a tag; metric keys are the same on all.
"""

import contextlib
import hashlib
import logging
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from compress.config.secrets import mask
from compress.errors import ArtifactError, EnvironmentFault, LockedError
from compress.tracking.courier import Courier
from compress.tracking.outbox import Outbox, Sink
from compress.tracking.relocate import FOLDER, relocate
from compress.tracking.run import Run, Tree

_log = logging.getLogger("compress.tracking")
DATABASE = "mlflow.db"
MLFLOW_DEFAULTS = {  # set before the import; what the user has set stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the outbox retries, and says so once
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is the command's own
}
CONNECT_LIMIT_S = 120.0  # a new database takes seconds, on a busy machine many; a dead server fails sooner by itself


class Tracker:
    """Where all runs of one process go. A context manager; make one with `open`."""

    def __init__(self, folder: Path, courier: Courier) -> None:
        self._folder, self._courier = folder, courier
        self._outboxes: list[Outbox] = []

    @classmethod
    def open(cls, store: Path, uri: str | None = None, *, required: bool = False) -> Self:
        """Connect, and send what earlier processes could not.

        Args:
            store: keeps the journals, and without a URI the MLflow database and its artifacts.
            uri: an MLflow tracking URI; None for ``sqlite:///<store>/mlflow.db``.
            required: whether a server that does not answer is an error; it is a warning otherwise.

        Raises:
            EnvironmentFault: when the server is required and does not answer, the local database belongs to
                another version of MLflow, or the store cannot be written.
        """
        store = store.absolute()
        target = uri or database_uri(store)
        if uri is None:
            _check_database(store / DATABASE)
        # A database has no server that knows where files go, and MLflow's default is the working directory.
        artifact_root = None if target.startswith(("http:", "https:")) else store / FOLDER

        def connect() -> Sink:
            for name, value in MLFLOW_DEFAULTS.items():
                os.environ.setdefault(name, value)
            from compress.tracking.mlflow_sink import MlflowSink, make_database  # mlflow takes a second to import

            if uri is None:
                make_database(store / DATABASE)
                relocate(store / DATABASE)
            return MlflowSink(target, artifact_root=artifact_root)

        # A folder per server: what waits for one is never sent to another.
        folder = store / "tracking" / hashlib.sha256(target.encode()).hexdigest()[:12]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault("the store cannot be written", got=error.strerror, where=store) from error
        tracker = cls(folder, Courier(connect))
        tracker._adopt_left_behind()
        answered = tracker.flush(timeout_s=CONNECT_LIMIT_S)
        if tracker._courier.fault is not None:
            tracker._release()
            raise tracker._courier.fault
        if required and not answered:
            tracker._release()
            raise EnvironmentFault(
                "the tracking server does not answer and the recipe requires it",
                where=mask(target),
                hint="start it, or set tracking.required to false: events then wait on disk",
            )
        return tracker

    def run(
        self,
        name: str,
        *,
        experiment: str | None = None,
        parent: Run | None = None,
        key: str | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> Run:
        """Start a run, or go on with one that was cut off.

        A parent whose key was used before and did not finish is opened again; children of it that were
        running are marked KILLED. A child that had finished under the same name is opened again; one that
        had not is started anew with the tag ``compress.attempt``.

        Args:
            name: shown in the MLflow list.
            experiment: required for a parent; a child has its parent's.
            parent: the pipeline's run, for a stage.
            key: what a resumed pipeline calls itself again; only for parents.
            tags: set at the start.

        Raises:
            ValueError: for a parent without experiment, or a child of a child.
            LockedError: when another process logs to the same key.
        """
        tags = {key: str(value) for key, value in (tags or {}).items()}
        if parent is not None:
            return self._child(name, parent=parent, tags=tags)
        if experiment is None:
            raise ValueError(f"run {name!r} has neither an experiment nor a parent")
        tree = self._tree(key or uuid.uuid4().hex)
        if tree.records:
            tree.end_stale(children_only=True)
            return Run(tree, tree.reopen(tree.root, tags), courier=self._courier)
        return Run(tree, tree.start(name, experiment=experiment, parent=None, tags=tags), courier=self._courier)

    def flush(self, *, timeout_s: float = 30.0) -> bool:
        """Send what is pending and wait for it; 0 starts it and does not wait.

        Returns:
            Whether the server had everything within the time.
        """
        return self._courier.flush(timeout_s=timeout_s)

    def close(self, *, timeout_s: float = 30.0) -> None:
        """Flush, and leave what could not be sent to the next tracker of this store."""
        delivered = self.flush(timeout_s=timeout_s)
        if not delivered:
            _log.warning("events for the tracking server wait in %s; the next run sends them", self._folder)
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _child(self, name: str, *, parent: Run, tags: dict[str, str]) -> Run:
        tree = parent.tree
        if parent.record is not tree.root:
            raise ValueError(f"run {name!r}: a stage's run has no children")
        earlier = [record for record in tree.records.values() if record.name == name and record is not tree.root]
        if earlier and earlier[-1].status == "FINISHED":
            return Run(tree, tree.reopen(earlier[-1], tags), courier=self._courier)
        if earlier:
            tags = tags | {"compress.attempt": str(len(earlier) + 1)}
        record = tree.start(name, experiment=tree.root.experiment, parent=tree.root.id, tags=tags)
        return Run(tree, record, courier=self._courier)

    def _tree(self, key: str) -> Tree:
        """The newest pipeline with this key, or a new one when that has finished."""
        if not re.fullmatch(r"[\w.-]+", key):
            raise ValueError(f"a run's key is a file name, got {key!r}")
        number = 1
        while (self._folder / f"{key}.{number + 1}").exists():
            number += 1
        try:
            tree = self._take(self._folder / f"{key}.{number}")
            if not tree.records or tree.root.status != "FINISHED":
                return tree
        except ArtifactError as error:
            _log.warning("tracking begins a new run, because the journal of the one before is damaged: %s", error)
        return self._take(self._folder / f"{key}.{number + 1}")

    def _take(self, directory: Path) -> Tree:
        """Open an outbox and have it delivered, unless this tracker holds it already."""
        for held in self._outboxes:
            if held.directory == directory:
                return Tree(held)
        outbox = Outbox(directory)
        try:
            tree = Tree(outbox)
        except ArtifactError:
            outbox.release()
            raise
        self._outboxes.append(outbox)
        self._courier.add(outbox)
        return tree

    def _release(self) -> None:
        if self._courier.close():  # a thread stuck with a dead server still reads: then the process's end frees them
            for outbox in self._outboxes:
                outbox.close()

    def _adopt_left_behind(self) -> None:
        """Take over the outboxes of processes that ended with events undelivered or runs open."""
        for directory in sorted(self._folder.iterdir()):
            if Outbox.is_settled(directory):
                continue
            with contextlib.suppress(LockedError):  # its process is alive
                try:
                    self._take(directory).end_stale(children_only=False)
                except ArtifactError as error:
                    _log.warning("skipped what an earlier run left: %s", error)


def database_uri(store: Path) -> str:
    """The tracking URI of a store's own database. Absolute, so that it means the same everywhere."""
    return f"sqlite:///{store.absolute() / DATABASE}"


def _check_database(path: Path) -> None:
    """Refuse a file that is no database here: MLflow would retry it for minutes."""
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise EnvironmentFault("the MLflow database cannot be read", got=error.strerror, where=path) from error
    if head and not head.startswith(b"SQLite format 3"):
        raise EnvironmentFault("the MLflow database is damaged", where=path, hint="restore it, or move it away")
