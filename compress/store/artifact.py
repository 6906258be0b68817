"""The store: directories that are written once, committed atomically, found by key and checked by digest.

Commit protocol: everything is written to a temporary directory on the same filesystem, every file is fsynced,
``manifest.json`` is written last, the directory is renamed into place and its parent is fsynced. A directory without a
manifest does not exist. Model files are plain files, never links: onnx refuses linked external data.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from compress.errors import ArtifactError, EnvironmentFault, LockedError
from compress.store.manifest import FORMAT, NAME, READ_ERRORS, Content, Kind, Manifest

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS})
# numpy and safetensors tell of a failed write in words only: "100 requested and 7 written", "... (os error 28)".
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
OS_ERROR = re.compile(r"\(os error (\d+)\)")
DRAFT = re.compile(r"\.draft-[0-9a-f]{16}-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")
FOREIGN_DRAFT_S = 24 * 3600.0  # a draft of another machine is left alone for so long


@dataclass(frozen=True)
class Artifact:
    """One committed directory.

    Attributes:
        path: the directory.
        kind: ``model`` (trainable torch model), ``quantized`` (torch model with a quantization plan), ``bundle`` (ONNX
            files for deployment), or one of the store's own: ``scores``, ``outputs``, ``step``.
        key: SHA-256 of everything that decides the content; finds it again.
        digest: SHA-256 of the content itself; proves it.
        inputs: what the key was made of, by name.
        facts: what the maker wants known, JSON values.
    """

    path: Path
    kind: Kind
    key: str
    digest: str
    inputs: dict[str, Any]
    facts: dict[str, Any]

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file of this artifact."""
        return json.loads((self.path / name).read_text())


def hash_values(values: Any) -> str:
    """Return the SHA-256 of JSON values in canonical form."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writable(root: Path) -> Iterator[None]:
    """Turn writes inside the block that the disk refuses (full, quota, read-only) into an error of ours.

    Args:
        root: the store that is written to.

    Raises:
        EnvironmentFault: for such an OSError or SafetensorError; every other error passes unchanged.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _disk_refused(error):
            raise
        raise EnvironmentFault(
            "the store cannot be written; what was committed before is intact",
            got=error,
            where=root,
            hint="free disk space, then run the same command again",
        ) from error


def _disk_refused(error: OSError | SafetensorError) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_ERRORS
    number = OS_ERROR.search(str(error))
    return int(number[1]) in DISK_ERRORS if number else SHORT_WRITE.search(str(error)) is not None


@dataclass(frozen=True)
class Store:
    """One directory for all pipelines: artifacts by key, teacher outputs, scores, work in progress, runs, MLflow.

    Attributes:
        root: the directory; made when missing.
    """

    root: Path

    @classmethod
    def open(cls, root: Path) -> "Store":
        """Return the store at a directory, making it when missing; what killed processes left half-written is removed.

        Raises:
            EnvironmentFault: when it cannot be written.
        """
        root = root.expanduser().absolute()
        try:
            root.mkdir(parents=True, exist_ok=True)
            probe = root / f".probe-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise EnvironmentFault(
                "the store cannot be written", got=error, where=root, hint="name another with --store or COMPRESS_STORE"
            ) from error
        _remove_leftovers(root / "artifacts")
        return cls(root)

    def find(self, key: str, *, verify: bool = False) -> Artifact | None:
        """Return the artifact of a key, or None when it was never committed.

        Args:
            key: see ``Artifact.key``.
            verify: also recompute every file's SHA-256; sizes are always compared.

        Raises:
            ArtifactError: when it is truncated, changed, unreadable or of a newer format.
        """
        path = self.root / "artifacts" / key
        return read_artifact(path, verify=verify) if (path / NAME).exists() else None

    def discard(self, key: str) -> None:
        """Remove the artifact of a key, if there is one; a reader that has its files open keeps them."""
        path = self.root / "artifacts" / key
        if path.exists():
            doomed = path.with_name(f".discarded-{key[:16]}-{uuid.uuid4().hex[:8]}")
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def work(self, key: str) -> Path:
        """Return the directory for work in progress on a key: checkpoints and half-written files.

        Raises:
            EnvironmentFault: when it cannot be made.
        """
        path = self.root / "work" / key
        with writable(self.root):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def commit(
        self, inputs: dict[str, Any], *, kind: Kind, write: Callable[[Path], dict[str, Any]], discard_work: bool = True
    ) -> Artifact:
        """Write and commit the artifact that these inputs decide; return the existing one if it is there already.

        Args:
            inputs: what decides the content; its hash is the key.
            kind: the kind of artifact.
            write: fills a given empty directory and returns the facts.
            discard_work: remove the key's work directory once committed.

        Raises:
            EnvironmentFault: when the disk is full or not writable; earlier artifacts are untouched.
        """
        key = hash_values(inputs)
        found = self.find(key)
        if found is not None:
            return found
        target = self.root / "artifacts" / key
        draft = self.root / "artifacts" / f".draft-{key[:16]}-{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            with writable(self.root):
                draft.mkdir(parents=True)
                facts = write(draft)
                _manifest(draft, kind=kind, key=key, inputs=inputs, facts=facts).write(draft)
                _sync(draft)
                os.rename(draft, target)
                _sync_directory(target.parent)
        except OSError:
            if (target / NAME).exists():  # another process was faster; contents with one key are equal
                return read_artifact(target, verify=False)
            raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        if discard_work:
            shutil.rmtree(self.root / "work" / key, ignore_errors=True)
        return read_artifact(target, verify=False)

    @contextmanager
    def lock(self, name: str, *, wait: Callable[[str], None] | None) -> Iterator[None]:
        """Hold an exclusive lock, which the kernel frees when the process dies.

        Args:
            name: what is locked.
            wait: called once with a message when another process holds it, before waiting; None refuses instead.

        Raises:
            LockedError: when another process holds it and ``wait`` is None.
            EnvironmentFault: when the disk is full or not writable.
        """
        path = self.root / "locks" / f"{name}.lock"
        with writable(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            opened = path.open("a+")
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                if wait is None:
                    raise LockedError(
                        "another process is running this", got=holder, where=path, hint="wait for it, or stop it"
                    ) from None
                wait(f"waiting for {holder}, which is making the same artifact")
                fcntl.flock(file, fcntl.LOCK_EX)
            with writable(self.root):
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), f"process {os.getpid()} since {time.strftime('%H:%M:%S')}".encode())
            yield


def _machine() -> str:
    """Return eight digits for this host and process namespace: a process number means the same only there."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hash_values([platform.node(), namespace])[:8]


def _remove_leftovers(artifacts: Path) -> None:
    """Remove what was being discarded, and drafts whose process is gone or, on another machine, surely gone."""
    for path in artifacts.glob(".d*"):
        if path.name.startswith(".discarded-") or _abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _abandoned(path: Path) -> bool:
    name = DRAFT.fullmatch(path.name)
    if name is not None and name["machine"] == _machine():
        return not _alive(int(name["pid"]))
    try:
        return path.name.startswith(".draft-") and time.time() - path.stat().st_mtime > FOREIGN_DRAFT_S
    except FileNotFoundError:  # its process has just committed it
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def read_artifact(path: Path, *, verify: bool) -> Artifact:
    """Return the artifact at a directory after checking its files against its manifest.

    Raises:
        ArtifactError: when a file is missing, truncated or (with ``verify``) changed, or the format is newer.
    """
    try:
        manifest = Manifest.read(path)
        for name, entry in manifest.files.items():
            file = path / name
            size = file.stat().st_size
            if size != entry.size_bytes:
                raise _damaged(path, name, f"{entry.size_bytes} bytes", f"{size} bytes")
            if verify and (found := hash_file(file)) != entry.sha256:
                raise _damaged(path, name, f"sha256 {entry.sha256[:16]}...", f"sha256 {found[:16]}...")
        return _of_manifest(path, manifest)
    except READ_ERRORS as error:
        raise ArtifactError(
            "the artifact cannot be read", got=error, where=path, hint=f"delete {path}; the next run makes it again"
        ) from error


def ancestry(artifact: Artifact) -> list[Artifact]:
    """Return an artifact and what it was made from, the first ancestor first, itself last.

    Ancestors are looked for in the store that it lies in; their files are not checked. Where one is no longer there,
    the line begins after it.
    """
    stored: dict[str | None, list[Artifact]] = {}
    for path in sorted(artifact.path.parent.glob(f"[!.]*/{NAME}")):
        try:
            found = _of_manifest(path.parent, Manifest.read(path.parent))
        except (ArtifactError, *READ_ERRORS):  # being discarded, or damaged: no ancestor of use
            continue
        stored.setdefault(found.digest, []).append(found)
    line, descendants = [artifact], {artifact.digest}
    while True:
        # Equal contents may have been made in several ways: the first by key, but not from what descends from them.
        origins = stored.get(line[0].inputs.get("source"), [])
        descendants |= {made.digest for made in origins}
        parent = next((made for made in origins if made.inputs.get("source") not in descendants), None)
        if parent is None:
            return line
        line.insert(0, parent)


def _of_manifest(path: Path, manifest: Manifest) -> Artifact:
    return Artifact(path, manifest.kind, manifest.key, manifest.digest, manifest.inputs, manifest.facts)


def _damaged(path: Path, name: str, expected: str, got: str) -> ArtifactError:
    return ArtifactError(
        f"{name} is not the file that was committed",
        expected=expected,
        got=got,
        where=path,
        hint=f"delete {path}; the next run makes it again",
    )


def _manifest(directory: Path, *, kind: Kind, key: str, inputs: dict[str, Any], facts: dict[str, Any]) -> Manifest:
    files = {
        str(path.relative_to(directory)): Content(path.stat().st_size, hash_file(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    return Manifest(
        format=FORMAT,
        kind=kind,
        key=key,
        digest=hash_values({name: entry.sha256 for name, entry in files.items()}),
        inputs=inputs,
        facts=facts,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        files=files,
    )


def _sync(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        _sync_directory(path)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, also one after a kill, finds the old content or the new, never a part.

    Args:
        path: the file; its directory exists.
        text: the whole content, stored as UTF-8.

    Raises:
        EnvironmentFault: when the disk is full or not writable; what was there before stays.
    """
    draft = path.with_name(f".{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with writable(path.parent):
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
            _sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)
