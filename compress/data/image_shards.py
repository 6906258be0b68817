"""Images that lie encoded in few large files: what Parquet and tar files of them have in common."""

import io
import json
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.data.picture import Mode, check_depth, open_picture
from compress.data.preprocess import Sides, choose_steps
from compress.data.read_image import Steps, fit, to_array
from compress.data.samples import Role, Samples
from compress.data.source import Opening, Raw, Source, class_numbers
from compress.data.stored import MappedRows
from compress.errors import DataError, listing
from compress.store.digest import hash_values
from compress.store.disk import reserve, writable, write_atomically
from compress.store.store import draft_name


class Part(Protocol):
    """One file of them, which has been looked at."""

    @property
    def path(self) -> Path:
        """Of the file."""
        ...

    @property
    def rows(self) -> int:
        """How many images it has."""
        ...

    @property
    def texts(self) -> bool:
        """Whether classes are texts."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, where it says them."""
        ...

    def cells(self) -> Iterator[tuple[Path, bytes, Any]]:
        """Yield where each image is, its bytes and its class; None where there are none.

        Raises:
            DataError: when a row has none, or the file is damaged.
        """
        ...


class ImageShards(Source):
    """Images in a file, or a folder of files, for all roles or for each.

    Class attributes:
        kind: what a recipe calls the source.
        suffix: of the files.

    Attributes:
        path: all images, from which the roles are drawn.
        files: or a file or folder for each role; roles without one are drawn from train.
        size: side of the square every image is resized to, or height and width; None where ``data.preprocess`` says it.
        mode: one channel or three, where it does not.
        memory_gb: images that take more than this when they are decoded, in units of 10^9 bytes, are decoded into a
            file in the store, which is memory-mapped.
        on_error: what to do with images that cannot be read: ``refuse`` the table, or ``skip`` and count them.
    """

    of_files: ClassVar[bool] = True
    of_images: ClassVar[bool] = True
    kind: ClassVar[str]
    suffix: ClassVar[str]

    path: Path | None = None
    files: dict[Role, Path] = {}
    size: Sides | None = None
    mode: Mode = "rgb"
    memory_gb: Annotated[float, Field(ge=0)] = 1.0
    on_error: Literal["refuse", "skip"] = "refuse"

    def model_post_init(self, _context: object) -> None:
        """Refuse both or neither of ``path`` and ``files``."""
        if (self.path is None) == (not self.files):
            raise ValueError("expected either path (all rows) or files (by role)")

    @property
    def is_unsized(self) -> bool:
        """Whether ``size`` says nothing."""
        return self.size is None

    @property
    def title(self) -> str:
        """The name of the file or folder."""
        return (self.path or next(iter(self.files.values()))).stem

    @abstractmethod
    def open_part(self, path: Path) -> Part:
        """Return one file, of which no image has been decoded.

        Raises:
            DataError: when it is damaged, or does not hold what is asked for.
        """

    @property
    @abstractmethod
    def columns(self) -> list[str | None]:
        """What of the files is read, besides how, which the file of decoded images goes by."""

    def load(self, *, code: Sequence[Path]) -> Raw:
        """Return the rows; see `open`."""
        return self.open(Opening(), code=code)

    def open(self, opening: Opening, *, code: Sequence[Path]) -> Raw:  # noqa: ARG002
        """Return the rows, read as a model expects them.

        Raises:
            DataError: when a file is missing, damaged or has no such columns, an image cannot be read, or both or
                neither of ``size`` and ``preprocess`` say what images become, or files have other classes than others.
            EnvironmentFault: when the disk has no room for decoded images.
        """
        steps = choose_steps(self.size, self.mode, opening.preprocess, source=self.kind)
        given: Mapping[Role, Path] = {"train": self.path} if self.path is not None else self.files
        parts = {role: [self.open_part(file) for file in _shards(path, self.suffix)] for role, path in given.items()}
        names = _agree([part for found in parts.values() for part in found])
        read: dict[Role, Read] = {role: self._read(path, parts[role], steps, opening) for role, path in given.items()}
        texts = {text for found in read.values() for text in found.labels if isinstance(text, str)}
        classes = tuple(sorted(texts)) or names
        roles: dict[Role, Samples] = {
            role: Samples(found.images, _numbers(found.labels, classes)) for role, found in read.items()
        }
        return Raw(roles, classes, tuple(note for found in read.values() for note in found.notes))

    def _read(self, path: Path, parts: Sequence[Part], steps: Steps, opening: Opening) -> "Read":
        """Read one role."""
        rows = sum(part.rows for part in parts)
        shape = (rows, 1 if steps.channels == "grayscale" else 3, *steps.size)
        found = Read()
        if math.prod(shape) <= self.memory_gb * 1e9 or opening.store is None:
            images = np.zeros(shape, np.uint8)
            kept = self._fill(images, parts, steps, opening, found)
            found.images = images[kept] if len(kept) < rows else images
        else:
            found.images = self._decode_to_file(shape, parts, steps, opening, found)
        if found.faults:
            told = f"{len(found.faults):,} of {rows:,} images cannot be read and are left out: {listing(found.faults)}"
            found.notes.append(told)
        if path.is_dir():
            found.notes.append(f"{path.name}: {len(parts):,} files")
        return found

    def _decode_to_file(
        self, shape: tuple[int, ...], parts: Sequence[Part], steps: Steps, opening: Opening, found: "Read"
    ) -> MappedRows:
        """Decode into a file of the store, or find it there: it goes by name, size and time of change of the files."""
        assert opening.store is not None
        stamps = [[str(part.path.absolute()), *_stamp(part.path)] for part in parts]
        name = hash_values({"images": stamps, "steps": repr(steps), "columns": self.columns})[:32]
        place = opening.store / "indexes" / f"{name}.npy"
        told = place.with_suffix(".json")
        if not (place.exists() and told.exists()):
            draft = place.with_name(draft_name(name))
            with writable(opening.store):
                place.parent.mkdir(parents=True, exist_ok=True)
                try:
                    images = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape)
                    reserve(draft)
                    kept = self._fill(images, parts, steps, opening, found)
                    images.flush()
                    noted = {"kept": kept.tolist(), "labels": found.labels, "faults": found.faults}
                    write_atomically(told, json.dumps(noted))
                    draft.replace(place)
                finally:
                    draft.unlink(missing_ok=True)
        noted = json.loads(told.read_text())
        found.labels, found.faults = noted["labels"], noted["faults"]
        if found.faults and self.on_error == "refuse":  # they were decoded by one that skips
            raise DataError(
                "the image cannot be read",
                got=listing(found.faults),
                where=parts[0].path,
                hint="replace or remove the images, or leave them out with on_error: skip",
            )
        found.notes.append(f"{len(noted['kept']):,} images are decoded on disk and memory-mapped")
        return MappedRows(np.load(place, mmap_mode="r"), np.array(noted["kept"], np.int64))

    def _fill(
        self, images: NDArray[np.uint8], parts: Sequence[Part], steps: Steps, opening: Opening, found: "Read"
    ) -> NDArray[np.int64]:
        """Decode all images in their order; return the rows of those that can be read."""
        kept: list[int] = []
        levels: dict[Path, int] = {}
        with opening.reporter.bar("decoding the images", len(images)) as bar:
            for row, (where, content, label) in enumerate(cell for part in parts for cell in part.cells()):
                bar.advance()
                try:
                    image, brightest = open_picture(where, io.BytesIO(content))
                except DataError as error:
                    if self.on_error == "refuse":
                        raise
                    found.faults.append(f"{where}: {error.got}")
                    continue
                images[row] = to_array(fit(image, steps), steps)
                levels |= {} if brightest is None else {where: brightest}
                kept.append(row)
                found.labels.append(label)
        check_depth(levels)
        return np.array(kept, np.int64)


@dataclass
class Read:
    """What a role's files hold.

    Attributes:
        images: [N, C, H, W].
        labels: of each image; None where there is none.
        faults: which images cannot be read, and why.
        notes: what a user should know.
    """

    images: NDArray[np.uint8] | MappedRows = field(default_factory=lambda: np.zeros((0, 1, 1, 1), np.uint8))
    labels: list[Any] = field(default_factory=list[Any])
    faults: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])


def _agree(parts: Sequence[Part]) -> tuple[str, ...]:
    """Return the names that files give their classes; none where none of them does.

    Raises:
        DataError: when two of them mean other classes by the same numbers, or one has texts and another numbers.
    """
    first = parts[0]
    named = next((part for part in parts if part.names), first)
    for part in parts:
        if part.texts != first.texts:
            expected, got = ("texts" if side.texts else "numbers" for side in (first, part))
            against = first
        elif part.names and part.names != named.names:
            every = enumerate(zip_longest(named.names, part.names, fillvalue="none"))
            expected, got = next(
                [f"class {number}: {one}" for one in pair] for number, pair in every if len({*pair}) > 1
            )
            against = named
        else:
            continue
        raise DataError(
            "two files of the table have other classes",
            expected=f"{expected}, as in {against.path}",
            got=got,
            where=part.path,
            hint="write both with the same classes in the same order",
        )
    return named.names


def _shards(path: Path, suffix: str) -> list[Path]:
    """Return the files of a path, in the order of their names.

    Raises:
        DataError: when there are none.
    """
    found = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise DataError(f"there is no {suffix} file", expected=f"a {suffix} file, or a folder of them", where=path)
    return found


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _numbers(labels: Sequence[Any], classes: Sequence[str]) -> NDArray[np.int64] | None:
    """Return labels as the numbers of their classes; None where there are none."""
    if not labels or labels[0] is None:
        return None
    if isinstance(labels[0], str):
        number = {name: position for position, name in enumerate(classes)}
        return np.array([number[label] for label in labels], np.int64)
    return class_numbers(labels)
