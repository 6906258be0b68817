"""Numbers of many sequences, one after the other, and padded where a batch needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from compress.tasks.special import PAD


@dataclass(frozen=True)
class Ragged:
    """Numbers of sequences of many lengths, one after the other.

    Attributes:
        numbers: int64 [all].
        starts: int64 [N + 1], where each begins and the last one ends.
        truncated: bool [N], whether it was cut.
    """

    numbers: NDArray[np.int64]
    starts: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], *, most: int, last: int | None = None) -> Self:
        """Return sequences, each cut to its first ``most`` numbers.

        Args:
            sequences: of numbers.
            most: how many are kept of each.
            last: what the last number of one that is cut becomes; None leaves it.
        """
        ends = [] if last is None else [last]
        cut = [[*sequence[: most - len(ends)], *ends] if len(sequence) > most else sequence for sequence in sequences]
        starts = np.cumsum([0, *map(len, cut)])
        long = np.array([len(sequence) > most for sequence in sequences], bool)
        return cls(np.fromiter((number for sequence in cut for number in sequence), np.int64), starts, long)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Of each sequence, int64 [N]."""
        return np.diff(self.starts)

    def take(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the numbers of some sequences, one after the other."""
        parts = [self.numbers[self.starts[row] : self.starts[row + 1]] for row in rows]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def pad(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the numbers of some sequences, [B, longest], and which entries are theirs; others are `PAD`."""
        lengths = self.lengths[rows]
        valid = np.arange(lengths.max(initial=1)) < lengths[:, None]
        table = np.full(valid.shape, PAD, np.int64)
        table[valid] = self.take(rows)
        return table, valid
