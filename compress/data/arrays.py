"""NumPy arrays on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from compress.config import Values
from compress.data.given import read_given
from compress.data.npy import Array, read_array, read_arrays
from compress.data.ragged import Given
from compress.data.samples import ROLES, Role
from compress.data.source import AnyLayout, Raw, Source
from compress.errors import DataError

INPUTS = "inputs"


class ArrayPair(Values):
    """Two ``.npy`` files.

    Attributes:
        inputs: [N, C, H, W] or [N, H, W] uint8 or float32, [N, F], or what the source's ``layout`` says.
        labels: integers [N], numbers [N] or [N, C], or 0 and 1 [N, C]; None when unlabelled.
    """

    inputs: Path
    labels: Path | None = None


class Numpy(Source):
    """NumPy arrays on disk, read without pickle.

    Attributes:
        archive: an ``.npz`` with ``train_inputs``, ``train_labels``, ``test_inputs`` and so on; several inputs go by
            names of their own, ``train_left`` and ``train_right``, in the order in which a model takes them.
        arrays: or ``.npy`` files, by role.
        layout: order of the axes of inputs, of all or by name: ``NCHW`` and ``NHWC`` for images, of which [N, H, W] has
            one channel in either; ``NCL`` for signals and ``NTF`` for sequences of features. [N, F] is a table.
        classes: class names in label order; empty names them by number.
    """

    of_files: ClassVar[bool] = True
    of_images: ClassVar[bool] = True

    source: Literal["numpy"] = "numpy"
    archive: Path | None = None
    arrays: dict[Role, ArrayPair] = {}
    layout: AnyLayout = "NCHW"
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
        where = self.archive or "arrays"
        roles = self._arrays() if self.archive is None else _parts(read_arrays(self.archive), self.archive)
        return read_given(roles, layout=self.layout, classes=self.classes, where=where)

    def _arrays(self) -> dict[Role, tuple[Given, Array | None]]:
        return {
            role: (read_array(pair.inputs), None if pair.labels is None else read_array(pair.labels))
            for role, pair in self.arrays.items()
        }


def _parts(stored: dict[str, Array], path: Path) -> dict[Role, tuple[Given, Array | None]]:
    """Return the inputs and labels of each role in an archive, by the beginning of the arrays' names."""
    inputs: dict[Role, dict[str, Array]] = {
        role: {
            name.removeprefix(f"{role}_"): values
            for name, values in stored.items()
            if name.startswith(f"{role}_") and name != f"{role}_labels"
        }
        for role in ROLES
    }
    known = {f"{role}_{name}" for role in ROLES for name in (*inputs[role], "labels")}
    alone: list[Role] = [role for role in ROLES if INPUTS in inputs[role] and len(inputs[role]) > 1]
    if (unknown := sorted(set(stored) - known)) or alone:
        raise DataError(
            "the archive holds arrays of no role" if unknown else "an array beside `inputs` has a name of its own",
            expected="names such as train_inputs, train_labels and test_inputs, or for several inputs train_left and "
            f"train_right; roles are {', '.join(ROLES)}",
            got=unknown or sorted(inputs[alone[0]]),
            where=path,
        )
    return {role: (found.get(INPUTS, found), stored.get(f"{role}_labels")) for role, found in inputs.items() if found}
