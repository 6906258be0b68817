"""Where samples come from, as values a recipe can hold: ``{idx: {directory: ...}}`` is ``Idx(directory=...)``."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
)
from pydantic.json_schema import SkipJsonSchema

from compress.config import one_key
from compress.config.user_code import call_user, dump, run_user_file, user_function
from compress.data.arrays import Numpy
from compress.data.datasets import is_dataset, name_inputs, read_dataset
from compress.data.given import read_given
from compress.data.idx import read_idx
from compress.data.image_table import ImageTable
from compress.data.images import Manner, read_folder
from compress.data.own import OwnSource, form
from compress.data.picture import Mode
from compress.data.preprocess import Sides, choose_steps
from compress.data.ragged import Given
from compress.data.samples import ROLES, Role, Samples
from compress.data.source import AnyLayout, Opening, Raw, Source, class_numbers
from compress.data.table import HubData, Table
from compress.data.tar_shards import TarImages
from compress.errors import DataError


class Digits(Source):
    """scikit-learn's 1,797 handwritten digits, 8 x 8; grey levels 0 to 16 are scaled to 0 to 255."""

    of_files: ClassVar[bool] = True
    of_images: ClassVar[bool] = True

    source: Literal["digits"] = "digits"

    def load(self, *, code: Sequence[Path]) -> Raw:  # noqa: ARG002
        """Return all digits as train.

        Raises:
            DataError: when scikit-learn is not installed.
        """
        rows = np.loadtxt(_digits_file(), delimiter=",", dtype=np.int64)  # 64 grey levels and the digit
        pixels = np.round(rows[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        return Raw({"train": Samples(pixels, rows[:, -1])}, tuple(map(str, range(10))))


def _digits_file() -> Path:
    """Return where scikit-learn keeps the digits; importing it to ask would take longer than reading them."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("the digits come with scikit-learn", hint="pip install scikit-learn")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


class Idx(Source):
    """A directory of IDX files under MNIST's names, gzipped or plain; the ``t10k`` files are test.

    Attributes:
        directory: holds ``train-images-idx3-ubyte`` and its companions.
        classes: class names in label order; empty names them by number.
    """

    of_files: ClassVar[bool] = True
    of_images: ClassVar[bool] = True

    source: Literal["idx"] = "idx"
    directory: Path
    classes: tuple[str, ...] = ()

    def load(self, *, code: Sequence[Path]) -> Raw:  # noqa: ARG002
        """Return train, and test when its files are there.

        Raises:
            DataError: when a file is missing or damaged.
        """
        roles: dict[Role, Samples] = {"train": self._role("train")}
        if self._find("t10k-images-idx3-ubyte") is not None:
            roles["test"] = self._role("t10k")
        return Raw(roles, self.classes)

    def _role(self, prefix: str) -> Samples:
        images = read_idx(self._require(f"{prefix}-images-idx3-ubyte"))
        labels = read_idx(self._require(f"{prefix}-labels-idx1-ubyte"))
        return Samples(images[:, None] if images.ndim == 3 else images, class_numbers(labels))

    def _find(self, name: str) -> Path | None:
        candidates = (self.directory / name, self.directory / f"{name}.gz")
        return next((path for path in candidates if path.is_file()), None)

    def _require(self, name: str) -> Path:
        found = self._find(name)
        if found is None:
            raise DataError(
                "an IDX file is missing",
                expected=f"{name} or {name}.gz",
                where=self.directory,
                hint="Debian and Ubuntu: apt install dataset-fashion-mnist gives /usr/share/datasets/fashion-mnist",
            )
        return found


class ImageFolder(Source):
    """Image files in ``root/role/class/``, or in ``root/class/`` for roles drawn by us.

    Attributes:
        root: the folder.
        size: side of the square every image is resized to, or height and width; None where ``data.preprocess`` says it.
        mode: one channel or three, where it does not.
        memory_gb: images that take more than this when they are decoded, in units of 10^9 bytes, are not read into
            memory but stay on disk: an index of the files is kept in the store, and threads decode batches ahead.
        on_error: what to do with files that cannot be read: ``refuse`` the folder, or ``skip`` and count them.
    """

    of_files: ClassVar[bool] = True
    of_images: ClassVar[bool] = True

    source: Literal["image-folder"] = "image-folder"
    root: Path
    size: Sides | None = None
    mode: Mode = "rgb"
    memory_gb: Annotated[float, Field(ge=0)] = 1.0
    on_error: Literal["refuse", "skip"] = "refuse"

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the keys that came later where they say nothing, so that stored runs are found as ever."""
        later = {"memory_gb": 1.0, "on_error": "refuse"}
        return {name: value for name, value in write(self).items() if name not in later or value != later[name]}

    @property
    def is_unsized(self) -> bool:
        """Whether ``size`` says nothing."""
        return self.size is None

    def load(self, *, code: Sequence[Path]) -> Raw:
        """Return the roles that the folder names.

        Raises:
            DataError: when a folder is missing, an image is corrupt or its range cannot be known, or train has no image
                of a class.
        """
        return self.open(Opening(), code=code)

    def open(self, opening: Opening, *, code: Sequence[Path]) -> Raw:  # noqa: ARG002
        """Return the roles that the folder names, read as a model expects it; see `load`.

        Raises:
            DataError: also when both or neither of ``size`` and ``preprocess`` say what images become.
        """
        manner = Manner(
            choose_steps(self.size, self.mode, opening.preprocess, source=self.source),
            memory_bytes=self.memory_gb * 1e9,
            skip=self.on_error == "skip",
            store=opening.store,
            reporter=opening.reporter,
        )
        return read_folder(self.root, manner)


class File(Source):
    """A function in the user's own Python file; the file must be named on the command line (``--code``).

    It returns roles to pairs of inputs and labels, or to a `torch.utils.data.Dataset` or `DataLoader` (see
    `read_dataset`); or one of those alone, from which roles are drawn. Inputs are uint8 or float32 [N, C, H, W] or
    [N, H, W], numbers [N, F], what ``layout`` says, a list of sequences [T, F], which are padded, or several of these
    by name, ``{"left": ..., "right": ...}``, or in a tuple, where they get the names ``input0``, ``input1``. Labels are
    integers [N], numbers [N] or [N, C], 0 and 1 [N, C], or None.

    Attributes:
        path: the Python file.
        factory: the function.
        arguments: passed to it by name.
        classes: class names in label order; empty names them by number.
        layout: order of the axes of inputs, as of `Numpy`; None is ``NCHW``.
    """

    source: Literal["file"] = "file"
    path: Path
    factory: str = "data"
    arguments: dict[str, Any] = {}
    classes: tuple[str, ...] = ()
    layout: AnyLayout | None = None

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a layout where none is said, so that stored runs are found as ever."""
        return {name: value for name, value in write(self).items() if name != "layout" or value is not None}

    def load(self, *, code: Sequence[Path]) -> Raw:
        """Return what the function returns.

        Raises:
            InputError: when the file was not named, fails or has no such function.
            DataError: when it returns something else than roles to pairs.
        """
        factory = user_function(run_user_file(self.path, code=code), self.factory, path=self.path)
        returned: Any = call_user(factory, path=self.path, **self.arguments) if callable(factory) else factory
        if is_dataset(returned):
            returned = {"train": returned}
        if not isinstance(returned, Mapping) or not set(returned) <= set(ROLES):
            raise DataError(
                f"{self.factory} does not return data",
                expected=f"a mapping of some of {', '.join(ROLES)} to (inputs, labels) or a data set",
                got=list(returned) if isinstance(returned, Mapping) else type(returned).__name__,
                where=self.path,
            )
        roles: dict[Role, tuple[Given, Any]] = {}
        notes: list[str] = []
        classes = self.classes
        for role, pair in returned.items():
            if is_dataset(pair):
                read = read_dataset(pair, path=self.path, where=role)
                roles[role] = (read.inputs, read.labels)
                notes += read.notes
                classes = classes or read.classes
                continue
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise DataError(f"{self.factory} gives {role} no pair", expected="(inputs, labels)", where=self.path)
            inputs, labels = pair
            roles[role] = (name_inputs(inputs), labels)
        raw = read_given(roles, layout=self.layout or "NCHW", classes=classes, where=self.path)
        return replace(raw, notes=(*notes, *raw.notes))


OurSource = Annotated[
    Annotated[
        Digits | File | HubData | Idx | ImageFolder | ImageTable | Numpy | Table | TarImages,
        Field(discriminator="source"),
    ],
    BeforeValidator(one_key("source")),
]
AnySource = Annotated[
    Annotated[OurSource, Tag("ours")]
    | Annotated[OwnSource, Tag("own")]
    | SkipJsonSchema[Annotated[Source, PlainSerializer(dump), Tag("object")]],
    Discriminator(form),
]
