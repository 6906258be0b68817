"""The store: directories that are written once, committed atomically, found by key and checked by digest.

Commit protocol: everything is written to a temporary directory on the same filesystem, every file is fsynced,
``manifest.json`` is written last, the directory is renamed into place and its parent is fsynced. A directory without a
manifest does not exist. Model files are plain files, never links: onnx refuses linked external data.

Whatever is found is what was committed: manifest, names, sizes and hashes are compared, and what was compared is not
read again while size and times of its files stay. What fails is moved to ``damaged/``, said, and made anew.
"""

import errno
import logging
import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock, Timeout

from compress.errors import ArtifactError, EnvironmentFault, LockedError
from compress.store.artifact import Artifact, files_of, read_artifact, stamps
from compress.store.digest import hash_file, hash_values
from compress.store.disk import sync, sync_directory, writable
from compress.store.manifest import FORMAT, Content, Kind, Manifest, NewerFormatError, damage, digest_of
from compress.store.notes import Notes

DRAFT = re.compile(r"\.draft-[0-9a-f]{16}-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})
NOTHING: Mapping[str, Any] = MappingProxyType({})
FOREIGN_DRAFT_S = 24 * 3600.0  # a draft of another machine is left alone for so long


@dataclass(frozen=True)
class Store:
    """One directory for all pipelines: artifacts by key, teacher outputs, scores, work in progress, runs, MLflow.

    Attributes:
        root: the directory; made when missing.
        say: told what was set aside, and why.
    """

    root: Path
    say: Callable[[str], object] = field(default=logging.getLogger("compress.store").warning, compare=False)

    @classmethod
    def open(cls, root: Path, *, say: Callable[[str], object] | None = None) -> "Store":
        """Return the store at a directory, making it when missing; what killed processes left half-written is removed.

        Args:
            root: the directory.
            say: told what was set aside, and why; None logs it.

        Raises:
            EnvironmentFault: when it cannot be written, or its path is no UTF-8.
        """
        root = root.expanduser().absolute()
        try:
            str(root).encode()
        except UnicodeEncodeError as error:  # lone surrogates, which SQLite and JSON refuse
            raise EnvironmentFault(
                "the path of the store is no UTF-8",
                got=ascii(str(root)),
                hint="set PYTHONUTF8=1, or name another store",
            ) from error
        try:
            root.mkdir(parents=True, exist_ok=True)
            probe = root / f".probe-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise EnvironmentFault(
                "the store cannot be written", got=error, where=root, hint="name another with --store or COMPRESS_STORE"
            ) from error
        for folder in ("artifacts", "indexes"):
            _remove_leftovers(root / folder)
        return cls(root) if say is None else cls(root, say)

    def find(self, key: str, *, verify: bool = False) -> Artifact | None:
        """Return the artifact of a key, or None when it was never committed, or is no longer what was.

        That is then moved to ``damaged/`` and said, so that it is made anew.

        Args:
            key: see ``Artifact.key``.
            verify: recompute every file's SHA-256 also where that was done before and nothing looks changed.

        Raises:
            NewerFormatError: when a newer compress wrote it.
            EnvironmentFault: when the disk refuses to be read, or the damaged one to be moved.
        """
        try:
            return self.look(key, verify=verify)
        except NewerFormatError:
            raise
        except ArtifactError as error:
            self._set_aside(self._path(key), error)
            return None

    def look(self, key: str, *, verify: bool = False) -> Artifact | None:
        """Return the artifact of a key, or None when there is none; nothing is moved.

        Args:
            key: see ``Artifact.key``.
            verify: see ``find``.

        Raises:
            NewerFormatError: when a newer compress wrote it.
            ArtifactError: when it is damaged, another one's, or has numbers that cannot be proved.
            EnvironmentFault: when the disk refuses to be read.
        """
        path = self._path(key)
        if not os.path.lexists(path):
            return None
        manifest = Manifest.read(path)
        if manifest.key != key:
            raise damage(path, "the artifact of another key")
        if manifest.kind == "scores" and not manifest.is_proved:
            raise damage(path, "scores of an earlier version, whose numbers have no checksum")
        notes, name = Notes(self.root), {"verified": key}
        with suppress(FileNotFoundError):  # which the check tells
            if not verify and notes.find(name, of=stamps(path)) == manifest.digest:
                return Artifact.of(path, manifest)
        found = read_artifact(path, verify=True)
        notes.keep(name, found.digest, of=stamps(path))
        return found

    def discard(self, key: str) -> None:
        """Remove the artifact of a key, if there is one; a reader that has its files open keeps them."""
        path = self._path(key)
        if os.path.lexists(path):
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
        self,
        inputs: dict[str, Any],
        *,
        kind: Kind,
        write: Callable[[Path], dict[str, Any]],
        rounding: Mapping[str, Any] = NOTHING,
        discard_work: bool = True,
    ) -> Artifact:
        """Write and commit the artifact that these inputs decide; return the existing one if it is there already.

        Args:
            inputs: what decides the content; its hash is the key.
            kind: the kind of artifact.
            write: fills a given empty directory and returns the facts.
            rounding: what decided the last bits alone, JSON values by name; see ``Artifact.rounding``.
            discard_work: remove the key's work directory once committed.

        Raises:
            EnvironmentFault: when the disk is full or not writable; earlier artifacts are untouched.
        """
        key = hash_values(inputs)
        found = self.find(key)
        if found is not None:
            return found
        target = self._path(key)
        draft = target.with_name(draft_name(key))
        try:
            with writable(self.root):
                draft.mkdir(parents=True)
                facts = write(draft)
                _manifest(draft, kind=kind, key=key, inputs=inputs, facts=facts, rounding=dict(rounding)).write(draft)
                sync(draft)
                made = self._place(draft, target)
                sync_directory(target.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        if discard_work:
            shutil.rmtree(self.root / "work" / key, ignore_errors=True)
        return made

    def _place(self, draft: Path, target: Path) -> Artifact:
        """Rename a draft to where it is found; another process may have been faster, or damage lie there."""
        try:
            os.rename(draft, target)
        except OSError:
            found = self.find(target.name)
            if found is not None:  # contents with one key are equal
                return found
            os.rename(draft, target)
        made = Artifact.of(target, Manifest.read(target))
        Notes(self.root).keep({"verified": made.key}, made.digest, of=stamps(target))
        return made

    def _path(self, key: str) -> Path:
        return self.root / "artifacts" / key

    def _set_aside(self, path: Path, error: ArtifactError) -> None:
        """Move what is no artifact out of the way, and say so."""
        aside = self.root / "damaged" / f"{path.name[:16]}-{uuid.uuid4().hex[:8]}"
        with writable(self.root), suppress(FileNotFoundError):  # another process has moved it
            aside.parent.mkdir(exist_ok=True)
            path.rename(aside)
            self.say(f"set aside and made anew: {path.name[:16]} ({_reason(error)}); it lies in {aside}")

    @contextmanager
    def lock(self, name: str, *, wait: Callable[[str], None] | None) -> Iterator[None]:
        """Hold an exclusive lock, which the kernel frees when the process dies.

        Args:
            name: what is locked.
            wait: called once with a message when another process holds it, before waiting; None refuses instead.

        Raises:
            LockedError: when another process holds it and ``wait`` is None.
            EnvironmentFault: when the disk is full or not writable, or its file system has no locks.
        """
        path = self.root / "locks" / f"{name}.lock"
        note = path.with_suffix(".holder")  # beside it: where locks are mandatory, a locked file cannot be read
        lock = FileLock(path, thread_local=False, fallback_to_soft=False)  # a soft lock would outlive a killed process
        with writable(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                holder = _read_holder(note)
                if wait is None:
                    raise LockedError(
                        "another process is running this", got=holder, where=path, hint="wait for it, or stop it"
                    ) from None
                wait(f"waiting for {holder}, which is making the same artifact")
                lock.acquire()
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                raise EnvironmentFault(
                    "the store's file system has no locks",
                    got=error,
                    where=self.root,
                    hint="name a store on a local disk with --store or COMPRESS_STORE",
                ) from error
        try:
            with writable(self.root):
                note.write_text(f"process {os.getpid()} since {time.strftime('%H:%M:%S')}", encoding="utf-8")
            yield
        finally:
            lock.release()


def _read_holder(note: Path) -> str:
    """Who holds a lock, in words; it has perhaps not said so yet."""
    try:
        return note.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    except OSError:
        return "another process"


def _machine() -> str:
    """Return eight digits for this host and process namespace: a process number means the same only there."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hash_values([platform.node(), namespace])[:8]


def draft_name(key: str) -> str:
    """Return the name of a file or directory of this process's that becomes what ``key`` finds.

    The next opening of the store removes it from ``artifacts`` and ``indexes`` once this process is gone.

    Args:
        key: at least 16 hexadecimal digits.
    """
    return f".draft-{key[:16]}-{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _remove_leftovers(folder: Path) -> None:
    """Remove what was being discarded, and drafts whose process is gone or, on another machine, surely gone."""
    for path in folder.glob(".d*"):
        if path.name.startswith(".discarded-") or _abandoned(path):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):  # another process has just removed it, or it is another user's
                    path.unlink()


def _abandoned(path: Path) -> bool:
    name = DRAFT.fullmatch(path.name)
    # Windows has no question about a process that leaves it alone: os.kill(pid, 0) would end it.
    if name is not None and name["machine"] == _machine() and sys.platform != "win32":
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


def _reason(error: ArtifactError) -> str:
    """What is wrong, in one line."""
    return "; ".join(line.strip() for line in str(error).splitlines() if not line.startswith(("  where", "  next")))


def _manifest(
    directory: Path, *, kind: Kind, key: str, inputs: dict[str, Any], facts: dict[str, Any], rounding: dict[str, Any]
) -> Manifest:
    files = {
        name: Content((directory / name).stat().st_size, hash_file(directory / name))
        for name in sorted(files_of(directory), key=lambda name: Path(name).parts)
    }
    return Manifest(
        format=FORMAT,
        kind=kind,
        key=key,
        digest=digest_of(files),
        inputs=inputs,
        facts=facts,
        rounding=rounding,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        files=files,
    )
