"""``manifest.json``: what an artifact is and which files it holds, written last and read first."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from compress.errors import ArtifactError

FORMAT = 1
NAME = "manifest.json"
Kind = Literal["model", "quantized", "bundle", "scores", "outputs", "step"]
# Of a damaged one, or one being discarded. Not ValueError, which our own refusals are.
READ_ERRORS = (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Content:
    """A file of the artifact.

    Attributes:
        size_bytes: how many bytes it has.
        sha256: of them.
    """

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an artifact is.

    Attributes:
        format: of this file.
        kind: see `Artifact`, as the next four.
        key: finds it.
        digest: proves its content.
        inputs: what the key was made of.
        facts: what the maker wants known.
        created: UTC, in ISO 8601.
        files: by path within the directory.
    """

    format: int
    kind: Kind
    key: str
    digest: str
    inputs: dict[str, Any]
    facts: dict[str, Any]
    created: str
    files: dict[str, Content]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Return the manifest of an artifact; the files are not looked at.

        Raises:
            ArtifactError: when a newer compress wrote it.
            READ_ERRORS: when it is not there, or damaged.
        """
        written = json.loads((directory / NAME).read_text())
        if written.get("format") > FORMAT:
            raise ArtifactError(
                "the artifact was written by a newer compress",
                expected=f"format {FORMAT}",
                got=written.get("format"),
                where=directory,
            )
        files = {name: Content(**entry) for name, entry in written.pop("files").items()}
        return cls(**written, files=files)

    def write(self, directory: Path) -> None:
        """Write it; this is what makes a directory an artifact."""
        (directory / NAME).write_text(json.dumps(asdict(self), indent=1))
