"""Transduction and generation: one text written from another, or continuing it, symbol by symbol."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.samples import Data, Samples
from compress.errors import DataError
from compress.measures.edits import judge_written
from compress.measures.judge import Judge
from compress.measures.tally import Numbers, Tally, ratio, shares
from compress.measures.translation import NAMES as TEXT_MEASURES
from compress.measures.translation import find_sacrebleu, judge_texts
from compress.tasks.batch import Batch, View, select_units
from compress.tasks.lengths import order_by_length, parts_by_length
from compress.tasks.pieces import Pieces
from compress.tasks.signature import Signature
from compress.tasks.signature import Tensor as Declared
from compress.tasks.symbols import BEGIN, END, Ragged, Symbols, Vocabularies, WrittenLimit, vocabulary_of
from compress.tasks.task import Problem, Task, refuse_unlabelled
from compress.tasks.written import WrittenTask

FILE = "vocabulary.json"
FITTING = ("exact-match", "token-accuracy", *TEXT_MEASURES)
FORCED = "forced-accuracy"
# Names of the inputs, which say whether a model answers what it reads or continues it.
ANSWERING = ("source_ids", "source_mask", "target_ids")
CONTINUING = ("prompt_ids", "prompt_mask", "completion_ids")
# Raised by hand when the same texts come to be trained otherwise: 2 orders sources by length, and dropout draws bytes.
VERSION = 2


@dataclass(frozen=True)
class TransductionTask(Task):
    """Writing a text from another, its source: an answer to it (transduction) or a completion of it (generation).

    A unit is a symbol to be written, or the end after the last one.

    A model is trained, and compared with its teacher, on the symbol after each one of a text that is given to it
    (teacher forcing). What it writes by itself is judged by `judge_written`.

    Attributes:
        vocabularies: the symbols of both sides.
        judge: what counts as right.
    """

    vocabularies: Vocabularies = field(repr=False)
    judge: Judge

    @classmethod
    def of(
        cls,
        data: Data,
        *,
        symbols: Symbols,
        judge: Judge,
        pieces: Pieces | None = None,
        written_limit: WrittenLimit | None = None,
    ) -> Self:
        """Return the task for these data; the symbols are those of the train role, or of a tokenizer.

        Args:
            data: with texts to write.
            symbols: what texts consist of, and how long they may be. Prompts and completions have one vocabulary.
            judge: what counts as right.
            pieces: of a tokenizer, for both sides, instead of what ``symbols`` says.
            written_limit: of what is written, by the length of its source.

        Raises:
            DataError: when train has no texts to write, prompts and completions are to have symbols of different kinds,
                or the measure is none of this task.
            EnvironmentFault: when the measure's library is not installed.
        """
        train = data.train
        if train.labels is None or not train.written:
            raise DataError(
                "the train role has no texts to write",
                expected="a column of texts: target_text",
                where="train",
                hint="the symbols that a model can write are those of train",
            )
        read, written = train.array.tolist(), (text for texts in train.labels for text in texts)
        if data.continues and symbols.text != symbols.target_text:
            raise DataError(
                "a completion goes on in the symbols of its prompt",
                expected="the same for text and target_text",
                got=f"{symbols.text} and {symbols.target_text}",
                where="data.symbols",
            )
        if data.continues:
            source = target = pieces or vocabulary_of(chain(read, written), kind=symbols.text)
        else:
            source = pieces or vocabulary_of(read, kind=symbols.text)
            target = pieces or vocabulary_of(written, kind=symbols.target_text)
        if isinstance(target, Pieces):
            _refuse_signs(target, data)
        sides = Vocabularies(source, target, symbols.max_length, written_limit, data.continues)
        task = cls(vocabularies=sides, judge=judge)
        chosen = judge.choose(FITTING)
        if chosen not in FITTING or judge.merge:
            raise DataError(
                "texts that are written are judged against those that are right",
                expected=f"one of {', '.join(FITTING)}, and no merge",
                got=chosen,
                where="data.judge",
            )
        if chosen in TEXT_MEASURES:
            find_sacrebleu()
        return task

    @property
    def libraries(self) -> tuple[str, ...]:
        """A tokenizer's, and the measure's."""
        cutting = ("tokenizers", "transformers") if isinstance(self.vocabularies.source, Pieces) else ()
        return *cutting, *(["sacrebleu"] if self.measure in TEXT_MEASURES else [])

    @property
    def classes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] # of the vocabulary
        """The symbols that may be written; the first four are padding, begin, end and unknown."""
        return self.vocabularies.target.names

    @property
    def problem(self) -> Problem:
        """The next symbol is one of those there are."""
        return "single-label"

    @property
    def measure(self) -> str:
        """The measure that gates and choices are about."""
        return self.judge.choose(FITTING)

    @property
    def max_length(self) -> int:
        """Symbols that are read, and symbols with the end that are written, at most."""
        return self.vocabularies.max_length

    @property
    def fixed_size(self) -> bool:
        """Never: batches are padded to their own longest sample."""
        return False

    @property
    def signature(self) -> Signature:
        """A source with its mask, and the target so far, in; logits of the next symbol after each of its places out."""
        source, target = len(self.vocabularies.source.names), len(self.classes)
        read, mask, written = CONTINUING if self.vocabularies.continues else ANSWERING
        inputs = (
            Declared(name=read, dtype="int64", shape=("batch", "source"), symbols=source),
            Declared(name=mask, dtype="int64", shape=("batch", "source")),
            Declared(name=written, dtype="int64", shape=("batch", "target"), symbols=target),
        )
        logits = Declared(name="logits", dtype="float32", shape=("batch", "target", target))
        return Signature(inputs=inputs, outputs=(logits,), classes=self.classes)

    @property
    def deployed(self) -> WrittenTask:
        """A source in, what is written for it out."""
        return WrittenTask(self)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a deployment must do to text: number the symbols by ``vocabulary.json``, cut at ``max_length``."""
        return {
            "vocabulary": FILE,
            "source": self.vocabularies.source.kind,
            "target": self.vocabularies.target.kind,
            "max_length": self.max_length,
        }

    @cached_property
    def state(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] # a property, computed once
        """SHA-256 of everything that decides what a batch holds, in which order, and how it is judged."""
        state = f"{VERSION}\n{self.vocabularies.text}\n{self.judge.model_dump_json()}"
        return hashlib.sha256(state.encode()).hexdigest()

    @cached_property
    def _sides(self) -> dict[str, Ragged]:
        """What was encoded, by the digest of the samples; of targets with a sign before it."""
        return {}

    def sources(self, samples: Samples) -> Ragged:
        """Return the numbers of a role's sources, none of them empty."""
        if samples.digest not in self._sides:
            found = self.vocabularies.source.read(samples.array.tolist(), most=self.max_length)
            self._sides[samples.digest] = found
        return self._sides[samples.digest]

    def targets(self, samples: Samples) -> Ragged:
        """Return the numbers of a role's targets, of several right ones the first, each with its end unless it is cut.

        Raises:
            DataError: when the role has none.
        """
        if samples.labels is None:
            raise refuse_unlabelled()
        key = f"target {samples.digest}"
        if key not in self._sides:
            found = self.vocabularies.target.encode_all([texts[0] for texts in samples.labels])
            self._sides[key] = Ragged.of([[*numbers, END] for numbers in found], most=self.max_length)
        return self._sides[key]

    def batch(self, samples: Samples, index: Tensor, *, view: View | None = None) -> Batch:
        """Return sources and targets at these positions, padded to the longest of them.

        Raises:
            DataError: when the role has no targets: there is nothing to force.
        """
        assert view is None
        rows, targets = index.numpy(), self.targets(samples)
        ids, mask = self.sources(samples).pad(rows)
        sources = (torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)))
        return force(sources, targets, rows, index=index)

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of the symbols to be written, [units, symbols]."""
        assert batch.units is not None
        return select_units(model(*batch.inputs), batch.units)

    def units(self, samples: Samples) -> NDArray[np.int64]:
        """Return how many symbols each sample's target has, with its end, int64 [N]."""
        return self.targets(samples).lengths

    def count_truncated(self, samples: Samples) -> int:
        """Return how many samples have a source or a target that is cut."""
        cut = self.sources(samples).truncated
        return int((cut if samples.labels is None else cut | self.targets(samples).truncated).sum())

    def order(self, samples: Samples, generator: torch.Generator, *, size: int) -> Tensor:
        """Return a random order in which the samples of an update are about equally long, so that little is padded."""
        source, target = self.sources(samples).lengths, self.targets(samples).lengths
        # By source, those of equal sources by target: sorted by the sum, a sixth of both would be padding.
        return order_by_length(torch.from_numpy(source * (self.max_length + 1) + target), generator, size=size)

    def parts(self, samples: Samples, index: Tensor, *, size: int) -> Iterator[Tensor]:
        """Yield positions into ``index`` by length, as many at once as ``size`` samples of 32 symbols have symbols."""
        yield from parts_by_length(self._lengths(samples)[index], size=size)

    def _lengths(self, samples: Samples) -> Tensor:
        """Return the lengths of source and target together, int64 [N]."""
        return torch.from_numpy(self.sources(samples).lengths + self.targets(samples).lengths)

    def labels(self, samples: Samples) -> NDArray[Any]:
        """Return the symbols to be written, int64 [units]."""
        return self.targets(samples).numbers

    def tallies(self, outputs: NDArray[np.floating], samples: Samples) -> Mapping[str, Tally]:
        """Return the share of next symbols that are right after a given beginning, and the perplexity.

        What a model writes by itself is judged by ``judge_written``.
        """
        right = self.labels(samples)
        shifted = outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True)
        nats = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(right)), right]
        starts, counts = self.targets(samples).starts[:-1], self.units(samples)
        found = np.add.reduceat((outputs.argmax(axis=1) == right).astype(np.int64), starts)
        sums = np.stack([np.add.reduceat(nats, starts), counts.astype(np.float64)], axis=1)
        return {FORCED: shares(found, counts), "perplexity": Tally(sums, perplexity)}

    def tally(self, outputs: NDArray[np.floating], samples: Samples) -> Tally:
        """Return the share of next symbols that are right after a given beginning."""
        return self.tallies(outputs, samples)[FORCED]

    def judge_written(self, written: Sequence[Sequence[int]], samples: Samples) -> Mapping[str, Tally]:
        """Return the measures of what was written; chrF and BLEU among them where one of them is what is asked for.

        Args:
            written: numbers of symbols, of each sample, without begin, end and padding.
            samples: a labelled role; each of a sample's texts is right.

        Raises:
            DataError: when the role has no labels.
        """
        if samples.labels is None:
            raise refuse_unlabelled()
        target = self.vocabularies.target
        right = [[target.split(text) for text in texts] for texts in samples.labels]
        found = judge_written([target.spell(numbers) for numbers in written], right)
        if self.measure not in TEXT_MEASURES:
            return found
        return {**found, **judge_texts([target.decode(numbers) for numbers in written], samples.labels.tolist())}

    def reading(self, directory: Path) -> Self:
        """Return the task with the vocabularies that lie beside a model, if they are others."""
        path = directory / FILE
        text = path.read_text(encoding="utf-8") if path.exists() else self.vocabularies.text
        return self if text == self.vocabularies.text else replace(self, vocabularies=Vocabularies.read(text))

    def columns_of(self, other: Task) -> NDArray[np.int64] | None:
        """Return which symbol of another reading each of ours is; see `Task.columns_of`.

        Raises:
            DataError: when the other does not have them all.
        """
        if other.classes == self.classes:
            return None
        number_of = {name: number for number, name in reversed([*enumerate(other.classes)])}
        if missing := [name for name in self.classes if name not in number_of]:
            raise DataError(
                "the student writes symbols that the teacher does not have",
                expected="symbols of the teacher's",
                got=", ".join(missing[:8]),
            )
        return np.array([number_of[name] for name in self.classes], np.int64)

    def travelling(self, directory: Path) -> tuple[Path, ...]:
        """Return the vocabularies beside a stored model."""
        return tuple(path for path in (directory / FILE,) if path.exists())

    def initial_files(self) -> Mapping[str, str]:
        """Return the vocabularies: a model's numbers mean nothing without them."""
        return self.files()

    def files(self) -> Mapping[str, str]:
        """Return the vocabularies."""
        return {FILE: self.vocabularies.text}

    @property
    def token_limits(self) -> tuple[int, int]:
        """How many symbols there are to read, and the longest length."""
        return len(self.vocabularies.source.names), self.max_length

    @property
    def written_limit(self) -> tuple[int, float] | None:
        """How many symbols are written at most, and how many more for each symbol of the source."""
        found = self.vocabularies.written_limit
        return None if found is None else (found.symbols, found.per_source_symbol)

    @property
    def written_first(self) -> int | None:
        """The number of what every text that is written begins with; None where nothing is forced."""
        return self.vocabularies.first

    def noise(self, rows: int, *, seed: int) -> tuple[NDArray[Any], ...]:
        """Return random symbols of half the longest length, nothing padded."""
        generator, length = np.random.default_rng(seed), max(2, self.max_length // 2)
        sides = (len(self.vocabularies.source.names), len(self.classes))
        source, target = (generator.integers(END + 1, size, size=(rows, length)) for size in sides)
        target[:, 0] = BEGIN
        return source, np.ones_like(source), target


def force(sources: tuple[Tensor, ...], targets: Ragged, rows: NDArray[np.integer], *, index: Tensor) -> Batch:
    """Return the batch in which each symbol of a target is to be predicted after those before it (teacher forcing).

    Args:
        sources: ids and mask, int64 [B, S].
        targets: of a batch or a role, each with its end unless it is cut.
        rows: int64 [B], which of them.
        index: int64 [B], positions in the role.
    """
    right, valid = targets.pad(rows)
    given = np.concatenate([np.full((len(rows), 1), BEGIN), right[:, :-1]], axis=1)
    units = torch.from_numpy(valid)
    return Batch(
        inputs=(*sources, torch.from_numpy(np.where(valid, given, 0))),
        labels=torch.from_numpy(targets.take(rows)),
        index=index,
        view=None,
        mask=units,
        units=units,
    )


def perplexity(total: Numbers) -> Numbers:
    """Return e to the mean of nats."""
    return np.exp(ratio(total))


def _refuse_signs(pieces: Pieces, data: Data) -> None:
    """Refuse texts to be written that hold a sign of the tokenizer's: it ends them, or is never written.

    Raises:
        DataError: with the first of them.
    """
    if (signs := pieces.signs) is None:
        return
    for role, samples in data.roles.items():
        for row, texts in enumerate(samples.labels if samples.labels is not None else ()):
            if found := next(filter(None, map(signs.search, texts)), None):
                raise DataError(
                    "a text to be written holds a sign of the tokenizer's own",
                    expected="the text alone: a model learns its end by itself",
                    got=f"{found[0]} in {found.string[-80:]!r}",
                    where=f"{role}, sample {row}",
                    hint="leave the sign out of the column",
                )
