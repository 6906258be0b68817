"""Writing so that a kill leaves the old or the new, and telling what a disk refuses in one sentence."""

import errno
import os
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from compress.errors import EnvironmentFault

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS})
# numpy and safetensors tell of a failed write in words only: "100 requested and 7 written", "... (os error 28)".
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
OS_ERROR = re.compile(r"\(os error (\d+)\)")


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


@contextmanager
def readable(root: Path) -> Iterator[None]:
    """Turn a refusal of the disk to be read (permission, a failing device) into an error of ours.

    Args:
        root: what is read.

    Raises:
        EnvironmentFault: for such an OSError; every other error passes unchanged.
    """
    try:
        yield
    except OSError as error:
        if not _disk_refused(error):
            raise
        raise EnvironmentFault("the store cannot be read", got=error, where=root) from error


def _disk_refused(error: OSError | SafetensorError) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_ERRORS
    number = OS_ERROR.search(str(error))
    return int(number[1]) in DISK_ERRORS if number else SHORT_WRITE.search(str(error)) is not None


def reserve(path: Path) -> None:
    """Have the disk set aside a file's size, where it can: on a full one, a write to mapped memory ends the process.

    Raises:
        OSError: when there is no room.
    """
    if not hasattr(os, "posix_fallocate"):  # Windows and macOS
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # what filesystems say that cannot
                raise


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
            sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sync(directory: Path) -> None:
    """Wait until every file below a directory, and the names in it, are on the disk."""
    for path in directory.rglob("*"):
        if path.is_file():
            sync_file(path)
    for path in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        sync_directory(path)


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with path.open("r+b" if sys.platform == "win32" else "rb") as file:  # Windows syncs what may be written
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk; Windows opens no directories, and keeps its own journal."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
