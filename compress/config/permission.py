"""What the values of a recipe ask for that a recipe alone never gets: only the command line may allow it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ask:
    """One thing that is asked for.

    Attributes:
        field: of the value that asks.
        does: what would be done, in words.
        word: what the command line must name to allow it, exactly.
        file: where a file would be made; None where it is something else, or the place cannot be told.
    """

    field: str
    does: str
    word: str
    file: Path | None = None
