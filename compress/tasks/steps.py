"""Sequences of numbers of which every step has a class: tags of [N, T, F]."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.samples import IGNORED, Data, Samples
from compress.errors import DataError
from compress.measures.judge import Judge, single_label
from compress.measures.tally import Tally, entities, name_entities
from compress.tasks.arrays import OUTPUT, ArrayTask, read_inputs
from compress.tasks.batch import Batch, View, select_units
from compress.tasks.image_classification import Normalize
from compress.tasks.inputs import ArrayInput, valid_steps
from compress.tasks.signature import Signature
from compress.tasks.signature import Tensor as Declared
from compress.tasks.summaries import LinearSteps, surround
from compress.tasks.tabular import Encode


@dataclass(frozen=True)
class StepTask(ArrayTask):
    """How arrays become batches where each step of a sequence is a unit, with a class and an output of its own.

    Of several sequences the first one has the tags. Steps that are padding, or whose tag is `IGNORED`, are no units;
    where samples have no labels, all steps that are no padding are.
    """

    @classmethod
    def of(
        cls,
        data: Data,
        *,
        encode: Encode,
        normalize: Mapping[str, Normalize] | None,
        judge: Judge,
        given: bool = False,
    ) -> Self:
        """Return the task for these data; see `ArrayTask.of`.

        Raises:
            DataError: also when there is no sequence, or its steps and tags do not pair.
        """
        del given  # classes have no units
        task = cls(
            classes=data.classes,
            inputs=read_inputs(data, encode=encode, normalize=normalize),
            problem_kind="single-label",
            judge=judge,
        )
        judge.group_classes(data.classes)
        judge.choose(task._fitting)
        for role, samples in data.roles.items():
            task._check_pairs(role, samples)
        return task

    @property
    def sequence(self) -> ArrayInput:
        """The input whose steps have tags."""
        found = next((part for part in self.inputs if isinstance(part, ArrayInput) and part.layout == "NTF"), None)
        if found is None:
            raise DataError(
                "lists of labels are tags of steps, and there is no sequence",
                expected="an array [N, T, F] with layout: NTF",
                got=", ".join(tensor.name for part in self.inputs for tensor in part.tensors),
            )
        return found

    def _check_pairs(self, role: str, samples: Samples) -> None:
        if samples.labels is None:
            return
        tags = np.array([len(row) for row in samples.labels])
        steps = self._valid(samples).sum(axis=1)
        if (odd := tags != steps).any():
            row = int(odd.argmax())
            raise DataError(
                "tags and steps do not pair",
                expected=f"{steps[row]} tags",
                got=int(tags[row]),
                where=f"{role}, sample {row}",
            )

    @property
    def _fitting(self) -> tuple[str, ...]:
        """Names of the measures that fit, the usual one first."""
        plain = ("accuracy", "macro-f1", "matthews")
        return ("entity-f1", *plain) if name_entities(self.classes) else plain

    @property
    def signature(self) -> Signature:
        """The inputs by name in the order of the model's arguments; a float32 row of outputs for each step."""
        axes = ("batch", self.sequence.shape[0], len(self.classes))
        output = Declared(name=OUTPUT, dtype="float32", shape=axes)
        inputs = tuple(tensor for part in self.inputs for tensor in part.tensors)
        return Signature(inputs=inputs, outputs=(output,), classes=self.classes)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a deployment must do to raw arrays, and which input's steps have outputs."""
        return super().preprocessing | {"steps_of": self.sequence.name}

    def _valid(self, samples: Samples) -> NDArray[np.bool_]:
        """Return which steps are no padding, bool [N, T]."""
        sequence = self.sequence
        steps = sequence.shape[0]
        if sequence.lengths is None:
            return np.ones((len(samples), steps), np.bool_)
        return valid_steps(samples.array[sequence.lengths], steps)

    def _units(self, samples: Samples) -> NDArray[np.bool_]:
        """Return which steps are units, bool [N, T]."""
        found = self._valid(samples)
        if samples.labels is not None:
            found[found] = np.concatenate(samples.labels) != IGNORED
        return found

    def batch(self, samples: Samples, index: Tensor, *, view: View | None = None) -> Batch:
        """Return the preprocessed samples at these positions; the mask says which steps are no padding."""
        assert view is None
        few = samples.take(index.numpy())
        return Batch(
            inputs=tuple(tensor for part in self.inputs for tensor in part.read(few.array)),
            labels=None if few.labels is None else torch.from_numpy(self.labels(few)),
            index=index,
            view=view,
            mask=None if self.sequence.lengths is None else torch.from_numpy(self._valid(few)),
            units=torch.from_numpy(self._units(few)),
        )

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the outputs of a batch's steps, [units, outputs]."""
        assert batch.units is not None
        return select_units(model(*batch.inputs), batch.units)

    def units(self, samples: Samples) -> NDArray[np.int64]:
        """Return how many steps of each sample are units, int64 [N]."""
        return self._units(samples).sum(axis=1)

    def labels(self, samples: Samples) -> NDArray[Any]:
        """Return the tags of a role's units, int64 [units]."""
        tags = np.concatenate(super().labels(samples))
        return tags[tags != IGNORED]

    def tallies(self, outputs: NDArray[np.floating], samples: Samples) -> Mapping[str, Tally]:
        """Return every measure that fits: of steps, summed up by sequence, since those of one are not independent."""
        from scipy.sparse import csr_array

        labels, decided = self.labels(samples), outputs.argmax(axis=1)
        ends = np.cumsum(self.units(samples))
        of_steps = single_label(decided, labels, self.classes, self.judge) | self.judge.own(outputs, labels)
        steps = np.arange(len(labels))
        of_sequence = csr_array((np.ones(len(labels)), steps, np.concatenate([[0], ends])), (len(ends), len(labels)))
        found = {name: Tally(of_sequence @ tally.counts, tally.of) for name, tally in of_steps.items()}
        if not name_entities(self.classes):
            return found
        told, right = (np.split(side, ends[:-1]) for side in (decided, labels))
        return {"entity-f1": entities(told, right, self.classes)} | found

    def simplest(self) -> LinearSteps:
        """Return a linear model on each step and its neighbours."""
        count, steps = len(self.classes), self.sequence.shape[0]
        return LinearSteps(self.problem, count, self.state, self._features, self.labels, steps)

    def _features(self, samples: Samples) -> NDArray[np.float32]:
        """Return the numbers of each unit and of the steps around it, [units, F]."""
        (values,) = self.sequence.read(samples.array)
        return surround(values.numpy())[self._units(samples)]
