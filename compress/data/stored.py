"""Images that stay on disk: rows of a memory-mapped array, or files found in an index; read as an array would be."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.data.ahead import make_ahead
from compress.data.index import MEANWHILE, Index
from compress.data.picture import open_picture
from compress.data.read_image import Steps, fit, to_array
from compress.errors import DataError
from compress.store.notes import Notes

PART = 128  # images that are read at once
MOST_MEASURED = 16_384  # images that mean and deviation of stored ones are taken of, spread evenly over them


def is_mapped(values: object) -> bool:
    """Whether an array, or what it is a view of, is memory-mapped; views may have lost that they are."""
    while isinstance(values, np.ndarray) and not isinstance(values, np.memmap):
        values = values.base
    return isinstance(values, np.memmap)


class Hash(Protocol):
    """What takes bytes one after the other."""

    def update(self, data: bytes, /) -> None:
        """Take some more."""
        ...


class Stored(ABC):
    """Raw images [N, C, H, W] of which a batch at a time is in memory.

    Attributes:
        shape: of all of them.
        dtype: uint8 or float32.
    """

    ndim = 4
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Return one image, or those of a slice or of positions, as an array in memory."""
        if isinstance(rows, int | np.integer):
            return self.read(np.array([rows]))[0]
        return self.read(np.arange(len(self))[rows])

    @abstractmethod
    def read(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """Return the images at these positions, [B, C, H, W].

        Raises:
            DataError: when a file is not what it was.
        """

    @abstractmethod
    def take(self, rows: NDArray[np.integer]) -> Self:
        """Return the images at these positions, still on disk."""

    @abstractmethod
    def hashes(self) -> Iterator[bytes]:
        """Yield 16 bytes for each image; equal images have the same."""

    @abstractmethod
    def digest(self, state: Hash) -> None:
        """Add everything that decides the images, in their order."""

    @abstractmethod
    def statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and deviation of each channel of raw levels, of `MOST_MEASURED` images at most."""

    def parts(self, rows: NDArray[np.integer] | None = None) -> Iterator[NDArray[Any]]:
        """Yield all images, or those at some positions, some at a time, read ahead by threads."""
        rows = np.arange(len(self)) if rows is None else rows
        starts = range(0, len(rows), PART)
        return make_ahead(lambda start: self.read(rows[start : start + PART]), starts)

    def measure(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and deviation of each channel, in one pass over some of the images."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(len(self), MOST_MEASURED)).round().astype(np.int64))
        totals, squares, count = np.zeros(self.shape[1]), np.zeros(self.shape[1]), 0
        for part in self.parts(rows):
            values = part.astype(np.float64)
            totals += values.sum(axis=(0, 2, 3))
            squares += np.square(values).sum(axis=(0, 2, 3))
            count += values.size // values.shape[1]
        mean = totals / count
        return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


@dataclass(frozen=True)
class MappedRows(Stored):
    """Rows of a memory-mapped array.

    Attributes:
        base: [M, C, H, W].
        rows: which of them, int64 [N].
    """

    base: NDArray[Any]
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] # derived
        """Of the rows."""
        return (len(self.rows), *self.base.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:  # pyright: ignore[reportIncompatibleVariableOverride] # derived
        """Of the array."""
        return self.base.dtype

    def read(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """Return copies of some rows."""
        return np.ascontiguousarray(self.base[self.rows[rows]]).view(np.ndarray)

    def take(self, rows: NDArray[np.integer]) -> Self:
        """Return some rows of the same array."""
        return replace(self, rows=self.rows[rows])

    def hashes(self) -> Iterator[bytes]:
        """Yield those of each row's content, as of an array in memory."""
        for part in self.parts():
            yield from (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in part)

    def digest(self, state: Hash) -> None:
        """Add the content, as of an array in memory."""
        for part in self.parts():
            state.update(part.tobytes())

    def statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and deviation."""
        return self.measure()


@dataclass(frozen=True)
class ImageFiles(Stored):
    """Image files that an index knows.

    Attributes:
        index: their paths, sizes, times and hashes.
        rows: which of them, int64 [N].
        steps: what is done to every image.
        store: whose notes keep mean and deviation; None keeps none.
    """

    index: Index
    rows: NDArray[np.int64]
    steps: Steps
    store: Path | None

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] # derived
        """Of the decoded images."""
        return (len(self.rows), 1 if self.steps.channels == "grayscale" else 3, *self.steps.size)

    @property
    def dtype(self) -> np.dtype[Any]:  # pyright: ignore[reportIncompatibleVariableOverride] # derived
        """Bytes."""
        return np.dtype(np.uint8)

    def read(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """Return some images, decoded."""
        return np.stack([to_array(fit(self.open(row), self.steps), self.steps) for row in rows])

    def open(self, row: int | np.integer) -> Image.Image:
        """Return an image as its file has it, upright and of 8 bits a channel.

        Raises:
            DataError: when the file is not what was indexed, or cannot be read any more.
        """
        path = self.index.check(int(self.rows[row]))
        try:
            return open_picture(path)[0]
        except DataError as error:
            raise DataError(
                "an image that was indexed cannot be read any more", got=error.got, where=path, hint=MEANWHILE
            ) from error

    def take(self, rows: NDArray[np.integer]) -> Self:
        """Return some of the files."""
        return replace(self, rows=self.rows[rows])

    def hashes(self) -> Iterator[bytes]:
        """Yield the beginning of the SHA-256 of each file."""
        return (self.index.sha256[row, :16].tobytes() for row in self.rows)

    def digest(self, state: Hash) -> None:
        """Add the SHA-256 of every file and what is done to it."""
        state.update(repr(self.steps).encode())
        state.update(np.ascontiguousarray(self.index.sha256[self.rows]).tobytes())

    def statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and deviation, from the store's notes where they are there."""
        mean, std = self._statistics
        return mean, std

    @cached_property
    def _statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        state = hashlib.sha256()
        self.digest(state)
        name, notes = {"statistics": state.hexdigest()}, None if self.store is None else Notes(self.store)
        if notes is not None and (found := notes.find(name, of=None)) is not None:
            return np.array(found["mean"]), np.array(found["std"])
        mean, std = self.measure()
        if notes is not None:
            notes.keep(name, {"mean": mean.tolist(), "std": std.tolist()}, of=None)
        return mean, std
