"""``bundle.json``: what a bundle holds, written with it and read where it is checked, by the standard library alone."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from compress.errors import ArtifactError

FORMAT_VERSION = 1
NAME = "bundle.json"


@dataclass(frozen=True)
class Content:
    """A file of the bundle.

    Attributes:
        sha256: of its bytes.
        size_bytes: how many they are.
    """

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Bounds:
    """How far a variant may be from the reference on another machine.

    Attributes:
        file: its name.
        tolerance: of an output, relative to max(1, largest output); None: it is judged by its decisions.
        min_agreement: share of equal decisions, 0 to 1.
    """

    file: str
    tolerance: float | None
    min_agreement: float


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    Attributes:
        format_version: of this form.
        primary: name of the file that the headline is about.
        variants: by name.
        lineage: the stages that made the model; JSON values.
        signature: its inputs and outputs; JSON values.
        files: every other file, by name.
    """

    format_version: int
    primary: str
    variants: dict[str, Bounds]
    lineage: dict[str, Any]
    signature: dict[str, Any]
    files: dict[str, Content]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Return the manifest of a bundle.

        Raises:
            ArtifactError: when there is none, or one of another format.
        """
        path = directory / NAME
        try:
            found = json.loads(path.read_text())
            version = found.pop("format_version")
            if version != FORMAT_VERSION:
                raise ArtifactError(
                    "the bundle has another format", expected=FORMAT_VERSION, got=version, where=directory
                )
            variants = {name: Bounds(**entry) for name, entry in found.pop("variants").items()}
            files = {name: Content(**entry) for name, entry in found.pop("files").items()}
            return cls(format_version=version, variants=variants, files=files, **found)
        except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError("this is no bundle", got=repr(error), where=path) from error

    def write(self, directory: Path) -> None:
        """Write it into a bundle."""
        (directory / NAME).write_text(json.dumps(asdict(self), indent=1))

    @property
    def sha256(self) -> str:
        """Of the primary file.

        Raises:
            KeyError: when the bundle has no such file.
        """
        return self.files[self.primary].sha256

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in call order.

        Raises:
            KeyError: when the signature names none.
        """
        return [tensor["name"] for tensor in self.signature["inputs"]]
