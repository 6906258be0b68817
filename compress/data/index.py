"""What a folder of image files holds, told once: size, time of change and SHA-256 of every file; kept in the store."""

import hashlib
import io
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.data.ahead import make_ahead
from compress.data.picture import open_picture
from compress.errors import DataError
from compress.progress import Reporter

VERSION = 1  # raised by hand when an index comes to mean something else
MEANWHILE = (
    "put the file back and run the same command again, which goes on from the last checkpoint; as it is now, what "
    "changed is indexed anew, and what learns from other data begins anew"
)


@dataclass(frozen=True)
class Entry:
    """What is told of one file.

    Attributes:
        sha256: of its bytes.
        brightest: highest level of a 16-bit image; -1 for one of 8 bits.
        fault: why it cannot be read; empty where it can.
    """

    sha256: bytes
    brightest: int
    fault: str


@dataclass(frozen=True)
class Index:
    """The image files of a folder, in the order in which they were found.

    Attributes:
        root: the folder.
        paths: of the files, from the folder, with slashes.
        sizes: bytes, int64 [N].
        times_ns: times of change, int64 [N].
        sha256: uint8 [N, 32].
        brightest: highest level of each 16-bit image, -1 for others, int64 [N].
        faults: why files cannot be read, by position.
    """

    root: Path
    paths: tuple[str, ...]
    sizes: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    sha256: NDArray[np.uint8]
    brightest: NDArray[np.int64]
    faults: dict[int, str]

    def check(self, row: int) -> Path:
        """Return the path of a file that is still what was indexed, by its size and time of change.

        Raises:
            DataError: when it is not.
        """
        path = self.root / self.paths[row]
        try:
            now = path.stat()
            same = (now.st_size, now.st_mtime_ns) == (self.sizes[row], self.times_ns[row])
        except OSError:
            same = False
        if not same:
            raise DataError(
                "the folder changed while it was read",
                expected=f"the {len(self.paths):,} files as they were indexed",
                got=f"{self.paths[row]} is gone" if not path.exists() else f"{self.paths[row]} is another",
                where=self.root,
                hint=MEANWHILE,
            )
        return path

    @cached_property
    def known(self) -> dict[str, int]:
        """Position of each path."""
        return {path: row for row, path in enumerate(self.paths)}


def read_index(
    root: Path, images: Sequence[Path], *, store: Path | None, reporter: Reporter
) -> tuple[Index, tuple[str, ...]]:
    """Return the index of a folder's images, and what a user should know of how it came to be.

    Files that an index in the store knows by path, size and time of change are not read again.

    Args:
        root: the folder.
        images: its files, as they lie under ``root``.
        store: where indexes are kept, under ``indexes``; None keeps none.
        reporter: shows how far it is.
    """
    root = root.absolute()
    stats = [path.stat() for path in images]
    names = tuple(path.relative_to(root).as_posix() for path in map(Path.absolute, images))
    sizes, times = (
        np.array(list(side), np.int64) for side in zip(*((s.st_size, s.st_mtime_ns) for s in stats), strict=True)
    )
    kept = None if store is None else _load(_place(store, root), root)
    rows = [_same(kept, name, int(size), int(time)) for name, size, time in zip(names, sizes, times, strict=True)]
    fresh = [position for position, row in enumerate(rows) if row is None]
    sha256, brightest = np.zeros((len(names), 32), np.uint8), np.full(len(names), -1, np.int64)
    faults: dict[int, str] = {}
    for position, row in enumerate(rows):
        if kept is not None and row is not None:
            sha256[position], brightest[position] = kept.sha256[row], kept.brightest[row]
            faults |= {position: kept.faults[row]} if row in kept.faults else {}
    if fresh:
        with reporter.bar("indexing the images", len(fresh)) as bar:
            for position, entry in zip(fresh, make_ahead(_look, [images[position] for position in fresh]), strict=True):
                sha256[position] = np.frombuffer(entry.sha256, np.uint8)
                brightest[position] = entry.brightest
                faults |= {position: entry.fault} if entry.fault else {}
                bar.advance()
    index = Index(root, names, sizes, times, sha256, brightest, faults)
    if store is not None and (fresh or kept is None or len(kept.paths) != len(names)):
        _keep(_place(store, root), index)
    gone = 0 if kept is None else len(kept.paths) - (len(names) - len(fresh))
    changed = kept is not None and bool(fresh or gone)
    told = f"since {root.name} was indexed, {len(fresh):,} files are new or changed, and {gone:,} gone or changed"
    return index, (f"{told}: indexed anew",) if changed else ()


def _same(kept: Index | None, name: str, size: int, time_ns: int) -> int | None:
    """Return where an index has a file of this path, size and time; None where it has not."""
    row = None if kept is None else kept.known.get(name)
    same = kept is not None and row is not None and (kept.sizes[row], kept.times_ns[row]) == (size, time_ns)
    return row if same else None


def _look(path: Path) -> Entry:
    """Read a file to its end and decode it: a file that is cut off has a sound beginning."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Entry(bytes(32), -1, str(error))
    digest = hashlib.sha256(content).digest()
    try:
        brightest = open_picture(path, io.BytesIO(content))[1]
    except DataError as error:
        return Entry(digest, -1, f"{error.message}: {error.got}")
    return Entry(digest, -1 if brightest is None else brightest, "")


def _place(store: Path, root: Path) -> Path:
    return store / "indexes" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.npz"


def _load(path: Path, root: Path) -> Index | None:
    """Return a kept index; None where there is none, it is of another version, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as found:
            if int(found["version"]) != VERSION:
                return None
            names, faults = (tuple(found[side].tobytes().decode().split("\0")) for side in ("paths", "faults"))
            rows = found["faulty"].tolist()
            index = Index(
                root,
                names,
                found["sizes"],
                found["times_ns"],
                found["sha256"],
                found["brightest"],
                dict(zip(rows, faults if rows else (), strict=True)),
            )
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return index if len(names) == len(index.sizes) == len(index.sha256) else None


def _keep(path: Path, index: Index) -> None:
    """Write an index; where the store cannot be written, the next command reads all files again."""
    beside = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            beside,
            allow_pickle=False,
            version=VERSION,
            paths=np.frombuffer("\0".join(index.paths).encode(), np.uint8),
            sizes=index.sizes,
            times_ns=index.times_ns,
            sha256=index.sha256,
            brightest=index.brightest,
            faulty=np.array([*index.faults], np.int64),
            faults=np.frombuffer("\0".join(index.faults.values()).encode(), np.uint8),
        )
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
