"""NumPy arrays on disk."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compress.config import Values
from compress.data.samples import ROLES, Role, Samples
from compress.data.source import Layout, Raw, Source, channels_first, class_numbers
from compress.errors import DataError

_Array = NDArray[np.generic]
_Pair = tuple[_Array | None, _Array | None]


class ArrayPair(Values):
    """Two ``.npy`` files.

    Attributes:
        inputs: uint8 or float32 [N, C, H, W] or [N, H, W].
        labels: integers [N]; None when unlabelled.
    """

    inputs: Path
    labels: Path | None = None


class Numpy(Source):
    """NumPy arrays on disk, read without pickle.

    Attributes:
        archive: an ``.npz`` with ``train_inputs``, ``train_labels``, ``test_inputs`` and so on.
        arrays: or ``.npy`` files, by role.
        layout: order of the axes of inputs; [N, H, W] has one channel in either.
        classes: class names in label order; empty names them by number.
    """

    of_files: ClassVar[bool] = True
    of_images: ClassVar[bool] = True

    source: Literal["numpy"] = "numpy"
    archive: Path | None = None
    arrays: dict[Role, ArrayPair] = {}
    layout: Layout = "NCHW"
    classes: tuple[str, ...] = ()

    def model_post_init(self, _context: object) -> None:
        """Refuse both or neither of ``archive`` and ``arrays``."""
        if (self.archive is None) == (not self.arrays):
            raise ValueError("expected either archive (an .npz file) or arrays (.npy files by role)")

    def load(self, *, code: Sequence[Path]) -> Raw:  # noqa: ARG002
        """Return the roles found.

        Raises:
            DataError: when a file is missing, damaged, pickled or names no role.
        """
        if self.archive is not None:
            stored = _read_numpy(self.archive)
            if not isinstance(stored, dict):
                raise DataError("the archive holds a single array", expected="an .npz file", where=self.archive)
            names = {f"{role}_{part}" for role in ROLES for part in ("inputs", "labels")}
            if unknown := sorted(set(stored) - names):
                raise DataError(
                    "the archive holds arrays of no role", expected=sorted(names), got=unknown, where=self.archive
                )
            arrays: dict[Role, _Pair] = {
                role: (stored.get(f"{role}_inputs"), stored.get(f"{role}_labels")) for role in ROLES
            }
        else:
            arrays = {
                role: (_read_array(pair.inputs), None if pair.labels is None else _read_array(pair.labels))
                for role, pair in self.arrays.items()
            }
        roles: dict[Role, Samples] = {
            role: Samples(channels_first(inputs, layout=self.layout), None if labels is None else class_numbers(labels))
            for role, (inputs, labels) in arrays.items()
            if inputs is not None
        }
        return Raw(roles, self.classes)


def _read_array(path: Path) -> NDArray[np.generic]:
    stored = _read_numpy(path)
    if isinstance(stored, dict):
        raise DataError("the file holds several arrays", expected="an .npy file", where=path)
    return stored


def _read_numpy(path: Path) -> NDArray[np.generic] | dict[str, NDArray[np.generic]]:
    try:
        stored = np.load(path, allow_pickle=False)
        return stored if isinstance(stored, np.ndarray) else dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            "the NumPy file cannot be read", expected="arrays without pickled objects", got=error, where=path
        ) from error
