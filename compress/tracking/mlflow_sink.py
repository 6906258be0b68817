"""Events to MLflow, through MlflowClient alone: no active run, no global state of the fluent interface.

The only module that imports mlflow (with `onnx_model`); imported when a tracker opens, never before.
"""

import contextlib
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from compress.config.secrets import mask_message
from compress.errors import EnvironmentFault
from compress.tracking.events import Register, Start
from compress.tracking.outbox import Down, Points, Refused
from compress.tracking.relocate import FOLDER
from compress.tracking.views import experiment_tags, varying

UID_TAG = "compress.run_uid"
PARENT_TAG = "mlflow.parentRunId"
_METRICS_PER_REQUEST, _OTHERS_PER_REQUEST = 800, 100  # MLflow's limits: 1000 points, of them 100 params, 100 tags
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "MALFORMED_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "INVALID_STATE",
    "NOT_FOUND",
    "NOT_IMPLEMENTED",
}

# It tells of every fault of a database in a traceback, although it raises it too, and we tell it in one line.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def make_database(path: Path) -> None:
    """Create a local MLflow database whole, or not at all; one that is there is left alone.

    MLflow creates its tables one by one and never repairs a database whose creation was cut off: a process killed
    meanwhile would spoil the store for good. So it is made under another name and linked into place when complete.
    """
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    draft.unlink(missing_ok=True)
    with _translate():
        uri = f"sqlite:///{draft}"
        with _without_waiting_for_the_disk():
            MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
    location = (path.parent / FOLDER / "0").as_uri()  # of MLflow's own experiment, else where we are now
    with contextlib.closing(sqlite3.connect(draft)) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ?", (location,))
    with contextlib.suppress(FileExistsError):  # another process was faster
        os.link(draft, path)
    draft.unlink()


@contextlib.contextmanager
def _without_waiting_for_the_disk() -> Iterator[None]:
    """SQLite waits for the disk after none of MLflow's hundreds of steps: a draft that a power cut spoils is none."""

    def relax(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")

    event.listen(Engine, "connect", relax)
    try:
        yield
    finally:
        event.remove(Engine, "connect", relax)


class MlflowSink:
    """A connection to an MLflow server or database.

    Args:
        uri: tracking URI.
        artifact_root: where a local database's experiments keep their files; None leaves it to the server.

    Raises:
        Down: when nothing answers.
        EnvironmentFault: when the database belongs to another version of MLflow, or is damaged.
    """

    def __init__(self, uri: str, *, artifact_root: Path | None) -> None:
        self._artifact_root = artifact_root
        self._experiments: dict[str, str] = {}
        with _translate():
            try:
                self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
                self._client.search_experiments(max_results=1)
            except MlflowException as error:
                if "out-of-date database schema" not in str(error):
                    raise
                versions = re.search(r"found version (\w+), but expected (\w+)", str(error))
                raise EnvironmentFault(
                    "the MLflow database belongs to another version of MLflow",
                    expected=versions and f"schema {versions[2]}",
                    got=versions and f"schema {versions[1]}",
                    hint="back it up, then run `mlflow db upgrade <tracking URI>`; or install the newer mlflow",
                ) from error

    def start(self, event: Start, *, parent_id: str | None) -> str:
        """Find the run that an earlier attempt created, or create it. See `Sink`."""
        with _translate(refuses=False):
            experiment_id = self._experiment_id(event.experiment)
            found = self._client.search_runs([experiment_id], f"tags.`{UID_TAG}` = '{event.uid}'", max_results=1)
            if found:
                return found[0].info.run_id
            tags = event.tags | {UID_TAG: event.uid} | ({PARENT_TAG: parent_id} if parent_id else {})
            created = self._client.create_run(experiment_id, start_time=event.ms, tags=tags, run_name=event.name)
            self._offer_views(created, now_ms=event.ms)
            return created.info.run_id

    def reopen(self, run_id: str) -> None:
        """See `Sink`."""
        with _translate():
            self._client.update_run(run_id, status="RUNNING")

    def log(self, run_id: str, points: Points) -> None:
        """See `Sink`. MLflow drops a metric whose key, step, time and value it has, so repeating adds nothing."""
        metrics = [Metric(*metric) for metric in points.metrics]
        params = [Param(key, value) for key, value in points.params.items()]
        tags = [RunTag(key, value) for key, value in points.tags.items()]
        while metrics or params or tags:
            with _translate():
                self._client.log_batch(
                    run_id,
                    metrics[:_METRICS_PER_REQUEST],
                    params[:_OTHERS_PER_REQUEST],
                    tags[:_OTHERS_PER_REQUEST],
                )
            del metrics[:_METRICS_PER_REQUEST], params[:_OTHERS_PER_REQUEST], tags[:_OTHERS_PER_REQUEST]

    def artifact(self, run_id: str, path: Path, *, folder: str) -> None:
        """See `Sink`."""
        with _translate():
            self._client.log_artifact(run_id, str(path), folder or None)

    def register(self, run_id: str, path: Path, example: Path, *data: Path, event: Register) -> None:
        """See `Sink`."""
        from compress.tracking.onnx_model import register  # onnx is needed here alone

        with _translate():
            is_local = self._artifact_root is not None
            register(self._client, run_id, path, example, *data, event=event, is_local=is_local)

    def end(self, run_id: str, *, status: str, end_ms: int) -> None:
        """See `Sink`."""
        with _translate():
            self._client.set_terminated(run_id, status, end_time=end_ms)
            self._offer_views(self._client.get_run(run_id), now_ms=end_ms)  # what is compared is known now

    def _offer_views(self, run: Run, *, now_ms: int) -> None:
        """Set the saved views where a pipeline starts or ends; a server that refuses them still takes the run."""
        if run.data.tags.get("compress.role") != "pipeline":
            return
        experiment_id = run.info.experiment_id
        with contextlib.suppress(MlflowException):
            pipelines = self._client.search_runs([experiment_id], "tags.`compress.role` = 'pipeline'", max_results=100)
            settings = varying([found.data.params for found in pipelines if found.data.params])
            newest = pipelines[0] if pipelines else run  # a server may find a new run only later
            tags = experiment_tags(experiment_id, newest=newest.info.run_id, settings=settings, now_ms=now_ms)
            for key, value in tags.items():
                self._client.set_experiment_tag(experiment_id, key, value)

    def _experiment_id(self, name: str) -> str:
        if name not in self._experiments:
            self._experiments[name] = self._find_or_create(name)
        return self._experiments[name]

    def _find_or_create(self, name: str) -> str:
        found: Experiment | None = self._client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                self._client.restore_experiment(found.experiment_id)
            return found.experiment_id
        # Explicit and absolute: the default is relative to whoever opens the database.
        location = None if self._artifact_root is None else (self._artifact_root / _folder_name(name)).as_uri()
        try:
            return self._client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if (made := self._client.get_experiment_by_name(name)) is None:
                raise
            return made.experiment_id  # another process was faster


@contextlib.contextmanager
def _translate(*, refuses: bool = True) -> Iterator[None]:
    """MLflow's errors as Refused or Down; with refuses off all are Down, because the event must not be lost."""
    try:
        yield
    except MlflowException as error:
        if refuses and error.error_code in _REFUSALS:
            raise Refused(_first_line(error)) from error
        raise Down(_first_line(error)) from error
    except SQLAlchemyError as error:  # of a database that MLflow only opens; what it asks of it later it wraps
        if isinstance(error, DatabaseError) and type(error.orig) is sqlite3.DatabaseError:
            raise EnvironmentFault(
                "the MLflow database is damaged", got=error.orig, hint="restore it, or move it away"
            ) from error
        raise Down(_first_line(error)) from error
    except OSError as error:  # requests' errors included
        raise Down(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    """The start of a message, without the secrets that a URI in it may hold."""
    return mask_message(str(error).split("\n", 1)[0])[:300]


def _folder_name(name: str) -> str:
    return re.sub(r"^\.+|[^\w.-]+", "_", name)
