"""The IDX format of MNIST and its family: a big-endian header, then one dense array, often gzipped."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError

# Third byte of the magic number (http://yann.lecun.com/exdb/mnist, "the IDX file format").
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> NDArray[np.generic]:
    """Return the array of an IDX file, in the machine's byte order; ``.gz`` is read through.

    Raises:
        DataError: when the file is no IDX file, or holds fewer or more bytes than its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("the IDX file cannot be read", got=error, where=path, hint="fetch the file again") from error
    dimensions = content[3] if len(content) >= 4 else 0
    header_bytes = 4 + 4 * dimensions
    if content[:2] != b"\0\0" or dimensions == 0 or content[2] not in DTYPES or len(content) < header_bytes:
        raise DataError(
            "this is no IDX file",
            expected="two zero bytes, a type, a number of dimensions and their sizes",
            got=content[:4].hex(" ") or "an empty file",
            where=path,
        )
    dtype = np.dtype(DTYPES[content[2]])
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=dimensions, offset=4))
    expected_bytes = header_bytes + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(content) != expected_bytes:
        raise DataError(
            "the IDX file is truncated" if len(content) < expected_bytes else "the IDX file is too long",
            expected=f"{expected_bytes} bytes for {list(shape)} of {dtype.name}",
            got=f"{len(content)} bytes",
            where=path,
            hint="fetch the file again",
        )
    values = np.frombuffer(content, dtype, offset=header_bytes).reshape(shape)
    return values.astype(dtype.newbyteorder("="))
