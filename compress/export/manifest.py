"""``bundle.json``: what a bundle holds, written with it and read where it is checked, by the standard library alone.

A bundle may come from anybody, so every field has a form, and what is not of that form is refused before a file that it
names is opened.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from compress.errors import ArtifactError

FORMAT_VERSION = 1
NAME = "bundle.json"
MIN_REFERENCE_ROWS = 32
NEEDED = ("labels.json", "preprocessing.json", "reference.npz", "predict.py")

# What a bundle from elsewhere may ask for. Limits that are wider than these judge nothing.
MAX_MANIFEST_BYTES = 2**24
MAX_FILE_BYTES = 2**36  # 64 GiB
MAX_FILES = 1000
MAX_TOLERANCE = 0.1
LEAST_AGREEMENT = 0.9
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")  # a file's name: no folder, no drive, not hidden
SHA256 = re.compile(r"[0-9a-f]{64}")


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
            ArtifactError: when there is none, one of another format, or one that no bundle of ours has.
        """
        path = directory / NAME
        try:
            with path.open("rb") as file:
                text = file.read(MAX_MANIFEST_BYTES + 1)
            if len(text) > MAX_MANIFEST_BYTES:
                raise ValueError(f"more than {MAX_MANIFEST_BYTES} bytes")
            found = json.loads(text, parse_constant=_refuse_constant)
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError("this is no bundle", got=repr(error), where=path) from error
        version = found.get("format_version") if isinstance(found, dict) else None
        if version != FORMAT_VERSION and type(version) is int:
            raise ArtifactError("the bundle has another format", expected=FORMAT_VERSION, got=version, where=directory)
        try:
            return cls._of(found)
        except _MalformedError as error:
            raise ArtifactError(
                "the bundle's manifest is malformed",
                expected=error.expected,
                got=error.got,
                where=f"{path}, {error.field}",
            ) from None

    @classmethod
    def _of(cls, found: Any) -> Self:
        values = _mapping(found, "the whole", names={entry.name for entry in fields(cls)})
        _check(type(values["format_version"]) is int, "format_version", "a number", values["format_version"])
        files = {
            name: _content(entry, f"files.{name}") for name, entry in _plainly_named(values["files"], "files").items()
        }
        variants = {
            name: _bounds(name, entry, files) for name, entry in _plainly_named(values["variants"], "variants").items()
        }
        _check(variants != {}, "variants", "at least one, since something must be judged", "none")
        judged = [bounds.file for bounds in variants.values()]
        _check(
            values["primary"] in judged,
            "primary",
            f"one of the variants' files: {', '.join(judged)}",
            values["primary"],
        )
        for name in NEEDED:
            _check(name in files, "files", f"{name} among them", ", ".join(files) or "none")
        _mapping(values["lineage"], "lineage")
        _check_signature(values["signature"])
        return cls(**values | {"variants": variants, "files": files})

    def write(self, directory: Path) -> None:
        """Write it into a bundle."""
        (directory / NAME).write_text(json.dumps(asdict(self), indent=1))

    def lead_with(self, variant: str) -> Self:
        """Return what the bundle holds with another primary file; with none named, as it is."""
        return replace(self, primary=self.variants[variant].file) if variant else self

    @property
    def sha256(self) -> str:
        """Of the primary file."""
        return self.files[self.primary].sha256

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in call order."""
        return [tensor["name"] for tensor in self.signature["inputs"]]


class _MalformedError(ValueError):
    """A field that has another form than a bundle of ours."""

    def __init__(self, field: str, expected: str, got: object) -> None:
        self.field, self.expected, self.got = field, expected, _shown(got)
        super().__init__(field)


def _shown(value: object) -> str:
    """A refused value in one short line, whatever it is."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _check(holds: bool, field: str, expected: str, got: object) -> None:
    if not holds:
        raise _MalformedError(field, expected, got)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _mapping(value: Any, field: str, *, names: set[str] | None = None) -> dict[str, Any]:
    _check(isinstance(value, dict), field, "a mapping", value)
    if names is not None:
        _check(value.keys() == names, field, f"the keys {', '.join(sorted(names))}", ", ".join(sorted(value)))
    return value


def _plainly_named(value: Any, field: str) -> Mapping[str, Any]:
    _check(len(_mapping(value, field)) <= MAX_FILES, field, f"at most {MAX_FILES}", len(value))
    for name in value:
        _check(PLAIN.fullmatch(name) is not None and name != NAME, field, "a plain name, in this directory", name)
    return value


def _number(value: Any, field: str, expected: str, *, holds: Callable[[float], bool]) -> None:
    number = type(value) in (int, float) and math.isfinite(value)
    _check(number and holds(value), field, expected, value)


def _content(value: Any, field: str) -> Content:
    entry = _mapping(value, field, names={"sha256", "size_bytes"})
    digest, size = entry["sha256"], entry["size_bytes"]
    _check(isinstance(digest, str) and SHA256.fullmatch(digest) is not None, f"{field}.sha256", "64 hex digits", digest)
    whole = type(size) is int and 0 <= size <= MAX_FILE_BYTES
    _check(whole, f"{field}.size_bytes", f"0 to {MAX_FILE_BYTES}", size)
    return Content(**entry)


def _bounds(name: str, value: Any, files: Mapping[str, Content]) -> Bounds:
    field = f"variants.{name}"
    entry = _mapping(value, field, names={"file", "tolerance", "min_agreement"})
    file = entry["file"]
    _check(isinstance(file, str) and file in files, f"{field}.file", "the name of one of the files", file)
    agreement, tolerance = entry["min_agreement"], entry["tolerance"]
    _number(
        agreement,
        f"{field}.min_agreement",
        f"{LEAST_AGREEMENT} to 1",
        holds=lambda value: LEAST_AGREEMENT <= value <= 1,
    )
    if tolerance is not None or not name.startswith(("int8", "int4")):  # integers are judged by their decisions alone
        _number(
            tolerance, f"{field}.tolerance", f"0 to {MAX_TOLERANCE}", holds=lambda value: 0 <= value <= MAX_TOLERANCE
        )
    return Bounds(**entry)


def _check_signature(value: Any) -> None:
    inputs: Any = _mapping(value, "signature").get("inputs")
    _check(isinstance(inputs, list) and inputs != [], "signature.inputs", "a list of tensors", inputs)
    names = [tensor.get("name") if isinstance(tensor, dict) else None for tensor in inputs]
    told = all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names)
    _check(told, "signature.inputs", "tensors with a name each", names)
