"""An append-only file of events: one JSON object a line, each with its checksum, safe against kill -9.

A line is ``{"crc":"<crc32 of the event's bytes, hex>","event":{...}}``. A last line that a crash tore is
dropped when the file is opened for writing again; a bad line anywhere else means that the file was edited.
"""

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compress.errors import ArtifactError, EnvironmentFault, LockedError

Line = dict[str, Any]


class Journal:
    """The one writer of a journal file, by an advisory lock that the kernel frees when the process ends.

    Args:
        path: the file; made when absent, with its folder.

    Raises:
        LockedError: when another process writes it.
        ArtifactError: when a line before the last is damaged.
        EnvironmentFault: when the disk cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Whichever thread closes it; and never a soft lock, which would outlive a killed process.
            self._lock = FileLock(path.with_suffix(".lock"), blocking=False, thread_local=False, fallback_to_soft=False)
            self._lock.acquire()
            self._file = path.open("ab", buffering=0)
        except Timeout:
            raise LockedError("another process writes this journal", where=path) from None
        except OSError as error:
            raise EnvironmentFault("the journal cannot be written", got=error.strerror, where=path) from error
        self.size_bytes = 0
        try:
            for _, self.size_bytes in read(path):
                pass
        except ArtifactError:
            self._release()
            raise
        self._file.truncate(self.size_bytes)

    def append(self, event: Line, *, sync: bool = False) -> None:
        """Write one event; with sync it is on the disk when this returns.

        Raises:
            EnvironmentFault: when the disk is full or gone. The journal stays readable.
            ValueError: when the event holds NaN or infinity.
        """
        body = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        line = b'{"crc":"%08x","event":%s}\n' % (zlib.crc32(body), body)
        try:
            written = self._file.write(line)
            if written == len(line) and sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise EnvironmentFault("the journal cannot be written", got=error.strerror, where=self.path) from error
        if written != len(line):
            self._file.truncate(self.size_bytes)
            raise EnvironmentFault("the disk is full", where=self.path, hint="free space and run the command again")
        self.size_bytes += len(line)

    def close(self) -> None:
        """Sync and give up the lock."""
        os.fsync(self._file.fileno())
        self._release()

    def _release(self) -> None:
        self._file.close()
        self._lock.release()


def read(path: Path, *, start: int = 0) -> Iterator[tuple[Line, int]]:
    """Events from byte `start` on, each with the byte at which its line ends; a torn last line is left out.

    Raises:
        ArtifactError: when a line before the last is damaged.
    """
    with path.open("rb") as file:
        end = file.seek(start)
        for line in file:
            event = _parse(line)
            if event is None:
                if line.endswith(b"\n") and file.peek(1):
                    raise ArtifactError("a journal line is damaged", where=f"{path}, byte {end}", hint="move it away")
                return
            end += len(line)
            yield event, end


def _parse(line: bytes) -> Line | None:
    head, _, rest = line.partition(b',"event":')
    body = rest[:-2]
    if not rest.endswith(b"}\n") or head != b'{"crc":"%08x"' % zlib.crc32(body):
        return None
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):  # the checksum is right: somebody wrote it so
        return None
    return event if isinstance(event, dict) else None
