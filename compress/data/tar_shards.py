"""Images in tar files, as WebDataset writes them: the members of one sample share a name up to its first dot."""

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from compress.data.image_shards import ImageShards, Part
from compress.data.images import SUFFIXES
from compress.errors import DataError, listing

NUMBER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
BLOCK = 512  # bytes, of which an archive consists; one of zeros ends it
HINT = "copy or download the file again, and compare its size or checksum with the original's; or leave it out"


class TarImages(ImageShards):
    """Samples of tar files: ``cat/0001.jpg`` and ``cat/0001.cls`` are the image and the class of one sample.

    Nothing is unpacked, and no path in an archive is ever opened.

    Attributes:
        label: suffix of the members that hold classes, as whole numbers or texts; None where there are none.
        classes: their names in the order of their numbers; empty names them by number.
    """

    kind: ClassVar[str] = "tar"
    suffix: ClassVar[str] = ".tar"

    source: Literal["tar"] = "tar"
    label: str | None = "cls"
    classes: tuple[str, ...] = ()

    def open_part(self, path: Path) -> Part:
        """Return a tar file, whose members have been looked through to its end.

        Raises:
            DataError: when it ends early, is damaged or compressed, or a sample has no image or no class.
        """
        return _Tar.open(path, self.label, self.classes)

    @property
    def columns(self) -> list[str | None]:
        """The suffix of the classes, and their names in order, which decide what is read."""
        return [self.label, *self.classes]


@dataclass(frozen=True)
class _Sample:
    """Where a sample lies in its file.

    Attributes:
        name: of its members, to the dot.
        image: first byte and number of bytes.
        label: of its class, likewise; None where there are none.
    """

    name: str
    image: tuple[int, int]
    label: tuple[int, int] | None


@dataclass(frozen=True)
class _Tar:
    """One tar file.

    Attributes:
        path: of the file.
        samples: in their order.
        texts: whether classes are texts.
        names: of the classes.
    """

    path: Path
    samples: tuple[_Sample, ...]
    texts: bool
    names: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many samples it has."""
        return len(self.samples)

    @classmethod
    def open(cls, path: Path, label: str | None, names: tuple[str, ...]) -> "_Tar":
        groups: dict[str, dict[str, tuple[int, int]]] = {}
        for name, place in _list_members(path):
            folder, _, base = name.rpartition("/")
            stem, _, suffix = base.partition(".")
            members = groups.setdefault(f"{folder}/{stem}" if folder else stem, {})
            if members.setdefault(suffix.lower(), place) != place:
                raise DataError("a member of the archive is there twice", got=name, where=path)
        samples = tuple(_sample(name, members, label, path=path) for name, members in groups.items())
        first = next((sample.label for sample in samples), None)
        texts = first is not None and not names and NUMBER.fullmatch(_read(path, first).strip()) is None
        return cls(path, samples, texts, names)

    def cells(self) -> Iterator[tuple[Path, bytes, Any]]:
        """Yield where each image is, its bytes and its class.

        Raises:
            DataError: when a class is neither one of the names nor a number where others are numbers.
        """
        number = {name: position for position, name in enumerate(self.names)}
        with self.path.open("rb") as file:
            for sample in self.samples:
                where = Path(f"{self.path}, {sample.name}")
                file.seek(sample.image[0])
                content = file.read(sample.image[1])
                if sample.label is None:
                    yield where, content, None
                    continue
                file.seek(sample.label[0])
                told = file.read(sample.label[1]).decode("utf-8", "replace").strip()
                if self.texts:
                    yield where, content, told
                elif told in number or NUMBER.fullmatch(told):
                    yield where, content, number[told] if told in number else int(told)
                else:
                    expected = listing(self.names) if self.names else "a whole number, as in the first sample"
                    raise DataError("the class of a sample is not known", expected=expected, got=told, where=where)


def _sample(name: str, members: dict[str, tuple[int, int]], label: str | None, *, path: Path) -> _Sample:
    images = [place for suffix, place in members.items() if f".{suffix}" in SUFFIXES]
    if len(images) != 1 or (label is not None and label not in members):
        raise DataError(
            "a sample has not one image" if len(images) != 1 else "a sample has no class",
            expected=f"one of {', '.join(SUFFIXES)}" + ("" if label is None else f", and .{label} beside it"),
            got=listing([f".{suffix}" for suffix in members]),
            where=f"{path}, {name}",
            hint="members of one sample have one name to its first dot; leave classes out with label: null",
        )
    return _Sample(name, images[0], None if label is None else members[label])


def _list_members(path: Path) -> Sequence[tuple[str, tuple[int, int]]]:
    """Return the name, first byte and number of bytes of every file in an archive.

    Raises:
        DataError: when it is no plain tar file, or does not go on to its end, which `tarfile` does not always tell.
    """
    found: list[tuple[str, tuple[int, int]]] = []
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.size < 0 or archive.offset <= member.offset:  # CVE-2025-8194: it would be read for ever
                    raise tarfile.ReadError("a member of negative size")
                if member.isreg():
                    found.append((member.name, (member.offset_data, member.size)))
            end = archive.offset
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:
        known = "unexpected end" in str(error) or "truncated" in str(error)
        raise DataError(
            "the tar file ends early" if known else "the tar file cannot be read",
            expected="a whole, uncompressed tar file",
            got=f"{error} ({size:,} bytes, {len(found):,} whole members)",
            where=path,
            hint=HINT if known else f"a compressed one is unpacked first, with gunzip or zstd; else {HINT}",
        ) from error
    with path.open("rb") as file:
        file.seek(end)
        closed = file.read(BLOCK) == bytes(BLOCK)
    if not closed or any(start + length > size for _, (start, length) in found):
        raise DataError(
            "the tar file ends early",
            expected=f"a block of zeros after its last member, at byte {end:,}",
            got=f"{size:,} bytes, {len(found):,} members",
            where=path,
            hint=HINT,
        )
    return found


def _read(path: Path, place: tuple[int, int]) -> str:
    with path.open("rb") as file:
        file.seek(place[0])
        return file.read(place[1]).decode("utf-8", "replace")
