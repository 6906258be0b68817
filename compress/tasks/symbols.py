"""Symbols: characters or words by number, for tasks that read and write sequences without a tokenizer."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.config import Values

Kind = Literal["characters", "words"]
PAD, BEGIN, END, UNKNOWN = range(4)  # the first numbers on either side
SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>")


class Symbols(Values):
    """What the texts of a task that writes consist of.

    Attributes:
        text: ``characters`` of the text to be read, white space among them, or ``words`` between white space.
        target_text: the same of the text to be written.
        max_length: symbols that are read, and symbols and the end that are written; what is longer is cut, counted and
            reported.
    """

    text: Kind = "characters"
    target_text: Kind = "characters"
    max_length: Annotated[int, Field(ge=4, le=100_000)] = 64


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of one side, each with a number from 4 on.

    Attributes:
        kind: what a symbol is.
        symbols: in the order of their numbers.
    """

    kind: Kind
    symbols: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str], *, kind: Kind) -> Self:
        """Return the symbols of some texts, sorted."""
        return cls(kind, tuple(sorted({symbol for text in texts for symbol in split(text, kind)})))

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols, start=len(SPECIAL))}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all numbers, those without a symbol first."""
        return (*SPECIAL, *self.symbols)

    def split(self, text: str) -> list[str]:
        """Return the symbols of a text."""
        return split(text, self.kind)

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's symbols; one that is not among them is `UNKNOWN`."""
        return [self._numbers.get(symbol, UNKNOWN) for symbol in self.split(text)]

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of some numbers; those below 4 but `UNKNOWN` stand for nothing."""
        names = [self.names[number] for number in numbers if number >= UNKNOWN]
        return ("" if self.kind == "characters" else " ").join(names)

    def dump(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"kind": self.kind, "symbols": [*self.symbols]}


def split(text: str, kind: Kind) -> list[str]:
    """Return the characters or the words of a text."""
    return [*text] if kind == "characters" else text.split()


@dataclass(frozen=True)
class Vocabularies:
    """Both sides, and how long they may be.

    Attributes:
        source: of the texts to be read.
        target: of the texts to be written.
        max_length: see `Symbols`.
    """

    source: Vocabulary
    target: Vocabulary
    max_length: int

    @cached_property
    def text(self) -> str:
        """As a file."""
        sides = {"source": self.source.dump(), "target": self.target.dump()}
        return json.dumps({**sides, "max_length": self.max_length}, ensure_ascii=False, indent=1)

    @classmethod
    def read(cls, text: str) -> Self:
        """Return what ``text`` wrote."""
        values = json.loads(text)
        source, target = (
            Vocabulary(values[side]["kind"], tuple(values[side]["symbols"])) for side in ("source", "target")
        )
        return cls(source, target, values["max_length"])


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
    def of(cls, sequences: Sequence[Sequence[int]], *, most: int) -> Self:
        """Return sequences, each cut to its first ``most`` numbers."""
        cut = [sequence[:most] for sequence in sequences]
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
