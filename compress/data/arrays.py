"""NumPy arrays on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from compress.config import Values
from compress.data.npy import Array, read_array, read_arrays
from compress.data.samples import ROLES, Role, Samples
from compress.data.source import Layout, Raw, Source, channels_first, class_numbers
from compress.errors import DataError

_Pair = tuple[Array | None, Array | None]


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
            stored = read_arrays(self.archive)
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
                role: (read_array(pair.inputs), None if pair.labels is None else read_array(pair.labels))
                for role, pair in self.arrays.items()
            }
        roles: dict[Role, Samples] = {
            role: Samples(channels_first(inputs, layout=self.layout), None if labels is None else class_numbers(labels))
            for role, (inputs, labels) in arrays.items()
            if inputs is not None
        }
        return Raw(roles, self.classes)
