"""Batches whose targets the student writes itself, with the weights that it has when they are asked for.

Only what is learnt in an update is another: the loop, the loss and its division by all symbols of the update stay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from compress.errors import StageError
from compress.loss.on_policy import OnPolicy
from compress.loss.taps import evaluating
from compress.stage import Compute, Work
from compress.tasks import Batch, TransductionTask
from compress.tasks.symbols import END, Ragged
from compress.tasks.transduction import force
from compress.training.decoding import Voices, draw_texts, refuse_silent
from compress.training.loader import Loader
from compress.training.writing import read_texts, writing_task


@dataclass
class Drawn:
    """What became of the texts that a student drew, in whole epochs since the training began or was gone on with.

    Attributes:
        texts: of all processes.
        runaway: of these, that did not come to their end.
    """

    texts: int = 0
    runaway: int = 0

    def __str__(self) -> str:
        """In one line."""
        share = self.runaway / max(1, self.texts)
        return f"{self.runaway:,} of {self.texts:,} texts of the student's own ({share:.1%}) did not come to their end"


@dataclass(frozen=True)
class OnPolicyLoader:
    """A loader's updates, some of them with the student's own texts in place of the targets.

    Which ones depends on (seed, epoch, step) alone, and what a text is drawn with on (seed, epoch, sample): on neither
    threads nor processes, nor on what else is in a batch, nor on whether the training was interrupted.

    Attributes:
        loader: of the sources, with targets for the other updates.
        task: how the student reads them.
        student: read as it is at the time, in evaluation mode.
        host: where it is.
        how: how often, and how it draws.
        seed: of the training.
        drawn: counts texts; their share without an end is a curve of the training, ``train/runaway_fraction``.
    """

    loader: Loader
    task: TransductionTask
    student: nn.Module
    host: Compute
    how: OnPolicy
    seed: int
    drawn: Drawn = field(default_factory=Drawn)

    @property
    def steps_per_epoch(self) -> int:
        """As many as there are."""
        return self.loader.steps_per_epoch

    @property
    def example(self) -> Batch:
        """One with targets that were given."""
        return self.loader.example

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Sequence[Batch]]:
        """Yield the batches of each update of an epoch; see `Loader`."""
        own = np.random.default_rng([self.seed, number]).random(self.steps_per_epoch) < self.how.fraction
        here = Drawn()
        for step, batches in enumerate(self.loader.epoch(number, skip=skip), start=skip):
            yield [self._write(batch, number, here) for batch in batches] if own[step] else batches
        texts, runaway = self.host.group.total(here.texts, here.runaway)
        self.drawn.texts += texts
        self.drawn.runaway += runaway
        if self.host.group.writes and texts:
            done = (number + 1) * self.steps_per_epoch
            self.host.recorder.metrics({"train/runaway_fraction": runaway / texts}, step=done)

    def _write(self, batch: Batch, epoch: int, here: Drawn) -> Batch:
        """Return a batch with what the student writes for its sources; a text that runs away is cut, without an end."""
        numbers = [
            # One more than its position, because a last 0 changes no seed of NumPy's.
            np.random.default_rng([self.seed, epoch, sample + 1]).random(self.task.max_length)
            for sample in batch.index.tolist()
        ]
        ids, mask = (value.to(self.host.device) for value in batch.inputs[:2])
        most = self.task.vocabularies.steps(batch.inputs[1].sum(dim=1).numpy())
        with evaluating(self.student), torch.no_grad(), self.host.autocast():
            voices = Voices([self.student], [1.0], ids, mask, first=self.task.vocabularies.first)
            drawn, steps = (torch.from_numpy(values).to(voices.device) for values in (np.stack(numbers), most))
            found = draw_texts(voices, drawn, steps, temperature=self.how.temperature)
        written = [text for (text,) in read_texts(found)]
        here.texts += len(written)
        here.runaway += sum(not text.ended for text in written)
        texts = [[*text.ids, END] if text.ended else [*text.ids] for text in written]
        targets = Ragged.of(texts, most=self.task.max_length)
        return force(batch.inputs[:2], targets, np.arange(len(texts)), index=batch.index)


def on_policy(
    loader: Loader, student: nn.Module, work: Work, host: Compute, how: OnPolicy, *, seed: int
) -> OnPolicyLoader:
    """Return a loader with updates of the student's own texts; see `OnPolicyLoader`.

    Raises:
        StageError: for a task that writes nothing, or a teacher with symbols of its own.
        ModelError: when the student cannot write step by step.
    """
    task = writing_task(work.task, hint="leave on_policy out of the loss")
    if any(member.task is not work.task for member in work.teachers):
        raise StageError(
            "a teacher with symbols of its own cannot read what the student writes",
            expected="the teachers' vocabularies",
            got="others",
            hint="leave on_policy out of the loss",
        )
    refuse_silent(student, where="student")
    return OnPolicyLoader(loader, task, student, host, how, seed)
