"""Distill: trains a student on the guided loss; under another name it is also the recovery after pruning."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import nn

from compress.errors import StageError
from compress.loss import GuidedLoss
from compress.models import load_model, load_structure, save_model
from compress.stage import Context, Need, Stage
from compress.store.artifact import Artifact, hash_values
from compress.training.loop import Fit, Optimization, coupling_faults
from compress.training.teacher import CACHE_LIMIT_GB, fit_guided


class Distill(Optimization, Stage):
    """Trains a copy of the source on the guided loss against the frozen teacher.

    Teacher and student see the identical view of every sample; the teacher's outputs on it are computed once.

    Attributes:
        generations: born-again networks (Furlanello et al. 2018, arXiv 1805.04770): above 1, the trained student
            becomes the teacher of a fresh student of its own architecture, and so on; the last one is kept.
        cache_limit_gb: the teacher's tapped features are stored while they need no more than this, in units of 10^9
            bytes; else they are computed anew for each batch. Logits and last features are always stored.
        loss: overrides the pipeline's loss; the report then shows both fingerprints.
    """

    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"data", "loss", "teacher"})

    verb: Literal["distill"] = "distill"
    generations: Annotated[int, Field(ge=1, le=100)] = 1
    cache_limit_gb: Annotated[float, Field(ge=0, le=1e6)] = CACHE_LIMIT_GB
    loss: GuidedLoss | None = None

    def run(self, source: Artifact, context: Context) -> Artifact:
        """Train a copy of the source and commit it.

        Raises:
            StageError: when the loss is no longer finite or there is no teacher.
            ModelError: when taps cannot be paired, or the teacher's outputs do not match the task.
        """
        structure = load_structure(source.path)
        module, here = load_model(source.path, code=context.code), context
        for generation in range(1, self.generations):
            earlier = self._generation(module, source, here, root=context, number=generation)
            here = replace(context, teacher=earlier, ensemble=())
            module = self._fresh(source, context, number=generation + 1)
        seed = self.seed(source, context) + self.generations - 1
        result = self._fit(module, here, seed=seed, work=context.store.work(self.key(source, context)))
        return context.commit_model(
            self,
            source,
            module,
            model=structure.model,
            signature=structure.signature,
            facts={
                "steps": result.steps,
                "images_per_s": result.images_per_s,
                "final_loss": result.final_loss,
                "loss_fingerprint": self.guided_loss(context).fingerprint,
            },
        )

    def _fit(self, module: nn.Module, context: Context, *, seed: int, work: Path, number: int | None = None) -> Fit:
        suffix = "" if self.generations == 1 else f", generation {number or self.generations} of {self.generations}"
        return fit_guided(
            module,
            context,
            loss=self.guided_loss(context),
            optimization=self,
            seed=seed,
            work=work,
            name=self.title + suffix,
            cache_limit_gb=self.cache_limit_gb,
        )

    def _generation(
        self, module: nn.Module, source: Artifact, context: Context, *, root: Context, number: int
    ) -> Artifact:
        """Train one of the earlier generations and commit it, or return it from the store."""
        inputs = self.inputs(source, root) | {"generation": number}
        found = context.store.find(hash_values(inputs))
        if found is not None:
            return found
        structure, key = load_structure(source.path), hash_values(inputs)
        seed = self.seed(source, root) + number - 1
        self._fit(module, context, seed=seed, work=context.store.work(key), number=number)

        def write(directory: Path) -> dict[str, Any]:
            save_model(module, directory, model=structure.model, signature=structure.signature)
            return {"generation": number}

        return context.store.commit(inputs, kind="step", write=write)

    def _fresh(self, source: Artifact, context: Context, *, number: int) -> nn.Module:
        """Return the source's architecture with newly drawn weights.

        Raises:
            StageError: when the source was reshaped, which its family alone cannot build.
        """
        structure = load_structure(source.path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed(source, context) + number - 1)
            module = structure.model.build(structure.signature, code=context.code)
        kept = {name: value.shape for name, value in load_model(source.path, code=context.code).state_dict().items()}
        if {name: value.shape for name, value in module.state_dict().items()} != kept:
            raise StageError(
                "a pruned model has no later generations",
                expected="a source as its family builds it",
                where=self.title,
                hint="distil the generations before pruning",
            )
        return module

    def guided_loss(self, context: Context) -> GuidedLoss:
        """The stage's own loss if it has one, else the pipeline's."""
        return self.loss or context.loss

    def misfits(self, loss: GuidedLoss) -> list[str]:
        """Coupled terms need the whole batch at once."""
        return coupling_faults(self.loss or loss, self)

    def smoke(self) -> Self:
        """One epoch, in updates that a smoke run has samples for."""
        return self.model_copy(
            update={"epochs": 1, "batch_size": min(self.batch_size, 128), "accumulate": min(self.accumulate, 2)}
        )
