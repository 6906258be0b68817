"""What every source of samples is, and the shapes and types it may leave to us."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compress.config import Values
from compress.data.preprocess import Preprocess
from compress.data.samples import Role, Samples
from compress.data.stored import is_mapped
from compress.errors import DataError
from compress.progress import Reporter

Layout = Literal["NCHW", "NHWC", "NCL", "NTF"]
AnyLayout = Layout | dict[str, Layout]


@dataclass(frozen=True)
class Raw:
    """What a source holds, unchecked.

    Attributes:
        roles: the roles that the source itself tells apart; all of them are train when it does not.
        classes: class names in label order; empty when the source has none.
        notes: what a user should know of how they were read, a sentence each.
        layouts: ``NCL`` (signals) or ``NTF`` (sequences) for inputs of three axes, by name, "" for a single array; the
            others are signals.
        continues: whether texts that are right to write continue those that are read, as completions do prompts.
    """

    roles: dict[Role, Samples]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    layouts: Mapping[str, str] = field(default_factory=dict[str, str])
    continues: bool = False


@dataclass(frozen=True)
class Opening:
    """How a source of image files is read, and where what is found out of it is kept.

    Attributes:
        preprocess: what is done to images; None is the source's own way.
        store: keeps indexes of folders; None keeps none.
        reporter: shows progress.
    """

    preprocess: Preprocess | None = None
    store: Path | None = None
    reporter: Reporter = field(default_factory=lambda: Reporter(quiet=True))


class Source(Values):
    """A place samples come from.

    Class attributes:
        of_files: whether its fields, and the files they name, decide all that it gives.
        of_images: whether it is known, before it is read, to give images where no task of the user's own reads it.
        libraries: extras that read it.
    """

    of_files: ClassVar[bool] = False
    of_images: ClassVar[bool] = False
    libraries: ClassVar[tuple[str, ...]] = ()

    @property
    def title(self) -> str:
        """What people call it: its folder or file, else its kind."""
        paths = [value for value in self.__dict__.values() if isinstance(value, Path)]
        return paths[0].stem if paths else self.__dict__.get("source", type(self).__name__)

    @property
    def is_settled(self) -> bool:
        """Whether it gives the same as long as its fields, and the files they name, are as they were."""
        return self.of_files

    @property
    def is_unsized(self) -> bool:
        """Whether it reads image files and does not say what size they become."""
        return False

    @abstractmethod
    def load(self, *, code: Sequence[Path]) -> Raw:
        """Return its samples.

        Args:
            code: the user's Python files that may be run.

        Raises:
            DataError: when something is missing or damaged.
        """

    def open(self, opening: Opening, *, code: Sequence[Path]) -> Raw:
        """Return its samples, of image files as a model expects them.

        Args:
            opening: how and where.
            code: the user's Python files that may be run.

        Raises:
            DataError: as ``load`` does; also when it reads no image files and is told how to.
        """
        if opening.preprocess is not None:
            raise DataError(
                "only image files are preprocessed",
                expected="data.source: {image-folder: ...}",
                got=self.title,
                where="data.preprocess",
                hint="arrays are taken as they are; say what they are normalised by under data.normalize",
            )
        return self.load(code=code)


def class_numbers(labels: object) -> NDArray[np.int64]:
    """Return labels as int64.

    Raises:
        DataError: when they are no integers.
    """
    values = np.asarray(labels)
    if values.dtype.kind not in "iu":
        raise DataError("labels are no class numbers", expected="integers", got=values.dtype)
    if values.size and int(values.max()) > np.iinfo(np.int64).max:
        raise DataError("a label is no class number", expected=f"at most {np.iinfo(np.int64).max}", got=values.max())
    return values.astype(np.int64)


def channels_first(inputs: NDArray[np.generic], *, layout: Layout) -> NDArray[np.generic]:
    """Return images [N, C, H, W] from [N, H, W], or from the four axes that ``layout`` names.

    Raises:
        DataError: when four axes look like the other layout.
    """
    if inputs.ndim == 3:
        return inputs[:, None]
    if inputs.ndim == 4 and layout == "NHWC":
        turned = inputs.transpose(0, 3, 1, 2)
        return turned if is_mapped(inputs) else np.ascontiguousarray(turned)
    if inputs.ndim == 4 and inputs.shape[3] in (1, 3) and inputs.shape[1] > 4:
        raise DataError(
            "the images look channels-last", expected="[N, C, H, W]", got=list(inputs.shape), hint="set layout: NHWC"
        )
    return inputs
