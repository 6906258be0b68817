"""The IDX format of MNIST and its family: a big-endian header, then one dense array, often gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.data.npy import DEFLATE_RATIO
from compress.errors import DataError

# Third byte of the magic number (http://yann.lecun.com/exdb/mnist, "the IDX file format").
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMENSIONS = 64  # NumPy's


def read_idx(path: Path) -> NDArray[np.generic]:
    """Return the array of an IDX file, in the machine's byte order; ``.gz`` is read through.

    No more is unpacked than the header promises, and that only when the file can hold it.

    Raises:
        DataError: when the file is no IDX file, or holds fewer or more bytes than its header says.
    """
    try:
        packed = path.suffix == ".gz"
        most_bytes = path.stat().st_size * (DEFLATE_RATIO if packed else 1)
        with gzip.open(path) if packed else path.open("rb") as file:
            start = file.read(4)
            dimensions = start[3] if len(start) == 4 else 0
            sizes = file.read(4 * dimensions)
            known = start[:2] == b"\0\0" and 0 < dimensions <= MAX_DIMENSIONS and start[2] in DTYPES
            if not known or len(sizes) < 4 * dimensions:
                raise DataError(
                    "this is no IDX file",
                    expected="two zero bytes, a type, a number of dimensions and their sizes",
                    got=start.hex(" ") or "an empty file",
                    where=path,
                )
            dtype = np.dtype(DTYPES[start[2]])
            shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
            expected_bytes = math.prod(shape) * dtype.itemsize
            content = file.read(expected_bytes + 1) if expected_bytes <= most_bytes else b""
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("the IDX file cannot be read", got=error, where=path, hint="fetch the file again") from error
    if len(content) != expected_bytes:
        longer = len(content) > expected_bytes
        got = f"at most {most_bytes:,}" if expected_bytes > most_bytes else "more" if longer else f"{len(content):,}"
        raise DataError(
            "the IDX file is too long" if longer else "the IDX file is truncated",
            expected=f"{expected_bytes:,} bytes for {list(shape)} of {dtype.name}",
            got=f"{got} bytes",
            where=path,
            hint="fetch the file again",
        )
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
