"""A task that writes as its deployed model sees it: a source in, the written symbols out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.samples import Samples
from compress.measures.tally import Tally
from compress.tasks.batch import Batch, View
from compress.tasks.contrast import Spelled
from compress.tasks.lengths import parts_by_length
from compress.tasks.signature import Signature
from compress.tasks.signature import Tensor as Declared
from compress.tasks.symbols import PAD
from compress.tasks.task import Problem, Task

if TYPE_CHECKING:
    from compress.tasks.transduction import TransductionTask


@dataclass(frozen=True)
class WrittenTask(Task):
    """What scoring and timing ask about a program. A unit is a sample; an output is its symbols, padded.

    Attributes:
        forced: the same task as training sees it, where each symbol of a given target is predicted.
    """

    forced: "TransductionTask"

    @property
    def classes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] # of the vocabulary
        """The symbols that may be written."""
        return self.forced.classes

    @property
    def signature(self) -> Signature:
        """A source with its mask in; symbols and their log-probability out."""
        tokens = Declared(name="tokens", dtype="int64", shape=("batch", "length"))
        chance = Declared(name="log_probability", dtype="float32", shape=("batch",))
        ids, mask = self.forced.signature.inputs[:2]
        inputs = (ids.model_copy(update={"name": "source_ids"}), mask.model_copy(update={"name": "source_mask"}))
        return Signature(inputs=inputs, outputs=(tokens, chance), classes=self.classes)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a deployment must do to text."""
        return self.forced.preprocessing

    @property
    def state(self) -> str:
        """That of the task."""
        return self.forced.state

    @property
    def problem(self) -> Problem:
        """Whole texts."""
        return "written"

    @property
    def measure(self) -> str:
        """The measure that gates and choices are about."""
        return self.forced.measure

    @property
    def fixed_size(self) -> bool:
        """Never: batches are padded to their own longest source."""
        return False

    def batch(self, samples: Samples, index: Tensor, *, view: View | None = None) -> Batch:
        """Return the sources at these positions, padded to the longest of them."""
        ids, mask = self.forced.sources(samples).pad(index.numpy())
        inputs = (torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)))
        return Batch(inputs=inputs, labels=None, index=index, view=view, mask=torch.from_numpy(mask))

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return what a model makes of the sources."""
        return model(*batch.inputs)

    def parts(self, samples: Samples, index: Tensor, *, size: int) -> Iterator[Tensor]:
        """Yield positions into ``index`` by the length of the source."""
        yield from parts_by_length(torch.from_numpy(self.forced.sources(samples).lengths)[index], size=size)

    def count_truncated(self, samples: Samples) -> int:
        """Return how many samples have a source or a target that is cut."""
        return self.forced.count_truncated(samples)

    def tallies(self, outputs: NDArray[Any], samples: Samples) -> Mapping[str, Tally]:
        """Return the measures of what was written.

        Args:
            outputs: symbols, int [N, length], padded.
            samples: a labelled role.
        """
        return self.forced.judge_written([row[row != PAD].tolist() for row in outputs], samples)

    def decisions(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Return each text that was written, [N]."""
        return np.array([self.forced.vocabularies.target.decode(row.tolist()) for row in outputs])

    def spell(self, outputs: NDArray[Any], samples: Samples) -> Spelled | None:
        """Return sources, the texts that are right, and those that were written, as they are compared."""
        if samples.labels is None:
            return None
        target = self.forced.vocabularies.target
        gap = "" if target.kind == "characters" else " "
        return Spelled(
            sources=[(text,) for text in samples.array],
            right=[[(gap.join(target.split(text)),) for text in texts] for texts in samples.labels],
            answers=[(gap.join(target.spell(row[row != PAD].tolist())),) for row in outputs],
        )

    def reading(self, directory: Path) -> Self:
        """Return the task as a stored model reads it."""
        forced = self.forced.reading(directory)
        return self if forced is self.forced else replace(self, forced=forced)

    def files(self) -> Mapping[str, str]:
        """Return the vocabularies."""
        return self.forced.files()

    def noise(self, rows: int, *, seed: int) -> tuple[NDArray[Any], ...]:
        """Return random sources, nothing padded."""
        return self.forced.noise(rows, seed=seed)[:2]
