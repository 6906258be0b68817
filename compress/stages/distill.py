"""Distill: trains a student on the guided loss; under another name it is also the recovery after pruning."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import nn

from compress.errors import ModelError, StageError
from compress.loss import GuidedLoss
from compress.models import Model, Transducer, load_model, load_structure, save_model
from compress.models.seq2seq import Seq2SeqLogits
from compress.stage import CACHE_LIMIT_GB, Host, Member, Need, Optimization, Stage, Training, Work, coupling_faults
from compress.store.artifact import Artifact
from compress.store.digest import hash_values
from compress.tasks.pieces import Pieces
from compress.training import packing
from compress.training.checks import refuse_untrainable
from compress.training.guided import fit_guided
from compress.training.label import AnyLabel, label
from compress.training.loop import Fit
from compress.training.teacher import measure_packing
from compress.training.writing import writing_task


class Distill(Optimization, Stage):
    """Trains a copy of the source on the guided loss against the frozen teacher.

    Teacher and student see the identical view of every sample; the teacher's outputs on it are computed once.

    Attributes:
        generations: born-again networks (Furlanello et al. 2018, arXiv 1805.04770): above 1, the trained student
            becomes the teacher of a fresh student of its own architecture, and so on; the last one is kept.
        cache_limit_gb: the teacher's tapped features are stored while they need no more than this, in units of 10^9
            bytes; else they are computed anew for each batch. Logits and last features are always stored.
        loss: overrides the pipeline's loss; the report then shows both fingerprints.
        label: of a task that writes: what the teachers write is learnt instead of what is known to be right. The loss
            then reads it as the label, and forces it.
        outputs: how the teachers' logits are stored: ``whole`` in float32, ``packed`` in half precision up to 256
            classes, above that of those that hold 99% of the probability, and what is left over.
        views: of augmented or mixed samples: ``stored`` takes each batch from the fixed number of views, whose teacher
            outputs are computed once; ``fresh`` takes a new view each epoch, on which the teachers run in every step.
        freeze: of a model that writes, ``encoder`` leaves what reads the source as it is, without dropout: a student
            whose encoder is the teacher's learns to write alone (Gandhi et al. 2023, arXiv 2311.00430, section 3.3,
            where it reads hidden states that the teacher made in evaluation mode). Embeddings that the decoder shares
            stay, too, as Shleifer and Rush 2020 have it.
    """

    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"data", "loss", "teacher"})

    verb: Literal["distill"] = "distill"
    generations: Annotated[int, Field(ge=1, le=100)] = 1
    cache_limit_gb: Annotated[float, Field(ge=0, le=1e6)] = CACHE_LIMIT_GB
    loss: GuidedLoss | None = None
    label: Annotated[AnyLabel | None, Field(exclude_if=lambda found: found is None)] = None  # keys are what they were
    outputs: Annotated[Literal["whole", "packed"], Field(exclude_if=lambda found: found == "whole")] = "whole"
    views: Annotated[Literal["stored", "fresh"], Field(exclude_if=lambda found: found == "stored")] = "stored"
    freeze: Annotated[Literal["encoder"] | None, Field(exclude_if=lambda found: found is None)] = None

    def model_post_init(self, _context: object) -> None:
        """Refuse generations of what only the first teacher wrote."""
        if self.label is not None and self.generations > 1:
            raise ValueError("label says what the teachers write, and later generations have teachers of their own")
        if self.freeze is not None and self.generations > 1:
            raise ValueError("later generations begin with drawn weights, and of those nothing is worth freezing")

    def run(self, source: Artifact, work: Work, host: Host) -> Artifact:
        """Train a copy of the source and commit it.

        Raises:
            StageError: when the loss is no longer finite or there is no teacher.
            ModelError: when taps cannot be paired, or the teacher's outputs do not match the task.
        """
        structure = load_structure(source.path)
        module, taught = load_model(source.path, code=host.code), work
        inputs, seed = self.inputs(source, work, host), self.seed(source, work, host)
        facts: dict[str, Any] = {}
        if self.label is not None:
            with host.group.in_turn():  # the first process has the teachers write, the others read that
                data, counts = label(work, host, self.label)
            taught, facts = replace(work, data=data), {"label": asdict(counts)}
        for generation in range(1, self.generations):
            own = inputs | {"generation": generation}
            earlier = self._generation(module, source, taught, host, inputs=own, seed=seed + generation - 1)
            taught = replace(work, teachers=(Member(earlier, work.task),))
            module = self._fresh(source, host, seed=seed + generation)
        last = seed + self.generations - 1
        result = self._fit(module, taught, host, seed=last, number=self.generations, key=hash_values(inputs))
        return self.commit(
            module,
            source,
            work,
            host,
            model=structure.model,
            signature=structure.signature,
            facts={
                **result.facts,
                "loss_fingerprint": self.guided_loss(work.loss).fingerprint,
                **facts,
            },
        )

    def _fit(self, module: nn.Module, work: Work, host: Host, *, seed: int, number: int, key: str) -> Fit:
        suffix = "" if self.generations == 1 else f", generation {number} of {self.generations}"
        return fit_guided(
            module,
            work,
            host,
            loss=self.guided_loss(work.loss),
            optimization=self,
            seed=seed,
            checkpoints=host.store.work(key),
            name=self.title + suffix,
            cache_limit_gb=self.cache_limit_gb,
            fresh=self.views == "fresh",
            pack=self.outputs == "packed",
            frozen=() if self.freeze is None else self._reader(module),
        )

    def _reader(self, module: nn.Module) -> tuple[nn.Module, ...]:
        """Return what of a model reads the source.

        Raises:
            ModelError: when it is not known.
        """
        if not isinstance(module, Transducer | Seq2SeqLogits):
            raise ModelError(
                "the model has no encoder that could be frozen",
                expected="one that writes: the transducer, or an encoder-decoder of transformers",
                got=type(module).__name__,
                where=self.title,
                hint="leave `freeze` out",
            )
        return module.reader

    def _generation(
        self, module: nn.Module, source: Artifact, work: Work, host: Host, *, inputs: dict[str, Any], seed: int
    ) -> Artifact:
        """Train one of the earlier generations and commit it, or return it from the store."""
        key, number = hash_values(inputs), inputs["generation"]
        found = host.store.find(key)
        if found is not None:
            return found
        structure = load_structure(source.path)
        self._fit(module, work, host, seed=seed, number=number, key=key)

        def write(directory: Path) -> dict[str, Any]:
            save_model(module, directory, model=structure.model, signature=structure.signature)
            return {"generation": number}

        with host.group.in_turn():
            return host.store.commit(inputs, kind="step", rounding=host.execution.rounding, write=write)

    def _fresh(self, source: Artifact, host: Host, *, seed: int) -> nn.Module:
        """Return the source's architecture with newly drawn weights.

        Raises:
            StageError: when the source was reshaped, which its family alone cannot build.
        """
        structure = load_structure(source.path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = structure.model.build(structure.signature, code=host.code)
        kept = {name: value.shape for name, value in load_model(source.path, code=host.code).state_dict().items()}
        if {name: value.shape for name, value in module.state_dict().items()} != kept:
            raise StageError(
                "a pruned model has no later generations",
                expected="a source as its family builds it",
                where=self.title,
                hint="distil the generations before pruning",
            )
        return module

    def guided_loss(self, loss: GuidedLoss) -> GuidedLoss:
        """The stage's own loss if it has one, else the pipeline's."""
        return self.loss or loss

    def guided_by(self, loss: GuidedLoss) -> bool:
        """Also where the teachers write what is learnt, whatever the loss reads."""
        return self.label is not None or super().guided_by(loss)

    def inputs(self, source: Artifact | None, work: Work, host: Host) -> dict[str, Any]:
        """Replace the path of further sources by what is in the file; packed outputs have a version of their own."""
        inputs = super().inputs(source, work, host)
        if self.outputs == "packed":
            standardised = any(reading.standardised for reading in self.guided_loss(work.loss).readings)
            inputs["packed"] = [packing.VERSION, "standardised"] if standardised else packing.VERSION
        if self.label is not None:
            inputs["fields"]["label"] = self.label.identity()
        return inputs

    def check(self, module: nn.Module, work: Work) -> None:
        """Refuse a model that cannot train, and labels that cannot be written or chosen.

        Raises:
            StageError: for labels where nothing is written, a backward model of other texts, or fresh views of samples
                that have none.
            DataError: for further sources that cannot be read.
            ArtifactError: when there is no stored backward model.
        """
        if self.label is not None:
            self.label.check(work)
        if self.views == "fresh" and not self._varies(work):
            raise StageError(
                "there are no fresh views: every sample is the same in each epoch",
                expected="data.augment, or a loss with mixup",
                where=self.title,
                hint="leave `views` out",
            )
        if self.freeze is not None:
            self._reader(module)
        refuse_untrainable(module, work.task, work.data.select, where=self.title)

    def foresee(
        self, module: nn.Module, model: Model, work: Work, host: Host, *, after: Sequence[Stage] = ()
    ) -> tuple[str, ...]:
        """Return how many further sources there are to write for, and how many are left out because a role has them.

        Raises:
            StageError: for a backward model of the other direction; and where teachers write pieces that the student
                may not have, and are compared with it piece by piece.
        """
        del module, model
        if self.label is None:
            return ()
        task = writing_task(work.task)
        renumbering = [stage.title for stage in after if stage.renumbers]
        pieces = isinstance(task.vocabularies.target, Pieces)
        if pieces and renumbering and self.guided_loss(work.loss).needs_teacher:
            raise StageError(
                "the student may split what the teacher writes otherwise: they cannot be compared piece by piece",
                expected="a loss on labels alone, such as sequence, or all of the teacher's pieces",
                got=f"a loss that reads the teacher, after {', '.join(renumbering)}",
                where=self.title,
                hint="put prune-vocabulary after it, or leave label out",
            )
        if self.label.backward is not None:
            self.label.backward.prove(task, work.data, host)
        return self.label.tell_sources(work.data)

    def tell_outputs(self, work: Work, host: Host) -> tuple[str, ...]:
        """Return what is lost where the teachers' outputs are stored in less, measured as a run measures it."""
        loss = self.guided_loss(work.loss)
        if self.outputs == "whole" or self.views == "fresh" or self.label is not None or not loss.needs_teacher:
            return ()
        if not work.teachers:
            return ("teacher outputs are stored in less; what that costs is told once the teacher is in the store",)
        view = work.task.views(mixup=loss.mixup)[0]
        told = (measure_packing(one, work.data.train, view, host, readings=loss.readings) for one in work.teachers)
        return tuple(words for _, words in told)

    def _varies(self, work: Work) -> bool:
        return work.task.views(mixup=self.guided_loss(work.loss).mixup) != (None,)

    def smoke(self) -> Self:
        """One epoch, and labels with little effort."""
        label = None if self.label is None else self.label.smoke()
        return super().smoke().model_copy(update={"label": label})

    def misfits(self, loss: GuidedLoss) -> list[str]:
        """Coupled terms need the whole batch at once; what the student writes has no stored outputs."""
        loss = self.guided_loss(loss)
        stored = ["outputs: packed are stored, and of on_policy texts nothing is; leave `outputs` out"]
        return coupling_faults(loss, self) + (stored if loss.on_policy and self.outputs == "packed" else [])

    def misplaced(self, loss: GuidedLoss, *, after: Sequence[Stage], drawn: bool) -> list[str]:
        """A frozen encoder has learnt before; who writes a text for a teacher has the teacher's symbols."""
        found: list[str] = []
        if self.freeze is not None and drawn and not any(stage.training for stage in after):
            told = "freeze: encoder keeps weights that were drawn and never trained"
            found.append(f"{told}; begin with `student: teacher`, published weights, or a distill without `freeze`")
        renumbering = [stage.title for stage in after if stage.renumbers]
        if self.guided_loss(loss).on_policy and renumbering:
            told = f"on_policy has the teacher read what the student writes, which after {', '.join(renumbering)}"
            found.append(f"{told} has symbols of its own; put it before, or leave on_policy out of the loss")
        return found

    @property
    def training(self) -> Training:
        """Each generation."""
        writing = None if self.label is None else self.label.writing()
        return Training(
            self,
            times=self.generations,
            cache_limit_gb=self.cache_limit_gb,
            writing=writing,
            live=self.views == "fresh",
        )
