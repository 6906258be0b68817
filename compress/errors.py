"""The errors a user can meet, and the exit code each one ends the command line with.

::

    CompressError                1  internal error
    ├── UsageError               2  wrong command line
    ├── InputError (ValueError)  3  an input is refused
    │   ├── RecipeError             the recipe
    │   ├── DataError               the data
    │   ├── ModelError              a model or its weights
    │   └── ArtifactError           a stored artifact, truncated or tampered with
    ├── EnvironmentFault         5  a package, device, runtime or writable disk is missing, or another process ended
    ├── StageError               6  a stage could not do what was asked
    ├── LockedError              7  another process is writing the same thing
    └── AdviceError              8  advice warns, and --strict was asked

Exit code 0 is success, 4 a missed gate (everything is saved) or a bundle whose outputs differ here, 130 and 143 an
interruption.
"""

import difflib
from collections.abc import Collection, Sequence
from typing import ClassVar

MAX_NAMES = 20  # in a row of a message
GATE_MISSED = 4
INTERRUPTED = 130

EXIT_CODES: dict[int, str] = {
    0: "success",
    1: "internal error (please report it)",
    2: "wrong command line",
    3: "an input is refused: recipe, data, model or artifact",
    4: "a gate is missed (the student and the report are saved), or verify finds that a bundle's outputs differ",
    5: "a package, runtime, device or writable disk is missing, or a process that shares the run has ended",
    6: "a stage failed; earlier stages are saved",
    7: "another process holds the same store entry",
    8: "advice warns, and --strict was asked",
    130: "interrupted; the same command continues",
    143: "terminated; the same command continues",
}


def listing(names: Sequence[object]) -> str:
    """Return names in a row for a message: all, or the first `MAX_NAMES` and how many others there are."""
    others = len(names) - MAX_NAMES
    return ", ".join(map(str, names[:MAX_NAMES])) + (f" and {others:,} others" if others > 0 else "")


class CompressError(Exception):
    """Base of every error that compress raises on purpose.

    Args:
        message: what is wrong, in one sentence.
        expected: what would have been right.
        got: what was found instead.
        where: file and line, stage, module or tensor.
        hint: what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        expected: object = None,
        got: object = None,
        where: object = None,
        hint: str | None = None,
    ) -> None:
        self.message, self.expected, self.got, self.where, self.hint = message, expected, got, where, hint
        lines = [message]
        for label, value in (("expected", expected), ("got", got), ("where", where), ("next", hint)):
            if value is not None:
                lines.append(f"  {label + ':':<10}{value}")
        super().__init__("\n".join(lines))


class UsageError(CompressError):
    """The command line does not say what to do."""

    exit_code = 2


class InputError(CompressError, ValueError):
    """Something the user handed in is refused."""

    exit_code = 3


class RecipeError(InputError):
    """The recipe is not valid; the message lists every fault found."""


class DataError(InputError):
    """The data cannot be used as they are."""


class ModelError(InputError):
    """A model or its weights cannot be used as they are."""


class ArtifactError(InputError):
    """A stored artifact is truncated, tampered with or of an unknown format."""


class EnvironmentFault(CompressError):
    """A package, runtime, device or writable disk is missing."""

    exit_code = 5


class StageError(CompressError):
    """A stage could not do what was asked; the stages before it are saved."""

    exit_code = 6


class LockedError(CompressError):
    """Another process is writing the same store entry."""

    exit_code = 7


class AdviceError(CompressError):
    """Advice warns, and warnings were asked to be errors."""

    exit_code = 8


def nearest(word: object, choices: Collection[str]) -> str:
    """Return the choice most like a word, or an empty string when none is."""
    found = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.5)
    return found[0] if found else ""
