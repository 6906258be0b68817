"""Measures of the user's own: a function in Python, and in a recipe the file and its name."""

from collections.abc import Callable
from dataclasses import replace
from inspect import isfunction
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, PlainSerializer, Tag
from pydantic.json_schema import SkipJsonSchema

from compress.config.user_code import USER_ERRORS, OwnFunction, line_of, origin
from compress.errors import DataError
from compress.measures.tally import Tally

MeasureName = Literal[
    "accuracy",
    "macro-f1",
    "micro-f1",
    "matthews",
    "entity-f1",
    "pearson",
    "spearman",
    "r2",
    "exact-match",
    "token-accuracy",
    "chrf",
    "bleu",
]
Measure = Callable[[NDArray[np.float32], NDArray[Any]], Tally]


class OwnMeasure(OwnFunction):
    """A measure in the user's own Python file, which must be named on the command line (``--code``).

    The function takes outputs, float32 [N, C], and labels, [N] or [N, C], and returns a `Tally` with a row for each
    sample: ``shares(right)`` for a share of right ones. Larger is better, and 1 is shown as 100%.

    Attributes:
        file: the Python file.
        function: its name there, and in reports.
    """


def _form(value: Any) -> str:
    if isfunction(value):
        return "callable"
    return "own" if isinstance(value, dict | OwnMeasure) else "name"


# By name, in a file that was not run, or the function itself; keys hold the name and the content of the file.
AnyMeasure = Annotated[
    Annotated[MeasureName, Tag("name")]
    | Annotated[OwnMeasure, Tag("own")]
    | SkipJsonSchema[Annotated[Measure, PlainSerializer(lambda measure: str(origin(measure))), Tag("callable")]],
    Discriminator(_form),
]


def take(measure: Measure, outputs: NDArray[np.floating], labels: NDArray[Any]) -> Tally:
    """Return what a user's function says of outputs.

    Args:
        measure: the function.
        outputs: float [N, C].
        labels: [N] or [N, C].

    Raises:
        DataError: when it fails, or returns something else than numbers for each sample whose measure is one number.
    """
    defined = origin(measure)
    where = f"{defined.name} of {defined.file.name}"
    try:
        tally = measure(outputs.astype(np.float32), labels.copy())
        if not isinstance(tally, Tally):
            raise _refusal(where, "a Tally, such as shares(right) of which samples are right", type(tally).__name__)
        rows = tuple(tally.counts.shape or ())
        expected = f"numbers [{len(outputs)}, K]: a row for each sample"
        if len(rows) != 2 or rows[0] != len(outputs):
            raise _refusal(where, expected, f"counts {list(rows)}")
        if isinstance(tally.counts, np.ndarray):
            tally = replace(tally, counts=tally.counts.astype(np.float64))
        total = np.asarray(tally.counts.sum(axis=0))
        both = np.asarray(tally.of(np.stack([total, total])))
    except USER_ERRORS as error:
        if isinstance(error, DataError):
            raise
        got = f"{type(error).__name__}: {error}"
        raise DataError(f"{where} fails", got=got, where=line_of(error, defined.file)) from error
    if both.shape != (2,):
        raise _refusal(where, "`of` to turn sums [..., K] into numbers [...]", f"[2, K] became {list(both.shape)}")
    if not np.isfinite(total).all() or not np.isfinite(both).all():
        raise _refusal(where, "finite numbers, whatever the outputs are", f"sums {total.tolist()}, measure {both[0]}")
    return tally


def _refusal(where: str, expected: str, got: str) -> DataError:
    return DataError(f"{where} is no measure", expected=expected, got=got, where="data.judge.measure")
