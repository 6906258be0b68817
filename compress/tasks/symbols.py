"""Symbols: characters, words or pieces of words by number, for tasks that read and write sequences."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.config import Values
from compress.tasks.pieces import BytePairs, Pieces
from compress.tasks.ragged import Ragged
from compress.tasks.special import BEGIN, END, PAD, SPECIAL, UNKNOWN

__all__ = [
    "BEGIN",
    "END",
    "PAD",
    "SPECIAL",
    "UNKNOWN",
    "Ragged",
    "Symbols",
    "Vocabularies",
    "Vocabulary",
    "WrittenLimit",
]

Kind = Literal["characters", "words"]


class Symbols(Values):
    """What the texts of a task that writes consist of.

    Attributes:
        text: ``characters`` of the text to be read, white space among them, ``words`` between white space, or pieces of
            words that are found on train, ``{bpe: 8000}``.
        target_text: the same of the text to be written.
        max_length: symbols that are read, and symbols and the end that are written; what is longer is cut, counted and
            reported.
    """

    text: Kind | BytePairs = "characters"
    target_text: Kind | BytePairs = "characters"
    max_length: Annotated[int, Field(ge=4, le=100_000)] = 64


class WrittenLimit(Values):
    """How long what is written may be by the length of its source; ``max_length`` stays the limit of all.

    A model that repeats itself for ever then costs as much as a long text of such a source, and not the longest of all.

    Attributes:
        symbols: with the end, whatever the source.
        per_source_symbol: further ones for each symbol that is read, its end among them where it has one.
    """

    symbols: Annotated[int, Field(ge=1, le=100_000)]
    per_source_symbol: Annotated[float, Field(ge=0, le=1000)]


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
        """Return the symbols of a text, which are counted when it is judged."""
        return split(text, self.kind)

    def spell(self, numbers: Iterable[int]) -> list[str]:
        """Return the symbols of some numbers, which are counted when they are judged."""
        return [self.names[number] for number in numbers]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the numbers of some texts' symbols."""
        return [self.encode(text) for text in texts]

    def read(self, texts: Sequence[str], *, most: int) -> Ragged:
        """Return the numbers of texts to be read."""
        return Ragged.of(self.encode_all(texts), most=most)

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's symbols; one that is not among them is `UNKNOWN`."""
        return [self._numbers.get(symbol, UNKNOWN) for symbol in self.split(text)]

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of some numbers; those below 4 but `UNKNOWN` stand for nothing."""
        names = [self.names[number] for number in numbers if number >= UNKNOWN]
        return ("" if self.kind == "characters" else " ").join(names)

    def keep(self, wanted: Collection[int]) -> tuple[Self, NDArray[np.int64]]:
        """Return the vocabulary of some numbers, and the number before of each number after, int64, ascending."""
        kept = [number for number in range(len(SPECIAL), len(self.names)) if number in wanted]
        smaller = replace(self, symbols=tuple(self.names[number] for number in kept))
        return smaller, np.array([*range(len(SPECIAL)), *kept], np.int64)

    def dump(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"kind": self.kind, "symbols": [*self.symbols]}


def split(text: str, kind: Kind) -> list[str]:
    """Return the characters or the words of a text."""
    return [*text] if kind == "characters" else text.split()


def vocabulary_of(texts: Iterable[str], *, kind: Kind | BytePairs) -> Vocabulary | Pieces:
    """Return the symbols of some texts, each with a number."""
    return Pieces.train(texts, size=kind.bpe) if isinstance(kind, BytePairs) else Vocabulary.of(texts, kind=kind)


@dataclass(frozen=True)
class Vocabularies:
    """Both sides, and how long they may be.

    Attributes:
        source: of the texts to be read.
        target: of the texts to be written.
        max_length: see `Symbols`.
        written_limit: by the length of the source; None has ``max_length`` alone.
        continues: whether a target continues its source, as a completion does a prompt; both sides are then the same.
    """

    source: Vocabulary | Pieces
    target: Vocabulary | Pieces
    max_length: int
    written_limit: WrittenLimit | None = None
    continues: bool = False

    def steps(self, lengths: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return how many symbols may be written for sources of these lengths, int64 [N], as `Writing.steps` does."""
        if self.written_limit is None:
            return np.full(len(lengths), self.max_length)
        first, each = self.written_limit.symbols, self.written_limit.per_source_symbol
        return np.minimum(self.max_length, (first + each * lengths).astype(np.int64))

    @property
    def first(self) -> int | None:
        """The number of what every text that is written begins with; None where nothing is forced."""
        return self.target.first if isinstance(self.target, Pieces) else None

    @cached_property
    def text(self) -> str:
        """As a file."""
        sides = {"source": self.source.dump(), "target": self.target.dump()}
        limit: dict[str, Any] = {} if self.written_limit is None else {"written_limit": self.written_limit.model_dump()}
        limit |= {"continues": True} if self.continues else {}
        return json.dumps({**sides, "max_length": self.max_length, **limit}, ensure_ascii=False, indent=1)

    @classmethod
    def read(cls, text: str) -> Self:
        """Return what ``text`` wrote."""
        values = json.loads(text)
        source, target = (_read_side(values[side]) for side in ("source", "target"))
        limit = None if (found := values.get("written_limit")) is None else WrittenLimit(**found)
        return cls(source, target, values["max_length"], limit, values.get("continues", False))


def _read_side(values: Mapping[str, Any]) -> Vocabulary | Pieces:
    if values["kind"] == "pieces":
        side = (values["tokenizer"], tuple(values["ids"]))
        return Pieces(*side, continues=values.get("continues", False), first=values.get("first"))
    return Vocabulary(values["kind"], tuple(values["symbols"]))
