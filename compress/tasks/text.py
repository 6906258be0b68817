"""Text: one row of outputs for each text or pair of texts, or one for each word."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.samples import Data, Samples
from compress.errors import DataError
from compress.measures.judge import Judge, multi_label, regression, single_label
from compress.measures.tally import Tally, entities, name_entities, shares
from compress.tasks.batch import Batch, View, select_units
from compress.tasks.contrast import Answer, Spelled
from compress.tasks.lengths import order_by_length, parts_by_length
from compress.tasks.linear import LinearTags, LinearText
from compress.tasks.signature import Signature
from compress.tasks.signature import Tensor as Declared
from compress.tasks.task import Problem, Task, refuse_unlabelled
from compress.tasks.tokenizer import FILES, Encoded, Tokenizer


@dataclass(frozen=True)
class TextTask(Task):
    """Text classification (one label, several, or numbers) and token classification.

    Attributes:
        classes: names of the outputs, in order.
        tokenizer: text to tokens.
        problem_kind: what the outputs of a unit are.
        judge: what counts as right.
        pairs: whether a sample is two texts.
        words: whether a sample is a sequence of words, each with a label.
    """

    classes: tuple[str, ...]
    tokenizer: Tokenizer = field(repr=False)
    problem_kind: Problem
    judge: Judge
    pairs: bool
    words: bool

    @property
    def libraries(self) -> tuple[str, ...]:
        """The tokenizer's."""
        return "tokenizers", "transformers"

    @classmethod
    def of(cls, data: Data, *, tokenizer: Tokenizer, judge: Judge) -> "TextTask":
        """Return the task for these data; the kind of labels says which one it is.

        Raises:
            DataError: when the data are no text, or the measure does not fit the labels.
        """
        inputs, labels = data.select.inputs, data.select.labels
        if inputs.dtype != object or labels is None:
            raise DataError("this task needs labelled text", got=f"{inputs.dtype} {list(inputs.shape)}")
        problem: Problem = "single-label"
        if labels.ndim == 2:
            problem = "multi-label" if labels.dtype == np.uint8 else "regression"
        task = cls(
            classes=data.classes,
            tokenizer=tokenizer,
            problem_kind=problem,
            judge=judge,
            pairs=labels.dtype != object and not isinstance(inputs[0], str),
            words=labels.dtype == object,
        )
        judge.group_classes(data.classes)
        chosen = judge.choose(task._fitting)
        if task.words and chosen not in task._fitting:
            raise DataError(
                "a measure of your own judges samples, and here every word has a label",
                expected=f"one of {', '.join(task._fitting)}",
                got=chosen,
                where="data.judge.measure",
            )
        return task

    @property
    def problem(self) -> Problem:
        """What the outputs of a unit are."""
        return self.problem_kind

    @property
    def _fitting(self) -> tuple[str, ...]:
        """Names of the measures that fit, the usual one first."""
        if self.words:
            return ("entity-f1", "accuracy") if name_entities(self.classes) else ("accuracy",)
        return {
            "single-label": ("accuracy", "macro-f1", "matthews"),
            "multi-label": ("accuracy", "micro-f1", "macro-f1"),
            "regression": ("pearson", "spearman"),
        }[self.problem]

    @property
    def measure(self) -> str:
        """The measure that gates and choices are about."""
        return self.judge.choose(self._fitting)

    @property
    def fixed_size(self) -> bool:
        """Never: batches are padded to their own longest sample."""
        return False

    @property
    def signature(self) -> Signature:
        """Token ids and attention mask in, and token types for two texts; a float32 row of outputs a unit out."""
        names = ["input_ids", "attention_mask"]
        if self.pairs and self.tokenizer.takes_types:
            names.append("token_type_ids")
        axes = ("batch", "length", len(self.classes)) if self.words else ("batch", len(self.classes))
        return Signature(
            inputs=tuple(Declared(name=name, dtype="int64", shape=("batch", "length")) for name in names),
            outputs=(Declared(name="logits", dtype="float32", shape=axes),),
            classes=self.classes,
        )

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a deployment must do to text: run ``tokenizer.json``, whose limit is ``max_length``."""
        units = "the first token of each word" if self.words else "the whole sample"
        return {
            "tokenizer": "tokenizer.json",
            "max_length": self.tokenizer.max_length,
            "outputs_for": units,
            "problem": self.problem,
            "texts": 2 if self.pairs else 1,
        }

    @cached_property
    def state(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] # a property, computed once
        """SHA-256 of everything that decides what a batch holds and how it is judged."""
        state = (
            self.classes,
            self.tokenizer.digest,
            self.problem,
            self.judge.model_dump_json(),
            self.pairs,
            self.words,
        )
        return hashlib.sha256(repr(state).encode()).hexdigest()

    def encode(self, samples: Samples) -> Encoded:
        """Return the tokens of a role."""
        return self.tokenizer.encode(samples, words=self.words)

    def batch(self, samples: Samples, index: Tensor, *, view: View | None = None) -> Batch:
        """Return the tokens of the samples at these positions, padded to the longest of them."""
        assert view is None
        rows, tokens = index.numpy(), self.encode(samples)
        ids, valid = tokens.pad(tokens.ids, rows, fill=self.tokenizer.pad_id)
        mask = torch.from_numpy(valid)
        inputs = [torch.from_numpy(ids), mask.long()]
        if self.pairs and self.tokenizer.takes_types:
            inputs.append(torch.from_numpy(tokens.pad(tokens.types, rows, fill=0)[0]))
        units = None
        if self.words:
            units = torch.from_numpy(tokens.pad(tokens.words, rows, fill=-1)[0] >= 0)
        return Batch(
            inputs=tuple(inputs), labels=self._labels(samples, rows), index=index, view=view, mask=mask, units=units
        )

    def _labels(self, samples: Samples, rows: NDArray[np.int64]) -> Tensor | None:
        if samples.labels is None:
            return None
        if not self.words:
            return torch.from_numpy(samples.labels[rows])
        return torch.from_numpy(np.concatenate([self._tags(samples, row) for row in rows]))

    def _tags(self, samples: Samples, row: int) -> NDArray[np.int64]:
        """Return the labels of the words of a sample that have a token, int64 [units]."""
        assert samples.labels is not None
        return samples.labels[row][self._seen(samples, row)]

    def _seen(self, samples: Samples, row: int) -> NDArray[np.int32]:
        """Return which words of a sample have a token, int32 [units]; the others were cut, or are not even unknown."""
        tokens = self.encode(samples)
        words = tokens.words[tokens.starts[row] : tokens.starts[row + 1]]
        return words[words >= 0]

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the outputs of a batch's units, [units, outputs]."""
        outputs = model(*batch.inputs)
        return outputs if batch.units is None else select_units(outputs, batch.units)

    def units(self, samples: Samples) -> NDArray[np.int64]:
        """Return how many units each sample has, int64 [N]."""
        if not self.words:
            return super().units(samples)
        tokens = self.encode(samples)
        return np.diff(np.concatenate([[0], np.cumsum(tokens.words >= 0)])[tokens.starts])

    def count_truncated(self, samples: Samples) -> int:
        """Return how many samples of a role are cut at the length limit."""
        return self.encode(samples).truncated

    def order(self, samples: Samples, generator: torch.Generator, *, size: int) -> Tensor:
        """Return a random order in which the samples of an update are about equally long, so that little is padded."""
        return order_by_length(torch.from_numpy(self.encode(samples).lengths), generator, size=size)

    def parts(self, samples: Samples, index: Tensor, *, size: int) -> Iterator[Tensor]:
        """Yield positions into ``index`` by length, as many at once as ``size`` samples of 32 tokens have tokens."""
        yield from parts_by_length(torch.from_numpy(self.encode(samples).lengths)[index], size=size)

    def labels(self, samples: Samples) -> NDArray[Any]:
        """Return the labels of a role's units."""
        if not self.words:
            return super().labels(samples)
        return np.concatenate([self._tags(samples, row) for row in range(len(samples))])

    def tallies(self, outputs: NDArray[np.floating], samples: Samples) -> Mapping[str, Tally]:
        """Return every measure that fits; a word without a token is decided as ``O``, or wrongly if there is no O."""
        if samples.labels is None:
            raise refuse_unlabelled()
        own = {} if self.words else self.judge.own(outputs, samples.labels)
        if self.problem == "regression":
            return regression(outputs, samples.labels) | own
        if self.problem == "multi-label":
            return multi_label(outputs > 0, samples.labels) | own
        decided = outputs.argmax(axis=1)
        if not self.words:
            return single_label(decided, samples.labels, self.classes, self.judge) | own
        tags = self._tag(decided, samples, samples.labels)
        right_words = np.array([(ours == right).sum() for ours, right in zip(tags, samples.labels, strict=True)])
        tallies = {"accuracy": shares(right_words, np.array([len(right) for right in samples.labels]))}
        if name_entities(self.classes):
            tallies = {"entity-f1": entities(tags, samples.labels.tolist(), self.classes)} | tallies
        return tallies

    def _tag(self, decided: NDArray[np.int64], samples: Samples, labels: NDArray[Any]) -> list[NDArray[np.int64]]:
        """Return the tag of every word of each sample, -1 where it is decided to be none that there is."""
        ends = np.cumsum(self.units(samples))
        nothing = self.classes.index("O") if "O" in self.classes else -1
        tags: list[NDArray[np.int64]] = []
        for row, right in enumerate(labels):
            seen = self._seen(samples, row)
            found = np.full(len(right), nothing)
            found[seen] = decided[ends[row] - len(seen) : ends[row]]
            tags.append(found)
        return tags

    def spell(self, outputs: NDArray[np.floating], samples: Samples) -> Spelled | None:
        """Return texts with the names of their classes, labels or tags; classes that count as one go by one name."""
        labels = samples.labels
        if labels is None or self.problem == "regression":
            return None
        if self.words:
            names = (*self.classes, "-")  # -1 is the last one
            tags = self._tag(outputs.argmax(axis=1), samples, labels)
            right, answers = ([tuple(names[tag] for tag in row) for row in rows] for rows in (labels, tags))
            sources = [tuple(words) for words in samples.array]
        else:
            spell = self._spell_labels if self.problem == "multi-label" else self._spell_classes
            right, answers = spell(labels), spell(outputs > 0 if self.problem == "multi-label" else outputs.argmax(1))
            sources = [tuple(text) if self.pairs else (text,) for text in samples.array]
        return Spelled(sources, [(answer,) for answer in right], answers)

    def _spell_classes(self, numbers: NDArray[Any]) -> list[Answer]:
        shared = {member: name for name, members in self.judge.merge.items() for member in members}
        names = [shared.get(name, name) for name in self.classes]
        return [(names[number],) for number in numbers]

    def _spell_labels(self, marked: NDArray[Any]) -> list[Answer]:
        return [(", ".join(self.classes[number] for number in np.flatnonzero(row)) or "none",) for row in marked]

    def simplest(self) -> LinearText | LinearTags:
        """Return a linear model on n-grams, or on each word and its neighbours."""
        count = len(self.classes)
        return LinearTags(count, self._seen) if self.words else LinearText(self.problem, count)

    def reading(self, directory: Path) -> Self:
        """Return the task with the tokenizer that lies beside a model, if there is one."""
        if not (directory / "tokenizer.json").exists():
            return self
        return self.with_tokenizer(_beside(directory, self.tokenizer.max_length))

    def with_tokenizer(self, tokenizer: Tokenizer) -> Self:
        """Return the task with another tokenizer."""
        return self if tokenizer.digest == self.tokenizer.digest else replace(self, tokenizer=tokenizer)

    def splits_like(self, other: Task, samples: Samples) -> bool:
        """Whether another reading gives every sample of a role as many tokens, and words the same first ones."""
        assert isinstance(other, TextTask)
        ours, theirs = self.encode(samples), other.encode(samples)
        return np.array_equal(ours.starts, theirs.starts) and np.array_equal(ours.words, theirs.words)

    def travelling(self, directory: Path) -> tuple[Path, ...]:
        """Return the files of a tokenizer that lies beside a model, if one does."""
        return tuple(path for path in map(directory.joinpath, FILES) if path.exists())

    @property
    def token_limits(self) -> tuple[int, int]:
        """The tokenizer's size, and the longest length."""
        return self.tokenizer.size, self.tokenizer.max_length

    def files(self) -> Mapping[str, str]:
        """Return the tokenizer's files."""
        return self.tokenizer.files()

    def noise(self, rows: int, *, seed: int) -> tuple[NDArray[Any], ...]:
        """Return random tokens of half the longest length, nothing padded."""
        generator = np.random.default_rng(seed)
        shape = (rows, max(4, self.tokenizer.max_length // 2))
        ids = generator.integers(self.tokenizer.size, size=shape)
        rest = [np.ones(shape, np.int64), np.zeros(shape, np.int64)]
        return (ids, *rest[: len(self.signature.inputs) - 1])


@lru_cache(maxsize=16)
def _beside(directory: Path, max_length: int) -> Tokenizer:
    """Return the tokenizer in an artifact, which never changes; it remembers what it has encoded."""
    return Tokenizer.load(str(directory), max_length=max_length)
