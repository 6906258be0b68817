"""What every task is: how samples become batches, outputs become a loss, and decisions become a number."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from compress.config.user_code import is_own, origin
from compress.data.samples import Samples
from compress.errors import DataError
from compress.measures.tally import Tally
from compress.tasks.batch import Batch, View
from compress.tasks.contrast import Spelled
from compress.tasks.signature import Signature
from compress.tasks.simplest import Simplest

Problem = Literal["single-label", "multi-label", "regression", "written"]


class Task(ABC):
    """The part of a pipeline that knows what samples are; stages know tasks only through this.

    A model is judged by its **units**: one per sample, or one per word where every word has a label. Outputs have one
    row per unit, in the order of samples and words.

    Attributes:
        classes: names of the outputs, in order.
    """

    classes: tuple[str, ...]

    @property
    @abstractmethod
    def signature(self) -> Signature:
        """What a model takes and gives."""

    @property
    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """What a deployment must do to raw samples, as JSON values."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions that cut its texts or compute its measure, where it needs any."""
        return ()

    @property
    def input_formula(self) -> str:
        """What a model gets of a raw sample x, as a formula; empty where there is none."""
        return ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that decides what a batch holds; of a class of the user's, its file is part of that."""
        kind = type(self)
        return hashlib.sha256(f"{origin(kind)}\n{self.state}".encode()).hexdigest() if is_own(kind) else self.state

    @property
    def state(self) -> str:
        """Everything that, with the code of the class, decides what a batch holds and how it is judged.

        Raises:
            DataError: when the task is no dataclass, or its fields are no JSON values.
        """
        kind = type(self).__name__
        if not is_dataclass(self):
            raise DataError(f"what decides {kind} is not known", expected="a frozen dataclass, or `state`", got=kind)
        try:
            return json.dumps(asdict(self), sort_keys=True)
        except TypeError as error:
            raise DataError(f"the fields of {kind} are not all JSON values", got=error) from error

    @property
    @abstractmethod
    def problem(self) -> Problem:
        """What the outputs of a unit are: one distribution, independent probabilities, numbers, or a written text."""

    @property
    @abstractmethod
    def measure(self) -> str:
        """The measure that gates and choices are about."""

    @property
    def deployed(self) -> "Task":
        """The task as a deployed model sees it: what it is given, what it gives, and how that is judged.

        Another one where a model is trained otherwise than it is used: one that writes is given a source alone.
        """
        return self

    @property
    def augmented(self) -> bool:
        """Whether training varies its samples."""
        return False

    def plain(self) -> Self:
        """Return the task without augmentation."""
        return self

    @property
    def fixed_size(self) -> bool:
        """Whether all samples have one size, so that tensors of many samples can be stacked."""
        return True

    def views(self, *, mixup: float = 0.0) -> tuple[View | None, ...]:
        """The views that training draws from; ``(None,)`` where there are only the plain samples.

        Args:
            mixup: share of the samples that every view mixes with another.

        Raises:
            DataError: when samples of this task cannot be mixed.
        """
        if mixup:
            raise DataError("only images can be mixed", expected="a loss without mixup", got=f"mixup {mixup:g}")
        return (None,)

    @abstractmethod
    def batch(self, samples: Samples, index: Tensor, *, view: View | None = None) -> Batch:
        """Return the preprocessed samples at these positions.

        Args:
            samples: a role.
            index: int64 [B].
            view: which view of them; None for the plain samples.
        """

    @abstractmethod
    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the outputs of a batch's units, [units, outputs]."""

    def rows(self, outputs: NDArray[np.floating], batch: Batch) -> NDArray[np.floating]:
        """Return the outputs of a batch's units, [units, outputs], from what a model gives for the whole batch."""
        return outputs if batch.units is None else outputs[batch.units.numpy()]

    def units(self, samples: Samples) -> NDArray[np.int64]:
        """Return how many units each sample has, int64 [N]."""
        return np.ones(len(samples), np.int64)

    def count_truncated(self, samples: Samples) -> int:  # noqa: ARG002
        """Return how many samples of a role are cut, because they are longer than a model is to read."""
        return 0

    def order(self, samples: Samples, generator: torch.Generator, *, size: int) -> Tensor:  # noqa: ARG002
        """Return a random order of a role's samples for one epoch, int64 [N].

        Args:
            samples: the role.
            generator: draws it.
            size: samples per update; those of one update may be chosen to be alike in length.
        """
        return torch.randperm(len(samples), generator=generator)

    def parts(self, samples: Samples, index: Tensor, *, size: int) -> Iterator[Tensor]:  # noqa: ARG002
        """Yield positions into ``index``, int64, that make up batches of inference; each once, always the same ones.

        Args:
            samples: a role.
            index: int64 [B], which of its samples.
            size: of a batch, in samples of ordinary size.
        """
        yield from torch.arange(len(index)).split(size)

    def hard_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each unit against its label, float32 [units].

        Cross-entropy in nats; for several labels the sum of their binary cross-entropies; for regression the squared
        error, summed over the targets.

        Raises:
            DataError: when the batch has no labels.
        """
        if batch.labels is None:
            raise DataError(
                "the hard loss needs labels", got="an unlabelled role", hint="leave the term `hard` out of the loss"
            )
        return hard_loss(outputs, batch.labels, problem=self.problem)

    def labels(self, samples: Samples) -> NDArray[Any]:
        """Return the labels of a role's units, [units] or [units, outputs].

        Raises:
            DataError: when the role has none.
        """
        if samples.labels is None:
            raise refuse_unlabelled()
        return samples.labels

    @abstractmethod
    def tallies(self, outputs: NDArray[np.floating], samples: Samples) -> Mapping[str, Tally]:
        """Return every measure that fits the task, by its name.

        Args:
            outputs: float [units, outputs].
            samples: a labelled role.
        """

    def tally(self, outputs: NDArray[np.floating], samples: Samples) -> Tally:
        """Return the measure that gates and choices are about."""
        return self.tallies(outputs, samples)[self.measure]

    def decisions(self, outputs: NDArray[np.floating]) -> NDArray[Any] | None:
        """Return what is decided for each unit, [units] or [units, outputs]; None where nothing is decided."""
        if self.problem == "regression":
            return None
        return outputs.argmax(axis=1) if self.problem == "single-label" else outputs > 0

    def spell(self, outputs: NDArray[np.floating], samples: Samples) -> Spelled | None:  # noqa: ARG002
        """Return texts, what is right and what was decided, in words; None where there are no texts or no names.

        Args:
            outputs: of a model that reads samples as this task does.
            samples: a labelled role.
        """
        return None

    def reading(self, directory: Path) -> Self:  # noqa: ARG002
        """Return the task as a stored model reads it; text models may have a tokenizer of their own.

        Args:
            directory: of the stored model.
        """
        return self

    def splits_like(self, other: "Task", samples: Samples) -> bool:  # noqa: ARG002
        """Whether another reading gives every sample of a role the same positions; see `reading`."""
        return True

    def columns_of(self, other: "Task") -> NDArray[np.int64] | None:  # noqa: ARG002
        """Return which output of another reading each of ours is, int64 [outputs]; None where they are the same."""
        return None

    def travelling(self, directory: Path) -> tuple[Path, ...]:  # noqa: ARG002
        """Return the files beside a stored model that its successors need to read samples.

        Args:
            directory: of the stored model.
        """
        return ()

    def initial_files(self) -> Mapping[str, str]:
        """Return the text files that lie beside a fresh model, by name, without which it could not read samples."""
        return {}

    @property
    def token_limits(self) -> tuple[int, int] | None:
        """How many different tokens, and how many tokens a sample, a model may get; None where there are no tokens."""
        return None

    @property
    def written_first(self) -> int | None:
        """The number of what every text that is written begins with; None where nothing is forced."""
        return None

    @property
    def written_limit(self) -> tuple[int, float] | None:
        """What is written for a source of n symbols has a + b n at most: (a, b); None where only `token_limits` are."""
        return None

    def simplest(self) -> Simplest | None:
        """Return the simplest model of the task, which a teacher must beat; None where none is known."""
        return None

    def files(self) -> Mapping[str, str]:
        """Return the text files that a deployment needs besides the model, by name."""
        return {}

    def noise(self, rows: int, *, seed: int) -> tuple[NDArray[Any], ...]:
        """Return made-up inputs that give nothing away, one array per input."""
        generator = np.random.default_rng(seed)
        sizes = [[rows, *(size for size in tensor.shape[1:])] for tensor in self.signature.inputs]
        return tuple(generator.standard_normal(size).astype(np.float32) for size in sizes)


def hard_loss(outputs: Tensor, labels: Tensor, *, problem: Problem) -> Tensor:
    """Return the loss of each unit against its label, float32 [units]; see `Task.hard_loss`.

    Args:
        outputs: [units, outputs].
        labels: int64 [units] for a single label, else [units, outputs].
        problem: what the outputs of a unit are.
    """
    outputs = outputs.float()
    if problem == "single-label":
        return F.cross_entropy(outputs, labels, reduction="none")
    if problem == "multi-label":
        return F.binary_cross_entropy_with_logits(outputs, labels.float(), reduction="none").sum(dim=1)
    return (outputs - labels).square().sum(dim=1)


def refuse_unlabelled() -> DataError:
    """Return the refusal of a role without labels where decisions are judged."""
    return DataError("accuracy needs labels", got="an unlabelled role", hint="label the select and test roles")
