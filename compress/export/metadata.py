"""What a shipped file says about itself: format, lineage, labels, preprocessing, signature."""

import json
from collections.abc import Mapping
from typing import Any

import onnx
from pydantic import BaseModel, ConfigDict, ValidationError

from compress.errors import ArtifactError
from compress.tasks.signature import Signature

FORMAT_VERSION = 2
KEY = "compress"


class Ancestor(BaseModel):
    """One step that led to the shipped file.

    Attributes:
        stage: the stage's verb.
        key: finds its output in the store; SHA-256.
        digest: of that output's content; SHA-256.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    key: str
    digest: str


class Lineage(BaseModel):
    """Where a shipped file comes from.

    Attributes:
        teacher: digest of the teacher that the pipeline compared with; None when there was none.
        stages: every stage before the export, first one first; the last one's artifact holds the quant plan, if any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str | None
    stages: tuple[Ancestor, ...]


class Metadata(BaseModel):
    """Stored as one JSON value under the key ``compress`` of the file's metadata.

    Attributes:
        format_version: of this record; a newer one is refused.
        variant: which deployable file this is, such as ``int8-x86``.
        lineage: the teacher, and every stage before the export.
        labels: class names in the order of the logits; empty when there are none.
        preprocessing: what turns raw data into the inputs, as the task describes it.
        signature: names, dtypes and shapes of inputs and outputs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    variant: str
    lineage: Lineage
    labels: tuple[str, ...]
    preprocessing: dict[str, Any]
    signature: Signature


def write_metadata(proto: onnx.ModelProto, metadata: Metadata) -> None:
    """Puts `metadata` into the file, replacing what an earlier call put there, in place."""
    others = {entry.key: entry.value for entry in proto.metadata_props if entry.key != KEY}
    onnx.helper.set_model_props(proto, others | {KEY: metadata.model_dump_json()})


def read_metadata(properties: Mapping[str, str]) -> Metadata:
    """Reads it back from a file's key-value pairs (`Session.metadata`).

    Raises:
        ArtifactError: none is there, or of another format version.
    """
    text = properties.get(KEY)
    if text is None:
        raise ArtifactError("the file has no compress metadata", expected=f"key {KEY!r}", got=sorted(properties))
    version = json.loads(text).get("format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError("the file's metadata has another format version", expected=FORMAT_VERSION, got=version)
    try:
        return Metadata.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError("the file's metadata is not valid", got=str(error)) from error
