"""What runs log, as values. In the journal each is one JSON object, whose ``do`` says which it is."""

import time
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from compress.errors import ArtifactError
from compress.tracking.journal import Line, read
from compress.tracking.servable import Takes


@dataclass(frozen=True, kw_only=True)
class Start:
    """A run begins.

    Attributes:
        do: the kind of event.
        uid: finds the run on the server again when a crash hid the id it was given.
        name: of the run.
        parent: the run that it is a stage of; None for a pipeline.
        experiment: its group.
        tags: of the run.
        run: its id in the journal, as everywhere here.
        ms: when, in Unix time, as everywhere here.
    """

    do: Literal["start"] = "start"
    uid: str
    name: str
    parent: str | None
    experiment: str
    tags: dict[str, str]
    run: str
    ms: int


@dataclass(frozen=True, kw_only=True)
class Reopen:
    """A run goes on."""

    do: Literal["reopen"] = "reopen"
    run: str
    ms: int


@dataclass(frozen=True, kw_only=True)
class Log:
    """Points of curves, parameters and tags; empty ones are not written.

    Attributes:
        do: the kind of event.
        metrics: finite numbers, by key.
        step: of the metrics; None without any.
        params: by dotted key.
        tags: of the run.
        run: which.
        ms: when.
    """

    do: Literal["log"] = "log"
    metrics: dict[str, float] = field(default_factory=dict)
    step: int | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    run: str
    ms: int


@dataclass(frozen=True, kw_only=True)
class Keep:
    """A file for the run.

    Attributes:
        do: the kind of event.
        files: one name, relative to the outbox.
        folder: where the server is to put it.
        run: which.
        ms: when.
    """

    do: Literal["artifact"] = "artifact"
    files: list[str]
    folder: str
    run: str
    ms: int


@dataclass(frozen=True, kw_only=True)
class Register:
    """An ONNX file becomes a version of a registered model.

    Attributes:
        do: the kind of event.
        files: the model, an .npz of one batch, the files that hold weights, and those that its server reads; relative
            to the outbox.
        sha256: of the model's file.
        name: of the registered model.
        inputs: name, NumPy dtype and shape of each; a dynamic axis is its name.
        outputs: likewise.
        tags: of the version.
        description: of the version, as Markdown.
        takes: what its server is given; None for the tensors of the graph.
        alias: moved to it.
        run: which exported it.
        ms: when.
    """

    do: Literal["register"] = "register"
    files: list[str]
    sha256: str
    name: str
    inputs: list[list[Any]]
    outputs: list[list[Any]]
    tags: dict[str, str]
    description: str = ""
    takes: Takes | None = None
    alias: str
    run: str
    ms: int


@dataclass(frozen=True, kw_only=True)
class End:
    """A run is over.

    Attributes:
        do: the kind of event.
        status: FINISHED, FAILED or KILLED.
        run: which.
        ms: when.
    """

    do: Literal["end"] = "end"
    status: str
    run: str
    ms: int


Event = Start | Reopen | Log | Keep | Register | End


def now_ms() -> int:
    """Return the time, in milliseconds of Unix time."""
    return time.time_ns() // 1_000_000


def to_line(event: Event) -> Line:
    """Return an event as JSON values; what may be left out and is empty is not there."""
    optional = {entry.name for entry in fields(event) if entry.default is None or entry.default_factory is not MISSING}
    return {name: value for name, value in vars(event).items() if name not in optional or value not in (None, {})}


def read_events(path: Path, *, start: int = 0) -> Iterator[tuple[Event, int]]:
    """Yield the events of a journal; see `journal.read`.

    Raises:
        ArtifactError: also when a line holds no event.
    """
    for line, end in read(path, start=start):
        try:
            event = _adapter().validate_python(line)
        except ValidationError as error:
            fault = error.errors()[0]
            got = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            raise ArtifactError(
                "a journal line holds no event", got=got, where=f"{path}, before byte {end}", hint="move it away"
            ) from error
        yield event, end


@cache
def _adapter() -> TypeAdapter[Event]:
    return TypeAdapter(Annotated[Event, Field(discriminator="do")])
