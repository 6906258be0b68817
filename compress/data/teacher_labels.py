"""Data without labels: what a teacher decides is what is right, so that the measure is agreement with it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.config import Values
from compress.data.checks import check_role
from compress.data.samples import Data, Role, Samples
from compress.data.source import Raw
from compress.errors import DataError

DECIDED: tuple[Role, ...] = ("select", "test")  # what is judged; nothing else needs labels
NOTE = (
    "what is right is what the teacher decides, so every accuracy is agreement with it; "
    "labels of the source are not read, and the teacher's expected_accuracy, of itself, proves nothing"
)


class TeacherLabels(Values):
    """Nobody knows labels, or those of the source are for other classes: the teacher decides for select and test.

    Train and calibration stay unlabelled, so the loss reads the teacher's outputs alone (function matching, Beyer et
    al. 2022, arXiv 2106.05237).

    Attributes:
        of: whose they are.
        classes: names of the teacher's outputs in their order, a text file with one a line, or how many there are.
    """

    of: Literal["teacher"] = "teacher"
    classes: Annotated[int, Field(ge=2, le=10_000_000)] | tuple[str, ...] | Path

    def name_classes(self) -> tuple[str, ...]:
        """Return the names of the classes.

        Raises:
            DataError: when their file cannot be read, or there are fewer than two.
        """
        if isinstance(self.classes, int):
            return tuple(map(str, range(self.classes)))
        names = self.classes
        if isinstance(names, Path):
            try:
                names = tuple(names.read_text(encoding="utf-8").splitlines())
            except (OSError, UnicodeDecodeError) as error:
                raise DataError("the names of the classes cannot be read", got=error, where=names) from error
        if len(names) < 2 or len(set(names)) != len(names):
            raise DataError(
                "these are no names of classes",
                expected="two or more, no two alike, in the order of the teacher's outputs",
                got=f"{len(names)}, of which {len(set(names))} are different",
                where="data.labels.classes",
            )
        return names

    def strip(self, raw: Raw) -> Raw:
        """Return samples without the labels of their source, and the teacher's classes.

        Raises:
            DataError: when these are not known.
        """
        roles: dict[Role, Samples] = {role: Samples(samples.inputs, None) for role, samples in raw.roles.items()}
        return replace(raw, roles=roles, classes=self.name_classes(), notes=(*raw.notes, NOTE))


def leave_open(data: Data) -> Data:
    """Return the data with the first class for every sample that is to be labelled, from which a task can be made."""
    return fill(data, {role: np.zeros(len(data.roles[role]), np.int64) for role in DECIDED})


def label(data: Data, decided: Mapping[Role, NDArray[np.int64]]) -> Data:
    """Return the data with what a teacher has decided.

    Raises:
        DataError: when that is one class for all samples of a role.
    """
    found = fill(data, decided)
    for role in DECIDED:
        check_role(role, found.roles[role], data.classes)
    return found


def fill(data: Data, labels: Mapping[Role, NDArray[np.int64]]) -> Data:
    """Return the data with these labels."""
    filled = {role: Samples(data.roles[role].inputs, values) for role, values in labels.items()}
    return replace(data, roles={**data.roles, **filled})
