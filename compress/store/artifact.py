"""Artifact: a directory that was committed, and is what was committed."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.store.digest import hash_file
from compress.store.disk import readable
from compress.store.manifest import NAME, Content, Kind, Manifest, damage


@dataclass(frozen=True)
class Artifact:
    """One committed directory.

    Attributes:
        path: the directory.
        kind: ``model`` (trainable torch model), ``quantized`` (torch model with a quantization plan), ``bundle`` (ONNX
            files for deployment), or one of the store's own: ``scores``, ``outputs``, ``step``, ``simplest``.
        key: SHA-256 of everything that decides the content; finds it again.
        digest: SHA-256 of the content itself; proves it.
        inputs: what the key was made of, by name.
        facts: what the maker wants known, JSON values.
        rounding: threads and device, where they decided its last bits; nothing else of it would be another.
    """

    path: Path
    kind: Kind
    key: str
    digest: str
    inputs: dict[str, Any]
    facts: dict[str, Any]
    rounding: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, manifest: Manifest) -> "Artifact":
        """Return the artifact that a manifest describes."""
        return cls(
            path, manifest.kind, manifest.key, manifest.digest, manifest.inputs, manifest.facts, manifest.rounding
        )

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file of this artifact."""
        return json.loads((self.path / name).read_text())


def read_artifact(path: Path, *, verify: bool) -> Artifact:
    """Return the artifact at a directory after checking its files against its manifest.

    Args:
        path: the directory, whatever it is called.
        verify: also recompute every file's SHA-256; names and sizes are always compared.

    Raises:
        NewerFormatError: when a newer compress wrote it.
        ArtifactError: when a file is missing, added, truncated or (with ``verify``) changed.
        EnvironmentFault: when the disk refuses to be read.
    """
    manifest = Manifest.read(path)
    try:
        with readable(path):
            _check_files(path, manifest.files, verify=verify)
    except OSError as error:
        raise damage(path, error) from error
    return Artifact.of(path, manifest)


def files_of(path: Path) -> set[str]:
    """Return the names of all files of an artifact but the manifest's; links are files, which none has."""
    found: set[Path] = set()
    for folder, folders, names in os.walk(path):
        found |= {Path(folder, name) for name in names}
        found |= {Path(folder, name) for name in folders if Path(folder, name).is_symlink()}
    return {str(file.relative_to(path)) for file in found} - {NAME}


def stamps(path: Path) -> list[tuple[str, int, int, int, int]]:
    """Return name, size, times of change and number of every file: while they stay, so does the content.

    Raises:
        OSError: when a file is gone.
    """
    found = ((name, (path / name).lstat()) for name in sorted({*files_of(path), NAME}))
    return [(name, entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns, entry.st_ino) for name, entry in found]


def ancestry(artifact: Artifact) -> list[Artifact]:
    """Return an artifact and what it was made from, the first ancestor first, itself last.

    Ancestors are looked for in the store that it lies in; their files are not checked. Where one is no longer there,
    the line begins after it.
    """
    stored: dict[str | None, list[Artifact]] = {}
    for path in sorted(artifact.path.parent.glob(f"[!.]*/{NAME}")):
        try:
            manifest = Manifest.read(path.parent)
        except ArtifactError:  # being discarded, or damaged: no ancestor of use
            continue
        if manifest.key == path.parent.name:
            stored.setdefault(manifest.digest, []).append(Artifact.of(path.parent, manifest))
    line, descendants = [artifact], {artifact.digest}
    while True:
        # Equal contents may have been made in several ways: the first by key, but not from what descends from them.
        origins = stored.get(line[0].inputs.get("source"), [])
        descendants |= {made.digest for made in origins}
        parent = next((made for made in origins if made.inputs.get("source") not in descendants), None)
        if parent is None:
            return line
        line.insert(0, parent)


def _check_files(path: Path, files: Mapping[str, Content], *, verify: bool) -> None:
    present = files_of(path)
    for name, entry in files.items():
        if name not in present:
            raise _changed(path, name, "the file", "none")
        file = path / name
        size = file.lstat().st_size
        if file.is_symlink() or size != entry.size_bytes:
            raise _changed(path, name, f"{entry.size_bytes} bytes", "a link" if file.is_symlink() else f"{size} bytes")
        if verify and (found := hash_file(file)) != entry.sha256:
            raise _changed(path, name, f"sha256 {entry.sha256[:16]}...", f"sha256 {found[:16]}...")
    for name in sorted(present - files.keys()):
        raise _changed(path, name, "no such file", "one")


def _changed(path: Path, name: str, expected: str, got: str) -> ArtifactError:
    return ArtifactError(
        f"{name} is not the file that was committed",
        expected=expected,
        got=got,
        where=path,
        hint=f"delete {path}; the next run makes it again",
    )
