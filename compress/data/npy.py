"""Arrays of .npy and .npz files, read without pickle and only as large as the file can hold."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from compress.errors import DataError

MAPPED_BYTES = 2**30  # an .npy that is larger stays on disk, memory-mapped
DEFLATE_RATIO = 1032  # bytes that one can become, at most (https://zlib.net/zlib_tech.html)

Array = NDArray[np.generic]


def read_numpy(path: Path) -> Array | dict[str, Array]:
    """Return the array of an .npy, memory-mapped where it is large, or those of an .npz by name.

    Raises:
        DataError: when the file is missing, damaged or pickled, or a header promises more than follows it.
    """
    try:
        with path.open("rb") as file:
            kind = file.read(6)
        if kind.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    _check_member(archive, member, path)
        elif kind == npy.MAGIC_PREFIX:
            with path.open("rb") as file:
                _check_header(file, path.stat().st_size, path)
        else:
            raise DataError(
                "this is no NumPy file",
                expected="what numpy.save or numpy.savez writes",
                got=kind or "an empty file",
                where=path,
                hint='a table of numbers: numpy.save("labels.npy", numpy.loadtxt("labels.csv", int))',
            )
        large = kind == npy.MAGIC_PREFIX and path.stat().st_size > MAPPED_BYTES
        stored = np.load(path, allow_pickle=False, mmap_mode="r" if large else None)
        if isinstance(stored, np.ndarray):
            return stored
        with stored:
            return dict(stored)
    except DataError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(
            "the NumPy file cannot be read", expected="arrays without pickled objects", got=error, where=path
        ) from error


def read_array(path: Path) -> Array:
    """Return the array of an .npy.

    Raises:
        DataError: see `read_numpy`; also when it is an .npz.
    """
    stored = read_numpy(path)
    if isinstance(stored, dict):
        raise DataError("the file holds several arrays", expected="an .npy file", got=list(stored), where=path)
    return stored


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of an .npz by name.

    Raises:
        DataError: see `read_numpy`; also when it is an .npy.
    """
    stored = read_numpy(path)
    if not isinstance(stored, dict):
        raise DataError("the archive holds a single array", expected="an .npz file", where=path)
    return stored


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse an array of an archive that cannot be as large as its header says.

    Raises:
        DataError: naming the array.
    """
    if not member.filename.endswith(".npy"):
        return
    size = member.file_size
    if member.compress_type == zipfile.ZIP_DEFLATED:
        size = min(size, DEFLATE_RATIO * (member.compress_size + 1))
    with archive.open(member) as file:
        _check_header(file, size, f"{path}, {member.filename}")


def _check_header(file: IO[bytes], size_bytes: int, where: object) -> None:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    left_bytes = size_bytes - file.tell()
    if not dtype.hasobject and (min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > left_bytes):
        raise DataError(
            "the header of an array promises more than the file holds",
            expected=f"{math.prod(shape) * dtype.itemsize:,} bytes for {list(shape)} of {dtype}",
            got=f"{left_bytes:,} bytes",
            where=where,
            hint="write the file again",
        )
