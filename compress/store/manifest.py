"""``manifest.json``: what an artifact is and which files it holds, written last and read first.

It proves itself: the key is the hash of its inputs, the digest that of its files' hashes, and the checksum that of all
the rest. A hand that changes one of them consistently is not stopped; a disk, a copy and an editor are.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from compress.errors import ArtifactError
from compress.store.digest import hash_values
from compress.store.disk import readable

FORMAT = 3  # 2: with a checksum; 3: with what it was rounded by
NAME = "manifest.json"
Kind = Literal["model", "quantized", "bundle", "scores", "outputs", "step", "simplest"]


class NewerFormatError(ArtifactError):
    """An artifact that a newer compress wrote: whole, but not to be read here."""


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
        rounding: see `Artifact`; empty in earlier formats.
        created: UTC, in ISO 8601.
        files: by path within the directory.
    """

    format: int
    kind: Kind
    key: str
    digest: str
    inputs: dict[str, Any]
    facts: dict[str, Any]
    rounding: dict[str, Any]
    created: str
    files: dict[str, Content]

    @property
    def is_proved(self) -> bool:
        """Whether a checksum covers its facts, which format 1 had none for."""
        return self.format > 1

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Return the manifest of an artifact, if it agrees with itself; the files are not looked at.

        Raises:
            NewerFormatError: when a newer compress wrote it.
            ArtifactError: when it is not there, or damaged.
            EnvironmentFault: when the disk refuses to be read.
        """
        try:
            with readable(directory):
                written = json.loads((directory / NAME).read_bytes())
            checksum = written.pop("checksum", None)
            if checksum != (hash_values(written) if written["format"] > 1 else None):
                raise damage(directory, "its checksum is another one")
            if written["format"] > FORMAT:
                raise NewerFormatError(
                    "the artifact was written by a newer compress",
                    expected=f"format {FORMAT}",
                    got=written["format"],
                    where=directory,
                )
            files = {name: Content(**entry) for name, entry in written.pop("files").items()}
            found = cls(**{"rounding": {}} | written, files=files)
            if found.kind not in get_args(Kind) or not isinstance(found.facts, dict):
                raise damage(directory, f"no kind and facts: {found.kind}, {type(found.facts).__name__}")
            if found.key != hash_values(found.inputs):
                raise damage(directory, "its key is not that of its inputs")
            if found.digest != digest_of(files):
                raise damage(directory, "its digest is not that of its files")
        except ArtifactError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damage(directory, error) from error
        return found

    def write(self, directory: Path) -> None:
        """Write it, with its checksum; this is what makes a directory an artifact."""
        written = json.loads(json.dumps(asdict(self)))
        assert hash_values(written["inputs"]) == self.key, "inputs are JSON values, with texts as keys"
        (directory / NAME).write_text(json.dumps(written | {"checksum": hash_values(written)}, indent=1))


def digest_of(files: dict[str, Content]) -> str:
    """Return the digest of an artifact with these files."""
    return hash_values({name: entry.sha256 for name, entry in files.items()})


def damage(directory: Path, got: object) -> ArtifactError:
    """Return the error of an artifact that cannot be read."""
    return ArtifactError(
        "the artifact cannot be read", got=got, where=directory, hint=f"delete {directory}; the next run makes it again"
    )
